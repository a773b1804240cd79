"""A plan's generators → plain phases, as they are on one model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from unifreeze._plan import FreezePlan, Phase, When, phase_mistakes
from unifreeze._plan.selectors import evaluate, find_module, parse, unit_count
from unifreeze._structure import ModelSpec
from unifreeze.errors import PlanError, ResolveError


def expand_plan(plan: FreezePlan, spec: ModelSpec) -> FreezePlan:
    """Return a plan with plain phases in place of its generators; the plan itself if it has none.

    Raises:
        ResolveError: The model has not what a generator asks for; the message names the phase.
        PlanError: The phases contradict each other.
    """
    if all(phase.generator is None for phase in plan.phases):
        return plan
    key = ("expanded", plan)
    if key not in spec.memo:
        spec.memo[key] = _expanded(plan, spec)
    found: FreezePlan = spec.memo[key]
    # Equal plans share what they expand to, but not where they were captured.
    return replace(found, captured=plan.captured)


def _expanded(plan: FreezePlan, spec: ModelSpec) -> FreezePlan:
    phases: list[Phase] = []
    for number, phase in enumerate(plan.phases):
        try:
            phases += _phases(phase, _Shape(spec), first=number == 0)
        except ResolveError as error:
            where = f"phase {phase.name!r}: {error.fact}"
            raise type(error)(where, context=error.context, hint=error.hint) from None
    mistake = next(phase_mistakes(phases), None)
    if mistake:
        raise PlanError(f"the phases contradict each other: {mistake}")
    return replace(plan, phases=tuple(phases))


def _phases(phase: Phase, shape: _Shape, *, first: bool) -> Iterator[Phase]:
    """Give what a phase stands for: itself, or what its generator makes, with its settings."""
    if phase.generator is None:
        yield phase
        return
    made = list(phase.generator.phases(shape, first=first))
    for number, one in enumerate(made, start=1):
        one = replace(one, name=f"{phase.name} {number}" if len(made) > 1 else phase.name)
        if number == 1:
            entry = phase.entry or one.entry
            one = replace(one, entry=entry, lr=phase.lr, weight_decay=phase.weight_decay)
            one = replace(one, norm_stats=phase.norm_stats)
        if not one.stop and not (first and number == 1):
            best = phase.restore_best and isinstance(one.entry, When)
            one = replace(one, warmup=phase.warmup, restore_best=best)
        yield one


class _Shape:
    """What generators ask of a model."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def count(self, units: str, within: str) -> int:
        """Return how many blocks, stages, … a submodule has."""
        spec = self.spec
        if within:
            spec, _ = spec.within(find_module(within, spec))
        return unit_count(units, spec)

    def has(self, selector: str) -> bool:
        """Tell whether a selector selects anything."""
        return bool(np.any(evaluate(parse(selector), self.spec)))
