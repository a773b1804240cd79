"""Visit every module of a live model once, and write down what it holds.

A backend's small `Reader` says what its framework's modules hold; the visit is the same for all. It
goes into everything, sees through wrappers by type, and lists every name of a tensor.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, MutableMapping, Sequence
from itertools import chain, count, groupby
from typing import Any

import numpy as np

from unifreeze._modules.like_siblings import LikeSiblings, by_sibling
from unifreeze._modules.reader import Dicts, Reader
from unifreeze._modules.structure_changes import Structure
from unifreeze._modules.walk_parts import Slot, Spread
from unifreeze._modules.wrapping import adapter_role, below, beside, join
from unifreeze._protocol.live import Layer, LiveTensor, Model
from unifreeze._structure import CONTAINER, STATISTICS, State, Tensor, Tree, Unused

_FEW = 128
"""This many siblings are compared at once: more do not fit into a processor's cache."""


class Visit:
    """A visit of a model: the tree, and the live object behind each of its numbers.

    Attributes:
        tree: Neutral description, nothing derived.
        tensors: Live parameters, numbered as in the tree.
        slots: For each state of the tree, where the live tensor hangs.
        unused: Live copies of layers that no forward pass uses, numbered as in the tree.
        wrappers: Each wrapper below the root, with the number of the module it wraps.
        by_class: Numbers of the modules of each class.
    """

    def __init__(self, reader: Reader, root: Model) -> None:
        self.tree = Tree(reader.framework)
        self._modules: list[Layer] = []
        self.tensors: list[LiveTensor] = []
        self.slots: list[Slot] = []
        self.unused: list[Any] = []
        self.wrappers: list[tuple[int, Any]] = []
        self.by_class: dict[type, list[int]] = {}
        self._reader = reader
        self._seen: set[int] = set()
        self._shares = False
        """True once siblings in a list were found to share a module or parameter."""
        self._on_path: set[int] = set()
        self._sorts: dict[Hashable, tuple[Tensor, bool]] = {}
        """Parameters described alike: their description, and whether they are an adapter's."""
        self._dicts: tuple[list[Any], list[Any], list[Any]] = [], [], []
        """Children, parameters and buffers of modules, wrappers included, but not of copies."""
        self._structures: list[Structure] = []
        """What the copies hold; each says nothing but what the walk has met."""
        self._children: list[Any] = []
        """The dictionaries of children of all modules, copies and wrappers included."""
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

    def _add_dicts(self, dicts: Dicts) -> None:
        for known, part in zip(self._dicts, dicts, strict=True):
            known.append(part)

    def kept(self) -> Iterator[tuple[State, Any]]:
        """Yield the states that are held among the parameters, with their live tensors."""
        for number in self._kept:
            slot = self.slots[number]
            yield self.tree.states[number], slot.holder.get(slot.leaf)

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
        self._add_dicts(dicts)
        self._children.append(children)
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
            self._visit_children(module, children, stem, index, owner)
            self._on_path.discard(key)
        self._spread = around
        self.tree.leave(index)
        if wrappers and any("." in inner for _, inner in wrappers):
            # A module so deep inside a wrapper is a copy of the wrapped one.
            self.tree.copies.append((self.tree.name_starts[index], self.tree.name_ends[index]))

    def _visit_children(
        self,
        module: Layer,
        children: Mapping[str, Layer],
        stem: str,
        index: int,
        owner: int | None,
    ) -> None:
        reader, tree = self._reader, self.tree
        present = [(name, child) for name, child in children.items() if child is not None]
        plain = owner is None and self._spread.layer < 0
        swallowed = any(reader.swallows(module, name) for name in children)
        listed = plain and tree.kinds[index] == CONTAINER and not swallowed
        listed = listed and "." not in "".join(children)
        for _, members in groupby(present, lambda member: type(member[1])):
            row, at, in_a_row = [*members], 0, 0
            while at < len(row):
                first = len(tree.paths)
                name, child = row[at]
                taken = index if reader.swallows(module, name) else owner
                self._visit(child, stem + name, index, taken)
                at, in_a_row = at + 1, in_a_row + 1
                # Some of a row may differ from the rest, most often the first: the second, fourth,
                # eighth … may be an example, too.
                example = listed and in_a_row & (in_a_row - 1) == 0 and self._is_example(first)
                while example and at < len(row):
                    siblings = row[at : at + _FEW]
                    if not self._copy(first, stem, siblings):
                        break
                    first = len(tree.paths) - (len(tree.paths) - first) // (len(siblings) + 1)
                    at, in_a_row = at + len(siblings), 0

    def _copy(self, first: int, stem: str, siblings: Sequence[tuple[str, Layer]]) -> bool:
        """Describe siblings of the last module by its description, if all are built like it.

        Args:
            first: The module's number.
            stem: What the paths of the siblings begin with.
            siblings: The siblings with their names: all are of one class.

        Returns:
            Whether they are.
        """
        tree, start = self.tree, len(self.tree.paths)
        found = LikeSiblings(self._reader, self._modules[first], [part for _, part in siblings])
        if not found.alike:
            return False
        modules, tensors = by_sibling(found.modules), by_sibling(found.tensors)
        keys, tensor_keys = [*map(id, modules)], [*map(id, tensors)]
        # Looked at now, while all of it is in a processor's cache.
        children, others, buffers = ([*chain(*column)] for column in zip(*found.dicts, strict=True))
        structure = self._reader.structure((children, others, buffers))
        if not {*keys, *tensor_keys, id(None)}.issuperset(map(id, structure.content)):
            return False
        known, parameters = len(self._seen), len(tree.numbers)
        self._seen.update(keys)
        tree.numbers.update(zip(tensor_keys, count(parameters)))
        if len(self._seen) < known + len(keys) or len(tree.numbers) < parameters + len(tensors):
            # Such a model is rare, so it is visited module by module from here on.
            self._shares, self._seen = True, {*tree.keys}
            tree.numbers = {id(tensor): number for number, tensor in enumerate(self.tensors)}
            return False
        offsets: dict[type, list[int]] = {}
        for offset, module in enumerate(self._modules[first:]):
            offsets.setdefault(type(module), []).append(offset)
        starts = np.arange(start, start + len(modules), start - first)[:, None]
        for cls, places in offsets.items():
            self.by_class[cls] += (starts + places).ravel().tolist()
        tree.add_copies(first, [stem + name for name, _ in siblings], keys)
        self._modules += modules
        self._children += chain.from_iterable(columns[0] for columns in found.dicts)
        self._structures.append(structure)
        self.tensors += tensors
        return True

    def _is_example(self, first: int) -> bool:
        """Return whether the last module is such that others can be described like it.

        Everything below it must have been met there for the first time, and be a module in a
        module, or a parameter.
        """
        tree = self.tree
        size, names = len(tree.paths) - first, tree.tensor_of[tree.name_starts[first] :]
        states, wrappers = tree.states[-1:], self.wrappers[-1:]
        known = len(tree.tensors)
        return (
            not self._shares
            and size > 0
            and all(state.owner < first for state in states)
            and all(number < first for number, _ in wrappers)
            and sum(map(len, self._children[-size:])) == size - 1
            and not any(tree.repeats[first:])
            and names == [*range(known - len(names), known)]
        )

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
            self._add_dicts(dicts)
            self._children.append(dicts[0])
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
        if not self._idle:
            return
        known = {*self.tree.numbers, *(id(tensor) for _, tensor in self.kept())}
        for row, tensor in self._idle:
            if id(tensor) not in known:
                known.add(id(tensor))
                self.tree.unused.append(row)
                self.unused.append(tensor)
