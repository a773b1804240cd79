"""How large a plan may be: a file beyond these limits is refused before it takes time or memory."""

from __future__ import annotations

from collections.abc import Mapping

MOST_CHARACTERS = 1_000_000
"""Characters in the text of a plan."""
MOST_VALUES = 50_000
"""Mappings, lists, keys and plain values in a plan."""
DEEPEST = 30
"""Mappings and lists inside each other."""
MOST_PHASES = 1_000
"""Phases that a plan may list."""
MOST_PERIODS = 10_000
"""Phases that a generator may be told to make."""
LARGEST_NUMBER = 2**63 - 1

TOO_LONG = f"it is longer than a plan may be ({MOST_CHARACTERS:,} characters)"
TOO_MANY = f"it holds more values than a plan may have ({MOST_VALUES:,})"
TOO_DEEP = f"it is nested too deeply (a plan: {DEEPEST} levels at most)"
TOO_LARGE = "it holds a whole number of more than 63 bits"


def beyond_limits(data: object) -> str:
    """Return why plain data is more than a plan may hold, "" if it is not.

    >>> beyond_limits({"unifreeze": 1}), beyond_limits([2**80])
    ('', 'it holds a whole number of more than 63 bits')
    """
    left, waiting = MOST_VALUES, [(data, 1)]
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if isinstance(value, Mapping | list | tuple):
            if depth > DEEPEST:
                return TOO_DEEP
            if len(value) > left:
                return TOO_MANY
            items = [*value, *value.values()] if isinstance(value, Mapping) else value
            waiting += [(item, depth + 1) for item in items]
        elif isinstance(value, int) and not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
            return TOO_LARGE
        elif isinstance(value, str) and (problem := _text_problem(value)):
            return problem
        if left < 0:
            return TOO_MANY
    return ""


def _text_problem(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        return TOO_LONG
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"it holds {text[error.start]!a}, which is half of a character"
    return ""
