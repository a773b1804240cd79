"""The neutral description of one model: what a plan is resolved against.

`derive` turns a backend's `Tree` into a `ModelSpec` with canonical names; everything here is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unifreeze._identity import coded
from unifreeze._structure.atoms import Atoms
from unifreeze._structure.blocks import BlockRun
from unifreeze._structure.canonical_names import CanonicalNames
from unifreeze._structure.constants import find_constants
from unifreeze._structure.corrections import Correction
from unifreeze._structure.experts import ExpertParts, find_experts
from unifreeze._structure.parameters import Parameter, list_parameters
from unifreeze._structure.place_layers import place
from unifreeze._structure.pruning import only_names
from unifreeze._structure.tower_parts import TowerParts, find_tower_parts, joined_parts
from unifreeze._structure.tree import STATISTICS, Mask, State, Tensor, Trace, Tree
from unifreeze._structure.zones import Placement, Unit
from unifreeze._tables import one_line
from unifreeze.errors import counted

Value = TypeVar("Value")

_ITEM_SIZES = {"float64": 8, "int64": 8, "complex64": 8, "complex128": 16, "float16": 2}
_ITEM_SIZES |= {"bfloat16": 2, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}


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
        standing: For each parameter, the flag that holds where a plan says nothing about it; None
            where that is the flag as found. They differ if other plans are in force.
        memo: What has been derived from this description so far; see `once`.
        correction: What a plan says of the structure in place of what is derived.
        placements: The placements by every correction so far; descriptions of one walk share it.
    """

    tree: Tree
    placement: Placement
    order: str
    found: Mask
    trace: Trace | None = None
    standing: Mask | None = None
    memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    correction: Correction = field(default_factory=Correction)
    placements: dict[Correction, Placement] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return one_line(self, f"{counted(len(self), 'parameter')} of a model in {self.framework}")

    @property
    def framework(self) -> str:
        """Name of the framework the model is written in."""
        return self.tree.framework

    @property
    def runs(self) -> Sequence[BlockRun]:
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
        changed = replace(self, found=found, standing=standing, memo={})
        # Everything that was derived and does not depend on flags is shared.
        by_flags = {column.name for column in fields(self)} | {"parameters", "constants"}
        kept = {name: value for name, value in vars(self).items() if name not in by_flags}
        vars(changed).update(kept)
        return changed

    def corrected(self, correction: Correction) -> ModelSpec:
        """Return the same model with parts of its structure as a plan says they are."""
        if correction == self.correction:
            return self
        if correction not in self.placements:
            self.placements[correction] = place(self.tree, self.trace, correction)
        placed = self.placements[correction]
        return self.once(
            correction, lambda: replace(self, placement=placed, correction=correction, memo={})
        )

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return what was made under a key before, or make it now and keep it."""
        if key not in self.memo:
            self.memo[key] = make()
        value: Value = self.memo[key]
        return value

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
        if len(self.tree.names) == len(self):
            return self.tensor_of  # every parameter has one name
        return np.unique(self.tensor_of, return_index=True)[1]

    @cached_property
    def never(self) -> Mask:
        """For each parameter, whether the framework's own code never trains it."""
        rows, sorts = self._sorts
        return np.asarray([bool(row.fixed) for row in rows], np.bool_)[sorts]

    @cached_property
    def _sorts(self) -> tuple[list[Tensor], NDArray[np.intp]]:
        """The different rows of tensors, and for each parameter which of them is its row."""
        return coded(self.tree.tensors)

    def paths_of(self, parameters: Sequence[int] | NDArray[np.intp]) -> list[str]:
        """Return the native paths of some parameters, by their numbers."""
        names = self.tree.names
        first = self.first_names[np.asarray(parameters, np.intp)].tolist()
        return [names[name] for name in first]

    @cached_property
    def _names(self) -> CanonicalNames:
        return CanonicalNames(self.tree, self.placement)

    @property
    def canonical(self) -> list[str]:
        """For each name, the canonical name; of a fused tensor, that of its first part."""
        return self._names.of_names

    @cached_property
    def atom_names(self) -> list[str]:
        """For each atom, the canonical name of the tensor, or part of a fused one, that it is."""
        names, canonical = self.atoms.name.tolist(), self.canonical
        if len(names) == len(canonical):
            return canonical
        pairs = zip(names, self.atoms.share.tolist(), strict=True)
        parts = {name: self.part_names(name) for name in set(names)}
        return [parts[name][min(share, len(parts[name]) - 1)] for name, share in pairs]

    @cached_property
    def canonical_order(self) -> NDArray[np.intp]:
        """Parameter numbers in canonical order: from the input to the head, the same everywhere."""
        return self._names.order()

    def part_names(self, name: int) -> tuple[str, ...]:
        """Return the canonical names of a tensor's parts: one, or several if it is fused."""
        return self._names.of_parts(name)

    def owner_name(self, owner: int, place: int = 0) -> str:
        """Return the canonical name of a layer, or of one projection in it: `blocks.3/norm.1`."""
        return self._names.of_layer(owner, place)

    def state_name(self, state: State) -> str:
        """Return the canonical name of a statistic or other state tensor."""
        return f"{self.owner_name(state.owner)}/{state.role}"

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter, in order of registration."""
        names = self._names
        return tuple(list_parameters(self.tree, self.placement, names, self.found))

    @cached_property
    def constants(self) -> Mask:
        """For each parameter, whether it looks like a constant of the network itself."""
        return find_constants(self.tree, self.placement.kinds, self.found)

    def neutral_shape(self, number: int) -> tuple[tuple[int, ...], bool]:
        """Return a parameter's shape in the neutral layout, and whether that is certain.

        For a linear layer of an unknown class, a traced forward pass shows the length of its
        output, and so which axis comes first.
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
        return dict(zip(self.tree.paths, range(len(self.tree.paths)), strict=True))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """For each parameter, its number of values."""
        rows, sorts = self._sorts
        return np.asarray([row.size for row in rows], np.int64)[sorts]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """For each parameter, its number of bytes."""
        rows, sorts = self._sorts
        items = [_ITEM_SIZES.get(row.dtype, 4) for row in rows]
        return self.counts * np.asarray(items, np.int64)[sorts]

    def within(self, module: int) -> tuple[ModelSpec, NDArray[np.intp]]:
        """Read one module as if it were the whole.

        Returns:
            Its description, and for each of its names the number of that name here.
        """

        def cut_out() -> tuple[ModelSpec, NDArray[np.intp]]:
            tree, names, tensors = self.tree.subtree(module)
            trace = self.trace and self.trace.within(self.tree.paths[module])
            part = derive(tree, trace, found=self.found[tensors])
            part = part.corrected(self.correction.within(self.tree, module))
            return part, np.asarray(names, np.intp)

        return self.once(module, cut_out)

    @cached_property
    def towers(self) -> TowerParts:
        """Which tower each name belongs to: vision, audio, text, or what lies between."""
        tree = self.tree
        if tree.members:
            members = {child: self.within(child)[0].towers for child in tree.children(0)}
            return joined_parts(tree, members)
        parts = find_tower_parts(tree, self.placement, self.trace)
        return parts.corrected(self.correction, tree) if self.correction.towers else parts

    @cached_property
    def experts(self) -> ExpertParts:
        """The mixture-of-experts layers, with their routers and shared experts."""
        return find_experts(self.tree, self.placement)

    def within_tower(self, word: str) -> tuple[ModelSpec, NDArray[np.intp]]:
        """Read one tower as if it were the whole model.

        Returns:
            Its description, and for each of its names the number of that name here.
        """

        def cut_out() -> tuple[ModelSpec, NDArray[np.intp]]:
            kept = [part == word for part in self.towers.of_name]
            tree, names, tensors, number_of = only_names(self.tree, kept)
            part = derive(tree, self.trace, found=self.found[tensors])
            part = part.corrected(self.correction.renumbered(number_of))
            return part, np.asarray(names, np.intp)

        return self.once(("tower", word), cut_out)

    @cached_property
    def atoms(self) -> Atoms:
        """What selectors are evaluated on."""
        return Atoms(self.tree, self.placement, self.owner_of, self.tensor_of)

    def statistics_owners(self) -> list[int]:
        """Return the modules that keep running statistics, in order of registration."""
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


def _same(a: Mask | None, b: Mask | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))
