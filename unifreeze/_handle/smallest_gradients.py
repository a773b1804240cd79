"""Chooses the parameters that a phase freezes by measurement: those with the smallest gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import inf

import numpy as np

from unifreeze._plan import Phase, Rule, Smallest, pick
from unifreeze._plan.selectors import Selector
from unifreeze._protocol import Backend
from unifreeze._resolution import Resolution, select
from unifreeze._structure import Mask
from unifreeze.errors import ScheduleError

Sums = dict[str, float]
NAMES_PER_RULE = 40


def smallest(
    backend: Backend,
    model: object,
    resolutions: tuple[Resolution, Resolution],
    wanted: Smallest,
    sums: Sums,
) -> tuple[str, ...]:
    """Return canonical names of the parameters to freeze, in addition to those frozen already.

    Parameters are ranked by the mean norm of their gradients in the phase that ends, over the norm
    of their values now. Parameters without a gradient come first; zero weights, and parameters
    that did not train in that phase, come last. Ratios are rounded to four digits, and equal ones
    are in canonical order, so that frameworks agree.

    Args:
        backend: The model's backend.
        model: The live model.
        resolutions: The decisions of the phase that ends, and those of the phase that begins before
            anything is frozen by measurement.
        wanted: The share to freeze, and the candidates.
        sums: Sum of each parameter's gradient norms, by canonical name.

    Raises:
        ScheduleError: Nothing was measured.
    """
    if not sums:
        raise ScheduleError(
            "gradients must be ranked, but no step was measured in the phase before",
            hint="let that phase train for at least one step",
        )
    before, resolution = resolutions
    spec = resolution.spec
    candidates = _candidates(resolution, wanted)
    count = int(candidates.sum()) * wanted.share // 100
    missing = count - int((candidates & ~resolution.trainable).sum())
    order = [n for n in spec.canonical_order if candidates[n] and resolution.trainable[n]]
    ratios = {}
    for number in order:
        parameter = spec.parameters[number]
        weight = float(np.linalg.norm(backend.tensor(model, parameter.path).ravel()))
        ratio = _ratio(sums.get(parameter.name, 0.0), weight)
        ratios[number] = ratio if before.trainable[number] else inf
    ranked = sorted(order, key=lambda number: ratios[number])
    frozen = (spec.part_names(spec.first_names[number]) for number in ranked[: max(missing, 0)])
    return tuple(chain.from_iterable(frozen))


def _candidates(resolution: Resolution, wanted: Smallest) -> Mask:
    spec = resolution.spec
    selector = pick(wanted.of, spec.framework, "freeze_smallest")
    mask = select(selector, spec, f"freeze_smallest ({selector})")
    mask = mask & ~select(Selector("head"), spec, "the head", optional=True)
    candidates = np.zeros(len(spec), np.bool_)
    candidates[spec.atoms.tensor[mask]] = True
    return candidates


def _ratio(gradient: float, weight: float) -> float:
    if gradient == 0:
        return 0.0
    return float(f"{gradient / weight:.4g}") if weight else inf


def frozen_by_name(phases: Sequence[Phase], measured: Mapping[int, Iterable[str]]) -> list[Phase]:
    """Return phases in which rules take the place of measurements."""
    return [
        _frozen(phase, phases[number - 1].name, tuple(measured[number]))
        if number in measured
        else phase
        for number, phase in enumerate(phases)
    ]


def _frozen(phase: Phase, before: str, names: tuple[str, ...]) -> Phase:
    if not names and phase.rules is None:
        return replace(phase, freeze_smallest=None, like=phase.like or before)
    # The measured names may overrule everything that one of the phase's own rules decides.
    rules = None if phase.rules is None else tuple(map(_optional, phase.rules))
    add = (*map(_optional, phase.add), *_rules(names))
    if rules is not None:  # a plan has one or the other
        rules, add = (*rules, *add), ()
    return replace(phase, freeze_smallest=None, rules=rules, add=add)


def _optional(rule: Rule) -> Rule:
    return replace(rule, optional=True)


def _rules(names: tuple[str, ...]) -> Iterator[Rule]:
    """Yield rules that freeze parameters by their canonical names, some in each rule."""
    for start in range(0, len(names), NAMES_PER_RULE):
        texts = [f'at:"{name}"' for name in names[start : start + NAMES_PER_RULE]]
        yield Rule("freeze", Selector(" | ".join(texts)))
