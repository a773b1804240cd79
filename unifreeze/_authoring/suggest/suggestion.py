"""What comes out of choosing: a plan, the reasons for it, and what was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._authoring.suggest.unit_measures import Measure, ranked
from unifreeze._plan import FreezePlan, save_text
from unifreeze._tables import number, one_line, plain_table


@checked_methods
@dataclass(frozen=True)
class Suggestion:
    """A plan to start from.

    Attributes:
        plan: The plan.
        reasons: Why it is as it is.
        measures: What was measured of each unit, from the input to the head; () by rules alone.
        loss: Mean loss of the batches; None where none was measured.
        written: The plan as a file, with the reasons as comments.
    """

    plan: FreezePlan
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...]
    loss: float | None
    written: str = field(repr=False)

    @property
    def ranking(self) -> tuple[str, ...]:
        """The measured units by where tuning would pay most; () by rules alone."""
        return tuple(one.unit for one in ranked(self.measures))

    def text(self) -> str:
        """Return the plan as a file, with the reasons as comments."""
        return self.written

    def save(self, path: str | Path) -> None:
        """Write the plan file, comments and all.

        Raises:
            PlanFileError: It cannot be written there.
        """
        save_text(path, self.written)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "plan": self.plan.document(),
            "text": self.written,
            "reasons": list(self.reasons),
            "loss": self.loss,
            "ranking": list(self.ranking),
            "measures": [asdict(one) for one in self.measures],
        }

    def __repr__(self) -> str:
        return one_line(self, f"{self.plan!r}; print it to see the reasons")

    def __str__(self) -> str:
        return "\n\n".join(filter(None, [self.table(), self.written.rstrip("\n")]))

    def table(self, width: int | None = None) -> str:
        """Lay out what was measured, in the order of the ranking; "" by rules alone.

        Args:
            width: What it must fit into; None for as much as it takes.
        """
        if not self.measures:
            return ""
        order = ranked(self.measures)
        table = plain_table(_HEADER, [_row(one) for one in order], left=(0, 6), width=width)
        kept = [f"{one.unit} is not left out: {one.why}" for one in order if one.why]
        first = f"mean loss {number(self.loss)}; tuning pays from the top down"
        return "\n".join([first, table, *kept])


_HEADER = ("unit", "values", "gradient", "weight", "ratio", "loss without it", "")


def _row(one: Measure) -> tuple[str, ...]:
    numbers = number(one.gradient, ".3g"), number(one.weight, ".3g"), number(one.ratio, ".3g")
    harm = "does harm" if one.harmful else ""
    return (one.unit, f"{one.values:,}", *numbers, number(one.change, "+.3g"), harm)
