"""Tensors that one port holds in one and the other apart: query, key and value; gate and up.

No configuration is asked how a fused tensor lies. Every layout that the sizes allow is tried on
values that depend on shapes alone, and the one that makes the two ports one function is kept. The
gradients then say which part is which, and the certificate whether all of it was right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial as bound
from itertools import permutations
from math import gcd, prod
from typing import NamedTuple

from unifreeze._numerics.projections import plain_shape, squeezed
from unifreeze._ports.pairing.divergence import first_apart
from unifreeze._ports.pairing.layout import Part
from unifreeze._ports.pairing.model_sketch import ModelSketch, TensorRow
from unifreeze._ports.pairing.neighbourhoods import is_under

Rows = Mapping[str, TensorRow]
MOST_PARTS = 4


class Layout(NamedTuple):
    """How parts lie in a fused tensor; see `Part`."""

    axis: int
    groups: int
    sizes: tuple[int, ...]


class Sort(NamedTuple):
    """Tensors that are fused in one way: those of one layer in every block."""

    label: str
    role: str
    shape: tuple[int, ...]


class Where(NamedTuple):
    """Which tensors may be fused.

    Attributes:
        surplus: Only of shapes that this model has more of, made of shapes that it has fewer of;
            otherwise any, if this model has fewer tensors.
        front: Only in this layer, whatever the numbers are; "" for all.
    """

    surplus: bool = False
    front: str = ""


def may_be_fused(one: ModelSketch, other: ModelSketch) -> bool:
    """Tell whether the second model may hold in one what the first holds apart."""
    rows = {row.path: row for row in other.tensors}
    front = first_apart(other.shared, one.shared)
    tries = Where(surplus=True), Where(), *([Where(front=front.path)] if front else [])
    return any(_fused_sorts(one, rows, where) for where in tries)


def ways_to_split(
    one: ModelSketch, rows: Rows, where: Where
) -> Iterator[tuple[Sort, Iterator[Rows]]]:
    """Give each sort of what may be fused, with the tensors in every layout to try.

    Args:
        one: The other model, whose tensors may be the parts.
        rows: The tensors of this one.
        where: Which of them.
    """
    for sort, layouts in _fused_sorts(one, rows, where).items():
        yield sort, map(bound(_split, rows, sort), layouts)


def split_as(rows: Rows, parts: Iterable[Part]) -> Rows:
    """Replace fused tensors by parts that are known."""
    by_tensor: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_tensor[part.of].append(part)
    made: dict[str, TensorRow] = {}
    for path, row in rows.items():
        made |= {part.path: _part_row(row, part) for part in by_tensor[path]} or {path: row}
    return made


def _fused_sorts(one: ModelSketch, rows: Rows, where: Where) -> dict[Sort, list[Layout]]:
    """List what may be fused, with every layout to try: matrices, and biases that lie alone."""
    sides = list(rows.values()), list(one.tensors)
    matrices = _matrices(sides[0], sides[1]), _matrices(sides[1], sides[0])
    near = [row for row in _reached(sides[1], axes=2) if row.kind != "embedding"]
    vectors = _reached(sides[0], axes=1), _reached(sides[1], axes=1)
    return _sorts(*matrices, near, where) | _sorts(*vectors, vectors[1], where)


def _sorts(
    here: list[TensorRow], there: list[TensorRow], near: list[TensorRow], where: Where
) -> dict[Sort, list[Layout]]:
    """List tensors as long as two or more of the other model's, neighbours of one width.

    Only if all of the kind hold as many values in both models.

    Args:
        here: This model's tensors of a kind.
        there: The other's.
        near: Those of the other's that may be parts.
        where: Which of this one's may be fused.
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
        wanted = counts[plain_shape(row.shape)] > 0 if where.surplus else True
        wanted = wanted and row.part is None and is_under(row.owner, where.front)
        if wanted and _sort(row) not in sorts:
            layouts = list(dict.fromkeys(_layouts(row.shape, neighbours.values())))
            if layouts:
                sorts[_sort(row)] = layouts
    return sorts


def _matrices(rows: Iterable[TensorRow], others: Iterable[TensorRow]) -> list[TensorRow]:
    """Return matrices that are no tables, nor what the other model has as a table."""
    tables = Counter(plain_shape(row.shape) for row in others if row.kind == "embedding")
    found = _reached(rows, axes=2)
    tables.subtract(plain_shape(row.shape) for row in found if row.kind == "embedding")
    made = []
    for row in found:
        if row.kind == "embedding":
            continue
        if tables[plain_shape(row.shape)] > 0:
            tables[plain_shape(row.shape)] -= 1
        else:
            made.append(row)
    return made


def _reached(rows: Iterable[TensorRow], *, axes: int) -> list[TensorRow]:
    """Return the parameters with so many axes, but for those of length 1, that ran."""
    found = [row for row in rows if len(squeezed(row.shape)) == axes]
    return [row for row in found if row.reached and not row.state]


def _sort(row: TensorRow) -> Sort:
    return Sort(row.owner.rpartition(".")[2], row.role, row.shape)


def _layouts(
    shape: tuple[int, ...], neighbours: Iterable[list[tuple[int, ...]]]
) -> Iterator[Layout]:
    """Give the layouts in which neighbours may fill a tensor, the commonest first."""
    for axis in (number for number, size in enumerate(shape) if size != 1):
        length, width = shape[axis], squeezed((*shape[:axis], *shape[axis + 1 :]))
        for near in neighbours:
            sizes = [size for found in near for size in _beside(found, width)]
            for chosen in _filling(length, list(Counter(sizes).items()), MOST_PARTS):
                if len(chosen) > 1:
                    yield from _orders(axis, chosen)


def _beside(shape: tuple[int, ...], width: tuple[int, ...]) -> Iterator[int]:
    """Give the length of a tensor along the axis that is not its width, if it has that width."""
    if not width:
        yield from shape
    elif width[0] in shape:
        yield sum(shape) - width[0]


def _filling(length: int, sizes: list[tuple[int, int]], most: int) -> Iterator[tuple[int, ...]]:
    """Give the ways to fill a length with sizes, each as often as there are of it."""
    if length == 0:
        yield ()
    if length <= 0 or not sizes or most == 0:
        return
    (size, there), *rest = sizes
    for count in range(min(there, most, length // size), -1, -1):
        for more in _filling(length - count * size, rest, most - count):
            yield (size,) * count + more


def _orders(axis: int, sizes: tuple[int, ...]) -> Iterator[Layout]:
    common = gcd(*sizes)
    for groups in (n for n in range(1, common + 1) if common % n == 0):
        for order in dict.fromkeys(permutations(sizes)):
            yield Layout(axis, groups, order)


def _split(rows: Rows, sort: Sort, layout: Layout) -> Rows:
    """Replace fused tensors, and their layers' biases, by their parts."""
    owners = {row.owner for row in rows.values() if row.part is None and _sort(row) == sort}
    made: dict[str, TensorRow] = {}
    for path, row in rows.items():
        vector = row.shape == (sum(layout.sizes),)
        if row.owner not in owners or row.state or not (vector or row.shape == sort.shape):
            made[path] = row
            continue
        axis = 0 if vector else layout.axis
        for number in range(len(layout.sizes)):
            part = Part(path, axis, layout.groups, layout.sizes, number)
            made[part.path] = _part_row(row, part)
    return made


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
