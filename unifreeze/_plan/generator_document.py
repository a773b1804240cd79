"""Generators of phases as they stand in a plan file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from unifreeze._plan.entry_document import (
    AfterDocument,
    WhenDocument,
    plain_after,
    plain_when,
)
from unifreeze._plan.fields import ChoiceField, Strict, plain_choice
from unifreeze._plan.generators import (
    Adaptive,
    ByGradient,
    GradualUnfreezing,
    Lisa,
    StopOnRise,
)
from unifreeze._plan.limits import MOST_PERIODS
from unifreeze._plan.phases import BACKBONE, Generator, When

UnitsField = Literal["blocks", "stages", "encoder", "decoder"]


class GradualDocument(Strict):
    """From the head down, one unit more each time."""

    every: AfterDocument = Field(description="time between two phases")
    by: UnitsField = Field(default="blocks", description="what is unfrozen at a time")
    within: str = Field(default="", description="the submodule they are in")
    upto: int | None = Field(
        default=None, ge=1, le=MOST_PERIODS, description="how many units; all, if left out"
    )

    def value(self) -> GradualUnfreezing:
        """Return the generator."""
        return GradualUnfreezing(self.every.value(), self.by, self.within, self.upto)


class AdaptiveDocument(WhenDocument):
    """A further share of the parameters each time a metric has turned."""

    share: int = Field(ge=1, le=100, description="how much more each time, in percent")

    def value(self) -> Adaptive:  # type: ignore[override]
        """Return the generator."""
        return Adaptive(self.share, super().value())


class ByGradientDocument(Strict):
    """A further share frozen each time: the smallest gradients against their weights."""

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

    def value(self) -> ByGradient:
        """Return the generator."""
        return ByGradient(self.every.value(), self.share, self.times, self.of)


class LisaDocument(Strict):
    """Some random blocks for a while, then others."""

    blocks: int = Field(ge=1, description="how many train at a time")
    every: AfterDocument = Field(description="for how long")
    periods: int = Field(ge=1, le=MOST_PERIODS, description="how often they are chosen")
    seed: int = Field(default=0, description="of the choice")
    by: UnitsField = Field(default="blocks", description="what is chosen among")
    within: str = Field(default="", description="the submodule they are in")

    def value(self) -> Lisa:
        """Return the generator."""
        return Lisa(
            self.blocks, self.every.value(), self.periods, self.seed, self.by, self.within
        )  # fmt: skip


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


def plain_generator(generator: Generator | None) -> dict[str, Any]:
    """Return a generator as plain data, under its name; {} for none."""
    match generator:
        case GradualUnfreezing():
            plain = {"every": plain_after(generator.every), **_units(generator)}
            return {"gradual_unfreezing": plain | _given(upto=generator.upto)}
        case Adaptive():
            return {"adaptive": {"share": generator.share, **plain_when(generator.when)}}
        case ByGradient():
            plain = {"every": plain_after(generator.every), "share": generator.share}
            plain |= {"times": generator.times} if generator.times != 1 else {}
            of = None if generator.of == BACKBONE else plain_choice(generator.of)
            return {"by_gradient": plain | _given(of=of)}
        case Lisa():
            plain = {"blocks": generator.blocks, "every": plain_after(generator.every)}
            plain |= {"periods": generator.periods, "seed": generator.seed}
            return {"lisa": plain | _units(generator)}
        case StopOnRise():
            plain = plain_when(generator.when)
            return {"stop_on_rise": {"reports": plain.pop("risen_for"), **plain}}
    return {}


def _units(generator: GradualUnfreezing | Lisa) -> dict[str, Any]:
    by = None if generator.by == "blocks" else generator.by
    return _given(by=by, within=generator.within or None)


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
