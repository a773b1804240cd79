"""A table that one port uses twice, where the other has a matrix besides: tied on one side only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations, product

from unifreeze.backend import Sketch
from unifreeze.backend.projections import plain_shape
from unifreeze.pairing.match import SAME, Matching, may_be
from unifreeze.pairing.record import ModelSketch, TensorRow


def may_be_tied(one: ModelSketch, other: ModelSketch) -> bool:
    """Tell whether the second model may use a table twice where the first has a matrix besides."""
    sides = [[row for row in s.tensors if not row.state and row.reached] for s in (other, one)]
    counts = [Counter(plain_shape(row.shape) for row in side) for side in sides]
    tables = {plain_shape(row.shape) for row in sides[0] if row.kind == "embedding"}
    return any(counts[0][shape] < counts[1][shape] for shape in tables)


def tied_on_one_side(matching: Matching) -> Iterator[tuple[int, str, tuple[str, str]]]:
    """Give tensors that one side holds once and the other twice: the side, the one, the two."""
    for side in (0, 1):
        gradients = [s.shared.gradients for s in matching.sides]
        theirs = [row for row in matching.left(1 - side) if row.path in gradients[1 - side]]
        for row in matching.left(side):
            total = gradients[side].get(row.path)
            for a, b in combinations(theirs, 2):
                if total is None or plain_shape(a.shape) != plain_shape(b.shape):
                    continue
                parts = gradients[1 - side][a.path], gradients[1 - side][b.path]
                if may_be(row, a) and _is_sum(total, parts):
                    yield side, row.path, (a.path, b.path)


def _is_sum(total: Sketch, parts: Iterable[Sketch]) -> bool:
    """Tell whether one gradient is the sum of others, whichever way round those are stored."""
    sides = [[found for found in (part.along, part.across) if found] for part in parts]
    gaps = [
        max(abs(a - sum(several)) for a, *several in zip(total.along, *chosen, strict=True))
        for chosen in product(*sides)
    ]
    return bool(total.norm) and min(gaps) < SAME * total.norm
