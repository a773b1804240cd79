"""What makes a module a block: finding a model's repeated units, and the runs they form.

A candidate is a module that is not a container and holds at least two weight matrices or kernels.
It is a block if a module of its class stands in the same list-like container or in a cousin of it,
or if it is alone in a container with the same name as that one (a stack of depth one). A model
without such candidates is searched for one that is alone in a container (one set of weights that
runs many times), and then for siblings of one class. Of nested candidates only the outermost is
kept. Experts are not blocks. A stage that only holds a list of blocks, and perhaps one resampling
layer, counts as a container.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np

from unifreeze._structure.head_names import named_for_head
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import AUXILIARY, CONTAINER, EXPERTS, LAYERS, words_in

_NO_DIGITS = str.maketrans("", "", "0123456789")
_MATRIX_KINDS = frozenset({"conv", "linear", "rnn"})


@dataclass(frozen=True)
class BlockRun:
    """One run of blocks: those that follow each other in one part of the model.

    Attributes:
        holder: Index of the module that holds the run's containers.
        blocks: Indices of the blocks, in order.
        stages: For each block, the number of its stage.
        why: Why these modules are its blocks.
    """

    holder: int
    blocks: tuple[int, ...]
    stages: tuple[int, ...]
    why: str = ""


def find_runs(tree: Tree, kinds: list[str]) -> list[BlockRun]:
    """Find the runs of blocks of a model.

    Args:
        tree: The model as its backend found it.
        kinds: Kind of every module, guesses included.
    """
    finder = _BlockFinder(tree, kinds)
    candidates = finder.listed()
    why = "modules of one class in a list, of which at least one holds two matrices"
    if candidates:
        candidates = [*candidates, *finder.alone_beside(candidates)]
    elif candidates := finder.alone():
        why = "a module with two matrices, alone in a list"
    else:
        candidates, why = finder.siblings(), "siblings of one class, each with two matrices"
    by_holder: dict[int, list[int]] = defaultdict(list)
    for block in _outermost(tree, candidates):
        by_holder[finder.holder(block)].append(block)
    return [
        BlockRun(holder, tuple(blocks), tuple(number_runs([tree.parents[b] for b in blocks])), why)
        for holder, blocks in by_holder.items()
    ]


def number_runs(values: Sequence[object]) -> list[int]:
    """Number runs of equal neighbours.

    >>> number_runs([7, 7, 9, 7])
    [0, 0, 1, 2]
    """
    changes = [1 if i and value != values[i - 1] else 0 for i, value in enumerate(values)]
    return list(accumulate(changes))


def _outermost(tree: Tree, candidates: list[int]) -> list[int]:
    kept: list[int] = []
    for index in sorted(candidates):
        if not kept or index >= tree.ends[kept[-1]]:
            kept.append(index)
    return kept


class _BlockFinder:
    """The candidates of one tree, and the ways in which they can be blocks."""

    def __init__(self, tree: Tree, kinds: list[str]) -> None:
        self.tree, self.kinds = tree, kinds
        self._matrices = _matrix_counts(tree, kinds)
        experts = _inside_lists(tree, kinds, lambda name: bool(words_in(name) & EXPERTS))
        # A module that repeats is skipped, so that shared weights make one block, not several. An
        # auxiliary head is as deep as a block in some networks, but it is not part of the trunk.
        self._composed = [
            index
            for index in range(1, len(tree.paths))
            if kinds[index] != CONTAINER
            and kinds[index] not in LAYERS
            and not tree.repeats[index]
            and self._matrices[index]
            and index not in experts
            and not words_in(tree.paths[index].rpartition(".")[2]) & AUXILIARY
            and not _inside_a_layer(tree, kinds, index)
        ]
        # Heads in a list stand side by side, too; but where all there is is called so, it is not.
        heads = _inside_lists(tree, kinds, named_for_head)
        trunk = [index for index in self._composed if index not in heads]
        if any(self._matrices[index] >= 2 for index in trunk):
            self._composed = trunk
        self.candidates = [index for index in self._composed if self._matrices[index] >= 2]
        self._candidate = set(self.candidates)
        self._stages = self._find_stages()

    def holder(self, index: int) -> int:
        """Climb out of containers and stages to the module that holds the run."""
        parent = self.tree.parents[index]
        while parent > 0 and self._holds_only(parent):
            parent = self.tree.parents[parent]
        return max(parent, 0)

    def listed(self) -> list[int]:
        """Return candidates in a container beside another module of their class, or a cousin.

        The other modules may hold a single matrix: some networks' first blocks leave layers out.
        """
        groups: dict[tuple[int, str], list[int]] = defaultdict(list)
        for index in self._composed:
            # Stages are climbed through, so blocks of different stages are in one group: cousins.
            if index not in self._stages and self._holds_only(self.tree.parents[index]):
                groups[self.holder(index), self.tree.types[index]].append(index)
        alike = [
            group
            for group in groups.values()
            if len(group) >= 2 and not self._candidate.isdisjoint(group)
        ]
        return sorted(chain.from_iterable(alike))

    def siblings(self) -> list[int]:
        """Return candidates that have a sibling of their own class."""
        keys = [(self.tree.parents[i], self.tree.types[i]) for i in self.candidates]
        alike = Counter(keys)
        return [i for i, key in zip(self.candidates, keys, strict=True) if alike[key] >= 2]

    def alone(self) -> list[int]:
        """Return candidates that are the only module in their container."""
        tree = self.tree
        return [
            index
            for index in self.candidates
            if self.kinds[tree.parents[index]] == CONTAINER
            and tree.parents[index] == index - 1
            and tree.ends[tree.parents[index]] == tree.ends[index]
        ]

    def alone_beside(self, blocks: list[int]) -> list[int]:
        """Return stacks of depth one: alone in a container with the name of a block's container."""
        names = {self._name(self.tree.parents[block]) for block in blocks}
        taken = set(blocks)
        return [
            index
            for index in self.alone()
            if index not in taken and self._name(self.tree.parents[index]) in names
        ]

    def _name(self, index: int) -> str:
        return self.tree.paths[index].rpartition(".")[2]

    def _holds_only(self, index: int) -> bool:
        return self.kinds[index] == CONTAINER or index in self._stages

    def _find_stages(self) -> set[int]:
        likely = [index for index in self.candidates if self._only_repeats(index)]
        # A single such module is the body of the network, not a stage.
        alike = Counter(map(self._series, likely))
        stages = {index for index in likely if alike[self._series(index)] >= 2}
        if stages:
            keys = set(map(self._series, stages))
            # A module of their class beside them may hold a single block.
            stages |= {
                index
                for index in self.candidates
                if self._series(index) in keys
                and len(inner := self._with_matrices(self.tree.children(index))) == 1
                and inner[0] in self._candidate
            }
        return stages

    def _series(self, index: int) -> tuple[int, str, str]:
        """Return a key that the stages of one network share: only their numbers differ.

        Towers side by side have different names, so they get different keys.
        """
        name = self._name(index).translate(_NO_DIGITS)
        return self._anchor(index), self.tree.types[index], name

    def _anchor(self, index: int) -> int:
        parent = self.tree.parents[index]
        while parent > 0 and self.kinds[parent] == CONTAINER:
            parent = self.tree.parents[parent]
        return parent

    def _only_repeats(self, index: int) -> bool:
        """Return whether a module is one list of similar candidates plus at most one matrix."""
        children = self.tree.children(index)
        lists = [child for child in children if self.kinds[child] == CONTAINER]
        groups = [self._with_matrices(self.tree.children(at)) for at in lists]
        alike = [group for group in groups if self._alike(group)]
        direct = [child for child in children if child in self._candidate]
        if len(alike) == 1:
            group = alike[0]
        elif len(direct) >= 2 and self._alike(direct):
            group = direct
        else:
            return False
        # One more matrix can be the resampling between stages. With a table the module is a whole
        # encoder, which has blocks and is not a stage.
        inside = sum(self._matrices[child] for child in group)
        below = self.kinds[index : self.tree.ends[index]]
        return self._matrices[index] - inside <= 1 and "embedding" not in below

    def _with_matrices(self, indices: list[int]) -> list[int]:
        return [index for index in indices if self._matrices[index]]

    def _alike(self, group: list[int]) -> bool:
        types = {self.tree.types[index] for index in group}
        return len(types) == 1 and all(index in self._candidate for index in group)


