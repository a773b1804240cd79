"""The smallest units that selectors choose: one for each name, or part of a fused tensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unifreeze._identity import coded
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import FUSED, KINDS, parts_of, role_of, words_in
from unifreeze._structure.zones import Placement

_PARTS = {"weight": 1, "bias": 2, "": 0}


class Atoms:
    """The atoms of a model: one for each name of a parameter, and for each part of a fused tensor.

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

    def __init__(
        self,
        tree: Tree,
        placement: Placement,
        owner_of: NDArray[np.intp],
        tensor_of: NDArray[np.intp],
    ) -> None:
        # Few leaf names are different (`weight`, `bias`, …), so each is looked at once.
        leaves, codes = coded(tree.leaves)
        of_leaf = np.asarray([words_in(leaf) for leaf in leaves], np.int64)
        words = np.asarray(placement.words, np.int64)[owner_of] | of_leaf[codes]
        self.name, self.share, self.words = _split_fused(words)
        self.tensor = tensor_of[self.name]
        self._set_places(placement, owner_of[self.name], len(tree.paths))
        self.kind[np.asarray(tree.adapters, np.bool_)[self.name]] = KINDS.index("adapter")
        copied = np.zeros(len(tree.names), np.bool_)
        for low, high in tree.copies:
            copied[low:high] = True
        self.copied = copied[self.name]
        kinds, of_kind = coded(placement.kinds)
        in_norm = np.asarray([kind == "norm" for kind in kinds], np.intp)[of_kind][owner_of]
        parts = [[_PARTS[role_of(leaf, kind)[1]] for kind in ("", "norm")] for leaf in leaves]
        self.part = np.asarray(parts, np.int64).reshape(-1, 2)[codes, in_norm][self.name]

    def _set_places(self, placement: Placement, owners: NDArray[np.intp], modules: int) -> None:
        units = placement.units
        self.unit = _column(placement.unit_of, modules)[owners]
        self.zone = np.asarray([unit.zone for unit in units], np.int64)[self.unit]
        self.block = np.asarray([unit.block for unit in units], np.int64)[self.unit]
        self.run = np.asarray([unit.run for unit in units], np.int64)[self.unit]
        numbers = {kind: number for number, kind in enumerate(KINDS)}
        kinds = {owner: numbers[kind] for owner, kind in placement.kind_of.items()}
        self.kind = _column(kinds, modules)[owners]

    def __len__(self) -> int:
        return len(self.name)


def _column(values: dict[int, int], length: int) -> NDArray[np.int64]:
    column = np.full(length, -1, np.int64)
    column[list(values.keys())] = list(values.values())
    return column


def _split_fused(
    words: NDArray[np.int64],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
    """Split a fused projection into one atom per part, each with the word of its part.

    Returns:
        For each atom, the number of its name, which part it is, and its words.
    """
    names = np.arange(len(words), dtype=np.intp)
    fused = np.flatnonzero(words & FUSED)
    if not len(fused):
        return names, np.zeros_like(names), words
    parts = {int(n): parts_of(int(words[n])) for n in fused}
    repeats = np.ones(len(words), np.intp)
    repeats[fused] = [len(part_words) for part_words in parts.values()]
    ends = np.cumsum(repeats)
    share = np.arange(ends[-1], dtype=np.intp) - np.repeat(ends - repeats, repeats)
    split = np.repeat(words, repeats)
    for n, part_words in parts.items():
        split[ends[n] - len(part_words) : ends[n]] |= part_words
    return np.repeat(names, repeats), share, split
