"""What is said through `logging` when a phase begins, or a resumed run goes on in one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from unifreeze._handle.phased import Phased
from unifreeze.errors import counted

LOGGER = logging.getLogger("unifreeze")
"""Users choose what becomes of its messages; unifreeze adds no handler."""


class PhaseLog:
    """Says of each phase once that it begins, at level INFO."""

    def __init__(self) -> None:
        self._started = False

    def began(self, phased: Phased, entered: Sequence[int] = ()) -> None:
        """Say which phases begin, the first one if nothing was said before.

        Args:
            phased: The phases, in which the last of those that begin holds.
            entered: Numbers of the phases that begin; the first phase is in force from the start.
        """
        if self._started and not entered:
            return
        begins = entered if self._started else [0, *entered]
        self._started = True
        for number in begins if LOGGER.isEnabledFor(logging.INFO) else ():
            LOGGER.info("%s", _beginning(phased, number))

    def resumed(self, phased: Phased) -> None:
        """Say in which phase a run goes on; one that had not begun will begin with the first."""
        schedule = phased.schedule
        self._started = schedule.told
        if self._started and LOGGER.isEnabledFor(logging.INFO):
            where = f"resumed in phase {schedule.current.name!r}, at {_place(phased)}"
            LOGGER.info("%s", f"{where}: {_trains(phased, schedule.phase, begun=True)}")


def _beginning(phased: Phased, number: int) -> str:
    phase = phased.phases[number]
    event = f" ({phase.entry})" if phase.entry is not None else ""
    where = f" before {_place(phased)}" if phased.schedule.told else ""
    return f"phase {phase.name!r} begins{where}{event}: {_trains(phased, number)}"


def _place(phased: Phased) -> str:
    """Name the epoch and step that were told last."""
    epoch, step = phased.schedule.epoch, phased.schedule.step
    told = [f"epoch {epoch}"] if epoch >= 0 else []
    return ", ".join([*told, *([f"step {step}"] if step >= 0 else [])])


def _trains(phased: Phased, number: int, *, begun: bool = False) -> str:
    """Say how much trains, how much of that is new in this phase, and at which rate.

    Args:
        phased: The phases.
        number: Which one.
        begun: It began earlier, so that nothing changes now.
    """
    phase, now = phased.phases[number], phased.resolutions[number]
    if phase.stop:
        return "training ends"
    trainable, total = now.counts()
    said = [f"{trainable:,} of {total:,} values train"]
    if number:
        before, counts = phased.resolutions[number - 1].trainable, now.spec.counts
        said += _change(
            "train since this phase began" if begun else "begin to train",
            now.trainable & ~before,
            counts,
        )
        said += _change("no longer train", before & ~now.trainable, counts)
    return ", ".join([*said, *_rates(phased, number)])


def _change(verb: str, which: np.ndarray, counts: np.ndarray) -> list[str]:
    tensors, values = int(which.sum()), int(counts[which].sum())
    return [f"{counted(tensors, 'parameter')} ({values:,} values) {verb}"] if tensors else []


def _rates(phased: Phased, number: int) -> list[str]:
    """Return the rates that hold; None is the optimizer's own."""
    settings, warmup = phased.settings(number), phased.phases[number].warmup
    own = "lr as the optimizer has it" if phased.base is None else f"lr {phased.base:g}"
    said = [own if settings.lr is None else f"lr {settings.lr:g}"]
    if settings.weight_decay is not None:
        said.append(f"weight decay {settings.weight_decay:g}")
    if warmup is not None:
        said.append(f"warm-up over {counted(warmup.steps, 'step')}")
    return said
