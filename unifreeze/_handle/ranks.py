"""Decisions of a run that its processes must share: epochs, metrics, measurements, and phases.

The first process decides by what it has measured; the others follow, and are told if they have
measured something else.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from unifreeze._handle.resolved_phases import ResolvedPhases
from unifreeze._protocol import Processes
from unifreeze._protocol.processes import agree, ranks, share
from unifreeze.errors import RanksError, UnifreezeWarning

STEP = "call handle.step"
BEGIN = f"{STEP} and enter a phase"
Metrics = Mapping[str, float] | None
Measured = dict[int, tuple[str, ...]]


class Report(NamedTuple):
    """What a process tells the schedule.

    Attributes:
        epoch: The epoch that is about to begin.
        step: The step that is about to begin.
        metrics: What it has measured.
        run: The identity of its run, which files of best values carry.
    """

    epoch: int | None
    step: int | None
    metrics: Metrics
    run: str


class SharedDecisions:
    """The decisions that the processes of one run share."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def report(self, processes: Processes, phases: ResolvedPhases, own: Report) -> Report:
        """Return what the first process reports.

        Args:
            processes: The processes that train together.
            phases: The plan's phases.
            own: What this process reports.

        Raises:
            RanksError: They are at different epochs or steps, or one does not report in time.
        """
        if processes.count == 1:
            return own
        metrics = None if own.metrics is None else {k: float(v) for k, v in own.metrics.items()}
        text = json.dumps([own.epoch, own.step, metrics, own.run, phases.schedule.phase])
        rows = share(processes, "step", text.encode(), STEP)
        reports = [json.loads(row) for row in rows]
        _check_places(reports)
        self._tell_of_metrics(reports, processes.rank)
        epoch, step, decisive, run, _ = reports[0]
        return Report(epoch, step, decisive, run)

    def _tell_of_metrics(self, reports: list[Any], rank: int) -> None:
        """Warn once of each metric that this process measured, and the first one otherwise."""
        first, own = reports[0][2] or {}, reports[rank][2] or {}
        for name, value in own.items():
            if name in self._told or (name in first and _same(first[name], value)):
                continue
            self._told.add(name)
            there = f"{first[name]:.6g}" if name in first else "nothing"
            warnings.warn(
                f"rank {rank} has measured {name}={value:.6g}, and rank 0 {there}: rank 0 decides "
                "when a phase begins\n  hint: average metrics over the processes first",
                UnifreezeWarning,
                stacklevel=2,
            )

    def measured(self, processes: Processes, names: Measured) -> Measured:
        """Return what the first process has chosen to freeze by its measurements."""
        if processes.count == 1:
            return names
        rows = share(processes, "measured", json.dumps(list(names.items())).encode(), STEP)
        return {int(number): tuple(chosen) for number, chosen in json.loads(rows[0])}


def agree_on_phase(processes: Processes, phases: ResolvedPhases) -> None:
    """Check that all processes are about to enter the same phase, with the same decisions.

    Raises:
        RanksError: They are not; nothing has been written yet.
    """
    if processes.count == 1:
        return
    names = "\n".join(phases.resolution.trainable_paths).encode()
    count = int(phases.resolution.trainable.sum())
    text = (
        f"plan {phases.expanded.digest} enters phase {phases.schedule.current.name!r} with "
        f"{count} trainable parameters (decisions {hashlib.sha256(names).hexdigest()[:12]})"
    )
    agree(processes, "phase", text, BEGIN, "they would not enter it alike")


def _check_places(reports: list[Any]) -> None:
    places: dict[str, list[int]] = {}
    for rank, (epoch, step, _, _, phase) in enumerate(reports):
        place = f"epoch {epoch}, step {step}, in phase number {phase}"
        places.setdefault(place, []).append(rank)
    if len(places) > 1:
        raise RanksError(
            f"{len(reports)} processes train together, and call handle.step for different places",
            context="\n".join(f"{ranks(who)}: {place}" for place, who in places.items()),
            hint="give every process the same epoch and step",
        )


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)
