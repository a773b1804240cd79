"""What makes a module a block: finding a model's repeated units, and the runs they form.

A candidate is a module that is not a container and holds at least two weight matrices or kernels.
It is a block if a module of its class stands in the same list-like container or in a cousin of it,
or if it is alone in a container with the same name as that one (a stack of depth one). A model
without such candidates is searched for one that is alone in a container (one set of weights that
runs many times), and then for siblings of one class. Of nested candidates only the outermost is
kept. Experts are not blocks. A stage that only holds a list of blocks, and perhaps what resamples,
counts as a container (`stages.py`). Units of one convolution are blocks in a list of their own, and
nothing in a stem is a block if there are blocks outside it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np

from unifreeze._structure.block_runs import BlockRun, number_runs
from unifreeze._structure.copies import fill_below, not_below_copies
from unifreeze._structure.head_names import named_for_head
from unifreeze._structure.joined_runs import join_runs
from unifreeze._structure.matrices import matrix_counts, reads_input
from unifreeze._structure.parallel_lists import join_parts
from unifreeze._structure.parts_in_rows import join_rows
from unifreeze._structure.single_convolutions import keeps_channels, mirrors, rows_of_units
from unifreeze._structure.stages import StageFinder
from unifreeze._structure.tower_words import is_clear, word_in
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import (
    AUXILIARY,
    CONTAINER,
    EXPERTS,
    LAYERS,
    without_digits,
    words_in,
)

__all__ = ["BlockRun", "find_runs", "number_runs"]

_PATH = re.compile(
    r"(?:\w+_)?(?:downs?|ups?|enc(?:oders?)?|dec(?:oders?)?|contract(?:ing)?|expan(?:d|ding|sive))"
    r"(?:_(?:path|blocks?|layers?|convs?|units?|part))?"
)
"""A name for the path down or up of a network that halves its maps and doubles them again."""
_SIDES = re.compile(r"(encoder|decoder)(?:s|_?(?:layer|block)s?)?")
_STEM = re.compile(r"(?:conv_?)?stem\d*|patch_embed\w*")


def find_runs(tree: Tree, kinds: list[str], words: Sequence[int]) -> list[BlockRun]:
    """Find the runs of blocks of a model.

    Args:
        tree: The model as its backend found it.
        kinds: Kind of every module, guesses included.
        words: Word bits of every module.
    """
    finder = _BlockFinder(tree, kinds)
    candidates = finder.listed()
    why = "modules of one class in a list, of which at least one holds two matrices"
    if candidates:
        candidates = [*candidates, *finder.alone_beside(candidates)]
        candidates += finder.cells(candidates)
    elif candidates := finder.alone():
        why = "a module with two matrices, alone in a list"
    else:
        candidates, why = finder.siblings(), "siblings of one class, each with two matrices"
    if units := finder.of_one_convolution(candidates):
        why = why if candidates else "residual units of one convolution, in a list"
        candidates = [*candidates, *units]
    by_holder = finder.by_holder(_outermost(tree, candidates))
    runs = [
        BlockRun(holder, tuple(blocks), tuple(number_runs(map(finder.stage, blocks))), why=why)
        for holder, blocks in by_holder.items()
    ]
    runs = [join_parts(tree, kinds, words, run) for run in join_runs(tree, kinds, runs)]
    return [join_rows(tree, kinds, words, run) for run in runs]


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
        self._matrices = matrix_counts(tree, kinds)
        experts = _inside_lists(tree, kinds, lambda name: bool(words_in(name) & EXPERTS))
        # A module that repeats is skipped, so that shared weights make one block, not several. An
        # auxiliary head is as deep as a block in some networks, but it is not part of the trunk.
        self._composed = set(self._made_of_layers()) - experts
        # Heads in a list stand side by side, and so do projectors, one for each depth of a tower.
        # That does not count where everything is called so.
        trunk = self._composed - _inside_lists(tree, kinds, _named_for_sides)
        if any(self._matrices[index] >= 2 for index in trunk):
            self._composed = trunk
        self.candidates = [i for i in sorted(self._composed) if self._matrices[i] >= 2]
        self._candidate = set(self.candidates)
        self._holders: dict[int, int] = {}
        self._stages = StageFinder(tree, kinds, self._matrices, self.candidates).find()
        self._blocks_of_stages = set(chain.from_iterable(self._stages.values()))

    def _made_of_layers(self) -> list[int]:
        """Return the modules that hold matrices and are neither layers, lists nor auxiliary."""
        tree, kinds = self.tree, self.kinds
        composed = np.zeros(len(kinds), np.bool_)
        for index in not_below_copies(tree.copied, len(kinds)):
            composed[index] = (
                index > 0
                and kinds[index] != CONTAINER
                and kinds[index] not in LAYERS
                and not tree.repeats[index]
                and self._matrices[index]
                and not words_in(tree.last_name(index)) & AUXILIARY
                and not _inside_a_layer(tree, kinds, index)
            )
        fill_below(tree.copied, composed)
        numbers: list[int] = np.flatnonzero(composed).tolist()
        return numbers

    def holder(self, index: int) -> int:
        """Climb out of containers and stages to the module that holds the run."""
        above = self.tree.parents[index]
        if above not in self._holders:
            parent = above
            while parent > 0 and self._holds_only(parent):
                parent = self.tree.parents[parent]
            self._holders[above] = max(parent, 0)
        return self._holders[above]

    def stage(self, block: int) -> int:
        """Return the stage that a block is in, or the list if it is in no stage."""
        parent = self.tree.parents[block]
        while self.kinds[parent] == CONTAINER and block in self._blocks_of_stages:
            parent = self.tree.parents[parent]
        return parent if parent in self._stages else self.tree.parents[block]

    def by_holder(self, blocks: Iterable[int]) -> dict[int, list[int]]:
        """Return the blocks of each run, by the module that holds the run.

        If a module's lists are called encoder and decoder, each holds a run.
        """
        lists: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for block in blocks:
            at, holder = block, self.holder(block)
            while self.tree.parents[at] > holder:
                at = self.tree.parents[at]
            lists[holder][at].append(block)
        runs: dict[int, list[int]] = {}
        for holder, members in lists.items():
            sides = {at: _SIDES.fullmatch(self.tree.last_name(at)) for at in members}
            if {side[1] for side in sides.values() if side} == {"encoder", "decoder"}:
                runs |= {at: members.pop(at) for at, side in sides.items() if side}
            if members:
                runs[holder] = sorted(chain.from_iterable(members.values()))
        return runs

    def listed(self) -> list[int]:
        """Return candidates in a container beside another module of their class, or a cousin.

        The other modules may hold a single matrix: some networks' first blocks leave layers out.
        In a stage, all modules in its list are blocks, whatever their classes.
        """
        groups: dict[tuple[int, str], list[int]] = defaultdict(list)
        for index in sorted(self._composed):
            # Stages are climbed through, so blocks of different stages are in one group: cousins.
            if (
                index not in self._stages
                and self._holds_only(self.tree.parents[index])
                and not self._resamples(index)
            ):
                groups[self.holder(index), self.tree.types[index]].append(index)
        alike = [
            group
            for group in groups.values()
            if len(group) >= 2 and not self._candidate.isdisjoint(group)
        ]
        listed = sorted(self._blocks_of_stages.union(*alike) - self._stages.keys())
        return [index for index in listed if not self._in_stem(index)] or listed

    def _in_stem(self, index: int) -> bool:
        """Return whether a module is part of what its name says comes before all blocks."""
        path = self.tree.paths[index]
        likely = "stem" in path or "patch_embed" in path
        return likely and any(map(_STEM.fullmatch, path.split(".")))

    def _resamples(self, index: int) -> bool:
        """Return whether a module is in a stage, and in none of its blocks."""
        while index > 0 and index not in self._stages:
            if index in self._blocks_of_stages:
                return False
            index = self.tree.parents[index]
        return index in self._stages

    def of_one_convolution(self, blocks: Sequence[int]) -> list[int]:
        """Return units of one convolution that are blocks beside these, or all blocks there are."""
        rows = rows_of_units(self.tree, self.kinds, self._matrices, self._composed)
        rows = [row for row in rows if not self._in_stem(row[0])]
        if not rows:
            return []
        beside: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index in chain(blocks, () if blocks else chain(*rows)):
            beside[self.holder(index)][self.tree.parents[index]].append(index)
        holders = {self.holder(block) for block in blocks}
        units: list[int] = []
        for row in rows:
            at, holder = self.tree.parents[row[0]], self.holder(row[0])
            side_by_side = self.tree.parents[at] == holder
            others = [
                group
                for parent, group in beside[holder].items()
                if side_by_side and parent != at and self.tree.parents[parent] == holder
            ]
            mirrored = any(mirrors(self.tree, row, other) for other in others)
            named = _PATH.fullmatch(self.tree.last_name(at))
            if (holder in holders and (named or mirrored)) or (
                not holders and (named or mirrored or keeps_channels(self.tree, row))
            ):
                units += row
        return units

    def cells(self, listed: Iterable[int]) -> list[int]:
        """Return cells: units in a numbered row that are no list, and that hold lists themselves.

        Their inner lists are not the network's blocks then, the cells are. Three at least make a
        row, since two may be two towers. Units of one class beside them are blocks as well.
        """
        tree, inner = self.tree, sorted(listed)
        parents = {tree.parents[index] for index in inner}
        around = set(parents)
        for index in parents:
            while (index := tree.parents[index]) >= 0 and index not in around:
                around.add(index)
        if len(around.intersection(self.candidates)) < 3:
            return []
        rows: dict[int, list[int]] = defaultdict(list)
        for index in self.candidates:
            row = tree.parents[index]
            if self.kinds[row] == CONTAINER or index in self._stages or not self._numbered(index):
                continue
            rows[row].append(index)
        cells: list[int] = []
        for row, members in rows.items():
            holding = [m for m in members if any(m < block < tree.ends[m] for block in inner)]
            series = Counter(map(self._numbered, members))
            if (
                len(holding) < 3
                or row in parents
                or max(series[m] for m in map(self._numbered, holding)) < 2
            ):
                continue
            if not any(reads_input(tree, self.kinds, index) for index in holding):
                cells += [m for m in members if m in holding or series[self._numbered(m)] >= 2]
        return cells

    def _numbered(self, index: int) -> str:
        """Return a numbered module's class and name without its number, "" for other modules."""
        name = self.tree.last_name(index)
        plain = without_digits(name)
        return f"{self.tree.types[index]} {plain}" if plain != name else ""

    def siblings(self) -> list[int]:
        """Return candidates that have a sibling of their own class."""
        keys = [(self.tree.parents[i], self.tree.types[i]) for i in self.candidates]
        alike = Counter(keys)
        return [i for i, key in zip(self.candidates, keys, strict=True) if alike[key] >= 2]

    def alone(self) -> list[int]:
        """Return candidates that are the only module in their container."""
        tree, repeats = self.tree, self.tree.repeats
        lists = {n for n in map(tree.parents.__getitem__, self.candidates)
                 if self.kinds[n] == CONTAINER}  # fmt: skip
        single = {n for n in lists if sum(not repeats[child] for child in tree.children(n)) == 1}
        return [index for index in self.candidates if tree.parents[index] in single]

    def alone_beside(self, blocks: list[int]) -> list[int]:
        """Return stacks of depth one: alone in a container with the name of a block's container."""
        names = {*map(self.tree.last_name, {self.tree.parents[block] for block in blocks})}
        # Where only some modules of a class look like stages, all of them are blocks.
        types, taken = self.tree.types, set(blocks)
        mixed = {types[index] for index in self.candidates if index not in self._stages}
        return [
            index
            for index in self.alone()
            if index not in taken
            and self.tree.last_name(self.tree.parents[index]) in names
            and (types[index] in mixed if index in self._stages else not self._resamples(index))
        ]

    def _holds_only(self, index: int) -> bool:
        return self.kinds[index] == CONTAINER or index in self._stages


def _named_for_sides(name: str) -> bool:
    """Return whether a list holds heads or projectors by its name."""
    return named_for_head(name) or (is_clear(name) and word_in(name) == "projector")


def _inside_lists(tree: Tree, kinds: list[str], is_named: Callable[[str], bool]) -> set[int]:
    """Return the modules below lists with some names; those of experts do not run in a row."""
    return {
        index
        for number, kind in enumerate(kinds)
        if kind == CONTAINER and is_named(tree.last_name(number))
        for index in range(number + 1, tree.ends[number])
    }


def _inside_a_layer(tree: Tree, kinds: list[str], index: int) -> bool:
    """Return whether a module is below a layer of a known kind, and so belongs to that layer."""
    while (index := tree.parents[index]) >= 0:
        if kinds[index] in LAYERS:
            return True
    return False
