"""Phases as they stand in a plan file."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from unifreeze._plan.entry_document import ENTRIES, AfterDocument, AtDocument, WhenDocument
from unifreeze._plan.fields import (
    ChoiceField,
    NormStatsField,
    RuleDocument,
    Strict,
    value_of,
)
from unifreeze._plan.generator_document import (
    GENERATORS,
    AdaptiveDocument,
    ByGradientDocument,
    GradualDocument,
    LisaDocument,
    StopOnRiseDocument,
)
from unifreeze._plan.phases import BACKBONE, Phase, Smallest, WarmUp


class WarmUpDocument(Strict):
    """A lower rate, at first, for what a phase has just unfrozen."""

    part = WarmUp

    steps: int = Field(ge=1, description="optimizer steps until the whole rate is reached")
    divisor: float | None = Field(
        default=None, gt=1, description="the rate is divided by this at first"
    )


class SmallestDocument(Strict):
    """Parameters to freeze by the gradients of the phase before."""

    part = Smallest

    share: int = Field(ge=1, le=100, description="percent of the candidates that are then frozen")
    of: ChoiceField = Field(
        default_factory=lambda: BACKBONE, description="what may be frozen; the head never is"
    )


_APART = (("at", "after", "when"), ("rules", "like"), ("rules", "add"), tuple(GENERATORS))
"""Sets of keys of which a phase may have only one."""


def _tell_editors(schema: dict[str, Any]) -> None:
    """Say in the schema what only the reader checks: a phase with a generator needs no name."""
    schema["required"].remove("name")
    schema["anyOf"] = [{"required": [key]} for key in ("name", *GENERATORS)]
    pairs = [pair for keys in _APART for pair in combinations(keys, 2)]
    schema["allOf"] = [{"not": {"required": list(pair)}} for pair in pairs]


class PhaseDocument(Strict):
    """One phase of a run, or several that a generator makes."""

    model_config = ConfigDict(json_schema_extra=_tell_editors)

    name: str = Field(min_length=1, description="what it is called")
    at: AtDocument | None = Field(default=None, description="begins at an epoch or step")
    after: AfterDocument | None = Field(default=None, description="begins so long after the last")
    when: WhenDocument | None = Field(default=None, description="begins when a metric has turned")
    rules: list[RuleDocument] | None = Field(default=None, description="its own rules")
    like: str | None = Field(default=None, min_length=1, description="rules of an earlier phase")
    add: list[RuleDocument] | None = Field(
        default=None, description="rules added to those of `like`, or of the phase before it"
    )
    freeze_smallest: SmallestDocument | None = Field(
        default=None, description="what is frozen by the gradients of the phase before"
    )
    norm_stats: NormStatsField | None = Field(
        default=None, description="what running statistics do from now on"
    )
    lr: float | None = Field(default=None, gt=0, description="base learning rate from now on")
    weight_decay: float | None = Field(default=None, ge=0, description="decay from now on")
    warmup: WarmUpDocument | None = Field(
        default=None, description="a lower rate at first for what has just been unfrozen"
    )
    restore_best: bool = Field(default=False, description="begins from the best values so far")
    stop: bool = Field(default=False, description="training ends here")
    gradual_unfreezing: GradualDocument | None = Field(
        default=None, description="from the head down, one unit more each time"
    )
    adaptive: AdaptiveDocument | None = Field(
        default=None, description="a further share each time a metric has turned"
    )
    by_gradient: ByGradientDocument | None = Field(
        default=None, description="a further share frozen each time, by gradient"
    )
    lisa: LisaDocument | None = Field(default=None, description="random blocks for a while")
    stop_on_rise: StopOnRiseDocument | None = Field(
        default=None, description="training ends once a metric got worse"
    )

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_generator(cls, data: object) -> object:
        if isinstance(data, dict) and "name" not in data:
            names = [name for name in GENERATORS if name in data]
            return {"name": names[0].replace("_", " "), **data} if names else data
        return data

    @model_validator(mode="after")
    def _no_contradiction(self) -> PhaseDocument:
        for keys in _APART:
            given = [key for key in keys if getattr(self, key) is not None]
            if len(given) > 1:
                raise PydanticCustomError(
                    "keys", "has {both}; one of them", {"both": " and ".join(given)}
                )
        return self

    def value(self) -> Phase:
        """Return the phase."""
        given = {name: value_of(value) for name, value in self if value is not None}
        entry = next((given.pop(name) for name in ENTRIES if name in given), None)
        generator = next((given.pop(name) for name in GENERATORS if name in given), None)
        return Phase(**given, entry=entry, generator=generator)
