"""Walking a live model once: the neutral tree beside the live objects it stands for.

Afterwards the walk says cheaply whether the model still has the structure that was walked.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence, Set
from itertools import compress, count, filterfalse, repeat
from operator import attrgetter, contains
from typing import Any, TypeVar

from unifreeze._modules.reader import Reader
from unifreeze._modules.taught_kinds import lessons_unchanged
from unifreeze._modules.visiting import Visit
from unifreeze._modules.walk_memo import WalkMemo
from unifreeze._modules.walk_parts import Gone
from unifreeze._protocol.live import Model
from unifreeze._structure import State

Memo = TypeVar("Memo")
_FEW = 4096
"""Of so many modules all attributes are looked for at once, while they are in a cache."""


class Walk(Visit):
    """A model as walked, which is kept as long as the model lives.

    Attributes:
        memo: What the backend remembers of it.
    """

    def __init__(self, reader: Reader, root: Model) -> None:
        super().__init__(reader, root)
        self.memo = WalkMemo()
        self._memos: dict[type, Any] = {}
        # It must not keep the model alive.
        self._root = weakref.ref(self._modules[0])
        self._modules[0] = None
        self._structure = reader.structure(self._dicts)
        self._structures.append(self._structure)
        self._as_taught = lessons_unchanged(reader.lesson, self.by_class)

    @property
    def root(self) -> Any:
        """The model itself, unwrapped."""
        return self._root()

    @property
    def modules(self) -> list[Any]:
        """Live modules, numbered as in the tree."""
        return [self.root, *self._modules[1:]]

    def module(self, index: int) -> Any:
        """Return the live module of a number."""
        return self._modules[index] if index else self.root

    def modules_having(self, *attributes: str) -> list[list[int]]:
        """Return for each attribute the modules that have one of their own, not their class's.

        It looks at every module of a large model, so all of it runs without a Python frame.
        """
        modules = self.modules
        if modules[0] is None:  # the container of several models is gone, but the models may live
            modules[0] = Gone()
        found: list[list[int]] = [[] for _ in attributes]
        for start in range(0, len(modules), _FEW):
            held = [*map(attrgetter("__dict__"), modules[start : start + _FEW])]
            for numbers, attribute in zip(found, attributes, strict=True):
                numbers += compress(count(start), map(contains, held, repeat(attribute)))
        return found

    def current(self) -> bool:
        """Return whether every module still holds the same children and parameters, by identity."""
        chosen = (self._reader.choice(module) == choice for module, choice in self._choices)
        unchanged = all(structure.unchanged() for structure in self._structures)
        return unchanged and self._as_taught() and all(chosen)

    def memo_of(self, kind: type[Memo]) -> Memo:
        """Return what a backend remembers of this walk, an object that is built when first used.

        Args:
            kind: The class, which is built without arguments.
        """
        memo: Memo | None = self._memos.get(kind)
        if memo is None:
            memo = self._memos[kind] = kind()
        return memo

    def modeless(self) -> dict[int, str]:
        """Return the modules with state that moves and no inference mode now, each with why."""
        owners = dict.fromkeys(state.owner for state in self.tree.states if state.moves)
        reasons = {owner: self._reader.modeless(self.module(owner)) for owner in owners}
        return {owner: why for owner, why in reasons.items() if why}

    def holds_frozen(self, index: int, flags: Sequence[bool]) -> bool:
        """Return whether a parameter below a module is frozen, by the flags of all parameters."""
        inside = self.tree.tensor_of[self.tree.name_starts[index] : self.tree.name_ends[index]]
        return not all(flags[number] for number in inside)

    def states(self) -> Iterator[tuple[State, Any]]:
        """Yield every state of the tree with its live tensor (None where it is gone)."""
        for state, slot in zip(self.tree.states, self.slots, strict=True):
            yield state, slot.holder.get(slot.leaf)

    def named(self) -> Iterator[tuple[str, Any]]:
        """Yield every name of a parameter with its live tensor."""
        return zip(self.tree.names, map(self.tensors.__getitem__, self.tree.tensor_of), strict=True)

    def first_paths(self) -> list[str]:
        """Return the first native path of each parameter."""
        if len(self.tree.names) == len(self.tensors):
            return self.tree.names
        paths: dict[int, str] = {}
        for path, number in zip(self.tree.names, self.tree.tensor_of, strict=True):
            paths.setdefault(number, path)
        return [paths[number] for number in range(len(self.tensors))]

    def unaccounted(self) -> list[Any]:
        """Return what modules hold besides the parameters, states and unused copies of the walk.

        Of siblings that were described at once, that was looked at then.
        """
        more = {*self._beside, *map(id, self.unused), id(None)}
        more.update(id(tensor) for _, tensor in self.kept())
        content = self._structure.content
        left: Iterator[int] = map(id, content)
        for known in (self.tree.numbers, self._seen, more):
            left = filterfalse(known.__contains__, left)
        missed = set(left)
        return [part for part in content if id(part) in missed] if missed else []

    def one_of_each_class(self) -> Iterator[Any]:
        """Yield a module of each class that was met, wrappers included."""
        yield from (self.module(numbers[0]) for numbers in self.by_class.values())
        yield from {type(module): module for module in self._beside.values()}.values()

    def accounted(self, index: int = 0) -> Set[int]:
        """Return the identities of all parameters, state and unused copies below a module.

        States count only if they are held among the parameters.
        """
        tree, end = self.tree, self.tree.ends[index]
        known: Set[int] = tree.numbers.keys()
        if index:
            inside = tree.tensor_of[tree.name_starts[index] : tree.name_ends[index]]
            known = {id(self.tensors[number]) for number in inside}
        rows = [(state.owner, tensor) for state, tensor in self.kept()]
        rows += zip([row.owner for row in tree.unused], self.unused, strict=True)
        more = {id(tensor) for owner, tensor in rows if index <= owner < end}
        return known | more if more else known
