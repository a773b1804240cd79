"""The words of the selector language: the list of all of them, and a sentence for each.

What they select is in `words_without_index.py` and `words_with_index.py`.
"""

from __future__ import annotations

WORDS = {
    "all": "every parameter",
    "tied": "parameters with more than one name",
    "stem": "what comes before the first block",
    "neck": "norms, convolutions and poolers between the last block and the head",
    "head": "what gives the outputs, outside modules with blocks (if there are none: last linears)",
    "backbone": "all but the head",
    "embeddings": "the whole stem of a text model",
    "pooler": "layers called pooler",
    "classifier": "the layers of the head that are as wide as its outputs",
    "adapter": "LoRA and kin, and copies of layers that an adapter library trains",
    "norm": "normalisation layers",
    "conv": "convolutions",
    "linear": "linear layers",
    "embedding": "lookup tables",
    "attention": "attention projections and tables, without norms",
    "mlp": "linear layers of attention blocks outside attention",
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
"""Words that take an index."""

NEEDS_INDEX = frozenset({"children", "params"})
"""Words that mean nothing without an index."""

SYNONYMS = {"layers": "blocks", "ffn": "mlp"}
