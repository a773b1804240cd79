"""Calls from results to the modules that draw them.

These modules know the results, so each function here imports them when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unifreeze._drawing import Picture as Picture
    from unifreeze._drawing import Timeline as Timeline
    from unifreeze._evidence.alignment import AlignmentReport
    from unifreeze._handle.history import RunReport
    from unifreeze._plan import FreezePlan
    from unifreeze._resolution import Resolution


def html_of(value: object) -> str:
    """Return what a notebook shows of a result."""
    from unifreeze._drawing import html_of

    return html_of(value)


def freeze_map(resolution: Resolution, since: Resolution | None) -> Picture:
    """Draw what a plan does to a model."""
    from unifreeze._drawing import freeze_map

    return freeze_map(resolution, since)


def timeline(plan: FreezePlan, model: Any, batch: Any) -> Timeline:
    """Resolve a plan in each of its phases."""
    from unifreeze._drawing import timeline

    return timeline(plan, model, batch)


def run_chart(report: RunReport) -> Picture:
    """Draw the report of a run."""
    from unifreeze._drawing import run_chart

    return run_chart(report)


def loss_chart(report: AlignmentReport, language: str) -> Picture:
    """Draw the loss curves of an acceptance report."""
    from unifreeze._drawing import loss_chart

    return loss_chart(report, language)
