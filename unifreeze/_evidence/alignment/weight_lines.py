"""The line of weights: does the port hold the first model's values already?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unifreeze._evidence.alignment.lines import MOST_DETAILS, Line
from unifreeze._protocol import Backend


def weight_lines(backend: Backend, model: Any, values: Mapping[str, Any]) -> list[Line]:
    """Compare the port's own values with those that the first model would give it.

    A port that holds most of the first model's values was meant to hold all of them. One that
    holds few has weights of its own, and only takes the first model's during the checks.
    """
    telling, differ = 0, []
    for path, wanted in values.items():
        stored = np.asarray(backend.tensor(model, path))
        same = np.array_equal(stored, np.asarray(wanted).astype(stored.dtype))
        own, given = np.asarray(stored, np.float64), np.asarray(wanted, np.float64)
        if not same:
            differ.append((path, _apart(own, given)))
        telling += bool(given.size > 1 and np.ptp(given))
    equal = telling - sum(np.ptp(np.asarray(values[path])) > 0 for path, _ in differ)
    facts: dict[str, str | int | float] = {
        "tensors": len(values),
        "values": sum(int(np.size(array)) for array in values.values()),
        "differ": len(differ),
    }
    lines = [Line(section="weights", key="carried", verdict="holds", facts=facts)]
    if not differ:
        return [*lines, Line(section="weights", key="holds them", verdict="holds", facts=facts)]
    if 2 * equal < telling:
        return [*lines, Line(section="weights", key="own weights", verdict="note", facts=facts)]
    details = tuple(f"{path}: {text}" for path, text in differ[:MOST_DETAILS])
    return [
        *lines,
        Line(section="weights", key="some differ", verdict="BROKEN", facts=facts, details=details),
    ]


def _apart(own: Any, given: Any) -> str:
    if own.shape != given.shape:
        return f"shape {list(own.shape)}, and {list(given.shape)} carried over"
    if own.ndim == 2 and own.shape[0] == own.shape[1] and np.array_equal(own, given.T):
        return "is the transpose of the first model's"
    size = float(np.linalg.norm(own - given) / (np.linalg.norm(given) or 1.0))
    return f"differs by {size:.1e}"
