"""Walking a live model once: the neutral tree beside the live objects it stands for.

A backend's small `Reader` says what its framework's modules hold; the walk is the same for all. It
goes into everything, sees through wrappers by type, and lists every name of a tensor. Afterwards it
says cheaply whether the model still has the structure that was walked.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator, MutableMapping, Sequence, Set
from itertools import compress, count, filterfalse, repeat
from operator import attrgetter, contains
from typing import Any, TypeVar

from unifreeze._modules.reader import Dicts, Reader
from unifreeze._modules.taught_kinds import lessons_unchanged
from unifreeze._modules.walk_memo import WalkMemo
from unifreeze._modules.walk_parts import Gone, Slot, Spread
from unifreeze._modules.wrapping import adapter_role, below, beside, join
from unifreeze._protocol.live import Layer, LiveTensor, Model
from unifreeze._structure import STATISTICS, State, Tensor, Tree, Unused

Memo = TypeVar("Memo")


class Walk:
    """A model as walked: the tree, and the live object behind each of its numbers.

    Attributes:
        tree: Neutral description, nothing derived.
        tensors: Live parameters, numbered as in the tree.
        slots: For each state of the tree, where the live tensor hangs.
        unused: Live copies of layers that no forward pass uses, numbered as in the tree.
        wrappers: Each wrapper below the root, with the number of the module it wraps.
        by_class: Numbers of the modules of each class.
        memo: What the backend remembers of it.
    """

    def __init__(self, reader: Reader, root: Model) -> None:
        self.tree = Tree(reader.framework)
        self._modules: list[Layer] = []
        self.tensors: list[LiveTensor] = []
        self.slots: list[Slot] = []
        self.unused: list[Any] = []
        self.wrappers: list[tuple[int, Any]] = []
        self.by_class: dict[type, list[int]] = {}
        self.memo = WalkMemo()
        self._memos: dict[type, Any] = {}
        self._reader = reader
        self._seen: set[int] = set()
        self._on_path: set[int] = set()
        self._sorts: dict[Hashable, tuple[Tensor, bool]] = {}
        """Parameters described alike: their description, and whether they are an adapter's."""
        self._dicts: list[Dicts] = []
        """The dictionaries of every module, wrappers included."""
        self._choices: list[tuple[Any, Hashable]] = []
        """Wrappers of which only some parts run, with what decides which parts."""
        self._spread = Spread()
        self._kept: list[int] = []
        """Numbers of the states that are held among the parameters."""
        self._idle: list[tuple[Unused, Any]] = []
        self._beside: dict[int, Any] = {}
        """Wrappers, and modules that they hold beside what they wrap, by identity."""
        self._visit(root, "", -1, None)
        self._add_unused()
        # The walk is kept as long as the model lives, so it must not keep the model alive.
        self._root = weakref.ref(self._modules[0])
        self._modules[0] = None
        self._structure = reader.structure(self._dicts)
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

    def marked(self) -> list[int]:
        """Return the numbers of the modules that have the reader's mark now."""
        return list(self.modules_having(self._reader.mark))

    def modules_having(self, attribute: str) -> Iterator[int]:
        """Yield the numbers of the modules that have an attribute of their own, not their class's.

        It looks at every module of a large model, so all of it runs without a Python frame.
        """
        modules = self.modules
        if modules[0] is None:  # the container of several models is gone, but the models may live
            modules[0] = Gone()
        attributes = map(attrgetter("__dict__"), modules)
        return compress(count(), map(contains, attributes, repeat(attribute)))

    def current(self) -> bool:
        """Return whether every module still holds the same children and parameters, by identity."""
        chosen = (self._reader.choice(module) == choice for module, choice in self._choices)
        return self._structure.unchanged() and self._as_taught() and all(chosen)

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
        paths: dict[int, str] = {}
        for path, number in zip(self.tree.names, self.tree.tensor_of, strict=True):
            paths.setdefault(number, path)
        return [paths[number] for number in range(len(self.tensors))]

    def kept(self) -> Iterator[tuple[State, Any]]:
        """Yield the states that are held among the parameters, with their live tensors."""
        for number in self._kept:
            slot = self.slots[number]
            yield self.tree.states[number], slot.holder.get(slot.leaf)

    def unaccounted(self) -> list[Any]:
        """Return what modules hold besides the parameters, states and unused copies of the walk.

        It looks at everything in a large model, so all of it runs without a Python frame.
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

    def _visit(self, module: Layer, path: str, parent: int, owner: int | None) -> None:
        reader, wrappers = self._reader, []
        while inner := reader.inner(module):
            wrappers.append((module, inner))
            module = below(reader, module, inner)
        key = id(module)
        if key in self._on_path:
            return
        kind = reader.kind(module)
        index = self.tree.enter(
            path, type(module).__name__, kind, parent, repeat=key in self._seen, key=key
        )
        self._seen.add(key)
        self._modules.append(module)
        self.by_class.setdefault(type(module), []).append(index)
        for wrapper, inner in wrappers:
            self._visit_wrapper(wrapper, inner, path, index)
        stem = f"{path}." if path else ""
        children, parameters, buffers = dicts = reader.dicts(module)
        self._dicts.append(dicts)
        around = self._spread
        if children and kind and (roles := reader.spread(module)):
            registered = roles.keys() & set(map(id, parameters.values()))
            self._spread = Spread(index, roles, frozenset(registered))
        if parameters:
            self._visit_parameters(
                module, parameters, stem, index, index if owner is None else owner
            )
        if buffers:
            self._visit_buffers(module, buffers, stem, index)
        if children:
            self._on_path.add(key)
            for name, child in children.items():
                if child is not None:
                    taken = index if reader.swallows(module, name) else owner
                    self._visit(child, stem + name, index, taken)
            self._on_path.discard(key)
        self._spread = around
        self.tree.leave(index)
        if wrappers and any("." in inner for _, inner in wrappers):
            # A module so deep inside a wrapper is a copy of the wrapped one.
            self.tree.copies.append((self.tree.name_starts[index], self.tree.name_ends[index]))

    def _visit_parameters(
        self,
        module: Layer,
        parameters: MutableMapping[str, LiveTensor],
        stem: str,
        index: int,
        owner: int,
    ) -> None:
        # If a layer swallows this one, the rest of the path is part of its parameters' names.
        around = self.tree.paths[owner]
        prefix = "" if owner == index else stem[len(around) + 1 if around else 0 :]
        alike, sorts, spread = self._reader.alike, self._sorts, self._spread.roles
        roles = self._reader.roles(module)
        for leaf, tensor in parameters.items():
            if tensor is None:
                continue
            if spread and id(tensor) in spread:
                self._visit_spread(module, leaf, tensor, stem, index)
                continue
            role = roles.get(leaf, leaf)
            if leaf in roles and role in STATISTICS:
                description: str | tuple[Tensor, bool] = role
            else:
                sort = alike(module, leaf, tensor)
                description = sorts.get(sort) or self._describe(module, leaf, tensor, sort)
            if isinstance(description, str):
                self._kept.append(len(self.slots))
                moves = self._reader.moves(module, leaf)
                self._add_state(tensor, parameters, stem, leaf, index, description, moves=moves)
            else:
                self._add_parameter(tensor, stem + leaf, owner, prefix + role, *description)

    def _visit_spread(
        self, module: Layer, leaf: str, tensor: LiveTensor, stem: str, index: int
    ) -> None:
        """Count a parameter as that of the layer above, which has spread it to this module."""
        layer, roles, registered = self._spread
        if index == layer or id(tensor) not in registered:
            role = roles[id(tensor)]
            row = self._reader.tensor(module, role, tensor)
            self._add_parameter(tensor, stem + leaf, layer, role, row, False)

    def _describe(
        self, module: Layer, leaf: str, tensor: LiveTensor, sort: Hashable
    ) -> str | tuple[Tensor, bool]:
        """Describe a parameter, once for each sort; for a state, return its role."""
        role = self._reader.state_role(module, leaf, tensor)
        if role:
            return role
        adapter = self._reader.adapter_leaf(module, leaf)
        description = self._reader.tensor(module, leaf, tensor), adapter
        if sort is not None:
            self._sorts[sort] = description
        return description

    def _visit_buffers(
        self, module: Layer, buffers: MutableMapping[str, LiveTensor], stem: str, index: int
    ) -> None:
        roles = self._reader.roles(module)
        for leaf, tensor in buffers.items():
            if tensor is not None:
                role, moves = self._reader.state(module, leaf, tensor)
                if roles.get(leaf) in STATISTICS:
                    role, moves = roles[leaf], True
                saved = self._reader.persistent(module, leaf)
                self._add_state(
                    tensor, buffers, stem, leaf, index, role, moves=moves, persistent=saved
                )

    def _add_parameter(
        self, tensor: LiveTensor, path: str, owner: int, role: str, row: Tensor, adapter: bool
    ) -> None:
        tree, key = self.tree, id(tensor)
        number = tree.numbers.get(key)
        if number is None:
            number = tree.add_tensor(key, row)
            self.tensors.append(tensor)
        tree.add_name(path, owner, role, number, adapter)

    def _add_state(
        self,
        tensor: LiveTensor,
        holder: MutableMapping[str, Any],
        stem: str,
        leaf: str,
        owner: int,
        role: str,
        *,
        moves: bool,
        persistent: bool = True,
    ) -> None:
        shape, dtype = self._reader.shape_of(tensor)
        self.tree.states.append(State(stem + leaf, owner, role, moves, shape, dtype, persistent))
        self.slots.append(Slot(holder, leaf))

    def _visit_wrapper(self, wrapper: Layer, inner: str, path: str, index: int) -> None:
        """List the parameters of a wrapper beside the wrapped layer as that layer's own."""
        reader, adapts = self._reader, self._reader.adapts(wrapper)
        self.wrappers.append((index, wrapper))
        if (choice := reader.choice(wrapper)) is not None:
            self._choices.append((wrapper, choice))
        for relative, module, dicts in beside(reader, wrapper, inner):
            self._dicts.append(dicts)
            self._beside[id(module)] = module
            for leaf, tensor in dicts[1].items():
                inside = join(relative, leaf)
                if tensor is None:
                    continue
                if reader.idle(wrapper, inside):
                    self._idle.append((Unused(join(path, inside), index), tensor))
                elif adapts:
                    row, role = reader.tensor(module, leaf, tensor), adapter_role(inside)
                    self._add_parameter(tensor, join(path, inside), index, role, row, True)

    def _add_unused(self) -> None:
        """List tensors that only idle parts of wrappers hold; a tensor held elsewhere is in use."""
        known = {*self.tree.numbers, *(id(tensor) for _, tensor in self.kept())}
        for row, tensor in self._idle:
            if id(tensor) not in known:
                known.add(id(tensor))
                self.tree.unused.append(row)
                self.unused.append(tensor)
