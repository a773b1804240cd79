"""The neutral description of one model: what a plan is resolved against.

`derive` turns a backend's `Tree` into a `ModelSpec` with canonical names; everything here is pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._structure.atoms import Atoms
from unifreeze._structure.blocks import Run
from unifreeze._structure.constants import find_constants
from unifreeze._structure.tree import STATISTICS, State, Tensor, Trace, Tree
from unifreeze._structure.words import KINDS, role_of
from unifreeze._structure.zones import Placement, Unit, Zone, place
from unifreeze._tables import one_line
from unifreeze.errors import counted

_ITEM_SIZES = {"float64": 8, "int64": 8, "complex64": 8, "complex128": 16, "float16": 2}
_ITEM_SIZES |= {"bfloat16": 2, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}

Mask = NDArray[np.bool_]
"""One bool per parameter, or per atom of a spec."""


class Parameter(NamedTuple):
    """One parameter: a distinct tensor that an optimizer could train.

    Attributes:
        name: Canonical name, `blocks.3/linear.0/weight`.
        path: Native path, the first of them.
        aliases: Its other native paths (a tied tensor has some).
        owner: Native path of the layer it belongs to.
        kind: Kind of that layer.
        role: What it is in that layer.
        shape: As the framework stores it.
        neutral_shape: In the neutral layout.
        dtype: Neutral dtype name.
        values: Number of values.
        fixed: Why the framework never trains it, or "".
        trainable: As found.
    """

    name: str
    path: str
    aliases: tuple[str, ...]
    owner: str
    kind: str
    role: str
    shape: tuple[int, ...]
    neutral_shape: tuple[int, ...]
    dtype: str
    values: int
    fixed: str
    trainable: bool


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """The neutral description of one model.

    Parameters are numbered in order of registration, each distinct tensor once and no statistic
    among them. A parameter has one *atom* per name and, for fused projections, per part; selectors
    are evaluated on atoms, so that a tied or fused tensor can be seen to be split.

    Attributes:
        tree: The model as its backend found it.
        placement: Where every owner is.
        order: "registration" or "execution": what positions count by.
        found: For each parameter, whether it was trainable as found.
        trace: What a forward pass showed, if one was run.
        standing: For each parameter, the flag that holds where a plan says nothing about it, if
            that is not as found: other plans may be in force.
    """

    tree: Tree
    placement: Placement
    order: str
    found: Mask
    trace: Trace | None = None
    standing: Mask | None = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return one_line(self, f"{counted(len(self), 'parameter')} of a model in {self.framework}")

    @property
    def framework(self) -> str:
        """Name of the framework the model is written in."""
        return self.tree.framework

    @property
    def runs(self) -> Sequence[Run]:
        """Runs of blocks, in order."""
        return self.placement.runs

    @property
    def states(self) -> Sequence[State]:
        """Statistics and other tensors that no optimizer sees."""
        return self.tree.states

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The distinct parameter tensors."""
        return self.tree.tensors

    def __len__(self) -> int:
        return len(self.tree.tensors)

    def with_found(self, found: Mask, standing: Mask | None = None) -> ModelSpec:
        """Return the same description with other flags as found, and as they stand."""
        if np.array_equal(found, self.found) and _same(standing, self.standing):
            return self
        other = replace(self, found=found, standing=standing, memo={})
        own = {one.name for one in fields(self)} | {"parameters", "constants"}
        vars(other).update({name: had for name, had in vars(self).items() if name not in own})
        return other

    @cached_property
    def units(self) -> Sequence[Unit]:
        """Stretches of the network, in the order met."""
        return self.placement.units

    @cached_property
    def tensor_of(self) -> NDArray[np.intp]:
        """For each name, its parameter's number."""
        return np.asarray(self.tree.tensor_of, dtype=np.intp)

    @cached_property
    def owner_of(self) -> NDArray[np.intp]:
        """For each name, its owner's number."""
        return np.asarray(self.tree.owners, dtype=np.intp)

    @cached_property
    def first_names(self) -> NDArray[np.intp]:
        """For each parameter, the number of its first name."""
        return np.unique(self.tensor_of, return_index=True)[1]

    @cached_property
    def roles(self) -> list[str]:
        """For each name, the role of the tensor in its owner."""
        kinds = self.placement.kinds
        pairs = list(zip(self.tree.leaves, self.tree.owners, strict=True))
        roles = [role_of(leaf, kinds[owner])[0] for leaf, owner in pairs]
        # A layer that holds both `weight` and `scale` keeps them apart by their own names.
        taken = Counter(zip(self.tree.owners, roles, strict=True))
        return [
            role if taken[owner, role] == 1 else leaf
            for role, (leaf, owner) in zip(roles, pairs, strict=True)
        ]

    @cached_property
    def canonical(self) -> list[str]:
        """For each name, where it is in the network; of a fused tensor, where its first part is."""
        spans = self.placement.spans
        if not spans:
            return [
                f"{self.owner_name(owner)}/{role}"
                for owner, role in zip(self.tree.owners, self.roles, strict=True)
            ]
        return [self.part_names(name)[0] for name in range(len(self.tree.names))]

    def part_names(self, name: int) -> tuple[str, ...]:
        """Return the canonical names of a tensor's parts: one, or several if it is fused.

        Args:
            name: The number of one of its names.
        """
        owner = self.tree.owners[name]
        places, role = self._places(name)
        return tuple(f"{self.owner_name(owner, place)}/{role}" for place in places)

    def _places(self, name: int) -> tuple[tuple[int, ...], str]:
        """Return which places of its layer a tensor takes, and its role there."""
        span = self.placement.spans.get(self.tree.owners[name])
        if span is None:
            return (0,), self.roles[name]
        return span.places[name], span.roles.get(name, self.roles[name])

    @cached_property
    def atom_names(self) -> list[str]:
        """For each atom, the canonical name of the tensor, or part of a fused one, that it is."""
        names, canonical = self.atoms.name.tolist(), self.canonical
        if len(names) == len(canonical):
            return canonical
        pairs = zip(names, self.atoms.share.tolist(), strict=True)
        parts = {name: self.part_names(name) for name in set(names)}
        return [parts[name][min(share, len(parts[name]) - 1)] for name, share in pairs]

    def owner_name(self, owner: int, place: int = 0) -> str:
        """Return the canonical name of a layer: `blocks.3/norm.1`.

        Args:
            owner: The layer.
            place: For a layer that holds several projections, which of them.
        """
        at = self.placement
        if owner not in at.unit_of:
            return self.tree.paths[owner]
        unit = at.units[at.unit_of[owner]].label
        return f"{unit}/{at.kind_of[owner]}.{at.count_of[owner] + place}"

    def state_name(self, state: State) -> str:
        """Return the canonical name of a statistic or other state tensor."""
        return f"{self.owner_name(state.owner)}/{state.role}"

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter, in order of registration."""
        return tuple(self._parameters())

    def _parameters(self) -> Iterator[Parameter]:
        tree, at = self.tree, self.placement
        aliases: dict[int, list[int]] = {}
        for name, tensor in enumerate(tree.tensor_of):
            aliases.setdefault(tensor, []).append(name)
        for number, tensor_row in enumerate(tree.tensors):
            first, *others = aliases[number]
            owner = tree.owners[first]
            yield Parameter(
                self.canonical[first],
                tree.names[first],
                tuple(tree.names[other] for other in others),
                tree.paths[owner],
                "adapter" if tree.adapters[first] else at.kind_of[owner],
                self.roles[first],
                tensor_row.shape,
                tensor_row.neutral,
                tensor_row.dtype,
                tensor_row.size,
                tensor_row.fixed,
                bool(self.found[number]),
            )

    @cached_property
    def constants(self) -> Mask:
        """For each parameter, whether it looks like a constant of the network's own."""
        return find_constants(self.tree, self.placement.kinds, self.found)

    @cached_property
    def canonical_order(self) -> NDArray[np.intp]:
        """Parameter numbers in canonical order: from the input to the head, the same everywhere.

        Within a unit, layers are listed by their number, then by kind; so that in a plain
        convolutional network the order is conv, norm, conv, norm. A tensor with several names
        stands where the first of them does.
        """
        at, tree = self.placement, self.tree
        first: dict[int, tuple[Any, ...]] = {}

        def key(name: int) -> tuple[Any, ...]:
            owner = tree.owners[name]
            unit = at.units[at.unit_of[owner]]
            places, role = self._places(name)
            return (
                *_unit_key(unit),
                at.count_of[owner] + places[0],
                KINDS.index(at.kind_of[owner]),
                tree.adapters[name],
                {"weight": 0, "bias": 1}.get(role, 2),
                role,
            )

        for name, number in enumerate(self.tensor_of.tolist()):
            found = key(name)
            first[number] = min(first.get(number, found), found)
        return np.asarray(sorted(range(len(self)), key=first.__getitem__), dtype=np.intp)

    def neutral_shape(self, number: int) -> tuple[tuple[int, ...], bool]:
        """Return a parameter's shape in the neutral layout, and whether anything tells which it is.

        Of a linear layer that nobody knows, a traced forward pass shows how long its output is.
        """
        tensor, name = self.tensors[number], int(self.first_names[number])
        owner = self.tree.owners[name]
        if tensor.oriented or self.trace is None or self.placement.kind_of[owner] != "linear":
            return tensor.neutral, tensor.oriented
        seen = self.trace.shapes.get(self.tree.paths[owner], ())
        if len(seen) < 2 or seen[-1] not in tensor.shape:
            return tensor.neutral, False
        turned = seen[-1] == tensor.shape[1]
        return tensor.shape[::-1] if turned else tensor.shape, True

    def module(self, path: str) -> int | None:
        """Return the number of the module at a native path, if there is one."""
        return self.module_numbers.get(path)

    @cached_property
    def module_numbers(self) -> dict[str, int]:
        """Number of the module at each native path."""
        return {path: index for index, path in enumerate(self.tree.paths)}

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """For each parameter, its number of values."""
        sizes = {shape: prod(shape) for shape in {tensor.shape for tensor in self.tensors}}
        return np.asarray([sizes[tensor.shape] for tensor in self.tensors], np.int64)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """For each parameter, its number of bytes."""
        items = [_ITEM_SIZES.get(tensor.dtype, 4) for tensor in self.tensors]
        return self.counts * np.asarray(items, np.int64)

    def within(self, module: int) -> tuple[ModelSpec, NDArray[np.intp]]:
        """Read one module as if it were the whole.

        Returns:
            Its description, and for each of its names the number of that name here.
        """
        if module not in self.memo:
            tree, names, tensors = self.tree.subtree(module)
            trace = self.trace and self.trace.within(self.tree.paths[module])
            part = derive(tree, trace, found=self.found[tensors])
            self.memo[module] = part, np.asarray(names, np.intp)
        found: tuple[ModelSpec, NDArray[np.intp]] = self.memo[module]
        return found

    @cached_property
    def atoms(self) -> Atoms:
        """What selectors are evaluated on."""
        return Atoms(self)

    def statistics_owners(self) -> list[int]:
        """Modules that keep running statistics, in order of registration."""
        return list(dict.fromkeys(s.owner for s in self.states if s.role in STATISTICS))


def derive(tree: Tree, trace: Trace | None = None, *, found: Mask | None = None) -> ModelSpec:
    """Derive a model's neutral description from what its backend found.

    Args:
        tree: The modules and tensors.
        trace: What one forward pass showed; positions then count in order of execution.
        found: Flags as found, if not those in the tree.
    """
    flags = np.asarray(tree.trainable, np.bool_) if found is None else found
    order = "execution" if trace else "registration"
    return ModelSpec(tree, place(tree, trace), order, flags, trace)


def _unit_key(unit: Unit) -> tuple[object, ...]:
    """Order units from the input to the head; transitions come before the block they lead into."""
    middle = unit.zone in (Zone.BLOCK, Zone.TRANSITION)
    zone = Zone.BLOCK if middle else unit.zone
    position = (unit.block, unit.zone is Zone.BLOCK) if middle else (0, False)
    return (zone, unit.run, *position, unit.expert, unit.label)


def _same(one: Mask | None, other: Mask | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))
