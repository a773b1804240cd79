"""The matrices and kernels in every module: they tell a block from a layer, and stages apart."""

from __future__ import annotations

import re

import numpy as np

from unifreeze._identity import coded
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import INPUT, LAYERS, POSITION, words_in

_MATRIX_KINDS = frozenset({"conv", "linear", "rnn"})
_NOT_A_MATRIX = re.compile(r".*(?:bias|table).*", re.IGNORECASE)
"""Tensors of several axes that are added or looked up, and multiply nothing."""
_MAGNITUDES = frozenset({"weight_g", "original0"})
"""The lengths that weight normalisation keeps beside the directions of one matrix."""


def matrix_counts(tree: Tree, kinds: list[str]) -> list[int]:
    """Count, for every module, the matrices and kernels under it, each tensor once.

    In a layer of a known kind the kind decides. In a layer of an unknown class every parameter
    with two axes or more is a matrix, but for tables, tokens and biases, which its name tells.
    """
    owners, tensors = np.asarray(tree.owners, np.intp), np.asarray(tree.tensor_of, np.intp)
    first = np.ones(len(tensors), np.bool_)
    if len(tensors) > len(tree.tensors):
        first[:] = False
        first[np.unique(tensors, return_index=True)[1]] = True
    rows, of_row = coded(tree.tensors)
    wide = np.asarray([len(row.shape) >= 2 for row in rows], np.bool_)[of_row][tensors]
    sorts, of_kind = coded(kinds)
    known = np.asarray([kind in _MATRIX_KINDS for kind in sorts], np.bool_)[of_kind][owners]
    unknown = np.asarray([kind not in LAYERS for kind in sorts], np.bool_)[of_kind][owners]
    for name in np.flatnonzero(unknown & wide):
        known[name] = _is_matrix(tree.leaves[name], tree.tensors[tree.tensor_of[name]].shape)
    leaves, of_leaf = coded(tree.leaves)
    magnitudes = [leaf.rpartition(".")[2] in _MAGNITUDES for leaf in leaves]
    lengths = np.asarray(magnitudes, np.bool_)[of_leaf]
    matrices = first & wide & known & ~lengths & ~np.asarray(tree.adapters, np.bool_)
    # The names under a module are a range, so a running total gives every count at once.
    totals = np.concatenate(([0], np.cumsum(matrices)))
    counts: list[int] = (totals[tree.name_ends] - totals[tree.name_starts]).tolist()
    return counts


def _is_matrix(leaf: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor of a layer of unknown kind multiplies what runs through it.

    A scale per channel (Cx1x1) and a token (1x1xC) have one axis that counts.
    """
    if "weight" in leaf:
        return True
    axes = sum(size > 1 for size in shape)
    return axes >= 2 and not words_in(leaf) & (INPUT | POSITION) and not _NOT_A_MATRIX.match(leaf)


def shapes_under(tree: Tree, index: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of all tensors under a module, sorted: equal for modules of equal sizes."""
    low, high = tree.name_starts[index], tree.name_ends[index]
    return tuple(sorted(tree.tensors[tensor].neutral for tensor in tree.tensor_of[low:high]))


def reads_input(tree: Tree, kinds: list[str], index: int) -> bool:
    """Return whether a module begins with what a model's input enters: a table, or raw pixels.

    Several such modules stand side by side, not in a row.
    """
    for owner in dict.fromkeys(tree.owners[tree.name_starts[index] : tree.name_ends[index]]):
        if kinds[owner] == "embedding":
            return True
        if kinds[owner] == "conv":
            shapes = [tree.tensors[tree.tensor_of[n]].neutral for n in tree.own_names(owner)]
            shape = max(shapes, key=len)
            # One channel in is a grouped convolution far more often than a grey image.
            return len(shape) >= 3 and 1 < shape[1] <= 4 < shape[0]
    return False
