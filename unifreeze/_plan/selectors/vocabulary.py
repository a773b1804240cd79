"""The words of the selector language: the list of all of them, and a sentence for each.

What they select is in `words_without_index.py` and `words_with_index.py`.
"""

from __future__ import annotations

WORDS = {
    "all": "every parameter",
    "tied": "parameters with more than one name",
    "stem": "what comes before the first block",
    "neck": "norms, convolutions and poolers between the last block and the head, in one tower",
    "head": "what gives the outputs, outside modules with blocks (if there are none: last linears)",
    "backbone": "all but the head",
    "embeddings": "what makes vectors of tokens, patches or sound: the stem of a transformer",
    "pooler": "layers called pooler",
    "classifier": "the layers of the head that are as wide as its outputs",
    "vision": "the tower that pictures enter",
    "audio": "the tower that sound enters",
    "text": "the tower that tokens enter, with a head that gives tokens",
    "language": "the same as text",
    "projector": "what lies between a tower of pictures or sound and the one of words",
    "action": "what makes the actions of a robot's model",
    "image_decoder": "what makes pictures in a model that also writes",
    "experts": "the experts of mixture-of-experts layers, in each of these layers by position",
    "shared_experts": "experts that every token goes through",
    "router": "what sends tokens to experts",
    "scalars": "parameters of one value that belong to no layer, such as logit_scale",
    "adapter": "LoRA and kin, and copies of layers that an adapter library trains",
    "lora": "the same as adapter",
    "norm": "normalisation layers",
    "conv": "convolutions",
    "linear": "linear layers",
    "tables": "lookup tables: of words, positions, segments",
    "embedding": "the old word for tables",
    "attention": "attention projections and tables, without norms",
    "mlp": "linear layers of attention blocks outside attention and routers",
    "ffn": "the same as mlp",
    "query": "query projections",
    "key": "key projections",
    "value": "value projections",
    "word_embeddings": "the table of words",
    "position_embeddings": "the table of positions",
    "weight": "weights; of a norm, its scale",
    "bias": "biases; of a norm, its shift",
    "blocks": "the repeated units",
    "layers": "the same as blocks",
    "stages": "runs of blocks",
    "encoder": "blocks of the encoder of a model with two stacks",
    "decoder": "blocks of the decoder of a model with two stacks",
    "children": "the model's direct children, by position",
    "params": "parameters by position, in canonical order",
}

INDEXED = frozenset({"blocks", "layers", "stages", "encoder", "decoder", "children", "params"})
INDEXED |= {"experts"}
"""Words that take an index."""

NEEDS_INDEX = frozenset({"children", "params"})
"""Words that mean nothing without an index."""

SYNONYMS = {
    "layers": "blocks",
    "ffn": "mlp",
    "embedding": "tables",
    "language": "text",
    "lora": "adapter",
}

OLD_WORDS = {"embedding": "tables"}
"""Words that still work, and the words that took their place."""

TOWERS = ("vision", "audio", "text", "language", "projector", "action", "image_decoder")
"""Words for a tower; after `in`, they stand for that tower as if it were the whole model."""
