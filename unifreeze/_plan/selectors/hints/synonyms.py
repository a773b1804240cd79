"""Words that other libraries use for words of the vocabulary; none of them is a name of a model."""

from __future__ import annotations

import re
from functools import cache

_MEANT = {
    "all": "everything any whole full entire total model network net params parameters",
    "vision": "visiontower visionmodel visionencoder visual visualencoder imageencoder imagetower",
    "audio": "audiotower audioencoder audiomodel speech speechencoder sound",
    "text": "languagemodel language llm lm textmodel textencoder texttower",
    "projector": "mmprojector multimodalprojector projectors connector aligner merger resampler",
    "experts": "expert moe",
    "shared_experts": "sharedexpert sharedmlp",
    "router": "routers gating moegate",
    "scalars": "scalar logitscale logitbias temperature",
    "norm": "ln bn gn layernorm batchnorm groupnorm instancenorm rmsnorm norms normalization "
    "normalisation normalizer batchnorm1d batchnorm2d batchnorm3d layernorms batchnorms",
    "adapter": "lora loraa lorab adapters peft qlora dora ia3 loha lokr prompt prefix",
    "head": "heads fc top lmhead logits output outputs out final last cls task tasks probe mlmhead",
    "classifier": "fc cls clf classification classify classifierhead fclast lastlayer lastlinear "
    "linearhead classhead",
    "backbone": "body trunk base features feature featureextractor extractor basemodel pretrained "
    "bottom encoder transformer core",
    "stem": "input inputs first inputlayer firstlayer patchembed patchembedding",
    "embeddings": "emb embs embed embeds embedder tokens",
    "word_embeddings": "wte embedtokens wordembeddings wordembs wordemb wordembed vocab "
    "tokenembeddings tokenembedding tokenembs tokenemb tokenembed tokemb "
    "inputembeddings inputembedding",
    "position_embeddings": "wpe pos posembed posembedding positional positionalembedding "
    "positionalencoding posemb pe",
    "attention": "attn selfattn selfattention mha msa multiheadattention attentions",
    "mlp": "ffn ff feedforward fc1 fc2 intermediate gate up down gateproj upproj downproj",
    "query": "q qproj wq toq qlin querylayer queries",
    "key": "k kproj wk tok klin keylayer keys",
    "value": "v vproj wv tov vlin valuelayer values",
    "query | key | value": "qkv qkvproj inproj cattn querykeyvalue toqkv",
    "conv": "cnn convs convolution convolutions convolutional conv1d conv2d conv3d kernels",
    "linear": "dense linears fullyconnected fcs denselayer projection proj perceptron",
    "tables": "lookup lookups lookuptable lookuptables table embeddingtable embeddingtables",
    "pooler": "pool pooling pooled",
    "bias": "biases b beta shift",
    "weight": "weights w kernel gamma scale",
    "blocks": "block blk blks layer units unit h encoderlayers decoderlayers transformerblocks "
    "transformerlayers resblocks residual residuals",
    "stages": "stage levels level groups",
    "params": "param tensors tensor",
    "children": "child modules submodules",
    "tied": "tie shared sharing tiedweights",
}
"""Each selector, and the words that people write for it, in lower case without underscores."""

_NOT_SELECTED = {
    "runningmean runningvar statistics stats movingmean movingvariance buffers buffer": (
        "running statistics are never parameters: norm_stats says whether they hold"
    ),
    "dropout relu gelu silu activation activations act softmax maxpool avgpool flatten": (
        "layers of this kind hold no parameters; dropout: off is a line of the plan"
    ),
    "none nothing": "to freeze nothing, write train: all",
    "trainable untrainable frozen unfrozen requiresgrad stopgradient": (
        "select by place or kind; what no rule matches is left as it was found"
    ),
}
"""Words for what cannot be selected, and why it cannot."""


@cache
def meant_by(word: str) -> tuple[str, ...]:
    """Return the selectors that a word of other libraries may stand for.

    >>> meant_by("layer_norm"), meant_by("fc")
    (('norm',), ('head', 'classifier'))
    """
    plain = _folded(word)
    return tuple(selector for selector, words in _MEANT.items() if plain in words.split())


@cache
def never_selected(word: str) -> str:
    """Say why a word stands for something that cannot be selected; "" if nothing is known."""
    plain = _folded(word)
    return next((why for words, why in _NOT_SELECTED.items() if plain in words.split()), "")


def _folded(word: str) -> str:
    return re.sub("[_-]", "", word).lower()
