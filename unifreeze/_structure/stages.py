"""Which modules are stages: they only hold a list of blocks, and perhaps what resamples for it.

A module has the shape of a stage if all but a part of its matrices are in one list (or in children
of one class). It is one if a series of such modules stands beside it, whose names differ only by
numbers. The blocks of a true pyramid change their sizes from stage to stage; in a series that
does, a stage may hold blocks of several classes, and what resamples may hold several matrices.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from unifreeze._structure.matrices import reads_input, shapes_under
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import CONTAINER, without_digits

_Series = tuple[int, str, str]
_BETWEEN = re.compile(r"\w*pos(?:ition|itional)?_?(?:emb|enc)\w*|(?:down|up)_?sampl(?:e|er|ing)")
"""A name for what encodes positions, or leads from one stage to the next."""


class _Shape(NamedTuple):
    """What a module that may be a stage holds.

    Attributes:
        blocks: Its likely blocks.
        listed: They stand in a list.
        alike: They are of one class.
        extra: How many other matrices it holds.
        places: In how many of its children these are, but for those that encode positions or, by
            their names, resample.
    """

    blocks: list[int]
    listed: bool
    alike: bool
    extra: int
    places: int

    @property
    def plain(self) -> bool:
        """Blocks of one class, and at most one matrix beside them."""
        return self.alike and self.extra <= 1


class StageFinder:
    """Finds the stages of one model, and the blocks in each.

    Args:
        tree: The model.
        kinds: Kind of every module.
        matrices: For every module, the number of matrices under it.
        candidates: Modules that may be blocks.
    """

    def __init__(
        self, tree: Tree, kinds: list[str], matrices: list[int], candidates: Collection[int]
    ) -> None:
        self._tree, self._kinds, self._matrices = tree, kinds, matrices
        self._candidates = frozenset(candidates)

    def find(self) -> dict[int, list[int]]:
        """Return the stages, each with its blocks."""
        shapes = self._shapes()
        series: dict[_Series, list[int]] = defaultdict(list)
        for index in sorted(shapes):
            series[self._series(index)].append(index)
        stages: dict[int, list[int]] = {}
        for members in series.values():
            plain = [index for index in members if shapes[index].plain]
            # A single such module is the body of the network, not a stage.
            if len(plain) >= 2 and not self._same_pairs(plain, shapes):
                stages |= {index: shapes[index].blocks for index in plain}
            if len(members) >= 2 and self._is_pyramid(members, shapes):
                stages |= {index: shapes[index].blocks for index in members}
        if stages:
            stages |= self._beside(stages, shapes)
        for stage, blocks in list(stages.items()):
            inner = self._inside(stage)
            while inner >= 0 and inner not in blocks:
                stages[inner] = blocks
                inner = self._inside(inner)
        return stages

    def _shapes(self) -> dict[int, _Shape]:
        """Return how each candidate that may be a stage is built; of modules alike, one is read."""
        originals = self._tree.originals()
        known: dict[int, tuple[int, _Shape | None]] = {}
        shapes: dict[int, _Shape] = {}
        for index in sorted(self._candidates):
            if originals[index] not in known:
                known[originals[index]] = index, self._shape(index)
            read, shape = known[originals[index]]
            if shape is not None:
                shapes[index] = shape._replace(blocks=[n + index - read for n in shape.blocks])
        return shapes

    def _inside(self, index: int) -> int:
        """Return the module that holds all matrices of another, if it is not a list; else -1."""
        inner = self._with_matrices(self._tree.children(index))
        single = len(inner) == 1 and self._matrices[inner[0]] == self._matrices[index]
        return inner[0] if single and inner[0] in self._candidates else -1

    def _shape(self, index: int) -> _Shape | None:
        tree = self._tree
        if (only := self._inside(index)) >= 0:
            return self._shape(only)
        children = tree.children(index)
        groups = [self._listed(child) for child in children if self._kinds[child] == CONTAINER]
        full = [group for group in groups if group and self._candidates.issuperset(group)]
        direct = [child for child in children if child in self._candidates]
        if len(full) == 1:
            blocks = full[0]
        elif len(direct) >= 2 and self._alike(direct):
            blocks = direct
        else:
            return None
        # With a table the module is a whole encoder, which has blocks and is not a stage.
        if "embedding" in self._kinds[index : tree.ends[index]]:
            return None
        places = [
            child
            for child in self._with_matrices(children)
            if not any(child <= block < tree.ends[child] for block in blocks)
            and not _BETWEEN.fullmatch(tree.last_name(child))
        ]
        extra = self._matrices[index] - sum(self._matrices[block] for block in blocks)
        return _Shape(blocks, blocks is not direct, self._alike(blocks), extra, len(places))

    def _same_pairs(self, members: list[int], shapes: dict[int, _Shape]) -> bool:
        """Return whether all are equal members of lists that hold a few like children: blocks."""
        if any(
            shapes[index].listed or self._kinds[self._tree.parents[index]] != CONTAINER
            for index in members
        ):
            return False
        return len({shapes_under(self._tree, index) for index in members}) == 1

    def _is_pyramid(self, members: list[int], shapes: dict[int, _Shape]) -> bool:
        tree = self._tree
        # A stage may begin or end with what leads to the next one.
        widths = (
            {shapes_under(tree, shapes[index].blocks[at]) for index in members} for at in (0, -1)
        )
        entered = [index for index in members if reads_input(tree, self._kinds, index)]
        return (
            len(members) in map(len, widths)
            and len(entered) <= 1
            and all(shapes[index].listed and shapes[index].places <= 1 for index in members)
        )

    def _beside(
        self, stages: dict[int, list[int]], shapes: dict[int, _Shape]
    ) -> dict[int, list[int]]:
        """Return stages of one block, and first stages of another class in the same list."""
        tree = self._tree
        keys = {self._series(index) for index in stages}
        lists = {tree.parents[index] for index in stages}
        lists = {index for index in lists if self._kinds[index] == CONTAINER}
        more: dict[int, list[int]] = {}
        for index in self._candidates - stages.keys():
            inner = self._with_matrices(tree.children(index))
            if self._series(index) in keys and len(inner) == 1 and inner[0] in self._candidates:
                more[index] = inner
            elif tree.parents[index] in lists and index in shapes and shapes[index].places <= 1:
                more[index] = shapes[index].blocks
        return more

    def _series(self, index: int) -> _Series:
        """Return a key that the stages of one network share: only their numbers differ.

        Towers side by side have different names, so they get different keys.
        """
        parent = self._tree.parents[index]
        while parent > 0 and self._kinds[parent] == CONTAINER:
            parent = self._tree.parents[parent]
        return parent, self._tree.types[index], without_digits(self._tree.last_name(index))

    def _listed(self, container: int) -> list[int]:
        """Return what a list holds, in place of lists inside it what those hold."""
        members = self._with_matrices(self._tree.children(container))
        if not all(self._kinds[index] == CONTAINER for index in members):
            return members
        return [index for inner in members for index in self._listed(inner)]

    def _with_matrices(self, indices: list[int]) -> list[int]:
        return [index for index in indices if self._matrices[index]]

    def _alike(self, group: list[int]) -> bool:
        types = {self._tree.types[index] for index in group}
        return len(types) == 1 and self._candidates.issuperset(group)
