"""Walking a live model once: the neutral tree beside the live objects it stands for.

A backend says through a small `Reader` what its framework's modules hold; the walk is the same for
all. It sees through wrappers by type, lists every name a tensor can be reached by, and can tell
cheaply whether the model still has the structure that was walked.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import chain, compress, count, repeat
from operator import attrgetter, contains, is_
from typing import Any, NamedTuple, Protocol

from unifreeze.structure import State, Tensor, Tree

Dicts = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""A module's children, parameters and buffers."""

_END = object()


class _Gone:
    """Stands for a model that is no longer there."""


class Slot(NamedTuple):
    """Where a state tensor hangs, so that a reassigned one is still found."""

    holder: Mapping[str, Any]
    leaf: str


class Reader(Protocol):
    """What one framework's modules hold.

    A reader that derives from this says only what is not as in the plainest framework: one without
    wrappers, without adapters, and without statistics among its parameters.
    """

    framework: str
    mark: str = ""
    """What a module that the backend has changed has in its own `__dict__`, "" if nothing."""

    def dicts(self, module: Any) -> Dicts:
        """Return the module's own dictionaries of children, parameters and buffers."""

    def kind(self, module: Any) -> str:
        """Return the module's kind from the layer table, "" if unknown."""

    def inner(self, module: Any) -> str:
        """Return the name of the child that a wrapper wraps, "" if it is none."""
        return ""

    def adapts(self, module: Any) -> bool:
        """Tell whether a wrapper adds parameters that adapt what it wraps."""
        return False

    def adapter_leaf(self, module: Any, leaf: str) -> bool:
        """Tell whether one of a layer's own parameters is an adapter's."""
        return False

    def swallows(self, module: Any, child: str) -> bool:
        """Tell whether a child's parameters are really this layer's own."""
        return False

    def state_role(self, module: Any, leaf: str, tensor: Any) -> str:
        """Return the role of a tensor that is state though it is held as a parameter, else ""."""
        return ""

    def state(self, module: Any, leaf: str, tensor: Any) -> tuple[str, bool]:
        """Return the role of a buffer and whether training moves it."""

    def modeless(self, module: Any) -> str:
        """Say why a module with state has no inference mode to be held in, "" if it has one."""
        return ""

    def tensor(self, module: Any, leaf: str, tensor: Any) -> Tensor:
        """Describe a parameter."""

    def alike(self, module: Any, leaf: str, tensor: Any) -> Hashable:
        """Return what all parameters share that are described as this one is.

        Large models have few sorts of parameters, so each sort is described once. None where every
        one must be looked at; state among the parameters always must.
        """
        return None

    def shape_of(self, tensor: Any) -> tuple[tuple[int, ...], str]:
        """Return shape and neutral dtype of a state tensor."""


