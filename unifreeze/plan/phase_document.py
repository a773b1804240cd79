"""Phases as they stand in a plan file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from unifreeze.plan.fields import (
    NormStatsField,
    OneOf,
    RuleDocument,
    Strict,
    one_of,
    plain_norm_stats,
    plain_rule,
    read_norm_stats,
)
from unifreeze.plan.phases import After, At, Entry, Phase, Unit, When


class AtDocument(OneOf):
    """An epoch or a step, counted from 0."""

    model_config = one_of("epoch", "step")
    choices: ClassVar[tuple[str, ...]] = ("epoch", "step")

    epoch: int | None = Field(default=None, ge=0, description="before this epoch's first batch")
    step: int | None = Field(default=None, ge=0, description="before this step")

    def value(self) -> At:
        """Return the entry."""
        return At(*_counted({"epoch": self.epoch, "step": self.step}))


class AfterDocument(OneOf):
    """So many epochs or steps after the phase before it began."""

    model_config = one_of("epochs", "steps")
    choices: ClassVar[tuple[str, ...]] = ("epochs", "steps")

    epochs: int | None = Field(default=None, ge=1, description="epochs of the phase before it")
    steps: int | None = Field(default=None, ge=1, description="steps of the phase before it")

    def value(self) -> After:
        """Return the entry."""
        return After(*_counted({"epoch": self.epochs, "step": self.steps}))


class WhenDocument(OneOf):
    """A metric that has stalled, or got worse."""

    model_config = one_of("stalled_for", "risen_for")
    choices: ClassVar[tuple[str, ...]] = ("stalled_for", "risen_for")

    metric: str = Field(min_length=1, description="its name, as given to step(metrics=…)")
    stalled_for: int | None = Field(default=None, ge=1, description="reports without a better one")
    risen_for: int | None = Field(default=None, ge=1, description="reports, each worse")
    min_delta: float = Field(default=0.0, ge=0, description="what is no difference")
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


class PhaseDocument(Strict):
    """One phase of a run."""

    name: str = Field(min_length=1, description="what it is called")
    at: AtDocument | None = Field(default=None, description="begins at an epoch or step")
    after: AfterDocument | None = Field(default=None, description="begins so long after the last")
    when: WhenDocument | None = Field(default=None, description="begins when a metric has turned")
    rules: list[RuleDocument] | None = Field(default=None, description="its own rules")
    like: str | None = Field(default=None, min_length=1, description="rules of an earlier phase")
    add: list[RuleDocument] | None = Field(
        default=None, description="rules added to those of `like`, or of the phase before it"
    )
    norm_stats: NormStatsField | None = Field(
        default=None, description="what running statistics do from now on"
    )
    lr: float | None = Field(default=None, gt=0, description="base learning rate from now on")
    weight_decay: float | None = Field(default=None, ge=0, description="decay from now on")
    stop: bool = Field(default=False, description="training ends here")

    @model_validator(mode="after")
    def _no_contradiction(self) -> PhaseDocument:
        for keys in (("at", "after", "when"), ("rules", "like"), ("rules", "add")):
            found = [key for key in keys if getattr(self, key) is not None]
            if len(found) > 1:
                raise PydanticCustomError(
                    "keys", "has {both}; one of them", {"both": " and ".join(found)}
                )
        return self

    def entry(self) -> Entry | None:
        """Return when it begins."""
        given = self.at or self.after or self.when
        return given.value() if given is not None else None

    def value(self) -> Phase:
        """Return the phase."""
        rules = None if self.rules is None else tuple(rule.value() for rule in self.rules)
        return Phase(
            name=self.name,
            entry=self.entry(),
            rules=rules,
            like=self.like or "",
            add=tuple(rule.value() for rule in self.add or ()),
            norm_stats=None if self.norm_stats is None else read_norm_stats(self.norm_stats),
            lr=self.lr,
            weight_decay=self.weight_decay,
            stop=self.stop,
        )


def check_phases(phases: Sequence[PhaseDocument]) -> None:
    """Refuse phases that could never be entered, and names that stand for two.

    Raises:
        PydanticCustomError: Naming the first mistake.
    """
    mistake = next(_mistakes(phases), None)
    if mistake:
        raise PydanticCustomError("phases", "{text}", {"text": mistake})


def _mistakes(phases: Sequence[PhaseDocument]) -> Any:
    seen: set[str] = set()
    latest: dict[Unit, int] = {}
    for number, phase in enumerate(phases):
        where, entry = f"phases[{number}] ({phase.name!r})", phase.entry()
        if phase.name in seen:
            yield f"{where}: an earlier phase has that name"
        if phase.like is not None and phase.like not in seen:
            known = ", ".join(sorted(seen)) or "none"
            yield f"{where}: like {phase.like!r}, and there is no such phase before it ({known})"
        seen.add(phase.name)
        if number == 0 and entry is not None and entry != At("epoch", 0) and entry != At("step", 0):
            yield f"{where}: the first phase begins at once, and not {entry}"
        if number and entry is None:
            yield f"{where}: says not when it begins: at, after or when"
        if number and phases[number - 1].stop:
            yield f"{where}: can never be entered: training has ended before it"
        if isinstance(entry, At):
            if number and entry.count <= latest.get(entry.unit, 0):
                bound = latest.get(entry.unit, 0)
                yield f"{where}: can never be entered {entry}: {entry.unit} {bound} is before it"
            latest[entry.unit] = entry.count
        elif isinstance(entry, After):
            latest[entry.unit] = latest.get(entry.unit, 0) + entry.count
        changes = phase.rules, phase.add, phase.like, phase.norm_stats, phase.lr, phase.weight_decay
        if phase.stop and any(change is not None for change in changes):
            yield f"{where}: training ends there, so nothing else can change"
        if number and not phase.stop and all(change is None for change in changes):
            yield f"{where}: changes nothing"


def _counted(given: dict[Unit, int | None]) -> tuple[Unit, int]:
    return next((unit, count) for unit, count in given.items() if count is not None)


def plain_phase(phase: Phase) -> dict[str, Any]:
    """Return a phase as plain data; what it leaves as it was is left out."""
    plain: dict[str, Any] = {"name": phase.name, **_plain_entry(phase.entry)}
    if phase.rules is not None:
        plain["rules"] = [plain_rule(rule) for rule in phase.rules]
    if phase.like:
        plain["like"] = phase.like
    if phase.add:
        plain["add"] = [plain_rule(rule) for rule in phase.add]
    if phase.norm_stats is not None:
        plain["norm_stats"] = plain_norm_stats(phase.norm_stats)
    numbers = {"lr": phase.lr, "weight_decay": phase.weight_decay}
    # Equal numbers are written alike: 0, 0.0 and -0.0.
    plain |= {key: float(value) + 0.0 for key, value in numbers.items() if value is not None}
    return plain | ({"stop": True} if phase.stop else {})


def _plain_entry(entry: Entry | None) -> dict[str, Any]:
    match entry:
        case At(unit, count):
            return {"at": {unit: count}}
        case After(unit, count):
            return {"after": {f"{unit}s": count}}
        case When(metric, turn, reports, min_delta, mode):
            plain: dict[str, Any] = {"metric": metric, f"{turn}_for": reports}
            plain |= {"min_delta": min_delta} if min_delta else {}
            return {"when": plain | ({"mode": mode} if mode != "min" else {})}
    return {}
