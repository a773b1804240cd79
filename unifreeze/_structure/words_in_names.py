"""The two tables from which a model's description gets its words: kinds of layer, words in names.

They know layers ("a class called …Norm normalises") and words ("q_proj is a query"), never models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

LAYERS = frozenset({"conv", "linear", "norm", "embedding", "rnn", "activation"})
"""Kinds whose module is one layer: everything under it belongs to it."""

KINDS = ("conv", "linear", "embedding", "rnn", "norm", "activation", "param", "adapter")
"""Kinds an owner of parameters can have, in the order in which they are listed."""

CONTAINER = "list"
"""Kind of a module that only holds others in order (lists, sequences, dictionaries of modules)."""

STOCHASTIC = "dropout"
"""Kind of a layer that draws random numbers while training."""

ATTENTION, POOLER, EXPERTS = 1, 2, 4
QUERY, KEY, VALUE, FUSED_QKV, FUSED_KV = 8, 16, 32, 64, 128
WORD, POSITION, TOKEN_TYPE, TASK = 256, 512, 1024, 2048
INPUT, AUXILIARY = 4096, 8192
FUSED_GATE = 1 << 20
INHERITED = ATTENTION | POOLER | AUXILIARY
"""Words that hold for everything under the module that carries them."""

FAMILIES = (QUERY | KEY | VALUE, WORD | POSITION | TOKEN_TYPE | TASK)
"""Words that put layers of one kind under one parent into an order of their own."""

PARTS = {FUSED_QKV: (QUERY, KEY, VALUE), FUSED_KV: (KEY, VALUE), FUSED_GATE: (0, 0)}
"""For each word of a fused projection, the words of its parts, in the order in which they count."""
FUSED = FUSED_QKV | FUSED_KV | FUSED_GATE

_PROJECTION = r"(?:_?(?:proj|lin|linear|layer|dense|attn))?(?:_(?:weight|bias))?"
_JOINED = r"(?:(?:to|w|c|proj|lin|linear|dense|fused|mixed|attn|fc)_)?w?"
_TABLE = r"emb(?:s|ed\w*)?"
_PATTERNS = (
    (ATTENTION, r".*(?:attn|attention).*|mha"),
    (POOLER, r".*pooler.*"),
    (EXPERTS, r"(?:local_)?experts?"),
    (QUERY, rf"(?:to_|w_?)?(?:q|query){_PROJECTION}"),
    (KEY, rf"(?:to_|w_?)?(?:k|key){_PROJECTION}"),
    (VALUE, rf"(?:to_|w_?)?(?:v|value){_PROJECTION}"),
    (FUSED_QKV, rf"c_attn|w_pack|query_key_value|{_JOINED}qkv{_PROJECTION}|in_proj_(weight|bias)"),
    (FUSED_KV, rf"key_value|{_JOINED}kv{_PROJECTION}"),
    (FUSED_GATE, r"w12|(?:\w+_)?(?:gate_?up|up_?gate)(?:_\w+)?"),
    (WORD, rf"wte|shared|embed_tokens|(?:tok(?:en)?|word)_{_TABLE}|tokens_embed|embed_in"),
    (POSITION, rf"wpe|\w*pos(?:ition|itional|itions)?_(?:{_TABLE}|table)|\w*embed_pos\w*"),
    (TOKEN_TYPE, rf"(?:token_type|segment)_{_TABLE}"),
    (TASK, rf"task(?:_type)?_{_TABLE}"),
    (INPUT, r".*(?:embed|token).*|(?:word|pos|position|type|segment|mask)_embs?"),
    (AUXILIARY, r"_?aux(?:iliary)?(?:_?(?:logits|head|classifier|cls)\d*|\d*)"),
)
_NO_DIGITS = str.maketrans("", "", "0123456789")
_COMPILED = tuple((flag, re.compile(pattern)) for flag, pattern in _PATTERNS)


def parts_of(words: int) -> tuple[int, ...]:
    """Return the words of the parts of a fused projection, () for any other tensor.

    >>> [len(parts_of(words_in(name))) for name in ("c_attn", "kv_proj", "gate_up_proj", "q_proj")]
    [3, 2, 2, 0]
    """
    return next((parts for flag, parts in PARTS.items() if words & flag), ())


def without_digits(segment: str) -> str:
    """Return a name without its numbers: equal for the members of a numbered row.

    >>> without_digits("cell_12"), without_digits("7")
    ('cell_', '')
    """
    return segment.translate(_NO_DIGITS)


def words_in(segment: str) -> int:
    """Return the words that one segment of a name, or one class name, stands for, as bits."""
    return 0 if segment.isdigit() else _words_in(segment)


@cache
def _words_in(segment: str) -> int:
    text = segment.lower()
    return sum(flag for flag, pattern in _COMPILED if pattern.fullmatch(text))


@cache
def attention_in_class(type_name: str) -> int:
    """Return ATTENTION if a class name ends in that word, and else 0: a network's name does not.

    >>> attention_in_class("SelfAttention2"), attention_in_class("AttentionNet")
    (1, 0)
    """
    return ATTENTION if re.search(r"(?:attention|attn)\d*$", type_name.lower()) else 0


_BALANCES = re.compile(r"(?:\w+_)?(?:correction|balanc\w+|experts?|router|routing|load)_bias")


@cache
def balances_experts(leaf: str) -> bool:
    """Return whether a tensor's name says that it evens out how often experts are chosen.

    Training code moves such a bias by counting tokens, without a gradient.

    >>> balances_experts("e_score_correction_bias"), balances_experts("bias")
    (True, False)
    """
    return _BALANCES.fullmatch(leaf) is not None


_KIND_BY_SUFFIX = (
    (re.compile(r"norm(?:act|fp\d+)?(?:\dd|alization)?$", re.I), "norm", (1,)),
    (re.compile(r"linear$|dense$", re.I), "linear", (2,)),
    (re.compile(r"embeddings?$", re.I), "embedding", (2,)),
    (re.compile(r"conv\dd$", re.I), "conv", (3, 4, 5)),
)


def guess_kind(type_name: str, ranks: Iterable[int]) -> str:
    """Guess the kind of an unknown layer from its class name and its tensors' ranks.

    Only a layer whose children have no parameters is guessed at; `ranks` are the numbers of axes
    of its own parameters.

    >>> guess_kind("MyRMSNorm", [1]), guess_kind("Gate", [2])
    ('norm', '')
    """
    top = max(ranks, default=0)
    for pattern, kind, allowed in _KIND_BY_SUFFIX:
        if pattern.search(type_name) and top in allowed:
            return kind
    return ""


_NORM_ROLES = {"scale": "weight", "gamma": "weight", "shift": "bias", "beta": "bias"}
_CELL = re.compile(r"(?:weight|bias)_(?:ih|hh)")


@cache
def role_of(leaf: str, kind: str) -> tuple[str, str]:
    """Return the role a tensor has in its layer, and the part it is: weight, bias or "".

    The role is the last piece of the canonical name; the part is what the selectors `weight` and
    `bias` look at.

    >>> role_of("_weight", "activation"), role_of("scale", "norm"), role_of("bias_ih_l0", "rnn")
    (('weight', 'weight'), ('weight', 'weight'), ('bias_ih_l0', 'bias'))
    >>> role_of("weight_hh", "rnn")  # a cell is a recurrent layer of depth one
    ('weight_hh_l0', 'weight')
    >>> role_of("modules_to_save.bias", "linear")
    ('modules_to_save.bias', 'bias')
    """
    name = leaf.lstrip("_")
    if kind == "norm":
        name = _NORM_ROLES.get(name, name)
    if kind == "rnn" and _CELL.fullmatch(name):
        name += "_l0"
    # The name of an adapter's or a computed tensor has several pieces; the last clear one counts.
    parts = (_part_of(piece) for piece in reversed(name.split(".")))
    return name, next(filter(None, parts), "")


def _part_of(piece: str) -> str:
    if piece == "bias" or piece.endswith("_bias") or piece.startswith("bias_"):
        return "bias"
    return "weight" if "weight" in piece else ""
