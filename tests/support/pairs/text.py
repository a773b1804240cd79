"""Models that transformers and PaddleNLP both have, two layers deep and a few units wide."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from examples.torchvision_on_cpu import import_torchvision
from tests.support.pairs.pair import Pair, cured, target

ENCODER = {
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
T5 = {
    "vocab_size": 99,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
}
BART = {
    "vocab_size": 99,
    "d_model": 16,
    "max_position_embeddings": 40,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"num_{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
}
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
SIZES = {"encoder": ENCODER, "tower": TOWER, "t5": T5, "bart": BART}
DROPOUTS = (
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "classifier_dropout_prob",
    "dropout",
    "dropout_rate",
    "embd_pdrop",
    "hidden_dropout",
    "hidden_dropout_prob",
    "resid_pdrop",
)
"""What configurations call their dropouts; each takes the names it knows and keeps the others."""


def torch_model(name: str, sizes: str, *, one_output: bool = False, **changes: Any) -> Any:
    """Build a model of transformers' in float64, ready to be evaluated.

    Args:
        name: Its class there.
        sizes: The name of its sizes in `SIZES`.
        one_output: Whether to leave out what it returns beside its first output.
        changes: What else its configuration takes.
    """
    import_torchvision()
    import transformers

    config = _config(getattr(transformers, name), sizes, changes)
    config._attn_implementation = "eager"
    model = getattr(transformers, name)(config).double().eval()
    if one_output:
        model.register_forward_hook(_first_output)
    return model


def paddle_model(
    name: str,
    sizes: str,
    *,
    one_output: bool = False,
    one_embedding: bool = False,
    **changes: Any,
) -> Any:
    """Build a model of PaddleNLP's in float64, ready to be evaluated.

    Args:
        name: Its class there.
        sizes: The name of its sizes in `SIZES`.
        one_output: Whether to leave out what it returns beside its first output.
        one_embedding: Whether its encoder and decoder are to use its shared embedding.
        changes: What else its configuration takes.
    """
    import paddle
    import paddlenlp.transformers

    kind = getattr(paddlenlp.transformers, name)
    default = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    try:
        model = kind(_config(kind, sizes, changes))
    finally:
        paddle.set_default_dtype(default)
    model.eval()
    if one_embedding:
        model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    if one_output:
        model.register_forward_post_hook(_first_output)
    return model


def _first_output(model: Any, inputs: Any, result: Any) -> Any:
    return result if hasattr(result, "shape") else result[0]


def _config(kind: Any, sizes: str, changes: dict[str, Any]) -> Any:
    """Make a configuration without dropout and without caches among the outputs."""
    given = {**dict.fromkeys(DROPOUTS, 0.0), "use_cache": False, **SIZES[sizes], **changes}
    return kind.config_class(**given)


IDS = ("input_ids=int64[2,12]<5:90>",)
MASKED = (*IDS, "attention_mask=int64[2,12]<1:2>")
TYPED = (*MASKED, "token_type_ids=int64[2,12]<0:2>")
DECODED = ("decoder_input_ids=int64[2,9]<5:90>",)
PIXELS = ("pixel_values=float64[2,3,32,32]",)


class Cure(NamedTuple):
    """What makes two networks the same.

    Attributes:
        different: Why they differ without it.
        settings: What it sets, in sentences.
        torch: Arguments for the network in PyTorch.
        paddle: Arguments for the one in Paddle.
    """

    different: str
    settings: tuple[str, ...]
    torch: Mapping[str, Any] = MappingProxyType({})
    paddle: Mapping[str, Any] = MappingProxyType({})


def _pair(
    name: str,
    model: str,
    sizes: str = "encoder",
    batch: tuple[str, ...] = TYPED,
    *,
    paddle_model: str = "",
    cure: Cure | None = None,
    **both: Any,
) -> Pair:
    """Pair two models of one class name and of equal sizes; both configurations take `both`."""
    torch = partial(target, __name__, "torch_model", model, sizes, **both)
    paddle = partial(target, __name__, "paddle_model", paddle_model or model, sizes, **both)
    pair = Pair(name, torch(), paddle(), batch)
    if cure is None:
        return pair
    changes = {"torch": torch(**cure.torch), "paddle": paddle(**cure.paddle)}
    return cured(pair, cure.different, *cure.settings, **changes)


def _decoded(name: str, model: str, sizes: str = "bart", **more: Any) -> Pair:
    """Pair two models that take sentences for an encoder and for a decoder."""
    batch = more.pop("batch", (*MASKED, *DECODED))
    return _pair(name, model, sizes, batch, one_output=True, **more)


ALBERT = Cure(
    "the activation is tanh's approximation of GELU in transformers, GELU itself in PaddleNLP",
    ("transformers' activation is GELU itself",),
    torch={"hidden_act": "gelu"},
)
ALBERT_WORDS = Cure(
    f"{ALBERT.different}; PaddleNLP's head adds another epsilon than its layers",
    (*ALBERT.settings, "the layers add 1e-5 to the variance in both, as PaddleNLP's head does"),
    torch={**ALBERT.torch, "layer_norm_eps": 1e-5},
    paddle={"layer_norm_eps": 1e-5},
)
MPNET = Cure(
    "layer norms add 1e-12 to the variance in transformers, 1e-5 in PaddleNLP",
    ("PaddleNLP's layer norms add 1e-12 to the variance",),
    paddle={"layer_norm_eps": 1e-12},
)
RELATIVE = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
}
DEBERTA = Cure(
    "attention is relative in PaddleNLP, and absolute in transformers",
    ("attention in transformers is relative, with two terms, and its input takes no positions",),
    torch=RELATIVE,
)
OWN_HEAD = Cure(
    "transformers' head is the embedding, PaddleNLP's a matrix of its own",
    ("transformers' head is a matrix of its own",),
    torch={"tie_word_embeddings": False},
)
SCALED = Cure(
    "PaddleNLP's embeddings are multiplied by the root of their width",
    ("transformers' embeddings are multiplied by the root of their width",),
    torch={"scale_embedding": True},
)
SCALED_WITH_OWN_HEAD = Cure(
    f"{SCALED.different}; {OWN_HEAD.different}",
    (*SCALED.settings, *OWN_HEAD.settings),
    torch={**SCALED.torch, **OWN_HEAD.torch},
)
PEGASUS = Cure(
    f"{SCALED.different}; the activation is GELU in transformers, ReLU in PaddleNLP",
    (*SCALED.settings, "transformers' activation is ReLU"),
    torch={**SCALED.torch, "activation_function": "relu"},
)
PEGASUS_WITH_OWN_HEAD = Cure(
    f"{PEGASUS.different}; {OWN_HEAD.different}",
    (*PEGASUS.settings, *OWN_HEAD.settings),
    torch={**PEGASUS.torch, **OWN_HEAD.torch},
)
BLENDERBOT = Cure(
    f"{SCALED.different}; PaddleNLP's encoder and decoder have an embedding each",
    (*SCALED.settings, "PaddleNLP's encoder and decoder use its shared embedding"),
    torch=SCALED.torch,
    paddle={"one_embedding": True},
)
BLENDERBOT_SMALL = Cure(
    "PaddleNLP's embeddings are multiplied by the root of their width",
    ("PaddleNLP's embeddings are not multiplied; transformers can do so in the encoder alone",),
    paddle={"scale_embedding": False},
)
MT5 = Cure(
    "transformers' head is a matrix of its own, PaddleNLP's the embedding",
    ("transformers' head is the embedding",),
    torch={"tie_word_embeddings": True},
)
SKEP = Cure(
    "the activation is GELU in transformers, ReLU in PaddleNLP, whose layer norms add 1e-5",
    ("transformers' activation is ReLU", "transformers' layer norms add 1e-5 to the variance"),
    torch={"hidden_act": "relu", "layer_norm_eps": 1e-5},
)

ALBERT_SIZES = {"embedding_size": 8}
POOLER = {"pooler_hidden_size": 16, "pooler_hidden_act": "gelu", "pooler_dropout": 0.0}
SHARED_KEYS = {**RELATIVE, "share_att_key": True, "share_attn_key": True}
NYSTROM = {"num_landmarks": 4, "segment_means_seq_len": 12, "conv_kernel_size": 3}
SQUARE = dict.fromkeys(
    ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"), 96
)
OPT = {"word_embed_proj_dim": 16, "ffn_dim": 32}
GPT = {"n_inner": 32}
KINDS = {
    "sequences": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "answers": "ForQuestionAnswering",
    "masked words": "ForMaskedLM",
}


def _family(name: str, model: str, *kinds: str, **more: Any) -> tuple[Pair, ...]:
    """Pair an encoder and models made of it for tasks."""
    heads = (_pair(f"{name} for {kind}", model + KINDS[kind], **more) for kind in kinds)
    return (_pair(name, f"{model}Model", **more), *heads)


PAIRS = (
    *_family("bert", "Bert", *KINDS),
    _pair("tinybert", "BertModel", paddle_model="TinyBertModel"),
    _pair("skep", "BertModel", paddle_model="SkepModel", cure=SKEP),
    *_family("ernie", "Ernie", *KINDS),
    _pair("ernie with tasks", "ErnieModel", use_task_id=True),
    _pair("ernie of square matrices", "ErnieModel", **SQUARE),
    *_family("roberta", "Roberta", *KINDS),
    *_family("albert", "Albert", "sequences", "tokens", cure=ALBERT, **ALBERT_SIZES),
    _pair(
        "albert with two groups", "AlbertModel", cure=ALBERT, num_hidden_groups=2, **ALBERT_SIZES
    ),
    _pair("albert for masked words", "AlbertForMaskedLM", cure=ALBERT_WORDS, **ALBERT_SIZES),
    *_family("electra", "Electra", "sequences", "tokens", embedding_size=8),
    _pair(
        "electra as discriminator",
        "ElectraForPreTraining",
        paddle_model="ElectraDiscriminator",
        embedding_size=8,
    ),
    _pair(
        "electra as generator",
        "ElectraForMaskedLM",
        paddle_model="ElectraGenerator",
        embedding_size=8,
    ),
    *_family("distilbert", "DistilBert", "sequences", batch=MASKED, hidden_dim=32),
    _pair(
        "distilbert for masked words",
        "DistilBertForMaskedLM",
        batch=MASKED,
        cure=OWN_HEAD,
        hidden_dim=32,
    ),
    *_family("megatronbert", "MegatronBert", "sequences"),
    *_family("nystromformer", "Nystromformer", "sequences", **NYSTROM),
    *_family("mpnet", "MPNet", "sequences", batch=MASKED, cure=MPNET, pad_token_id=1),
    *_family("ernie_m", "ErnieM", "sequences", batch=MASKED, intermediate_size=64),
    *_family("deberta", "Deberta", "sequences", cure=DEBERTA, one_output=True, **POOLER),
    *_family("deberta_v2", "DebertaV2", "sequences", one_output=True, **SHARED_KEYS, **POOLER),
    _pair("layoutlm", "LayoutLMModel", batch=MASKED),
    _decoded("t5", "T5Model", "t5"),
    _decoded("t5 with gates", "T5Model", "t5", feed_forward_proj="gated-gelu"),
    _decoded("t5 for generation", "T5ForConditionalGeneration", "t5"),
    _pair("t5 (encoder)", "T5EncoderModel", "t5", MASKED),
    _decoded("mt5", "MT5Model", "t5"),
    _decoded("mt5 for generation", "MT5ForConditionalGeneration", "t5", cure=MT5),
    _decoded("bart", "BartModel"),
    _decoded("bart for generation", "BartForConditionalGeneration", cure=OWN_HEAD),
    _decoded("mbart", "MBartModel", cure=SCALED),
    _decoded("mbart for generation", "MBartForConditionalGeneration", cure=SCALED_WITH_OWN_HEAD),
    _decoded("pegasus", "PegasusModel", cure=PEGASUS),
    _decoded(
        "pegasus for generation", "PegasusForConditionalGeneration", cure=PEGASUS_WITH_OWN_HEAD
    ),
    # Their masks are left out: PaddleNLP's take 1 to mean that a word is hidden.
    _decoded("blenderbot", "BlenderbotModel", batch=(*IDS, *DECODED), cure=BLENDERBOT),
    _decoded(
        "blenderbot_small", "BlenderbotSmallModel", batch=(*IDS, *DECODED), cure=BLENDERBOT_SMALL
    ),
    _pair("llama", "LlamaForCausalLM", batch=MASKED),
    _pair("llama with fewer keys", "LlamaForCausalLM", batch=MASKED, num_key_value_heads=1),
    _pair("bloom", "BloomModel", batch=MASKED),
    _pair("bloom for generation", "BloomForCausalLM", batch=MASKED),
    _pair("opt", "OPTModel", batch=MASKED, **OPT),
    _pair("opt for generation", "OPTForCausalLM", batch=MASKED, cure=OWN_HEAD, **OPT),
    _pair("gpt2", "GPT2Model", batch=MASKED, paddle_model="GPTModel", **GPT),
    _pair(
        "gpt2 for generation", "GPT2LMHeadModel", batch=MASKED, paddle_model="GPTForCausalLM", **GPT
    ),
    _pair(
        "gpt2 of one head, fused in both",
        "GPT2Model",
        batch=MASKED,
        paddle_model="GPTModel",
        num_attention_heads=1,
        fuse_attention_qkv=True,
        **GPT,
    ),
    _pair("clip (vision)", "CLIPVisionModel", "tower", PIXELS),
    _pair("roformer", "RoFormerModel", one_output=True, embedding_size=16)._replace(
        different="the two disagree from the first attention on"
    ),
    _pair("fnet", "FNetModel", batch=IDS, one_output=True)._replace(
        different="PaddleNLP's Fourier transform mixes the examples of a batch too"
    ),
)
