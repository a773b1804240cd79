"""Warnings and errors where `handle.step`, or the model's own forward pass, is never called."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from unifreeze._handle.resolved_phases import ResolvedPhases
from unifreeze._handle.schedule import UNTOLD
from unifreeze._plan import After, At, Phase, When
from unifreeze._protocol import Backend, Undo
from unifreeze._resolution import ORDER_CURES
from unifreeze._undo import nothing
from unifreeze.errors import ScheduleError, UnifreezeWarning, listing


class UntoldReminder:
    """Warns once if a model trains before the schedule was told where the run is.

    Once an optimizer is attached, it is not needed: the first step is refused instead.
    """

    def __init__(self) -> None:
        self._stop: Undo = nothing
        self._over = False

    def watch(self, backend: Backend, model: Any, phases: ResolvedPhases) -> Undo:
        """Watch a model if later phases wait; return what stops the watch."""
        self.stop()
        if not phases.schedule.waits or self._over:
            return nothing
        self._stop = backend.watch_training(model, partial(self._warn, phases.phases))
        return partial(self._stop_if, self._stop)

    def _stop_if(self, watch: Undo) -> None:
        if self._stop is watch:
            self.stop()

    def stop(self) -> None:
        """Stop watching, until the plan is written again."""
        stop, self._stop = self._stop, nothing
        stop()

    def end(self) -> None:
        """Stop watching for good."""
        self._over = True
        self.stop()

    def _warn(self, phases: Sequence[Phase]) -> None:
        # A compiler that follows the model takes no hooks off, so what stops the watch is kept:
        # the next `handle.step` calls it again.
        self._over = True
        self._stop()
        warn_untold(phases)


def untold_error(phases: Sequence[Phase], fact: str) -> ScheduleError:
    """Build the error for something that must not come before the first `handle.step`.

    Args:
        phases: The plan's plain phases.
        fact: What came.
    """
    return ScheduleError(f"{fact}, and {UNTOLD}", context=_waiting(phases), hint=advice(phases))


def warn_untold(phases: Sequence[Phase]) -> None:
    """Warn of a forward pass of training that comes before the first `handle.step`."""
    lines = [
        f"the model trains, and {UNTOLD}",
        _waiting(phases),
        f"hint: {advice(phases)}, or give the trainer its FreezeCallback",
    ]
    warnings.warn("\n  ".join(lines), UnifreezeWarning, stacklevel=2)


def warn_unseen() -> None:
    """Warn of an optimizer's step before any forward pass has shown the order of layers."""
    lines = [
        "an optimizer has taken a step, and the model's own forward pass has not run: the plan "
        "counts layers in the order of registration, and it is not known that they run in it",
        "the training loop calls parts of the model, not the model itself",
        f"hint: {ORDER_CURES}",
    ]
    warnings.warn("\n  ".join(lines), UnifreezeWarning, stacklevel=2)


def advice(phases: Sequence[Phase]) -> str:
    """Return the call that is missing, with the arguments that the phases need.

    >>> advice([Phase("head"), Phase("all", At("epoch", 2))])
    "call handle.step(epoch=epoch) before each epoch's first batch"
    """
    entries = [phase.entry for phase in phases]
    units = {entry.unit for entry in entries if isinstance(entry, At | After)}
    by_step = "step" in units
    counted = [unit for unit in ("epoch", "step") if unit in units] or ["epoch"]
    arguments = [f"{unit}={unit}" for unit in counted]
    metrics = dict.fromkeys(entry.metric for entry in entries if isinstance(entry, When))
    if metrics:
        named = ", ".join(f'"{name}": …' for name in metrics)
        arguments.append(f"metrics={{{named}}}")
    when = "each of the optimizer's steps" if by_step else "each epoch's first batch"
    return f"call handle.step({', '.join(arguments)}) before {when}"


def _waiting(phases: Sequence[Phase]) -> str:
    first, *later = phases
    waiting = listing([repr(phase.name) for phase in later])
    return f"phase {first.name!r} holds until handle.step begins the next: {waiting}"
