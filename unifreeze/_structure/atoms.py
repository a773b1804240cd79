"""The finest grain of a model's description, on which selectors are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unifreeze._structure.words import FUSED, KINDS, parts_of, role_of, words_in

if TYPE_CHECKING:
    from unifreeze._structure.spec import ModelSpec

_PARTS = {"weight": 1, "bias": 2, "": 0}


class Atoms:
    """The finest grain of a model: one atom per name of a parameter and part of a fused tensor.

    Attributes:
        name: For each atom, the number of its name.
        tensor: For each atom, the number of its parameter.
        share: For each atom, which part of a fused tensor it is; 0 for a whole tensor.
        words: For each atom, the words its layer and leaf carry, as bits.
        zone, unit, block, run: For each atom, where it is.
        kind: For each atom, index into `KINDS`.
        part: For each atom, 1 for a weight, 2 for a bias, 0 for neither.
        copied: For each atom, whether it is in a copy that an adapter library trains.
    """

    def __init__(self, spec: ModelSpec) -> None:
        tree, at = spec.tree, spec.placement
        leaves, codes = _coded(tree.leaves)
        of_leaf = np.asarray([words_in(leaf) for leaf in leaves], np.int64)
        words = np.asarray(at.words, np.int64)[spec.owner_of] | of_leaf[codes]
        names, self.share, words = _split_fused(words)
        self.name = names
        self.words = words
        self.tensor = spec.tensor_of[names]
        owners = spec.owner_of[names]
        self.unit = _column(at.unit_of, len(tree.paths))[owners]
        self.zone = np.asarray([unit.zone for unit in at.units], np.int64)[self.unit]
        self.block = np.asarray([unit.block for unit in at.units], np.int64)[self.unit]
        self.run = np.asarray([unit.run for unit in at.units], np.int64)[self.unit]
        numbers = {kind: number for number, kind in enumerate(KINDS)}
        kinds = {owner: numbers[kind] for owner, kind in at.kind_of.items()}
        self.kind = _column(kinds, len(tree.paths))[owners]
        adapters = np.asarray(tree.adapters, np.bool_)[names]
        self.kind[adapters] = numbers["adapter"]
        copied = np.zeros(len(tree.names), np.bool_)
        for low, high in tree.copies:
            copied[low:high] = True
        self.copied = copied[names]
        in_norm = np.asarray([kind == "norm" for kind in at.kinds], np.intp)[spec.owner_of]
        parts = [[_PARTS[role_of(leaf, kind)[1]] for kind in ("", "norm")] for leaf in leaves]
        self.part = np.asarray(parts, np.int64)[codes, in_norm][names]

    def __len__(self) -> int:
        return len(self.name)


def _column(values: dict[int, int], length: int) -> NDArray[np.int64]:
    column = np.full(length, -1, np.int64)
    column[list(values.keys())] = list(values.values())
    return column


def _coded(texts: Sequence[str]) -> tuple[list[str], NDArray[np.intp]]:
    """Return the different texts of a sequence, and for each in it the number of its own."""
    different = list(dict.fromkeys(texts)) or [""]
    numbers = {text: number for number, text in enumerate(different)}
    return different, np.asarray([numbers[text] for text in texts], np.intp)


def _split_fused(
    words: NDArray[np.int64],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
    """Give a fused projection one atom per part, each with the word of its part.

    Returns:
        For each atom, the number of its name, which part it is, and its words.
    """
    names = np.arange(len(words), dtype=np.intp)
    fused = np.flatnonzero(words & FUSED)
    if not len(fused):
        return names, np.zeros_like(names), words
    parts = {int(n): parts_of(int(words[n])) for n in fused}
    repeats = np.ones(len(words), np.intp)
    repeats[fused] = [len(found) for found in parts.values()]
    ends = np.cumsum(repeats)
    share = np.arange(ends[-1], dtype=np.intp) - np.repeat(ends - repeats, repeats)
    split = np.repeat(words, repeats)
    for n, found in parts.items():
        split[ends[n] - len(found) : ends[n]] |= found
    return np.repeat(names, repeats), share, split
