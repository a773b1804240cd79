"""A model as its backend found it: modules in order, tensors by name, nothing derived yet.

A `Tree` is the raw half of the neutral description; `unifreeze._structure.derive` turns it into a
`ModelSpec`. It is kept in columns, because models with 10^5 tensors are ordinary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._structure.copies import Column, Copies

Mask = NDArray[np.bool_]
"""One bool for each parameter, each name or each atom of a model."""


class Tensor(NamedTuple):
    """One distinct parameter tensor, whatever its number of names.

    Attributes:
        shape: As the framework stores it.
        neutral: The same in the neutral layout (a linear weight is out x in, as in PyTorch).
        dtype: Neutral dtype name, "float32".
        fixed: Why the framework's own code never trains it, or "".
        impossible: The framework cannot train it at all (an integer tensor).
        oriented: The neutral shape is known. A matrix in a layer of an unknown class that declares
            no sizes may be stored either way round; it is then described as it is stored.
    """

    shape: tuple[int, ...]
    neutral: tuple[int, ...]
    dtype: str
    fixed: str
    impossible: bool
    oriented: bool = True

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)


class State(NamedTuple):
    """One tensor that training moves or keeps but no optimizer sees.

    Attributes:
        path: Native path.
        owner: Index of the owning module.
        role: "mean", "var" or "count" for running statistics, else the leaf's own name.
        moves: Training-mode forwards change it (statistics, power-iteration vectors, code books).
        shape: As the framework stores it.
        dtype: Neutral dtype name.
        persistent: The model's state dict holds it.
    """

    path: str
    owner: int
    role: str
    moves: bool
    shape: tuple[int, ...]
    dtype: str
    persistent: bool = True

    @property
    def flag(self) -> bool:
        """True for whole numbers and truth values that a state dict holds."""
        return self.persistent and not any(sort in self.dtype for sort in ("float", "complex"))


class Unused(NamedTuple):
    """One parameter that no forward pass uses: it belongs to a copy of a layer that does not run.

    Attributes:
        path: Native path.
        owner: Index of the layer that runs in its place.
    """

    path: str
    owner: int


STATISTICS = frozenset({"mean", "var", "count"})
"""Roles of a normalisation layer's running statistics."""

_RUNNING = re.compile(r"(?:running|moving)_\w+|_mean|_variance")
"""What norms that no framework knows call their running statistics."""


def running_owners(states: Iterable[State]) -> list[int]:
    """Return the modules that keep running statistics, norms written by users included."""
    kept = (s.owner for s in states if s.role in STATISTICS or _RUNNING.fullmatch(s.role))
    return list(dict.fromkeys(kept))


