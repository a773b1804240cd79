"""Compare the losses of two models that trained for a number of steps."""

from __future__ import annotations

from unifreeze._evidence.alignment.alignment_side import AlignmentSide
from unifreeze._evidence.alignment.lines import Line, measured_line
from unifreeze._evidence.gaps import NOISES, Limit
from unifreeze._files import Row
from unifreeze._numerics.seeded_losses import loss_kind

LOSSES = Limit(1e-6, 1e-4)
"""Relative difference of losses that is allowed even without noise."""


class Curves(Row):
    """The losses of both models, before each step and after the last one.

    Attributes:
        one: In the first model.
        other: In the second.
        kind: Which loss; see `loss_kind`.
        output: The output that it is made of, as the first model calls it.
    """

    one: tuple[float, ...]
    other: tuple[float, ...]
    kind: str
    output: str


def loss_lines(first: AlignmentSide, second: AlignmentSide) -> list[Line]:
    """Compare the losses in the models' own precision and in float64, each with its noise."""
    one, other = first.losses, second.losses
    assert one is not None
    assert other is not None
    noise = max(_apart(one.own, one.own_moved), _apart(other.own, other.own_moved))
    # Where a gradient is zero but for rounding, AdamW's step is of full size and random direction.
    noise_in_double = max(
        _apart(one.double, one.double_moved), _apart(other.double, other.double_moved)
    )
    rows = (
        ("losses", one.own, other.own, max(LOSSES.single, NOISES * noise)),
        (
            "losses in float64",
            one.double,
            other.double,
            max(LOSSES.double, NOISES * noise_in_double),
        ),
    )
    return [
        measured_line("training", key, _apart(a, b), limit, "losses", steps=first.steps)
        for key, a, b, limit in rows
    ]


def curves_of(first: AlignmentSide, second: AlignmentSide) -> Curves | None:
    """Return both curves in the models' own precision; None where a training could not be run."""
    one, other = first.losses, second.losses
    if one is None or other is None:
        return None
    kind = loss_kind(one.output, first.outputs[one.output])
    return Curves(one=one.own, other=other.own, kind=kind, output=one.output)


def _apart(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the largest difference of two curves, relative to the largest loss."""
    largest = max(map(abs, (*one, *other)), default=0.0) or 1.0
    gaps = [abs(a - b) / largest for a, b in zip(one, other, strict=True)]
    return max((gap if gap == gap else float("inf") for gap in gaps), default=0.0)
