"""Check the phases of a plan without a model: each must be able to begin, and make sense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unifreeze._plan.generators import Adaptive, ByGradient, StopOnRise
from unifreeze._plan.phases import After, At, Phase, TimeUnit, When

BEST = "restore_best needs `when`: the metric that says which values were the best"


def phase_mistakes(phases: Sequence[Phase]) -> Iterator[str]:
    """Yield what is wrong with the phases of a plan, in order; each text names the phase."""
    seen: set[str] = set()
    latest: dict[TimeUnit, int] = {}
    for number, phase in enumerate(phases):
        where = f"phases[{number}] ({phase.name!r})"
        for mistake in (*_name(phase, seen), *_contents(phase, first=number == 0)):
            yield f"{where}: {mistake}"
        for mistake in _entry(phase, latest, first=number == 0):
            yield f"{where}: {mistake}"
        if number and phases[number - 1].stop:
            yield f"{where}: can never be entered: training has ended before it"
        if phase.warmup and any(map(_measures, phases[:number])):
            yield (
                f"{where}: what a phase before it freezes by measurement is not known when the "
                "optimizer is built, and so cannot be warmed up"
            )


def _measures(phase: Phase) -> bool:
    return phase.freeze_smallest is not None or isinstance(phase.generator, ByGradient)


def _name(phase: Phase, seen: set[str]) -> Iterator[str]:
    if phase.name in seen:
        yield "an earlier phase has that name"
    if phase.like and phase.like not in seen:
        known = ", ".join(sorted(seen)) or "none"
        yield f"like {phase.like!r}, and there is no such phase before it ({known})"
    seen.add(phase.name)


def _entry(phase: Phase, latest: dict[TimeUnit, int], *, first: bool) -> Iterator[str]:
    entry = phase.entry
    if first and entry not in (None, At("epoch", 0), At("step", 0)):
        yield f"the first phase begins at once, and not {entry}"
    if not first and entry is None and phase.generator is None:
        yield "needs a start: at, after or when"
    if isinstance(entry, At):
        bound = latest.get(entry.unit, 0)
        if not first and entry.count <= bound:
            yield f"can never be entered {entry}: {entry.unit} {bound} is before it"
        latest[entry.unit] = entry.count
    elif isinstance(entry, After):
        latest[entry.unit] = latest.get(entry.unit, 0) + entry.count


def _contents(phase: Phase, *, first: bool) -> Iterator[str]:
    settled = (phase.norm_stats, phase.lr, phase.weight_decay, phase.warmup)
    changed = _has_rules(phase) or phase.restore_best or any(value is not None for value in settled)
    if phase.stop and changed:
        yield "training ends there, so nothing else can change"
    if phase.generator is not None:
        yield from _beside_generator(phase)
    elif first:
        yield from _in_first(phase)
    else:
        if not phase.stop and not changed:
            yield "changes nothing"
        if phase.restore_best and not isinstance(phase.entry, When):
            yield BEST


def _has_rules(phase: Phase) -> bool:
    return phase.rules is not None or bool(phase.add or phase.like or phase.freeze_smallest)


def _beside_generator(phase: Phase) -> Iterator[str]:
    if _has_rules(phase) or phase.stop:
        yield "a generator makes its own phases: no rules, add, like or stop beside it"
    if phase.entry is not None and isinstance(phase.generator, StopOnRise):
        yield f"begins {phase.entry}, but stop_on_rise begins when the metric rises"
    if phase.restore_best and not isinstance(phase.generator, Adaptive):
        yield f"{BEST}; of the generators, adaptive has one"


def _in_first(phase: Phase) -> Iterator[str]:
    if phase.freeze_smallest or phase.restore_best or phase.stop:
        lacks = "measures nothing" if phase.freeze_smallest else "has nothing"
        yield f"the first phase {lacks} before it to begin from"
    if phase.warmup:
        yield "the first phase unfreezes nothing; to warm up everything, use a scheduler"
