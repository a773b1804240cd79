"""The history of a run: what trained in each epoch, and what was measured in it.

It knows no model and no framework, so that both frameworks, and a resumed run, report the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from numbers import Integral
from typing import Any

from unifreeze._handle.state_schema import HistoryRowState, HistoryState, read_state
from unifreeze.errors import ScheduleError, brief

BEFORE = -1
"""Stands for the epoch of metrics that were measured before the first epoch."""
LIMIT = 10_000
"""Rows that are kept, so that the state of a run of any length stays small."""


@dataclass
class HistoryRow:
    """An epoch in one phase; where epochs are not counted, a phase.

    Attributes:
        epoch: Its number; None where epochs are not counted, `BEFORE` for earlier measurements.
        step: The step at which it began; None where steps are not counted.
        phase: Name of the phase; "" for a plan without phases.
        trainable: Number of trainable values.
        total: Number of all values.
        metrics: The last value of each metric in it, by the names that were given.
    """

    epoch: int | None
    step: int | None
    phase: str
    trainable: int
    total: int
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def frozen(self) -> float:
        """The share of the values that are frozen."""
        return 1 - self.trainable / self.total if self.total else 0.0

    def state(self) -> HistoryRowState:
        """Return the row as plain data; numbers that JSON cannot hold are words."""
        metrics = {name: plain(value) for name, value in self.metrics.items()}
        return HistoryRowState(**{**vars(self), "metrics": metrics})

    @classmethod
    def restored(cls, state: HistoryRowState) -> HistoryRow:
        """Return the row of a state."""
        metrics = {name: float(value) for name, value in state.metrics.items()}
        return cls(**{**vars(state), "metrics": metrics})


@dataclass
class History:
    """The notes on a run.

    Metrics that come with a place were measured since the place before it: those given as epoch 3
    begins belong to epoch 2, and those of the last epoch come with one more call after it. A metric
    reported again at the same place changes nothing, so a resumed run may repeat its last call.

    Attributes:
        rows: One for each epoch and phase, or for each phase.
        epoch: The last epoch noted; None where they are not counted.
        step: The last step noted.
        behind: Metrics reported at this place belong to the row before the last.
        reported: Names of what was reported at this place.
        left_out: Rows that have been dropped, the oldest first.
    """

    rows: list[HistoryRow] = field(default_factory=list)
    epoch: int | None = None
    step: int | None = None
    behind: bool = False
    reported: list[str] = field(default_factory=list)
    left_out: int = 0

    def note(
        self,
        *,
        trainable: int,
        total: int,
        epoch: int | None = None,
        step: int | None = None,
        phase: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Note the place that a run has come to.

        Args:
            trainable: Number of values that train from here on.
            total: Number of all values.
            epoch: The epoch that is about to begin; None for the last one.
            step: The step that is about to begin; None for the last one.
            phase: Name of the phase that holds from here on.
            metrics: What was measured since the last place.

        Raises:
            ScheduleError: A metric or a place is not a number; nothing has been noted then.
        """
        values = numbers(metrics)
        place = _place("epoch", epoch, self.epoch), _place("step", step, self.step)
        if not self.rows or place != (self.epoch, self.step):
            self._go_on(HistoryRow(*place, phase, trainable, total), measured=bool(values))
        measured_in = self.rows[-2 if self.behind else -1]
        for name in [name for name in values if name not in self.reported]:
            measured_in.metrics[name] = values[name]
            self.reported.append(name)

    def _go_on(self, row: HistoryRow, *, measured: bool) -> None:
        """Go on to another place; another epoch or phase begins a new row."""
        if measured and not self.rows:
            self.rows.append(HistoryRow(BEFORE, None, row.phase, row.trainable, row.total))
        last = self.rows[-1] if self.rows else None
        goes_on = last is not None and (last.epoch, last.phase) == (row.epoch, row.phase)
        if last is not None and goes_on:
            last.trainable, last.total = row.trainable, row.total
        else:
            self.rows.append(row)
        if len(self.rows) > LIMIT:
            del self.rows[0]
            self.left_out += 1
        self.epoch, self.step, self.reported = row.epoch, row.step, []
        self.behind = measured and not goes_on

    def measured(self, metrics: Mapping[str, float]) -> None:
        """Add what was measured since the last place, in an epoch that is over.

        Raises:
            ScheduleError: A metric is not a number, or there is no place yet.
        """
        values = numbers(metrics)
        if not self.rows:
            raise ScheduleError(
                "these metrics belong to no epoch: none has begun yet",
                context=f"given: {', '.join(values)}",
                hint="call handle.step(epoch=…) before each epoch",
            )
        self.rows[-1].metrics.update(values)

    def state(self) -> dict[str, Any]:
        """Return the history as plain data for JSON."""
        return HistoryState(**{**vars(self), "rows": [row.state() for row in self.rows]}).plain()

    @classmethod
    def restored(cls, state: Any) -> History:
        """Return the history of a state.

        Raises:
            ScheduleError: It is not the state of a history.
        """
        read = read_state(HistoryState, state, "history")
        return cls(**{**vars(read), "rows": [HistoryRow.restored(row) for row in read.rows]})


def numbers(metrics: Mapping[str, float] | None) -> dict[str, float]:
    """Read metrics as plain numbers; numbers that are not finite are kept, as facts about a run.

    Raises:
        ScheduleError: One is not a number, or has no name.
    """
    values = {}
    for name, value in (metrics or {}).items():
        try:
            if isinstance(value, str | bytes | bool):
                raise TypeError
            values[_word(name)] = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise ScheduleError(
                f"metric {brief(name)} is {brief(value)}, not a number",
                hint='metrics={"val_loss": 0.41}: one number for each name',
            ) from None
    return values


def plain(value: float | None) -> float | str | None:
    """Return a number as JSON can hold it: those that are not finite as words."""
    return value if value is None or isfinite(value) else str(value)


def _place(unit: str, given: int | None, last: int | None) -> int | None:
    if given is None:
        return last
    if isinstance(given, bool) or not isinstance(given, Integral) or given < 0:
        raise ScheduleError(f"{unit} is a whole number from 0 on, not {brief(given)}")
    return int(given)


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{brief(value)} is not text")
    return value
