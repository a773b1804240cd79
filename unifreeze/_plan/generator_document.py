"""Generators of phases as they stand in a plan file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from unifreeze._plan.entry_document import (
    AfterDocument,
    WhenDocument,
)
from unifreeze._plan.fields import ChoiceField, Strict
from unifreeze._plan.generators import (
    Adaptive,
    ByGradient,
    GradualUnfreezing,
    Lisa,
    StopOnRise,
)
from unifreeze._plan.limits import MOST_PERIODS
from unifreeze._plan.phases import BACKBONE, When

UnitsField = Literal["blocks", "stages", "encoder", "decoder"]


class GradualDocument(Strict):
    """From the head down, one unit more each time."""

    part = GradualUnfreezing

    every: AfterDocument = Field(description="time between two phases")
    by: UnitsField = Field(default="blocks", description="what is unfrozen at a time")
    within: str = Field(default="", description="the submodule they are in")
    upto: int | None = Field(
        default=None, ge=1, le=MOST_PERIODS, description="how many units; all, if left out"
    )


class AdaptiveDocument(WhenDocument):
    """A further share of the parameters each time a metric has turned."""

    share: int = Field(ge=1, le=100, description="how much more each time, in percent")

    def value(self) -> Adaptive:  # type: ignore[override]
        """Return the generator."""
        return Adaptive(self.share, super().value())


class ByGradientDocument(Strict):
    """A further share frozen each time: the smallest gradients against their weights."""

    part = ByGradient

    every: AfterDocument = Field(description="time between two phases")
    share: int = Field(ge=1, le=100, description="how much more each time, in percent")
    times: int = Field(default=1, ge=1, description="how often")
    of: ChoiceField = Field(
        default_factory=lambda: BACKBONE, description="what may be frozen; the head never is"
    )

    @model_validator(mode="after")
    def _is_a_share(self) -> ByGradientDocument:
        if self.share * self.times > 100:
            raise PydanticCustomError(
                "keys",
                "{times} times {share} % is more than all",
                {"times": self.times, "share": self.share},
            )
        return self


class LisaDocument(Strict):
    """Some random blocks for a while, then others."""

    part = Lisa

    blocks: int = Field(ge=1, description="how many train at a time")
    every: AfterDocument = Field(description="for how long")
    periods: int = Field(ge=1, le=MOST_PERIODS, description="how often they are chosen")
    seed: int = Field(default=0, description="of the choice")
    by: UnitsField = Field(default="blocks", description="what is chosen among")
    within: str = Field(default="", description="the submodule they are in")


class StopOnRiseDocument(Strict):
    """Training ends once a metric got worse."""

    metric: str = Field(min_length=1, description="its name, as given to step(metrics=…)")
    reports: int = Field(default=1, ge=1, description="how many reports in a row, each worse")
    min_delta: float = Field(default=0.0, ge=0, description="changes up to this size do not count")
    mode: Literal["min", "max"] = Field(default="min", description="whether less or more is better")

    def value(self) -> StopOnRise:
        """Return the generator."""
        return StopOnRise(When(self.metric, "risen", self.reports, self.min_delta, self.mode))


GENERATORS: dict[str, type[BaseModel]] = {
    "gradual_unfreezing": GradualDocument,
    "adaptive": AdaptiveDocument,
    "by_gradient": ByGradientDocument,
    "lisa": LisaDocument,
    "stop_on_rise": StopOnRiseDocument,
}
