"""In which order a model's modules come: as they are registered, or as one forward pass used them.

A module that the pass never ran keeps its place of registration: right after its parent, and after
the siblings before it. So an idle part of a network changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unifreeze._structure.blocks import BlockRun
from unifreeze._structure.tree import Trace, Tree

Rank = tuple[int, int]
"""Place in an order: the number of the first use (if traced), then the module's index."""


class Order:
    """The place of every module and of every owner of tensors.

    A layer is used when it is called, or when a parent reads its weight without calling it. An
    owner with children is used when its own tensors are read, which can be long after the call.
    """

    def __init__(self, tree: Tree, trace: Trace | None, runs: list[BlockRun]) -> None:
        self._tree, self._runs = tree, runs
        self._calls: dict[int, int] = {}
        self._reads: dict[int, int] = {}
        if trace:
            self._note_first_uses(trace)
        self._ranks = self._ranked()

    def of_module(self, index: int) -> Rank:
        """Return the place of a module."""
        return self._ranks[index]

    def of_owner(self, index: int) -> Rank:
        """Return the place of the tensors that a module itself owns."""
        read = self._reads.get(index) if self._has_children(index) else None
        return self._ranks[index] if read is None else (read, index)

    def of_owners(self, owners: Sequence[int]) -> dict[int, Rank]:
        """Return the place of each of some owners."""
        if self._reads:
            return {owner: self.of_owner(owner) for owner in owners}
        return dict(zip(owners, map(self._ranks.__getitem__, owners), strict=True))

    def first_use(self, owner: int) -> int | None:
        """Return when an owner was first used; None if no trace saw it."""
        called, read = self._calls.get(owner), self._reads.get(owner)
        if not self._has_children(owner):
            return read if called is None else called
        return read if read is not None or self.spans(owner) else called

    def spans(self, owner: int) -> bool:
        """Return whether a module holds blocks, so its place says nothing about its tensors."""
        end = self._tree.ends[owner]
        return any(owner < run.blocks[0] < end for run in self._runs)

    def unreached(self, owners: Iterable[int]) -> frozenset[int]:
        """Return owners that never ran; an owner whose tensors ran under other names did run."""
        owners = frozenset(owners)
        ran = {owner for owner in owners if self.first_use(owner) is not None}
        names = list(zip(self._tree.owners, self._tree.tensor_of, strict=True))
        tensors = {tensor for owner, tensor in names if owner in ran}
        tied = {owner for owner, _ in names} - {o for o, tensor in names if tensor not in tensors}
        return owners - ran - tied

    def _has_children(self, index: int) -> bool:
        return self._tree.ends[index] > index + 1

    def _note_first_uses(self, trace: Trace) -> None:
        modules = {path: index for index, path in enumerate(self._tree.paths)}
        owners = dict(zip(self._tree.names, self._tree.owners, strict=True))
        for rank, path in enumerate(trace.calls):
            if path in owners:
                self._reads.setdefault(owners[path], rank)
            elif path in modules:
                self._calls.setdefault(modules[path], rank)
        self._note_other_paths()

    def _note_other_paths(self) -> None:
        """Let a module that has several paths be used under all of them, when it first is."""
        seen: dict[int, int] = {}
        for index, rank in self._calls.items():
            key = self._tree.keys[index]
            seen[key] = min(seen.get(key, rank), rank)
        for index, key in enumerate(self._tree.keys):
            # Modules that are no live objects have no identity.
            if key and key in seen:
                self._calls.setdefault(index, seen[key])

    def _ranked(self) -> list[Rank]:
        if not (self._calls or self._reads):
            return [(-1, index) for index in range(len(self._tree.paths))]
        ranks: list[Rank] = []
        latest: list[int] = []
        for index, parent in enumerate(self._tree.parents):
            used = self._calls.get(index)
            if used is None and not self._has_children(index):
                used = self._reads.get(index)
            rank = used if used is not None else latest[parent] if parent >= 0 else -1
            ranks.append((rank, index))
            latest.append(rank)
            while parent >= 0 and latest[parent] < rank:
                latest[parent] = rank
                parent = self._tree.parents[parent]
        return ranks
