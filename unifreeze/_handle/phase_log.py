"""Logs when a phase begins, and in which phase a resumed run goes on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from unifreeze._handle.resolved_phases import ResolvedPhases
from unifreeze.errors import counted

LOGGER = logging.getLogger("unifreeze")
"""Users choose where its messages go; unifreeze adds no handler."""


class PhaseLog:
    """Logs once for each phase that it begins, at level INFO."""

    def __init__(self) -> None:
        self._started = False

    def began(self, phases: ResolvedPhases, entered: Sequence[int] = ()) -> None:
        """Log which phases begin, and the first one if nothing was logged before.

        Args:
            phases: The phases, in which the last of those that begin holds.
            entered: Numbers of the phases that begin; the first phase is in force from the start.
        """
        if self._started and not entered:
            return
        begins = entered if self._started else [*phases.schedule.opening, *entered]
        self._started = True
        for number in begins if LOGGER.isEnabledFor(logging.INFO) else ():
            LOGGER.info("%s", _beginning(phases, number))

    def resumed(self, phases: ResolvedPhases) -> None:
        """Log in which phase a run goes on; a run that had not begun will log its first phase."""
        schedule = phases.schedule
        self._started = schedule.told
        if self._started and LOGGER.isEnabledFor(logging.INFO):
            where = f"resumed in phase {schedule.current.name!r}, at {_place(phases)}"
            LOGGER.info("%s", f"{where}: {_trains(phases, schedule.phase, begun=True)}")


def _beginning(phases: ResolvedPhases, number: int) -> str:
    phase = phases.phases[number]
    event = f" ({phase.entry})" if phase.entry is not None else ""
    where = f" before {_place(phases)}" if phases.schedule.told else ""
    return f"phase {phase.name!r} begins{where}{event}: {_trains(phases, number)}"


def _place(phases: ResolvedPhases) -> str:
    """Return the epoch and step of the last call of `handle.step`, as text."""
    epoch, step = phases.schedule.epoch, phases.schedule.step
    told = [f"epoch {epoch}"] if epoch >= 0 else []
    return ", ".join([*told, *([f"step {step}"] if step >= 0 else [])])


def _trains(phases: ResolvedPhases, number: int, *, begun: bool = False) -> str:
    """Return how much trains, how much of that is new in this phase, and at which rate.

    Args:
        phases: The phases.
        number: The phase's number.
        begun: Whether it began earlier, so that nothing changes now.
    """
    phase, now = phases.phases[number], phases.resolutions[number]
    if phase.stop:
        return "training ends"
    trainable, total = now.counts()
    parts = [f"{trainable:,} of {counted(total, 'value')} train"]
    if number:
        before, counts = phases.resolutions[number - 1].trainable, now.spec.counts
        parts += _change(
            "train since this phase began" if begun else "begin to train",
            now.trainable & ~before,
            counts,
        )
        parts += _change("no longer train", before & ~now.trainable, counts)
    return ", ".join([*parts, *_rates(phases, number)])


def _change(verb: str, which: np.ndarray, counts: np.ndarray) -> list[str]:
    tensors, values = int(which.sum()), int(counts[which].sum())
    return [f"{counted(tensors, 'parameter')} ({values:,} values) {verb}"] if tensors else []


def _rates(phases: ResolvedPhases, number: int) -> list[str]:
    """Return the rates that hold, as texts."""
    settings, warmup = phases.settings(number), phases.phases[number].warmup
    default = "lr as the optimizer has it" if phases.base is None else f"lr {phases.base:g}"
    texts = [default if settings.lr is None else f"lr {settings.lr:g}"]
    if settings.weight_decay is not None:
        texts.append(f"weight decay {settings.weight_decay:g}")
    if warmup is not None:
        texts.append(f"warm-up over {counted(warmup.steps, 'step')}")
    return texts
