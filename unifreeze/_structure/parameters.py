"""The table of a model's parameters, for people: names, layer, shapes, size and flag of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from unifreeze._structure.canonical_names import CanonicalNames
from unifreeze._structure.tree import Mask, Tree
from unifreeze._structure.zones import Placement


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


def list_parameters(
    tree: Tree, placement: Placement, names: CanonicalNames, trainable: Mask
) -> Iterator[Parameter]:
    """Yield every parameter of a model, in order of registration."""
    names_of: dict[int, list[int]] = {}
    for name, tensor in enumerate(tree.tensor_of):
        names_of.setdefault(tensor, []).append(name)
    for number, tensor_row in enumerate(tree.tensors):
        first, *aliases = names_of[number]
        owner = tree.owners[first]
        yield Parameter(
            names.of_names[first],
            tree.names[first],
            tuple(tree.names[alias] for alias in aliases),
            tree.paths[owner],
            "adapter" if tree.adapters[first] else placement.kind_of[owner],
            names.roles[first],
            tensor_row.shape,
            tensor_row.neutral,
            tensor_row.dtype,
            tensor_row.size,
            tensor_row.fixed,
            bool(trainable[number]),
        )
