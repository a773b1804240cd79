"""What the script of the page reads: phases, and what happens to each parameter in them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unifreeze._drawing.looks import Codes, what_trains
from unifreeze._drawing.markup import Markup
from unifreeze._drawing.timeline import Timeline, TimelinePhase, rate_of
from unifreeze._resolution import Resolution
from unifreeze.errors import counted

_IN_SCRIPTS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
"""Signs that could end a script, or begin a comment in it, as JSON can write them."""


def script_json(value: object) -> Markup:
    r"""Write data as JSON that may stand in a `<script>`.

    >>> script_json({"</script>": 1})
    '{"\\u003c/script\\u003e":1}'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.translate(_IN_SCRIPTS))


def phase_facts(timeline: Timeline, notes: Sequence[Sequence[str]]) -> list[dict[str, object]]:
    """Return for each phase the lines that the page shows of it; `notes` are further lines."""
    count = len(timeline.phases)
    return [
        {
            "said": _said(phase, number, count),
            "counts": _counts(phase),
            "rules": _rules(phase.resolution),
            "notes": [*map(str, phase.resolution.notices), *further],
        }
        for number, (phase, further) in enumerate(zip(timeline.phases, notes, strict=True))
    ]


def _said(phase: TimelinePhase, number: int, count: int) -> str:
    name = phase.name or "the run"
    sentence = f"{number + 1} of {count}: {name}, {phase.begins}"
    if phase.stop:
        return f"{sentence}: training ends"
    decay = "" if phase.weight_decay is None else f", weight decay {phase.weight_decay:g}"
    return f"{sentence}, rate {rate_of(phase)}{decay}"


def _counts(phase: TimelinePhase) -> str:
    resolution = phase.resolution
    parts = [
        what_trains(resolution),
        f"{int(resolution.trainable.sum()):,} of {counted(len(resolution.spec), 'parameter')}",
        resolution.spec.framework,
    ]
    if resolution.held:
        held = counted(len(resolution.held), "layer holds its", "layers hold their")
        parts.insert(2, f"{held} statistics and other state")
    return " · ".join(parts)


def _rules(resolution: Resolution) -> list[str]:
    lines = [
        f"rule {number}: {effect.text} · matches {effect.matched:,}, decides {effect.decided:,} "
        f"({counted(effect.values, 'value')})"
        for number, effect in enumerate(resolution.effects, start=1)
    ]
    lines += map(str, resolution.rows)
    left = int((resolution.rule < 0).sum())
    return [*lines, f"left as found: {counted(left, 'parameter')}"] if left else lines


def story_facts(
    resolutions: Sequence[Resolution], looks: Sequence[Codes], order: NDArray[np.intp]
) -> tuple[list[dict[str, object]], list[int]]:
    """Return the different stories that parameters have, and which story each parameter has.

    A story is what a parameter looks like in each phase, and what decided that.

    Args:
        resolutions: What each phase decides.
        looks: What every parameter is drawn as in each phase.
        order: The parameters, in the order of the table.
    """
    tensors = resolutions[0].spec.tensors
    looks_of = np.stack(looks, axis=1).tolist()
    rules_of = np.stack([resolution.rule for resolution in resolutions], axis=1).tolist()
    numbers: dict[tuple[object, ...], int] = {}
    stories: list[dict[str, object]] = []
    story_of = []
    for parameter in order.tolist():
        row = looks_of[parameter]
        # All that a reason depends on; asking for the reason of each parameter would take long.
        key = (*row, *rules_of[parameter], tensors[parameter].fixed)
        if key not in numbers:
            numbers[key] = len(stories)
            reasons = [resolution.reason(parameter) for resolution in resolutions]
            stories.append({"looks": row, "reasons": reasons})
        story_of.append(numbers[key])
    return stories, story_of