class Walk:
    """A model as walked: the tree, and the live object behind each of its numbers.

    Attributes:
        tree: Neutral description, nothing derived.
        tensors: Live parameters, numbered as in the tree.
        slots: For each state of the tree, where the live tensor hangs.
        wrappers: Each wrapper below the root, with the number of the module it wraps.
        by_class: Numbers of the modules of each class.
    """

    def __init__(self, reader: Reader, root: Any) -> None:
        self.tree = Tree(reader.framework)
        self._modules: list[Any] = []
        self.tensors: list[Any] = []
        self.slots: list[Slot] = []
        self.wrappers: list[tuple[int, Any]] = []
        self.by_class: dict[type, list[int]] = {}
        self.memo: dict[Any, Any] = {}
        self._reader = reader
        self._seen: set[int] = set()
        self._on_path: set[int] = set()
        self._sorts: dict[Hashable, tuple[Tensor, bool]] = {}
        """What parameters alike are: their description, and whether they are an adapter's."""
        self._held: list[dict[str, Any]] = []
        """Dictionaries of children and parameters; what they held when walked is `_content`."""
        self._empty: list[dict[str, Any]] = []
        self._buffers: list[dict[str, Any]] = []
        self._visit(root, "", -1, None)
        # The walk is kept as long as the model lives, so it must not keep the model alive.
        self._root = weakref.ref(self._modules[0])
        self._modules[0] = None
        self._content = [*chain.from_iterable(map(dict.values, self._held)), _END]
        self._sizes = list(map(len, self._buffers))

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
        """Give the numbers of the modules that have an attribute of their own, not their class's.

        It looks at every module of a large model, so all of it runs without a Python frame.
        """
        modules = self.modules
        if modules[0] is None:  # what held several models as one has gone; they need not have
            modules[0] = _Gone()
        own = map(attrgetter("__dict__"), modules)
        return compress(count(), map(contains, own, repeat(attribute)))

    def current(self) -> bool:
        """Tell whether every module still holds the very children and parameters it held.

        It looks at every dictionary of a large model, so all of it runs without a Python frame.
        """
        content = chain(chain.from_iterable(map(dict.values, self._held)), (_END,))
        return (
            not any(self._empty)
            and list(map(len, self._buffers)) == self._sizes
            and all(map(is_, content, self._content))
        )

    def modeless(self) -> dict[int, str]:
        """Return the modules with state that moves and no inference mode now, each with why."""
        owners = dict.fromkeys(state.owner for state in self.tree.states if state.moves)
        found = {owner: self._reader.modeless(self.module(owner)) for owner in owners}
        return {owner: why for owner, why in found.items() if why}

    def states(self) -> Iterator[tuple[State, Any]]:
        """Give every state of the tree with its live tensor (None where it is gone)."""
        for state, slot in zip(self.tree.states, self.slots, strict=True):
            yield state, slot.holder.get(slot.leaf)

    def _visit(self, module: Any, path: str, parent: int, owner: int | None) -> None:
        reader, wrappers = self._reader, []
        while inner := reader.inner(module):
            wrappers.append((module, inner))
            module = _child(reader, module, inner)
        key = id(module)
        if key in self._on_path:
            return
        index = self.tree.enter(
            path,
            type(module).__name__,
            reader.kind(module),
            parent,
            repeat=key in self._seen,
            key=key,
        )
        self._seen.add(key)
        self._modules.append(module)
        self.by_class.setdefault(type(module), []).append(index)
        for wrapper, inner in wrappers:
            self._visit_wrapper(wrapper, inner, path, index)
        stem = f"{path}." if path else ""
        children, parameters, buffers = dicts = reader.dicts(module)
        self._watch(dicts)
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
                    below = index if reader.swallows(module, name) else owner
                    self._visit(child, stem + name, index, below)
            self._on_path.discard(key)
        self.tree.leave(index)

    def _visit_parameters(
        self, module: Any, parameters: dict[str, Any], stem: str, index: int, owner: int
    ) -> None:
        # A layer that swallows this one takes the rest of the path into the names of its own.
        prefix = "" if owner == index else stem[len(_stem(self.tree.paths[owner])) :]
        alike, sorts = self._reader.alike, self._sorts
        for leaf, tensor in parameters.items():
            if tensor is None:
                continue
            sort = alike(module, leaf, tensor)
            found = sorts.get(sort) or self._describe(module, leaf, tensor, sort)
            if isinstance(found, str):
                self._add_state(tensor, parameters, stem, leaf, index, found, moves=True)
            else:
                self._add_parameter(tensor, stem + leaf, owner, prefix + leaf, *found)

    def _describe(
        self, module: Any, leaf: str, tensor: Any, sort: Hashable
    ) -> str | tuple[Tensor, bool]:
        """Describe a parameter, and those alike for good; of one that is state return the role."""
        role = self._reader.state_role(module, leaf, tensor)
        if role:
            return role
        adapter = self._reader.adapter_leaf(module, leaf)
        found = self._reader.tensor(module, leaf, tensor), adapter
        if sort is not None:
            self._sorts[sort] = found
        return found

    def _visit_buffers(self, module: Any, buffers: dict[str, Any], stem: str, index: int) -> None:
        for leaf, tensor in buffers.items():
            if tensor is not None:
                role, moves = self._reader.state(module, leaf, tensor)
                self._add_state(tensor, buffers, stem, leaf, index, role, moves=moves)

    def _watch(self, dicts: Dicts) -> None:
        """Remember a module's dictionaries, to see later whether they still hold the same."""
        children, parameters, buffers = dicts
        (self._held if children else self._empty).append(children)
        (self._held if parameters else self._empty).append(parameters)
        (self._buffers if buffers else self._empty).append(buffers)

    def _add_parameter(
        self, tensor: Any, path: str, owner: int, role: str, row: Tensor, adapter: bool
    ) -> None:
        tree, key = self.tree, id(tensor)
        number = tree.numbers.get(key)
        if number is None:
            number = tree.add_tensor(key, row)
            self.tensors.append(tensor)
        tree.add_name(path, owner, role, number, adapter)

    def _add_state(
        self,
        tensor: Any,
        holder: Mapping[str, Any],
        stem: str,
        leaf: str,
        owner: int,
        role: str,
        *,
        moves: bool,
    ) -> None:
        shape, dtype = self._reader.shape_of(tensor)
        self.tree.states.append(State(stem + leaf, owner, role, moves, shape, dtype))
        self.slots.append(Slot(holder, leaf))

    def _visit_wrapper(self, wrapper: Any, inner: str, path: str, index: int) -> None:
        """List what a wrapper holds besides what it wraps, as the wrapped layer's own."""
        self.wrappers.append((index, wrapper))
        self._watch(self._reader.dicts(wrapper))
        adapter = self._reader.adapts(wrapper)
        for relative, module, leaf, tensor in _everything(self._reader, wrapper, inner):
            if not adapter:
                continue
            role = _adapter_role(_join(relative, leaf))
            row = self._reader.tensor(module, leaf, tensor)
            where = _join(_join(path, relative), leaf)
            self._add_parameter(tensor, where, index, role, row, adapter)


