"""The timeline of a plan on a model: what trains in each phase, and at which rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from unifreeze._arguments import checked_methods
from unifreeze._drawing.picture import Picture
from unifreeze._handle.target import Target
from unifreeze._handle.whole_run import phases_of, resolve_all
from unifreeze._plan import FreezePlan, check_plan, settings_of
from unifreeze._protocol import Batch, backend_for
from unifreeze._resolution import Resolution, corrected, expand_plan
from unifreeze._structure import ModelSpec
from unifreeze._tables import one_line, plain_table
from unifreeze.errors import counted


class TimelinePhase(NamedTuple):
    """One phase of a timeline.

    Attributes:
        name: What it is called; "" for the only phase of a plan without phases.
        begins: When it begins, in words.
        lr: Base learning rate; None for the optimizer's own.
        weight_decay: Weight decay; None for the optimizer's own.
        stop: Training ends here.
        resolution: What the plan decides in it.
    """

    name: str
    begins: str
    lr: float | None
    weight_decay: float | None
    stop: bool
    resolution: Resolution


@checked_methods
@dataclass(frozen=True)
class Timeline:
    """What a plan trains on a model, phase by phase.

    What a phase freezes by measurement is known only in a run, and is drawn as trainable.

    Attributes:
        phases: The phases, in order; a plan without phases has a single one.

    >>> plan = FreezePlan().phase("head", rules={"only": "head"}, lr=1e-3)
    >>> plan = plan.phase("all", at={"epoch": 5}, add={"train": "all"}, lr=1e-4)
    >>> timeline = plan.timeline(model)
    >>> print(timeline)
    phase  begins      rate    trainable      %
    head   at once     0.001          21    9.9
    all    at epoch 5  0.0001        213  100.0
    >>> timeline.to_svg().save(folder / "timeline.svg")
    """

    phases: tuple[TimelinePhase, ...]

    @property
    def resolutions(self) -> list[Resolution]:
        """What the plan decides in each phase."""
        return [phase.resolution for phase in self.phases]

    def to_svg(self) -> Picture:
        """Draw it: a column for each phase, a row for each part of the network, and the rates."""
        from unifreeze._drawing.timeline_picture import timeline_picture

        return timeline_picture(self)

    def _repr_html_(self) -> str:
        return str(self.to_svg())

    def __repr__(self) -> str:
        total = self.phases[0].resolution.counts()[1]
        return one_line(self, f"{counted(len(self.phases), 'phase')}, {counted(total, 'value')}")

    def __str__(self) -> str:
        rows = []
        for phase in self.phases:
            trainable, total = phase.resolution.counts()
            share = 100 * trainable / total if total else 0.0
            decided = ("0", "0.0") if phase.stop else (f"{trainable:,}", f"{share:.1f}")
            rows.append((phase.name or "the run", phase.begins, rate_of(phase), *decided))
        return plain_table(("phase", "begins", "rate", "trainable", "%"), rows, left=3)


def rate_of(phase: TimelinePhase) -> str:
    """Write the learning rate of a phase."""
    if phase.stop:
        return "training ends"
    return "as built" if phase.lr is None else f"{phase.lr:g}"


def timeline(plan: FreezePlan, model: Any, batch: Any = None) -> Timeline:
    """Resolve a plan in each of its phases.

    Args:
        plan: The plan.
        model: A live model, or several in a mapping from names to models; it is not touched.
        batch: One batch of inputs; positions then count in order of execution.

    Raises:
        ResolveError: The plan does not fit the model.
    """
    check_plan(plan)
    target = Target(model, backend_for(model))
    return timeline_of(plan, target.describe(None if batch is None else Batch.of(batch)))


def timeline_of(plan: FreezePlan, spec: ModelSpec) -> Timeline:
    """Resolve a plan in each of its phases against a model's description."""
    spec = corrected(plan, spec)
    expanded = expand_plan(plan, spec)
    phases = tuple(phases_of(expanded))
    settings = settings_of(phases, expanded.rules, expanded.norm_stats)
    rows = zip(phases, settings, resolve_all(expanded, spec), strict=True)
    return Timeline(
        tuple(
            TimelinePhase(
                phase.name,
                str(phase.entry) if phase.entry else "at once",
                held.lr,
                held.weight_decay,
                phase.stop,
                resolution,
            )
            for phase, held, resolution in rows
        )
    )
