"""Random small models and random selector expressions, for the laws that hold for all of them."""

from __future__ import annotations

from fractions import Fraction
from random import Random

from hypothesis import strategies as st

from tests.support.trees import Node, Weight
from unifreeze._plan.selectors import WORDS
from unifreeze._plan.selectors.expression import (
    Both,
    Bound,
    Either,
    Index,
    OtherThan,
    Path,
    Quoted,
    Segment,
    Size,
    Within,
    Without,
    Word,
)
from unifreeze._plan.selectors.vocabulary import INDEXED, NEEDS_INDEX
from unifreeze._structure import CONTAINER

NAMES = ("0", "1", "10", "layers", "blocks", "encoder", "decoder", "mlp", "norm", "head")
NAMES += ("attn", "query", "key", "v_proj", "qkv", "experts", "embed_tokens", "pooler")
LEAVES = ("weight", "bias", "scale", "in_proj_weight", "in_proj_bias", "cls_token", "lora_A")
TYPES = ("Block", "Block", "Stage", "Attention", "Part")
LAYER_KINDS = ("linear", "linear", "conv", "norm", "embedding", "activation", "rnn", "dropout", "")
SHAPES = ((), (3,), (2, 3), (2, 2, 1), (2, 2, 1, 1))


def models(*, repeats=True):
    """A model of up to 40 modules; some tensors tied and, with `repeats`, some modules met twice.

    It grows from a seed, because drawing every choice by itself would take most of the time; the
    number of modules shrinks.
    """
    return st.builds(
        lambda seed, size: _Growth(Random(seed), size, repeats).root,
        st.integers(0, 2**32),
        st.integers(2, 40),
    )


class _Growth:
    def __init__(self, random, size, repeats):
        self.random, self.left, self.repeats = random, size, repeats
        self.made = []
        self.root = self.grow(depth=4, top=True)

    def grow(self, depth, *, top=False):
        choose = self.random
        self.left -= 1
        if self.left > 4 and depth and choose.random() < 0.3:
            return self.blocks()
        most = min(4, self.left) if depth else 0
        count = choose.randint(1 if top else 0, max(most, 0))
        if not count:
            kind = choose.choice(LAYER_KINDS)
            node = Node(f"{kind.title()}Layer", kind)
            leaves = choose.sample(LEAVES, choose.choice((0, 1, 2, 2)))
        else:
            kind = choose.choice(("", "", "", CONTAINER))
            node = Node("Stack" if kind else choose.choice(TYPES), kind)
            leaves = choose.sample(LEAVES, choose.choice((0, 0, 0, 1)))
        for leaf in leaves:
            node.own[leaf] = self.weight(leaf)
        for name in choose.sample(NAMES, count):
            if self.repeats and self.made and choose.random() < 0.05:
                node.children[name] = choose.choice(self.made)
            elif self.left > 0:
                node.children[name] = child = self.grow(depth - 1)
                self.made.append(child)
        return node

    def blocks(self):
        """A list of two or three like blocks."""
        node, count = Node("Stack", CONTAINER), self.random.choice((2, 2, 3))
        names = self.random.sample(NAMES, self.random.choice((2, 3)))
        for number in range(count):
            block = node.children[str(number)] = Node("Block")
            for name in names:
                layer = block.children[name] = Node("LinearLayer", "linear")
                layer.own["weight"] = Weight(2, 2)
                self.made.append(layer)
            self.left -= 1 + len(names)
        return node

    def weight(self, leaf):
        tied = [weight for node in self.made for weight in node.own.values()]
        if tied and self.random.random() < 0.1:
            return self.random.choice(tied)
        shape, trainable = self.random.choice(SHAPES), self.random.random() < 0.5
        return Weight(*shape, trainable=trainable, adapter=leaf == "lora_A")


def bounds():
    """One end of an index, some of them past the end of anything."""
    whole = st.integers(-3, 5).map(lambda n: Bound(Fraction(n), percent=False))
    share = st.integers(-250, 250).map(lambda n: Bound(Fraction(n, 2), percent=True))
    return whole | share


def indices():
    """What stands in brackets."""
    one = bounds().map(lambda bound: Index(bound, None, single=True))
    ends = st.none() | bounds()
    return one | st.builds(lambda a, b: Index(a, b, single=False), ends, ends)


def _words():
    plain = st.sampled_from(sorted(set(WORDS) - NEEDS_INDEX)).map(Word)
    return plain | st.builds(Word, st.sampled_from(sorted(INDEXED)), indices())


def _paths():
    def is_path(segments):
        # One bare segment that is a word of the vocabulary would be read as that word.
        return len(segments) > 1 or segments[0].name not in WORDS

    name = st.sampled_from((*NAMES, *LEAVES, "*", "**", "?", "lay*", "n?rm"))
    segments = st.lists(st.builds(Segment, name, st.none() | indices()), min_size=1, max_size=3)
    unquoted = segments.map(tuple).filter(is_path).map(Path)
    name = st.sampled_from((*NAMES, "a-b", "in", 'say "x"', "a[0]", "*")).map(Segment)
    quoted = st.lists(name, min_size=1, max_size=3).map(lambda s: Path(tuple(s), quoted=True))
    return unquoted | quoted


def _patterns():
    texts = (".*", "blocks.*", "Block", "say 'x'", 'say "x"', "head/linear.0/weight")
    return st.builds(Quoted, st.sampled_from(("re", "type", "at")), st.sampled_from(texts))


def _sizes():
    counts = st.integers(0, 10**7).map(float) | st.floats(0, 1e12, allow_nan=False)
    return st.builds(Size, st.sampled_from((">", ">=", "<", "<=", "==")), counts)


def _combined(leaf, more=()):
    def grow(inner):
        two = [st.builds(kind, inner, inner) for kind in (Either, Both, Without)]
        return st.one_of(*two, st.builds(OtherThan, inner), *(make(inner) for make in more))

    return st.recursive(leaf, grow, max_leaves=6)


PLACES = st.sampled_from(("student", "a.b", "in", "a b", "", ".a", "a[0]", 'say "x"', "layers"))
EXPRESSIONS = _combined(
    _words() | _paths() | _patterns() | _sizes(), [lambda inner: st.builds(Within, inner, PLACES)]
)
"""Any expression there is, whether or not it means something in a model."""


TOTAL = ("all", "tied", "stem", "head", "neck", "backbone", "embeddings", "pooler", "classifier")
TOTAL += (
    "adapter",
    "norm",
    "conv",
    "linear",
    "tables",
    "embedding",
    "attention",
    "mlp",
    "ffn",
    "query",
)
TOTAL += ("key", "value", "word_embeddings", "position_embeddings", "weight", "bias")
"""Words that have a value in every model, be it the empty set."""


TOTAL_EXPRESSIONS = _combined(
    st.sampled_from([*map(Word, TOTAL), Size(">", 5.0), Size("<", 5.0), Size("==", 1.0)])
)
"""Expressions that have a value in every model."""
