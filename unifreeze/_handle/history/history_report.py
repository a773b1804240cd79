"""The report of a run, epoch by epoch: rows for programs, a table for people."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unifreeze._arguments import checked_methods
from unifreeze._files import save_text
from unifreeze._handle.history.history import BEFORE, History, HistoryRow, plain
from unifreeze._handle.schedule import UNTOLD
from unifreeze._pictures import html_of, run_chart
from unifreeze._tables import number, one_line, plain_table
from unifreeze.errors import UnifreezeError, counted, nearest

if TYPE_CHECKING:
    from unifreeze._pictures import Picture

Mode = Literal["min", "max"]
SIDES = ("train", "val", "test", "gap")
_SIDE = {"training": "train", "valid": "val", "validation": "val", "eval": "val", "dev": "val"}
_NAME = re.compile(r"(train|training|val|valid|validation|eval|dev|test)[_/.](.+)")
_SHORT = {"acc": "accuracy"}


def split_name(name: str) -> tuple[str, str]:
    """Return what a metric measures, and on which data; without a prefix it is training's.

    >>> split_name("val_loss"), split_name("eval/acc"), split_name("loss")
    (('loss', 'val'), ('accuracy', 'val'), ('loss', 'train'))
    """
    match = _NAME.fullmatch(name)
    side, metric = (match[1], match[2]) if match else ("train", name)
    return _SHORT.get(metric, metric), _SIDE.get(side, side)


@checked_methods
@dataclass(frozen=True)
class RunReport:
    """The report of a run, epoch by epoch.

    Attributes:
        rows: One for each epoch and phase; where epochs are not counted, for each phase. Each has
            `epoch` (-1 for what was measured before the first), `step` at which it began, `phase`,
            `trainable` and `total` values, the share `frozen`, and for each metric what was
            measured last: `train_loss`, `val_loss`, `test_loss`, and `gap_loss`, which is
            validation minus training. All rows have the same keys; None stands where nothing was.
        metrics: What was measured, such as "loss".
        begun: The epoch that has begun last, if nothing has been measured in it yet.
        left_out: Rows of the beginning that were dropped for length.
        told: False if later phases wait to begin, and `handle.step` was never called.
        remark: Why it is not known that layers run in the order the plan counts by, or what never
            ran while they were watched; "" if there is nothing to say.
    """

    rows: tuple[dict[str, Any], ...]
    metrics: tuple[str, ...]
    begun: dict[str, Any] | None = None
    left_out: int = 0
    told: bool = True
    remark: str = ""

    def best(self, metric: str, *, mode: Mode) -> dict[str, Any]:
        """Return the row of the best validation, the first of equals.

        What comes after it may be overfitting, or noise: one run cannot tell.

        Args:
            metric: Such as "loss".
            mode: Whether the lowest (`min`) or the highest (`max`) is best.

        Raises:
            UnifreezeError: Nothing of that name was measured in validation.
        """
        key = f"val_{self._known(metric)}"
        rows = [row for row in self.rows if _is_number(row.get(key))]
        if not rows:
            raise UnifreezeError(
                f"{metric} was never measured in validation",
                hint=f'handle.step(epoch=…, metrics={{"val_{metric}": …}})',
            )
        return (min if mode == "min" else max)(rows, key=lambda row: row[key])

    def table(self, *metrics: str) -> str:
        """Lay the rows out for a terminal.

        Args:
            *metrics: Only these; all by default.

        Raises:
            UnifreezeError: There is no metric of that name.
        """
        chosen = [self._known(metric) for metric in metrics] or self.metrics
        names = [name for metric in chosen for name in self._columns(metric)]
        places = [name for name in ("epoch", "step", "phase") if self._shows(name)]
        header = [*places, "trainable", "frozen", *(name.replace("_", " ", 1) for name in names)]
        cells = [
            [
                *(_cell(row[name]) for name in places),
                f"{row['trainable']:,}",
                f"{row['frozen']:.1%}",
                *(
                    number(row[name], "+.4g" if name.startswith("gap_") else ".4g")
                    for name in names
                ),
            ]
            for row in self.rows
        ]
        return plain_table(header, cells, left=len(places))

    def _columns(self, metric: str) -> list[str]:
        keys = self.rows[0] if self.rows else {}
        return [name for side in SIDES if (name := f"{side}_{metric}") in keys]

    def _shows(self, name: str) -> bool:
        """Return whether a place needs a column: steps do only if epochs are not counted."""
        values = [row[name] for row in self.rows]
        if name == "step" and self._shows("epoch"):
            return False
        return any(value not in (None, "") for value in values)

    def _known(self, metric: str) -> str:
        if metric not in self.metrics:
            close = nearest(metric, self.metrics, limit=1)
            raise UnifreezeError(
                f"nothing called {metric!r} was measured",
                context=f"measured: {', '.join(self.metrics) or 'nothing'}",
                hint=f"did you mean {close[0]!r}?" if close else "",
            )
        return metric

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data; what is not finite as words."""
        return {**vars(self), "rows": list(map(_plain, self.rows)), "metrics": list(self.metrics)}

    def to_csv(self, path: str | Path) -> None:
        """Write the rows to a file, for a spreadsheet or pandas; whole or not at all.

        Raises:
            UnifreezeError: It cannot be written there.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]) if self.rows else [])
        writer.writeheader()
        writer.writerows(self.rows)
        save_text(path, text.getvalue())

    def to_svg(self) -> Picture:
        """Draw it: what was measured in each epoch, the phases behind, the trained share below.

        >>> handle.report().to_svg().save(folder / "run.svg")
        """
        return run_chart(self)

    _repr_html_ = html_of

    def __repr__(self) -> str:
        measured = ", ".join(self.metrics) or "nothing"
        return one_line(self, f"{counted(len(self.rows), 'row')}, {measured} measured")

    def __str__(self) -> str:
        were = counted(self.left_out, "row was", "rows were")
        lines = [f"the first {were} dropped"] if self.left_out else []
        if not self.told:
            lines.append(f"{UNTOLD}: call handle.step(…)")
        if self.remark:
            lines.append(self.remark)
        lines.append(self.table() if self.rows else "nothing has been noted yet")
        lines += [line for metric in self.metrics if (line := self._extremes(metric))]
        if self.begun:
            lines.append(f"{_place(self.begun)}: begun, nothing measured yet")
        return "\n".join(lines)

    def _extremes(self, metric: str) -> str:
        """Return where validation was lowest and highest; readers know which is better."""
        key = f"val_{metric}"
        rows = [row for row in self.rows if _is_number(row.get(key))]
        if len(rows) < 2:
            return ""
        low, high = min(rows, key=lambda row: row[key]), max(rows, key=lambda row: row[key])
        ends = (f"{word} {row[key]:.4g} in {_place(row)}" for word, row in _ends(low, high))
        return f"{key.replace('_', ' ', 1)}: {', '.join(ends)}"


def run_report(history: History, *, told: bool = True, remark: str = "") -> RunReport:
    """Return the report of a history.

    Args:
        history: What was noted.
        told: False if later phases wait to begin, and `handle.step` was never called.
        remark: A remark about the order of layers.
    """
    done = list(history.rows)
    # A last call that only brings the last epoch's metrics begins an epoch that never runs.
    begun = done.pop() if _has_only_begun(done) else None
    metrics, measured = _measured(done)
    rows = tuple({**_flat(row), **_values(row, metrics, measured)} for row in done)
    return RunReport(rows, metrics, _flat(begun) if begun else None, history.left_out, told, remark)


def _has_only_begun(rows: Sequence[HistoryRow]) -> bool:
    return bool(rows) and not rows[-1].metrics and any(row.metrics for row in rows)


def _flat(row: HistoryRow) -> dict[str, Any]:
    flat = {name: value for name, value in vars(row).items() if name != "metrics"}
    return {**flat, "frozen": row.frozen}


def _measured(rows: Iterable[HistoryRow]) -> tuple[tuple[str, ...], set[tuple[str, str]]]:
    """Return what was measured in any row, and on which data."""
    pairs = dict.fromkeys(split_name(name) for row in rows for name in row.metrics)
    return tuple(dict.fromkeys(metric for metric, _ in pairs)), set(pairs)


def _values(
    row: HistoryRow, metrics: Iterable[str], measured: set[tuple[str, str]]
) -> dict[str, float | None]:
    given: dict[tuple[str, str], float] = {}
    for name, value in row.metrics.items():
        given.setdefault(split_name(name), value)
    values: dict[str, float | None] = {}
    for metric in metrics:
        for side in ("train", "val", "test"):
            if (metric, side) in measured:
                values[f"{side}_{metric}"] = given.get((metric, side))
        if {(metric, "train"), (metric, "val")} <= measured:
            train, val = given.get((metric, "train")), given.get((metric, "val"))
            values[f"gap_{metric}"] = None if train is None or val is None else val - train
    return values


def _ends(low: dict[str, Any], high: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [("always", low)] if low is high else [("lowest", low), ("highest", high)]


def _place(row: dict[str, Any]) -> str:
    if row["epoch"] == BEFORE:
        return "the time before"
    phase = f"phase {row['phase']}" if row["phase"] else "the run"
    return phase if row["epoch"] is None else f"epoch {row['epoch']}"


def _cell(value: Any) -> str:
    return "before" if value == BEFORE else "" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and value == value


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: plain(v) if isinstance(v, float) else v for k, v in row.items()}
