"""What a notebook shows of each result: a table that folds, a chart, or text that folds."""

from __future__ import annotations

from unifreeze._drawing.markup import Markup, element
from unifreeze._drawing.notebook_table import card, listed, resolution_table
from unifreeze._drawing.run_chart import run_chart
from unifreeze._handle import Handle
from unifreeze._handle.history import RunReport
from unifreeze._plan import FreezePlan
from unifreeze._resolution import Resolution

_SHORT = 25
"""Lines of text that are shown whole; more of them fold behind the first."""
_LONGEST = 50_000
"""Characters of text in one output; what is longer would make notebooks heavy."""


def html_of(value: object) -> str:
    """Return a result as HTML."""
    match value:
        case Resolution():
            return card(resolution_table(value))
        case Handle():
            return card(_handle(value))
        case RunReport():
            return card(Markup(run_chart(value)), _text(str(value)))
        case FreezePlan():
            return _text(str(value), longest=0)
        case _:
            return _text(str(value))


def _handle(handle: Handle) -> Markup:
    """Return what the current phase decides, and what is new in it."""
    in_force = handle._in_force
    schedule, resolutions = in_force.phases.schedule, in_force.phases.resolutions
    since = resolutions[schedule.phase - 1] if schedule.phase else None
    lines = [] if in_force.lasts else ["this plan is no longer in force"]
    if phase := schedule.named_phase:
        lines.append(f"phase {phase.name}, {schedule.phase + 1} of {len(resolutions)}")
    lines += filter(None, [handle._training.default_rate()])
    return Markup(listed(lines) + resolution_table(handle.resolution, since))


def _text(text: str, *, longest: int = _SHORT) -> Markup:
    """Return text with its first line as a heading; more lines than `longest` fold.

    It has no colours, so it needs no style.
    """
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}\n… print it to see the rest"
    first, _, rest = text.partition("\n")
    wrapped = "white-space:pre-wrap;margin:4px 0"
    if not longest or text.count("\n") < longest:
        return element("pre", text, style=wrapped)
    return element(
        "details", element("summary", element("b", first)), element("pre", rest, style=wrapped)
    )
