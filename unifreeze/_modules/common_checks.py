"""Checks of a plan that every framework of modules needs, and what such checks look up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from unifreeze._modules.class_tables import qualified_bases
from unifreeze._modules.reader import Reader
from unifreeze._modules.walking import Walk
from unifreeze._modules.wrapping import wrappers
from unifreeze._protocol.live import Layer, Model
from unifreeze._protocol.results import Finding
from unifreeze._resolution import Resolution


def modules_of(walk: Walk, classes: type | tuple[type, ...]) -> list[int]:
    """Return the numbers of the modules of some classes, and of classes derived from them."""
    numbers = [rows for cls, rows in walk.by_class.items() if issubclass(cls, classes)]
    return sorted(chain.from_iterable(numbers))


def path_of(walk: Walk, index: int) -> str:
    """Return what messages call a module: its path, or "the model"."""
    return walk.tree.paths[index] or "the model"


def freezes_any_of(walk: Walk, resolution: Resolution, index: int) -> bool:
    """Return whether a plan freezes any of a module's own parameters."""
    names = walk.tree.own_names(index)
    return not all(resolution.trainable[walk.tree.tensor_of[name]] for name in names)


def inside_wrappers(
    reader: Reader, walk: Walk, model: Model, wrapper_class: str
) -> Iterator[tuple[Layer, list[int]]]:
    """Yield each wrapper of a class, with the numbers of the parameters inside it.

    Args:
        reader: Reads the framework's modules.
        walk: The model as walked.
        model: The model, wrappers included.
        wrapper_class: Dotted name of the class.
    """
    tree = walk.tree
    around = [(0, wrapper) for wrapper, _ in wrappers(reader, model)]
    for index, wrapper in [*around, *walk.wrappers]:
        if wrapper_class in qualified_bases(type(wrapper)):
            numbers = tree.tensor_of[tree.name_starts[index] : tree.name_ends[index]]
            yield wrapper, list(dict.fromkeys(numbers))


def rewritten_tables(
    walk: Walk, resolution: Resolution, classes: type | tuple[type, ...], attribute: str
) -> Iterator[Finding]:
    """Yield frozen lookup tables that shorten their rows to a largest norm in every forward pass.

    Args:
        walk: The model as walked.
        resolution: What the plan decided.
        classes: The framework's classes of lookup tables.
        attribute: Where such a layer keeps the largest norm.
    """
    for number in modules_of(walk, classes):
        table = walk.module(number)
        if getattr(table, attribute, None) is None:
            continue  # asking for its weight may compute it, and move a spectral norm
        weight = walk.tree.tensor(id(table.weight))
        partly = weight in [rows.number for rows in resolution.rows]
        if weight is not None and (partly or not resolution.trainable[weight]):
            which = "rows that stay" if partly else "the frozen table"
            yield Finding(
                path_of(walk, number),
                f"max_norm rewrites {which} in every forward pass, in any mode",
                f"set {attribute} = None on it",
            )
