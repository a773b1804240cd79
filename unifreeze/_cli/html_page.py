"""The page that `explain --html` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from unifreeze._cli.unit_tables import savings
from unifreeze._drawing import report_page, timeline_of
from unifreeze._files import save_text
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Finding
from unifreeze._resolution import Resolution
from unifreeze._structure import ModelSpec


def write_page(
    path: str,
    plan: FreezePlan,
    spec: ModelSpec,
    check: Callable[[Resolution], Iterable[Finding]],
    *,
    title: str,
    start: int,
) -> None:
    """Write the page of a plan on a model.

    Args:
        path: The file.
        plan: The plan.
        spec: The model's description.
        check: Returns what the framework would refuse of a phase.
        title: What the model is called.
        start: The phase that is shown first.

    Raises:
        UnifreezeError: The file cannot be written.
    """
    timeline = timeline_of(plan, spec)
    notes = [
        [
            *(f"{spec.framework} would refuse: {finding}" for finding in check(resolution)),
            savings(resolution),
        ]
        for resolution in timeline.resolutions
    ]
    save_text(path, report_page(timeline, title=title, plan=str(plan), notes=notes, start=start))