def wrappers(reader: Reader, model: Any) -> Iterator[tuple[Any, str]]:
    """Give the wrappers around a model, the outermost first, each with what it calls the inner."""
    while inner := reader.inner(model):
        yield model, inner
        model = _child(reader, model, inner)


def unwrapped(reader: Reader, model: Any) -> Any:
    """Return the model itself, seen through its wrappers."""
    while inner := reader.inner(model):
        model = _child(reader, model, inner)
    return model


def _child(reader: Reader, module: Any, name: str) -> Any:
    children = reader.dicts(module)[0]
    return children[name] if name in children else getattr(module, name)


def _everything(reader: Reader, wrapper: Any, inner: str) -> Iterator[tuple[str, Any, str, Any]]:
    """Give every parameter under a wrapper except those of what it wraps."""
    stack: list[tuple[str, Any]] = [("", wrapper)]
    while stack:
        path, module = stack.pop()
        children, own, _ = reader.dicts(module)
        for leaf, tensor in own.items():
            if tensor is not None:
                yield path, module, leaf, tensor
        kids = [(name, kid) for name, kid in children.items() if kid is not None]
        stack += [
            (_join(path, name), kid)
            for name, kid in reversed(kids)
            if not (module is wrapper and name == inner)
        ]


def _adapter_role(relative: str) -> str:
    """Shorten an adapter parameter's path to what both frameworks' ports call it.

    >>> _adapter_role("lora_A.default.weight"), _adapter_role("modules_to_save.default.bias")
    ('lora_A', 'modules_to_save.bias')
    """
    pieces = [piece for piece in relative.split(".") if piece != "default"]
    if len(pieces) > 1 and pieces[-1] == "weight" and pieces[0].startswith("lora_"):
        pieces.pop()
    return ".".join(pieces)


def _join(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path and leaf else path or leaf


def _stem(path: str) -> str:
    """Return what the paths of a module's own tensors and children begin with."""
    return f"{path}." if path else ""


def overlapping(spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, ...]]:
    """Find tensors whose bytes overlap.

    Args:
        spans: For each tensor its number, first address and number of bytes.

    Returns:
        Groups of numbers that share bytes.
    """
    groups: list[list[int]] = []
    reach = -1
    for number, start, size in sorted(spans, key=lambda span: span[1]):
        if size and start < reach:
            groups[-1].append(number)
        else:
            groups.append([number])
        reach = max(reach, start + size)
    return [tuple(group) for group in groups if len(group) > 1]
