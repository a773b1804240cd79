"""The modules that hold towers, and questions about them: what stands beside, when they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from unifreeze._structure.order import Rank
from unifreeze._structure.tower_entrances import token_rows
from unifreeze._structure.tower_modules import Anchor, find_anchors
from unifreeze._structure.tower_words import SIGNALS, is_word_head, names_a_token_table
from unifreeze._structure.tree import Trace, Tree
from unifreeze._structure.zones import Placement, Zone

Value = TypeVar("Value")


class Anchors:
    """The towers of one model.

    Attributes:
        all: All of them, in order of registration.
        home: For each owner of tensors, the innermost tower around it.
        unclear: For each module whose tower could not be told, the reason.
        settled: All towers have their words.
    """

    def __init__(self, tree: Tree, at: Placement, trace: Trace | None) -> None:
        self.tree, self.at, self.trace = tree, at, trace
        self.unclear: dict[str, str] = {}
        self.settled, self._kept = False, dict[object, Any]()
        self.owners = sorted(at.unit_of)
        self.all = find_anchors(tree, at)
        self.look_around()

    def look_around(self) -> None:
        """Find for each layer the tower around it, again after towers have changed."""
        self.home = {owner: self._innermost(owner) for owner in self.owners}

    def _innermost(self, index: int) -> Anchor | None:
        around = [a for a in self.all if a.module <= index < self.tree.ends[a.module]]
        return max(around, key=lambda anchor: anchor.module, default=None)

    def called(self, *words: str) -> list[Anchor]:
        """Return the towers of some words."""
        return [anchor for anchor in self.all if anchor.word in words]

    def inside(self, anchor: Anchor) -> list[int]:
        """Return the layers of which a tower is the innermost around them."""
        return [owner for owner in self.owners if self.home[owner] is anchor]

    def holds_others(self, anchor: Anchor) -> bool:
        """Return whether a tower holds another tower: the words' blocks may stand beside it."""
        end = self.tree.ends[anchor.module]
        return any(anchor.module < other.module < end for other in self.all)

    def in_block(self, owner: int) -> bool:
        """Return whether a layer is in a block of some run."""
        return self.at.units[self.at.unit_of[owner]].zone is Zone.BLOCK

    def outside(self) -> list[int]:
        """Return the layers that stand beside towers, or in one that holds another."""
        return [
            owner
            for owner in self.owners
            if (home := self.home[owner]) is None
            or (self.holds_others(home) and not self.in_block(owner))
        ]

    def group(self, owner: int) -> int:
        """Return the highest module around a layer that holds neither a tower nor a block."""
        tree, module = self.tree, owner
        while tree.parents[module] > 0 and not self._holds_blocks(tree.parents[module]):
            module = tree.parents[module]
        return module

    def _holds_blocks(self, module: int) -> bool:
        end = self.tree.ends[module]
        if any(module <= a.module < end and a.module for a in self.all):
            return True
        return any(module < run.blocks[0] < end for run in self.at.runs)

    def gives_words(self, owner: int) -> bool:
        """Return whether a layer belongs to a head with as many outputs as a table has tokens."""
        module = self.group(owner)
        return self._once(("words", module), lambda: self.group_gives_words(module))

    def group_gives_words(self, module: int) -> bool:
        """Return whether a module has as many outputs as a table of the model has tokens."""
        tree, at = self.tree, self.at
        if is_word_head(tree.paths[module].rpartition(".")[2]):
            return True
        rows = {token_rows(tree, at, table) for table in self.tables()}
        for name in range(tree.name_starts[module], tree.name_ends[module]):
            tensor, kind = tree.tensors[tree.tensor_of[name]], at.kind_of.get(tree.owners[name])
            if len(tensor.neutral) == 2 and kind in ("linear", "param"):
                known = kind == "linear" and tensor.oriented
                outputs = tensor.neutral[:1] if known else tensor.neutral
                if not rows.isdisjoint(outputs):
                    return True
        return False

    def _once(self, key: object, make: Callable[[], Value]) -> Value:
        """Return a value that is made once after all towers are named, and before always anew."""
        if not self.settled:
            return make()
        if key not in self._kept:
            self._kept[key] = make()
        value: Value = self._kept[key]
        return value

    def tables(self) -> list[int]:
        """Return the tables of tokens: those of the towers of words, or beside all towers."""
        return self._once("tables", self._tables)

    def _tables(self) -> list[int]:
        beside_blocks = (owner for owner in self.owners if not self.in_block(owner))
        tables = [owner for owner in beside_blocks if token_rows(self.tree, self.at, owner)]
        inside = [table for table in tables if (h := self.home[table]) and h.word == "text"]
        beside = [t for t in self.outside() if t in tables and self.is_token_table(t)]
        return [*inside, *beside] or (tables if not self.called("text") else [])

    def begins(self, anchor: Anchor) -> Rank:
        """Return the place of a tower's first block, or of its first layer."""
        return self._once(
            ("begins", anchor), lambda: min(self._ranks(anchor), default=(-1, anchor.module))
        )

    def ends(self, anchor: Anchor) -> Rank:
        """Return the place of a tower's last block, or of its last layer."""
        return self._once(
            ("ends", anchor), lambda: max(self._ranks(anchor), default=(-1, anchor.module))
        )

    def _ranks(self, anchor: Anchor) -> list[Rank]:
        own = self.inside(anchor)
        return [self.at.ranks[o] for o in ([o for o in own if self.in_block(o)] or own)]

    def is_between(self, rank: Rank) -> bool:
        """Return whether a place is after a tower of signals and before one of words."""
        texts = [self.begins(anchor) for anchor in self.called("text") if anchor.runs]
        signals = [self.ends(anchor) for anchor in self.called(*SIGNALS)]
        return bool(texts and signals) and min(signals) < rank < max(texts)

    def is_token_table(self, owner: int) -> bool:
        """Return whether a layer looks up words: a pass called it, or its name says so."""
        path = self.tree.paths[owner]
        if not token_rows(self.tree, self.at, owner):
            return False
        called = self.trace is not None and path in self.trace.calls
        return called or names_a_token_table(path.rpartition(".")[2])
