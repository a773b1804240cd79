"""Tensors that are tied in one port only: it has one table where the other has two tensors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product
from typing import NamedTuple

from unifreeze._numerics.projections import plain_shape
from unifreeze._ports.pairing.model_sketch import ModelSketch, TensorRow
from unifreeze._protocol import Sketch

Gradients = Mapping[str, Sketch]

SAME = 1e-4
"""Distance up to which two sketches are of one tensor; other tensors were 0.02 away or more."""


def may_be_tied(one: ModelSketch, other: ModelSketch) -> bool:
    """Return whether the second model may have one table for two tensors of the first."""
    sides = [[row for row in s.tensors if not row.state and row.reached] for s in (other, one)]
    counts = [Counter(plain_shape(row.shape) for row in side) for side in sides]
    tables = {plain_shape(row.shape) for row in sides[0] if row.kind == "embedding"}
    return any(counts[0][shape] < counts[1][shape] for shape in tables)


class Tie(NamedTuple):
    """A tensor that one side has once and the other twice.

    Attributes:
        side: The side that has it once.
        path: Its native path there.
        halves: Native paths of the two tensors on the other side.
    """

    side: int
    path: str
    halves: tuple[str, str]


def tied_on_one_side(
    left: tuple[list[TensorRow], list[TensorRow]], gradients: tuple[Gradients, Gradients]
) -> Iterator[Tie]:
    """Yield tensors without partners whose gradient is the sum of two gradients of the other side.

    Args:
        left: The tensors without partners of both models.
        gradients: Of both models, on shared values.
    """
    for side in (0, 1):
        by_shape: dict[tuple[int, ...], list[TensorRow]] = defaultdict(list)
        for row in left[1 - side]:
            if row.path in gradients[1 - side]:
                by_shape[plain_shape(row.shape)].append(row)
        for row in left[side]:
            total = gradients[side].get(row.path)
            for a, b in combinations(by_shape[plain_shape(row.shape)], 2) if total else ():
                parts = gradients[1 - side][a.path], gradients[1 - side][b.path]
                if total and _is_sum(total, parts):
                    yield Tie(side, row.path, (a.path, b.path))


def _is_sum(total: Sketch, parts: Iterable[Sketch]) -> bool:
    """Return whether a gradient is the sum of others, stored either way round."""
    sides = [[way for way in (part.along, part.across) if way] for part in parts]
    gaps = [
        max(abs(a - sum(several)) for a, *several in zip(total.along, *chosen, strict=True))
        for chosen in product(*sides)
    ]
    return bool(total.norm) and min(gaps) < SAME * total.norm
