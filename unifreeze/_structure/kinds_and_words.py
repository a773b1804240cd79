"""What every module of a model is: its kind of layer, and the words that its names carry."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import (
    FUSED_KV,
    FUSED_QKV,
    INHERITED,
    QUERY,
    attention_in_class,
    guess_kind,
    words_in,
)


def kinds_of(tree: Tree) -> list[str]:
    """Return the kind of every module; a layer that no backend knows is guessed by its class."""
    kinds = list(tree.kinds)
    if all(map(kinds.__getitem__, set(tree.owners))):
        return kinds
    own = Counter(tree.owners)
    ranks: dict[int, list[int]] = defaultdict(list)
    for owner, tensor in zip(tree.owners, tree.tensor_of, strict=True):
        # Modules under a layer, such as its activation, have no tensors.
        if not kinds[owner] and own[owner] == tree.name_ends[owner] - tree.name_starts[owner]:
            ranks[owner].append(len(tree.tensors[tensor].shape))
    for owner, ranks_here in ranks.items():
        kinds[owner] = guess_kind(tree.types[owner], ranks_here)
    return kinds


def words_of(tree: Tree) -> list[int]:
    """Return the words of every module as bits, those inherited from its parents included."""
    by_class = {type_name: attention_in_class(type_name) for type_name in set(tree.types)}
    words: list[int] = []
    like = tree.like
    while (index := len(words)) < len(tree.paths):
        parent = tree.parents[index]
        inherited = words[parent] & INHERITED if parent >= 0 else 0
        words.append(inherited | words_in(tree.last_name(index)) | by_class[tree.types[index]])
        first = like.get(index, index)
        if first < index and words[first] == words[index]:
            words += words[first + 1 : tree.ends[first]]  # below, names and classes are the same
    _correct_keys_and_values(tree, words)
    return words


def _correct_keys_and_values(tree: Tree, words: list[int]) -> None:
    """Read `qkv` as key and value only where a query projection stands beside it."""
    bits = np.asarray(words, np.int64)
    queries = {tree.parents[index] for index in np.flatnonzero(bits & QUERY).tolist()}
    for index in np.flatnonzero(bits & FUSED_QKV).tolist():
        word = words[index]
        if tree.parents[index] in queries:
            words[index] = word & ~FUSED_QKV | FUSED_KV
