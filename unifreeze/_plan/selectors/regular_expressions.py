"""Regular expressions that users write (`re:"…"`), matched against names within a time limit.

Python's own `re` cannot be stopped, and some expressions of ten letters take it years. They are
matched by the package `regex`, which reads the same expressions and can be stopped; they take no
part in the one pass over all names that the other selectors share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from time import monotonic
from typing import Any, Literal

from unifreeze.errors import ResolveError, SelectorSyntaxError, cut

MOST_SECONDS = 1.0
"""Time that one expression may take on the names of a small model."""
_NAMES_PER_SECOND = 50_000
"""Names beyond which an expression may take longer; plain ones take a tenth of that time."""


def compile_expression(pattern: str, *, ignore_case: bool = False) -> Any:
    """Compile an expression that is written as for Python's `re`.

    Raises:
        SelectorSyntaxError: It does not compile.
    """
    import regex  # here, because it takes 60 ms, and few plans hold such an expression

    try:
        re.compile(pattern)
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except (re.error, regex.error, OverflowError, RecursionError, ValueError, MemoryError) as error:
        raise SelectorSyntaxError(
            f"regular expression {cut(pattern, 120)!r} does not compile: {error}"
        ) from None


def matching(
    pattern: str,
    names: Sequence[str],
    *,
    how: Literal["fullmatch", "search"] = "fullmatch",
    ignore_case: bool = False,
) -> list[bool]:
    """Return for each name whether an expression matches it.

    Raises:
        ResolveError: It takes too long.
    """
    matches = getattr(compile_expression(pattern, ignore_case=ignore_case), how)
    seconds = MOST_SECONDS + len(names) / _NAMES_PER_SECOND
    end = monotonic() + seconds
    try:
        return [bool(matches(name, timeout=max(end - monotonic(), 1e-6))) for name in names]
    except TimeoutError:
        raise ResolveError(
            f"regular expression {cut(pattern, 120)!r} takes more than {seconds:.1f} s on "
            f"{len(names):,} names",
            hint="write it without one repetition inside another, or use a path: **.bias",
        ) from None
