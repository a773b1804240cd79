"""The keys of a plan file that say when a phase begins."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from unifreeze._plan.fields import OneOf
from unifreeze._plan.phases import After, At, TimeUnit, When


class AtDocument(OneOf):
    """An epoch or a step, counted from 0."""

    choices: ClassVar[tuple[str, ...]] = ("epoch", "step")

    epoch: int | None = Field(default=None, ge=0, description="before this epoch's first batch")
    step: int | None = Field(default=None, ge=0, description="before this step")

    def value(self) -> At:
        """Return the entry."""
        return At(*_counted({"epoch": self.epoch, "step": self.step}))


class AfterDocument(OneOf):
    """So many epochs or steps after the phase before it began."""

    choices: ClassVar[tuple[str, ...]] = ("epochs", "steps")

    epochs: int | None = Field(default=None, ge=1, description="epochs of the phase before it")
    steps: int | None = Field(default=None, ge=1, description="steps of the phase before it")

    def value(self) -> After:
        """Return the entry."""
        return After(*_counted({"epoch": self.epochs, "step": self.steps}))


class WhenDocument(OneOf):
    """A metric that has stalled, or got worse."""

    choices: ClassVar[tuple[str, ...]] = ("stalled_for", "risen_for")

    metric: str = Field(min_length=1, description="its name, as given to step(metrics=…)")
    stalled_for: int | None = Field(
        default=None, ge=1, description="reports in a row without a better value"
    )
    risen_for: int | None = Field(default=None, ge=1, description="reports, each worse")
    min_delta: float = Field(default=0.0, ge=0, description="changes up to this size do not count")
    mode: Literal["min", "max"] = Field(default="min", description="whether less or more is better")

    def value(self) -> When:
        """Return the entry."""
        if self.stalled_for is not None:
            return When(self.metric, "stalled", self.stalled_for, self.min_delta, self.mode)
        assert self.risen_for is not None
        return When(self.metric, "risen", self.risen_for, self.min_delta, self.mode)


ENTRIES: dict[str, type[BaseModel]] = {
    "at": AtDocument,
    "after": AfterDocument,
    "when": WhenDocument,
}


def _counted(given: dict[TimeUnit, int | None]) -> tuple[TimeUnit, int]:
    return next((unit, count) for unit, count in given.items() if count is not None)
