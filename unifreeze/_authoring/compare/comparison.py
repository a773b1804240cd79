"""`Comparison`: a row for each plan, its runs, and the table that people read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from unifreeze._arguments import checked_methods
from unifreeze._pictures import html_of
from unifreeze._tables import human_bytes, number, one_line, plain_table
from unifreeze.errors import UnifreezeError, counted, nearest


@dataclass(frozen=True)
class PlanRun:
    """One training under a plan.

    Attributes:
        seed: What was seeded.
        metrics: What `evaluate` returned; empty if the run failed.
        seconds: How long `train` took; None if it did not finish.
        error: Why the run failed; "" if it did not.
    """

    seed: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str = ""


@checked_methods
@dataclass(frozen=True)
class PlanRow:
    """The runs of one plan; metrics and times are medians over the runs that held.

    Attributes:
        name: The plan's name.
        runs: A run for each repeat.
        trainable: The most values that trained at once; None if the plan was never in force.
        total: Number of values in the model.
        gradient_bytes: Bytes of the gradients of `trainable`, exactly. An optimizer holds the same
            again for each number it keeps per value: once for momentum, twice for Adam's moments.
    """

    name: str
    runs: tuple[PlanRun, ...]
    trainable: int | None = None
    total: int | None = None
    gradient_bytes: int | None = None

    @property
    def share(self) -> float | None:
        """The share of values that trained."""
        return self.trainable / self.total if self.trainable is not None and self.total else None

    @property
    def error(self) -> str:
        """Why the first failed run failed; "" if all held."""
        return next((run.error for run in self.runs if run.error), "")

    @property
    def failed(self) -> int:
        """Number of runs that failed."""
        return sum(bool(run.error) for run in self.runs)

    @property
    def metrics(self) -> dict[str, float]:
        """The median of each metric."""
        names = dict.fromkeys(name for run in self.runs for name in run.metrics)
        return {name: median(self.values(name)) for name in names}

    @property
    def seconds(self) -> float | None:
        """The median time that `train` took."""
        times = self._times()
        return median(times) if times else None

    def values(self, metric: str) -> list[float]:
        """Return a metric's value in each run that has it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def _times(self) -> list[float]:
        return [run.seconds for run in self.runs if run.seconds is not None and not run.error]

    def cells(self, metrics: Sequence[str]) -> list[str]:
        """Return the cells of its row in the table."""
        return [
            self.name,
            "" if self.trainable is None else f"{self.trainable:,}",
            "" if self.share is None else f"{self.share:.1%}",
            *(_median(self.values(metric), ".4g") for metric in metrics),
            _median(self._times(), ".2f"),
            "" if self.gradient_bytes is None else human_bytes(self.gradient_bytes),
        ]

    def failure(self) -> str:
        """Say in how many runs it failed, and why."""
        runs = "" if len(self.runs) == 1 else f" in {self.failed} of {len(self.runs)} runs"
        return f"{self.name} failed{runs}: {self.error}"

    def __repr__(self) -> str:
        return one_line(self, f"{self.name}, {self.metrics or self.error}")

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "total": self.total,
            "share": self.share,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "gradient_bytes": self.gradient_bytes,
            "error": self.error,
            "runs": [{**vars(run), "metrics": dict(run.metrics)} for run in self.runs],
        }


@checked_methods
@dataclass(frozen=True)
class Comparison:
    """The results of several plans.

    Attributes:
        rows: A row for each plan, in the order given.
        framework: Framework of the models.
        device: Device of the models: "cpu" or "gpu".
    """

    rows: tuple[PlanRow, ...]
    framework: str
    device: str

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of any run."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def best(self, metric: str, *, mode: Literal["min", "max"]) -> PlanRow:
        """Return the row with the best median, or the first of equals, without plans that failed.

        With one run each, or if runs of one plan differ more than plans do, it may be chance.

        Args:
            metric: Its name; "metric" where `evaluate` gave a bare number.
            mode: Whether the lowest (`min`) or the highest (`max`) is best.

        Raises:
            UnifreezeError: No plan that held has such a metric.
        """
        choose: dict[str, Callable[..., PlanRow]] = {"min": min, "max": max}
        if mode not in choose:
            raise UnifreezeError(f"mode is {mode!r}", hint='"min" or "max"')
        rows = [row for row in self.rows if not row.error and metric in row.metrics]
        if not rows:
            close = nearest(metric, self.metrics, limit=1)
            raise UnifreezeError(
                f"no plan that held was measured by {metric!r}",
                context=f"measured: {', '.join(self.metrics) or 'nothing'}",
                hint=f"did you mean {close[0]!r}?" if close and close[0] != metric else "",
            )
        return choose[mode](rows, key=lambda row: row.metrics[metric])

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        rows = [row.to_json() for row in self.rows]
        return {"framework": self.framework, "device": self.device, "rows": rows}

    _repr_html_ = html_of

    def __repr__(self) -> str:
        return one_line(
            self, f"{counted(len(self.rows), 'plan')} in {self.framework} on {self.device}"
        )

    def __str__(self) -> str:
        count = max(len(row.runs) for row in self.rows)
        runs = "one run" if count == 1 else f"{count} runs (median, lowest and highest)"
        header = ("plan", "trainable", "share", *self.metrics, "seconds", "gradients")
        lines = [
            f"{self.framework} on {self.device}, {runs} of each plan from the same weights",
            plain_table(header, [row.cells(self.metrics) for row in self.rows]),
        ]
        return "\n".join([*lines, *(row.failure() for row in self.rows if row.error)])


def _median(values: Sequence[float], form: str) -> str:
    """Write the median, and the lowest and highest value."""
    if not values:
        return ""
    shown = number(median(values), form)
    low, high = number(min(values), form), number(max(values), form)
    return shown if len(values) == 1 else f"{shown} [{low}, {high}]"
