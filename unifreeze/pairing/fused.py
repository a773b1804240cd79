"""Tensors that one port holds in one and the other apart: query, key and value; gate and up.

No configuration is asked how a fused tensor lies. Every layout that the sizes allow is tried on
values that depend on shapes alone, and the one that makes the two ports one function is kept. The
gradients then say which part is which, and the certificate whether all of it was right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import permutations
from math import gcd, prod
from typing import NamedTuple

from unifreeze.backend import SketchRun
from unifreeze.backend.projections import plain_shape
from unifreeze.pairing.layout import Part
from unifreeze.pairing.match import LIMIT
from unifreeze.pairing.record import ModelSketch, RunRow, TensorRow

Rows = Mapping[str, TensorRow]
MOST_PARTS = 4
MOST_TRIES = 200
"""Layouts tried in all: each takes a forward and a backward pass."""


class Layout(NamedTuple):
    """How parts lie in a fused tensor; see `Part`."""

    axis: int
    groups: int
    sizes: tuple[int, ...]


class Sort(NamedTuple):
    """Tensors that are fused in one way: those of one layer in every block."""

    label: str
    shape: tuple[int, ...]


def taken_apart(
    one: ModelSketch, rows: Rows, first: SketchRun, attempt: Callable[[Rows], SketchRun]
) -> tuple[Rows, SketchRun]:
    """Find the layouts of fused tensors with which a model is the same function as another.

    Args:
        one: The other model, whose tensors may be the parts.
        rows: The tensors of this one.
        first: Its run with every tensor whole.
        attempt: Runs it with the tensors given, on shared values.

    Returns:
        Its tensors, fused ones in parts, and the run with them: the two are one function then, or
        as nearly as layouts can make them.
    """
    search = _Search(one, rows, first, attempt)
    for narrow in (True, False):
        sorts = _fused_sorts(one, search.rows, narrow=narrow)
        for _ in range(len(sorts)):  # one that depends on another's being right may come before it
            better = [sort for sort, layouts in sorts.items() if search.improve(sort, layouts)]
            for sort in better:
                del sorts[sort]
            if search.done or not better:
                break
        if search.done:
            break
    return search.rows, search.run


class _Search:
    """The best layouts so far."""

    def __init__(
        self, one: ModelSketch, rows: Rows, run: SketchRun, attempt: Callable[[Rows], SketchRun]
    ) -> None:
        self.one, self.attempt = one, attempt
        self.rows, self.run, self.agreeing = rows, run, _agreement(one, run)
        self.left = MOST_TRIES

    @property
    def done(self) -> bool:
        """Tell whether the two are one function."""
        return one_function(self.one, self.run)

    def improve(self, sort: Sort, layouts: list[Layout]) -> bool:
        """Try every layout of a sort; keep the one with which most layers agree, if any does."""
        start = self.rows, self.agreeing
        for layout in [] if self.done else layouts[: self.left]:
            rows = _split(start[0], sort, layout)
            run = self.attempt(rows)
            self.left -= 1
            count = _agreement(self.one, run)
            if count > self.agreeing or one_function(self.one, run):
                self.rows, self.run, self.agreeing = rows, run, count
            if self.done:
                break
        return self.rows is not start[0]


def one_function(one: ModelSketch, run: SketchRun | RunRow) -> bool:
    """Tell whether a run on shared values gave the outputs that the other model gave."""
    shared = [i for i in one.shared.outputs if i in run.outputs]
    return bool(shared) and all(one.shared.outputs[i].gap(run.outputs[i]) <= LIMIT for i in shared)


def may_be_fused(one: ModelSketch, other: ModelSketch) -> bool:
    """Tell whether the second model may hold in one what the first holds apart."""
    return bool(_fused_sorts(one, {row.path: row for row in other.tensors}, narrow=False))


def _agreement(one: ModelSketch, run: SketchRun) -> int:
    """Count the layers of the other model that have an equal in a run."""
    there = defaultdict(list)
    for _, shape, sketch in run.layers:
        there[shape].append(sketch)
    return sum(
        any(layer.sketch.gap(other) <= LIMIT for other in there[layer.shape])
        for layer in one.layers
    )


def _fused_sorts(one: ModelSketch, rows: Rows, *, narrow: bool) -> dict[Sort, list[Layout]]:
    """List what may be fused, with every layout to try.

    Those are matrices as long as two or more of the other model's put one beside another, where
    those are neighbours and of one width; and only if this model has fewer matrices, and these hold
    as many values as the other's.

    Args:
        one: The other model.
        rows: The tensors of this one.
        narrow: Only shapes that this model has more of, made of shapes that it has fewer of.
    """
    here, there = _matrices(rows.values()), _matrices(one.tensors)
    values = [sum(prod(row.shape) for row in side) for side in (here, there)]
    if values[0] != values[1] or len(here) >= len(there):
        return {}
    counts = Counter(plain_shape(row.shape) for row in here)
    counts.subtract(plain_shape(row.shape) for row in there)
    neighbours: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for row in there:
        if not narrow or counts[plain_shape(row.shape)] < 0:
            neighbours[row.owner.rpartition(".")[0]].append(row.shape)
    sorts: dict[Sort, list[Layout]] = {}
    for row in here:
        sort = _sort(row)
        if (
            row.part is None
            and sort not in sorts
            and (not narrow or counts[plain_shape(row.shape)] > 0)
        ):
            layouts = list(dict.fromkeys(_layouts(row.shape, neighbours.values())))
            if layouts:
                sorts[sort] = layouts
    return sorts


def _matrices(rows: Iterable[TensorRow]) -> list[TensorRow]:
    found = [row for row in rows if len(plain_shape(row.shape)) == 2 and row.reached]
    return [row for row in found if not row.state and row.kind != "embedding"]


def _sort(row: TensorRow) -> Sort:
    return Sort(row.owner.rpartition(".")[2], row.shape)


def _layouts(
    shape: tuple[int, ...], neighbours: Iterable[list[tuple[int, ...]]]
) -> Iterator[Layout]:
    """Give the layouts in which neighbours may fill a matrix, the commonest first."""
    for axis in (0, 1):
        length, width = shape[axis], shape[1 - axis]
        for near in neighbours:
            sizes = [sum(one) - width for one in near if width in one]
            for chosen in _filling(length, list(Counter(sizes).items()), MOST_PARTS):
                if len(chosen) > 1:
                    yield from _orders(axis, chosen)


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
    return row.model_copy(
        update={
            "path": part.path,
            "aliases": tuple(part._replace(of=alias).path for alias in row.aliases),
            "name": f"{row.name}[{part.number}]",
            "owner": f"{row.owner}[{part.number}]",
            "role": "bias" if len(shape) == 1 else "weight",
            "shape": shape,
            "neutral_shape": shape[::-1] if turned else shape,
            "part": part,
        }
    )
