"""Writing out a plan's generators: the plain phases that they stand for on one model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from unifreeze._plan import FreezePlan, Phase, Shape, When, phase_mistakes
from unifreeze._plan.selectors import evaluate, parse, unit_count
from unifreeze._plan.selectors.regular_expressions import limited_together
from unifreeze._plan.selectors.words_for_towers import read_place
from unifreeze._resolution.corrected_structure import corrected
from unifreeze._resolution.select_parameters import at_place
from unifreeze._structure import ModelSpec
from unifreeze.errors import PlanError, ResolveError


@limited_together
def expand_plan(plan: FreezePlan, spec: ModelSpec) -> FreezePlan:
    """Return a plan with plain phases in place of its generators; the plan itself if it has none.

    Raises:
        ResolveError: The model lacks what a generator asks for; the message names the phase.
        PlanError: The phases contradict each other.
    """
    if all(phase.generator is None for phase in plan.phases):
        return plan
    spec = corrected(plan, spec)
    expanded = spec.once(("expanded", plan), lambda: _expanded(plan, spec))
    # Equal plans expand to the same, but they may have been captured in different places.
    return replace(expanded, captured=plan.captured)


def _expanded(plan: FreezePlan, spec: ModelSpec) -> FreezePlan:
    phases: list[Phase] = []
    for number, phase in enumerate(plan.phases):
        try:
            phases += _phases(phase, _SpecShape(spec), first=number == 0)
        except ResolveError as error:
            raise at_place(error, f"phase {phase.name!r}") from None
    mistake = next(phase_mistakes(phases), None)
    if mistake:
        raise PlanError(f"the phases contradict each other: {mistake}")
    return replace(plan, phases=tuple(phases))


def _phases(phase: Phase, shape: Shape, *, first: bool) -> Iterator[Phase]:
    """Yield a phase itself, or the phases that its generator makes, with its settings."""
    if phase.generator is None:
        yield phase
        return
    steps = list(phase.generator.phases(shape, first=first))
    for number, step in enumerate(steps, start=1):
        step = replace(step, name=f"{phase.name} {number}" if len(steps) > 1 else phase.name)
        if number == 1:
            entry = phase.entry or step.entry
            step = replace(step, entry=entry, lr=phase.lr, weight_decay=phase.weight_decay)
            step = replace(step, norm_stats=phase.norm_stats)
        if not step.stop and not (first and number == 1):
            best = phase.restore_best and isinstance(step.entry, When)
            step = replace(step, warmup=phase.warmup, restore_best=best)
        yield step


class _SpecShape:
    """Answers what generators ask about a model, from its description."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def count(self, units: str, within: str) -> int:
        """Return how many blocks, stages, … a submodule has."""
        spec = self.spec
        if within:
            spec, _ = read_place(within, quoted=False, spec=spec)
        return unit_count(units, spec)

    def has(self, selector: str) -> bool:
        """Return whether a selector selects anything."""
        return bool(np.any(evaluate(parse(selector), self.spec)))