def _inside_lists(tree: Tree, kinds: list[str], is_named: Callable[[str], bool]) -> set[int]:
    """Return the modules below lists with some names; those of experts do not run in a row."""
    return {
        index
        for number, kind in enumerate(kinds)
        if kind == CONTAINER and is_named(tree.paths[number].rpartition(".")[2])
        for index in range(number + 1, tree.ends[number])
    }


def _inside_a_layer(tree: Tree, kinds: list[str], index: int) -> bool:
    """Return whether a module is below a layer of a known kind, and so belongs to that layer."""
    while (index := tree.parents[index]) >= 0:
        if kinds[index] in LAYERS:
            return True
    return False


def _matrix_counts(tree: Tree, kinds: list[str]) -> list[int]:
    """Count, for every module, the matrices and kernels under it, each tensor once."""
    owners, tensors = np.asarray(tree.owners, np.intp), np.asarray(tree.tensor_of, np.intp)
    first = np.zeros(len(tensors), np.bool_)
    first[np.unique(tensors, return_index=True)[1]] = True
    wide = np.asarray([len(tensor.shape) >= 2 for tensor in tree.tensors], np.bool_)[tensors]
    known = np.asarray([kind in _MATRIX_KINDS for kind in kinds], np.bool_)[owners]
    unknown = np.asarray([kind not in LAYERS for kind in kinds], np.bool_)[owners]
    # A tensor in a layer of unknown kind counts as a matrix only if its name says so.
    for name in np.flatnonzero(unknown):
        known[name] = "weight" in tree.leaves[name]
    matrices = first & wide & known & ~np.asarray(tree.adapters, np.bool_)
    # The names under a module are a range, so a running total gives every count at once.
    totals = np.concatenate(([0], np.cumsum(matrices)))
    counts: list[int] = (totals[tree.name_ends] - totals[tree.name_starts]).tolist()
    return counts
