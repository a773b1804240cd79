"""Fused tensors: one port holds in one tensor what the other holds in several.

Examples are query, key and value, or gate and up. No configuration says how a fused tensor is laid
out. Every layout that the sizes allow is tried on values that depend on shapes alone; the layout
that makes the two ports one function is kept. The gradients then say which part is which, and the
certificate says whether all of it was right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial as bound
from itertools import permutations
from math import gcd, prod
from typing import NamedTuple

from unifreeze._numerics.projections import plain_shape, squeezed
from unifreeze._ports.pairing.divergence import first_apart
from unifreeze._ports.pairing.layout import Part
from unifreeze._ports.pairing.model_sketch import ModelSketch, TensorRow, TensorRows
from unifreeze._ports.pairing.neighbourhoods import is_under

MOST_PARTS = 4


class Layout(NamedTuple):
    """How parts are laid out in a fused tensor; see `Part`."""

    axis: int
    groups: int
    sizes: tuple[int, ...]


class Sort(NamedTuple):
    """Tensors that are fused in the same way: those of one layer in every block."""

    label: str
    role: str
    shape: tuple[int, ...]


class Where(NamedTuple):
    """Which tensors may be fused.

    Attributes:
        surplus: Only tensors of shapes that this model has more of than the other, with parts of
            shapes that it has fewer of; otherwise any, if this model has fewer tensors.
        front: Only tensors in this layer, whatever the numbers are; "" for all layers.
    """

    surplus: bool = False
    front: str = ""


def may_be_fused(one: ModelSketch, other: ModelSketch) -> bool:
    """Return whether the second model may hold in one tensor what the first holds in several."""
    rows = {row.path: row for row in other.tensors}
    front = first_apart(other.shared, one.shared)
    tries = Where(surplus=True), Where(), *([Where(front=front.path)] if front else [])
    return any(_fused_sorts(one, rows, where) for where in tries)


def ways_to_split(
    one: ModelSketch, rows: TensorRows, where: Where
) -> Iterator[tuple[Sort, Iterator[TensorRows]]]:
    """Yield each sort of tensors that may be fused, with the tensors in every layout to try.

    Args:
        one: The other model, whose tensors may be the parts.
        rows: The tensors of this model.
        where: Which of them may be fused.
    """
    for sort, layouts in _fused_sorts(one, rows, where).items():
        yield sort, map(bound(_split, rows, sort), layouts)


def split_as(rows: TensorRows, parts: Iterable[Part]) -> TensorRows:
    """Replace fused tensors by their known parts."""
    by_tensor: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_tensor[part.of].append(part)
    split: dict[str, TensorRow] = {}
    for path, row in rows.items():
        split |= {part.path: _part_row(row, part) for part in by_tensor[path]} or {path: row}
    return split


def _fused_sorts(one: ModelSketch, rows: TensorRows, where: Where) -> dict[Sort, list[Layout]]:
    """Return the sorts that may be fused, with every layout to try: of matrices, and of vectors."""
    sides = list(rows.values()), list(one.tensors)
    matrices = _matrices(sides[0], sides[1]), _matrices(sides[1], sides[0])
    near = [row for row in _reached(sides[1], axes=2) if row.kind != "embedding"]
    vectors = _reached(sides[0], axes=1), _reached(sides[1], axes=1)
    return _sorts(*matrices, near, where) | _sorts(*vectors, vectors[1], where)


def _sorts(
    here: list[TensorRow], there: list[TensorRow], near: list[TensorRow], where: Where
) -> dict[Sort, list[Layout]]:
    """Return the sorts of tensors that two or more neighbours in the other model may fill.

    Both models must hold equally many values in tensors of the kind.

    Args:
        here: This model's tensors of a kind.
        there: The other model's tensors of that kind.
        near: The other model's tensors that may be parts.
        where: Which tensors of this model may be fused.
    """
    values = [sum(prod(row.shape) for row in side) for side in (here, there)]
    fewer = len(here) < len(there) or where.surplus or where.front
    if values[0] != values[1] or not fewer:
        return {}
    counts = Counter(plain_shape(row.shape) for row in here)
    counts.subtract(plain_shape(row.shape) for row in there)
    neighbours: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for row in near:
        if not where.surplus or counts[plain_shape(row.shape)] < 0:
            neighbours[row.owner.rpartition(".")[0]].append(squeezed(row.shape))
    sorts: dict[Sort, list[Layout]] = {}
    for row in here:
        is_candidate = counts[plain_shape(row.shape)] > 0 if where.surplus else True
        is_candidate &= row.part is None and is_under(row.owner, where.front)
        if is_candidate and _sort(row) not in sorts:
            layouts = list(dict.fromkeys(_layouts(row.shape, neighbours.values())))
            if layouts:
                sorts[_sort(row)] = layouts
    return sorts


def _matrices(rows: Iterable[TensorRow], others: Iterable[TensorRow]) -> list[TensorRow]:
    """Return the matrices that are not tables in either model."""
    tables = Counter(plain_shape(row.shape) for row in others if row.kind == "embedding")
    reached = _reached(rows, axes=2)
    tables.subtract(plain_shape(row.shape) for row in reached if row.kind == "embedding")
    matrices = []
    for row in reached:
        if row.kind == "embedding":
            continue
        if tables[plain_shape(row.shape)] > 0:
            tables[plain_shape(row.shape)] -= 1
        else:
            matrices.append(row)
    return matrices


def _reached(rows: Iterable[TensorRow], *, axes: int) -> list[TensorRow]:
    """Return the parameters that ran and have `axes` axes longer than 1."""
    rows = [row for row in rows if len(squeezed(row.shape)) == axes]
    return [row for row in rows if row.reached and not row.state]


def _sort(row: TensorRow) -> Sort:
    return Sort(row.owner.rpartition(".")[2], row.role, row.shape)


def _layouts(
    shape: tuple[int, ...], neighbours: Iterable[list[tuple[int, ...]]]
) -> Iterator[Layout]:
    """Yield the layouts in which neighbours may fill a tensor, the most common first."""
    for axis in (number for number, size in enumerate(shape) if size != 1):
        length, width = shape[axis], squeezed((*shape[:axis], *shape[axis + 1 :]))
        for near in neighbours:
            sizes = [size for part in near for size in _length(part, width)]
            for chosen in _filling(length, list(Counter(sizes).items()), MOST_PARTS):
                if len(chosen) > 1:
                    yield from _orders(axis, chosen)


def _length(shape: tuple[int, ...], width: tuple[int, ...]) -> Iterator[int]:
    """Yield the length of a tensor along the axis that is not its width, if it has that width."""
    if not width:
        yield from shape
    elif width[0] in shape:
        yield sum(shape) - width[0]


def _filling(length: int, sizes: list[tuple[int, int]], most: int) -> Iterator[tuple[int, ...]]:
    """Yield the ways to fill a length with at most `most` sizes, which are given with counts."""
    if length == 0:
        yield ()
    if length <= 0 or not sizes or most == 0:
        return
    (size, available), *rest = sizes
    for count in range(min(available, most, length // size), -1, -1):
        for more in _filling(length - count * size, rest, most - count):
            yield (size,) * count + more


def _orders(axis: int, sizes: tuple[int, ...]) -> Iterator[Layout]:
    common = gcd(*sizes)
    for groups in (n for n in range(1, common + 1) if common % n == 0):
        for order in dict.fromkeys(permutations(sizes)):
            yield Layout(axis, groups, order)


def _split(rows: TensorRows, sort: Sort, layout: Layout) -> TensorRows:
    """Replace fused tensors of a sort, and their layers' biases, by their parts."""
    owners = {row.owner for row in rows.values() if row.part is None and _sort(row) == sort}
    split: dict[str, TensorRow] = {}
    for path, row in rows.items():
        vector = row.shape == (sum(layout.sizes),)
        if row.owner not in owners or row.state or not (vector or row.shape == sort.shape):
            split[path] = row
            continue
        axis = 0 if vector else layout.axis
        for number in range(len(layout.sizes)):
            part = Part(path, axis, layout.groups, layout.sizes, number)
            split[part.path] = _part_row(row, part)
    return split


def _part_row(row: TensorRow, part: Part) -> TensorRow:
    shape = part.shape(row.shape)
    turned = row.neutral_shape != row.shape
    role = "bias" if len(squeezed(shape)) == 1 else "weight"
    return row.model_copy(
        update={
            "path": part.path,
            "aliases": tuple(part._replace(of=alias).path for alias in row.aliases),
            "name": f"{row.name}[{part.number}]",
            "owner": f"{row.owner}[{part.number}]",
            "role": role,
            "shape": shape,
            "neutral_shape": shape[::-1] if turned else shape,
            "part": part,
        }
    )
