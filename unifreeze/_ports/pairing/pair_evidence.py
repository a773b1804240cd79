"""What two sketches show about a pair of tensors or layers: equal gradients, equal results."""

from __future__ import annotations

from unifreeze._numerics.projections import LIMIT
from unifreeze._ports.pairing.model_sketch import ModelSketch, TensorRow
from unifreeze._ports.pairing.one_sided_ties import SAME
from unifreeze._ports.pairing.tensor_likeness import same_role, shapes_fit
from unifreeze._protocol import Sketch

NEGLIGIBLE = 1e-7
"""Share of the largest gradient below which a gradient may be rounding error."""


class PairEvidence:
    """What the runs of two models on shared values show.

    Args:
        sides: The two sketches.
    """

    def __init__(self, sides: tuple[ModelSketch, ModelSketch]) -> None:
        self._runs = sides[0].shared, sides[1].shared
        norms = ([sketch.norm for sketch in run.gradients.values()] for run in self._runs)
        self._negligible = [NEGLIGIBLE * max(side, default=0.0) for side in norms]

    def gradients(self, one: TensorRow, other: TensorRow) -> tuple[Sketch | None, Sketch | None]:
        """Return the gradients of a tensor of each model; None where there is none."""
        return self._runs[0].gradients.get(one.path), self._runs[1].gradients.get(other.path)

    def has_equal_gradient(self, one: TensorRow, other: TensorRow) -> bool:
        """Return whether two tensors have one gradient, stored either way round."""
        if not shapes_fit(one, other):
            return False
        a, b = self.gradients(one, other)
        if a is None or b is None:
            return False
        return min(a.distance(b), a.distance(b, transposed=True)) < SAME

    def is_silent(self, side: int, row: TensorRow) -> bool:
        """Return whether a tensor has no gradient, or only rounding error."""
        gradient = self._runs[side].gradients.get(row.path)
        return gradient is None or self._is_negligible(side, gradient)

    def is_possible(self, one: TensorRow, other: TensorRow) -> bool:
        """Return whether nothing in the sketches contradicts that two tensors are one."""
        if not same_role(one, other):
            return False
        a, b = self.gradients(one, other)
        if one.state or a is None or b is None or self.has_equal_gradient(one, other):
            return True
        return self._is_negligible(0, a) and self._is_negligible(1, b)

    def has_equal_result(self, one: str, other: str) -> bool:
        """Return whether two layers, by native path, return the same on shared values."""
        a, b = self._runs[0].result_of(one), self._runs[1].result_of(other)
        return a is not None and b is not None and a.gap(b) <= LIMIT

    def _is_negligible(self, side: int, gradient: Sketch) -> bool:
        """Return whether a gradient is rounding error; a key's bias, for one, changes nothing."""
        return gradient.norm <= self._negligible[side]
