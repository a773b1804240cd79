"""`Suggestion`: a plan, the reasons for it, and the measurements."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._authoring.suggest.unit_measures import Measure, ranked
from unifreeze._pictures import html_of
from unifreeze._plan import FreezePlan, save_text
from unifreeze._tables import number, one_line, plain_table


@checked_methods
@dataclass(frozen=True)
class Suggestion:
    """A plan to start from.

    Attributes:
        plan: The plan.
        reasons: The reasons for it.
        measures: Measurements of each unit, from the input to the head; () without batches.
        loss: Mean loss of the batches; None without batches.
        written: The plan as a file, with the reasons as comments.
    """

    plan: FreezePlan
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...]
    loss: float | None
    written: str = field(repr=False)

    @property
    def ranking(self) -> tuple[str, ...]:
        """The measured units, ordered by where tuning would pay most; () without batches."""
        return tuple(measure.unit for measure in ranked(self.measures))

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
            "measures": [asdict(measure) for measure in self.measures],
        }

    _repr_html_ = html_of

    def __repr__(self) -> str:
        return one_line(self, f"{self.plan!r}; print it to see the reasons")

    def __str__(self) -> str:
        return "\n\n".join(filter(None, [self.table(), self.written.rstrip("\n")]))

    def table(self, width: int | None = None) -> str:
        """Return the measurements as a table, in the order of the ranking; "" without batches.

        Args:
            width: Width of the terminal; None for no limit.
        """
        if not self.measures:
            return ""
        order = ranked(self.measures)
        table = plain_table(_HEADER, [_row(measure) for measure in order], left=(0, 6), width=width)
        kept = [f"{row.unit} is not left out: {row.why}" for row in order if row.why]
        first = f"mean loss {number(self.loss)}; tuning pays from the top down"
        return "\n".join([first, table, *kept])


_HEADER = ("unit", "values", "gradient", "weight", "ratio", "loss without it", "")


def _row(unit: Measure) -> tuple[str, ...]:
    numbers = (number(value, ".3g") for value in (unit.gradient, unit.weight, unit.ratio))
    harm = "does harm" if unit.harmful else ""
    return (unit.unit, f"{unit.values:,}", *numbers, number(unit.change, "+.3g"), harm)
