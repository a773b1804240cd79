"""Compare the losses of two models that trained for a number of steps."""

from __future__ import annotations

from pydantic import model_validator

from unifreeze._evidence.alignment.alignment_side import LOSSES, AlignmentSide, losses_apart
from unifreeze._evidence.alignment.lines import Line, measured_line
from unifreeze._evidence.gaps import NOISES
from unifreeze._files import Row
from unifreeze._numerics.seeded_losses import LossKind, loss_kind


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
    kind: LossKind
    output: str

    @model_validator(mode="after")
    def _are_of_the_same_steps(self) -> Curves:
        if len(self.one) != len(self.other):
            raise ValueError(f"curves of {len(self.one)} and of {len(self.other)} losses")
        return self


def loss_lines(first: AlignmentSide, second: AlignmentSide) -> list[Line]:
    """Compare the losses in the models' own precision and in float64, each with its noise."""
    one, other = first.losses, second.losses
    assert one is not None
    assert other is not None
    # Where a gradient is zero but for rounding, AdamW's step is of full size and random direction;
    # so float64 has noise, too.
    rows = (
        ("losses", one.own, other.own, other.own_moved, LOSSES.single),
        ("losses in float64", one.double, other.double, other.double_moved, LOSSES.double),
    )
    lines = []
    for key, here, there, moved, floor in rows:
        limit = max(floor, NOISES * losses_apart(there, moved)) if moved else floor
        size = losses_apart(here, there)
        lines.append(measured_line("training", key, size, limit, "losses", steps=first.steps))
    own, in_double = lines
    if own.verdict == "BROKEN" and in_double.verdict == "holds":
        # Some trainings magnify rounding without bound, and one more run is one sample of that.
        own = own.model_copy(update={"verdict": "open"})
    return [own, in_double]


def curves_of(first: AlignmentSide, second: AlignmentSide) -> Curves | None:
    """Return both curves in the models' own precision; None where a training could not be run."""
    one, other = first.losses, second.losses
    if one is None or other is None:
        return None
    kind = loss_kind(one.output, first.outputs[one.output])
    return Curves(one=one.own, other=other.own, kind=kind, output=one.output)
