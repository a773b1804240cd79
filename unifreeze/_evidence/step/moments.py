"""Running means and variances of two frameworks, made comparable: one of them divides by n - 1."""

from __future__ import annotations

import numpy as np

from unifreeze._evidence.step.side import RunRow, StepSide
from unifreeze._numerics.projections import Array


class Moments:
    """One run's statistics, with what their layers say of them."""

    def __init__(self, side: StepSide, run: RunRow) -> None:
        self.run = run
        self.rows = {row.path: row for row in side.statistics}
        self.settings = {row.path: row.settings for row in side.layers}

    def scale(self, path: str) -> float:
        """Return what a difference of a statistic is relative to.

        A mean near zero is as uncertain as the values it is the mean of, so their spread counts.
        """
        after = np.linalg.norm(self.run.statistics[path][1])
        row = self.rows[path]
        if row.role == "var":
            return float(after)
        owners = [r.path for r in self.rows.values() if r.owner == row.owner and r.role == "var"]
        spread = [np.sum(np.abs(self.run.statistics[path][1])) for path in owners]
        return float(after + np.sqrt(np.sum(spread)))


def corrected(moments: Moments, path: str) -> Array | str:
    """Return a statistic after the step as if its layer divided by n; or why that is not known.

    After k calls on n values per channel, a running variance v with momentum m has become
    (1-m)^k v plus the batches' part, which PyTorch makes from sums over n - 1 and Paddle over n.
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
    if not isinstance(momentum, float | int) or len(set(counts)) > 1:
        return (
            "its momentum is not a number" if len(set(counts)) == 1 else "its batches vary in size"
        )
    kept = (1 - momentum) ** len(counts) * before
    return np.asarray(kept + (after - kept) * (counts[0] - 1) / counts[0])