@dataclass
class Tree:
    """The modules and tensors of one model, in pre-order, as parallel columns.

    Modules are numbered in the order of `enter`; the modules under module i are i+1 … ends[i]-1.
    `keys` holds the identities of the live modules, and `numbers` has those of the live tensors as
    its keys. Names are numbered in the same walk; a tensor has a name for each place where it can
    be reached. For modules without an inference mode, `modeless` says why they have none.
    """

    framework: str
    paths: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    repeats: list[bool] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    name_starts: list[int] = field(default_factory=list)
    name_ends: list[int] = field(default_factory=list)

    names: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    leaves: list[str] = field(default_factory=list)
    adapters: list[bool] = field(default_factory=list)
    tensor_of: list[int] = field(default_factory=list)

    tensors: list[Tensor] = field(default_factory=list)
    trainable: list[bool] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    unused: list[Unused] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of names in copies of layers that an adapter library trains in place of the layers."""
    shared: list[tuple[int, ...]] = field(default_factory=list)
    modeless: dict[int, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    numbers: dict[int, int] = field(default_factory=dict)
    copied: list[Copies] = field(default_factory=list)
    """Siblings that were added as copies; what is copied inside them comes before them."""

    def enter(
        self, path: str, type_name: str, kind: str, parent: int, *, repeat: bool, key: int = 0
    ) -> int:
        """Begin a module; everything until its `leave` is under it.

        Args:
            path: Native path, "" for the root.
            type_name: Its class.
            kind: From the backend's layer table; "" where that does not know the class.
            parent: Index of the parent, -1 for the root.
            repeat: The same module object has been met under another path.
            key: Identity of the live module.

        Returns:
            Its index.
        """
        index = len(self.paths)
        self.paths.append(path)
        self.types.append(type_name)
        self.kinds.append(kind)
        self.parents.append(parent)
        self.repeats.append(repeat)
        self.keys.append(key)
        self.ends.append(index + 1)
        self.name_starts.append(len(self.names))
        self.name_ends.append(len(self.names))
        return index

    def leave(self, index: int) -> None:
        """End a module begun by `enter`."""
        self.ends[index] = len(self.paths)
        self.name_ends[index] = len(self.names)

    def tensor(self, key: int) -> int | None:
        """Return the number of the tensor already known under an identity, if it is."""
        return self.numbers.get(key)

    def add_tensor(self, key: int, tensor: Tensor, *, trainable: bool = True) -> int:
        """Add a distinct tensor under its identity; return its number."""
        number = self.numbers[key] = len(self.tensors)
        self.tensors.append(tensor)
        self.trainable.append(trainable)
        return number

    def add_name(
        self, path: str, owner: int, leaf: str, tensor: int, adapter: bool = False
    ) -> None:
        """Say that a tensor is reached under `path`, as `leaf` of module `owner`."""
        self.names.append(path)
        self.owners.append(owner)
        self.leaves.append(leaf)
        self.adapters.append(adapter)
        self.tensor_of.append(tensor)

    def add_copies(self, first: int, names: Sequence[str], keys: Sequence[int]) -> None:
        """Add siblings that are built like the last module, with parameters of their own.

        Their parameters are in `numbers` already.

        Args:
            first: Index of that module.
            names: Native paths of the siblings.
            keys: Identities of all their modules.
        """
        low, known = self.name_starts[first], len(self.tensors)
        modules, parameters = len(self.paths) - first, len(self.names) - low
        count, cut = len(names), len(self.paths[first])
        tails = [path[cut:] for path in self.paths[first:]]
        leaves = [name[cut:] for name in self.names[low:]]

        def moved(column: list[int], by: int) -> list[int]:
            rows = np.asarray(column, np.intp) + by * np.arange(1, count + 1)[:, None]
            return rows.ravel().tolist()

        parents = moved(self.parents[first:], modules)
        parents[::modules] = [self.parents[first]] * count
        self.copied.append(Copies(first, len(self.paths), count, modules))
        self.paths += [path + tail for path in names for tail in tails]
        self.types += self.types[first:] * count
        self.kinds += self.kinds[first:] * count
        self.parents += parents
        self.ends += moved(self.ends[first:], modules)
        self.repeats += [False] * (modules * count)
        self.keys += keys
        self.name_starts += moved(self.name_starts[first:], parameters)
        self.name_ends += moved(self.name_ends[first:], parameters)
        self.names += [path + leaf for path in names for leaf in leaves]
        self.owners += moved(self.owners[low:], modules)
        self.leaves += self.leaves[low:] * count
        self.adapters += self.adapters[low:] * count
        self.tensor_of += moved(self.tensor_of[low:], parameters)
        self.tensors += self.tensors[known - parameters :] * count
        self.trainable += self.trainable[known - parameters :] * count

    def originals(self) -> list[int]:
        """Return for each module the one that it is like: in the first of siblings built alike.

        Both hold the same, under the same names; only the siblings' own names differ.
        """
        originals = np.arange(len(self.paths))
        for row in self.copied:
            row.fill(originals, below=False)
        return originals.tolist()

    @property
    def like(self) -> dict[int, int]:
        """For each module that was added as a copy, the sibling that it is a copy of."""
        return {top: row.first for row in self.copied for top in row.tops}

    def names_in(self, row: Copies, column: NDArray[Column]) -> NDArray[Column]:
        """Return the part of a column over names that copies take, with a row for each copy."""
        start, size = self.name_starts[row.top], self.name_ends[row.top] - self.name_starts[row.top]
        return column[start : start + size * row.siblings].reshape(row.siblings, size)

    def children(self, index: int) -> list[int]:
        """Return the direct children of a module, in order."""
        children, child = [], index + 1
        while child < self.ends[index]:
            children.append(child)
            child = self.ends[child]
        return children

    def last_name(self, index: int) -> str:
        """Return the name that a module's parent calls it by."""
        return self.paths[index].rpartition(".")[2]

    def own_names(self, index: int) -> list[int]:
        """Return the numbers of the names that a module itself owns, not its children."""
        low, high = self.name_starts[index], self.name_ends[index]
        return [name for name in range(low, high) if self.owners[name] == index]

    def subtree(self, index: int) -> tuple[Tree, list[int], list[int]]:
        """Cut out one module as a tree of its own.

        Returns:
            The tree; for each of its names, the number of that name here; for each of its
            tensors, the number of that tensor here.
        """
        start, end = index, self.ends[index]
        low, high = self.name_starts[index], self.name_ends[index]
        cut = len(self.paths[index]) + 1 if self.paths[index] else 0
        tensors = list(dict.fromkeys(self.tensor_of[low:high]))
        renumber = {old: new for new, old in enumerate(tensors)}
        # If the module itself repeats, so does all under it, but not within this part.
        repeats = [False] * (end - start) if self.repeats[start] else self.repeats[start:end]
        tree = Tree(
            self.framework,
            paths=[path[cut:] for path in self.paths[start:end]],
            types=self.types[start:end],
            kinds=self.kinds[start:end],
            parents=[max(parent - start, -1) for parent in self.parents[start:end]],
            ends=[stop - start for stop in self.ends[start:end]],
            repeats=repeats,
            keys=self.keys[start:end],
            name_starts=[at - low for at in self.name_starts[start:end]],
            name_ends=[at - low for at in self.name_ends[start:end]],
            names=[name[cut:] for name in self.names[low:high]],
            owners=[owner - start for owner in self.owners[low:high]],
            leaves=self.leaves[low:high],
            adapters=self.adapters[low:high],
            tensor_of=[renumber[old] for old in self.tensor_of[low:high]],
            tensors=[self.tensors[old] for old in tensors],
            trainable=[self.trainable[old] for old in tensors],
            states=[
                state._replace(path=state.path[cut:], owner=state.owner - start)
                for state in self.states
                if start <= state.owner < end
            ],
            unused=[
                Unused(row.path[cut:], row.owner - start)
                for row in self.unused
                if start <= row.owner < end
            ],
            copies=[(max(a, low) - low, min(b, high) - low) for a, b in self.copies if a < high],
            modeless={n - start: why for n, why in self.modeless.items() if start <= n < end},
        )
        return tree, list(range(low, high)), tensors


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    Attributes:
        calls: Native paths of modules, and of parameters their parents used directly, in the
            order of first use.
        shapes: Shape of each called module's (first) output.
    """

    calls: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]

    def within(self, path: str) -> Trace | None:
        """Return what the pass showed of one module, None where nothing in it ran."""
        prefix = f"{path}." if path else ""
        calls = tuple(call[len(prefix) :] for call in self.calls if call.startswith(prefix))
        shapes = {
            at[len(prefix) :]: shape for at, shape in self.shapes.items() if at.startswith(prefix)
        }
        return Trace(calls, shapes) if calls else None
