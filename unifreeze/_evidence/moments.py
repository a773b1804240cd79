"""Make running means and variances of two frameworks comparable: PyTorch's divide by n - 1."""

from __future__ import annotations

import numpy as np

from unifreeze._evidence.step_side import StepRunRow, StepSide
from unifreeze._numerics.projections import Array


class Moments:
    """One run's statistics, with the settings of their layers."""

    def __init__(self, side: StepSide, run: StepRunRow) -> None:
        self.run = run
        self.rows = {row.path: row for row in side.statistics}
        self.settings = {row.path: row.settings for row in side.layers}

    def scale(self, path: str) -> float:
        """Return the size that a difference of a statistic is divided by.

        A mean may be near zero while its values are not, so the spread of the values counts, too.
        """
        after = np.linalg.norm(self.run.statistics[path][1])
        row = self.rows[path]
        if row.role == "var":
            return float(after)
        owners = [r.path for r in self.rows.values() if r.owner == row.owner and r.role == "var"]
        spread = [np.sum(np.abs(self.run.statistics[path][1])) for path in owners]
        return float(after + np.sqrt(np.sum(spread)))


def corrected(moments: Moments, path: str) -> Array | str:
    """Return a statistic after the step as if its layer divided by n, or why that cannot be told.

    After k calls on n values per channel, a running variance v with momentum m has become
    (1-m)^k v plus the batches' part. PyTorch divides that part by n - 1, Paddle by n.
    """
    before, after = (np.asarray(values) for values in moments.run.statistics[path])
    row = moments.rows[path]
    settings = moments.settings.get(row.owner, {})
    if row.role != "var" or settings.get("running variance") != "unbiased":
        return after
    counts = moments.run.counts.get(row.owner, ())
    if row.held or not counts:
        return after
    momentum = settings.get("statistics momentum")
    if len(set(counts)) > 1:
        return "its batches vary in size"
    if not isinstance(momentum, float | int):
        return "its momentum is not a number"
    kept = (1 - momentum) ** len(counts) * before
    return np.asarray(kept + (after - kept) * (counts[0] - 1) / counts[0])
