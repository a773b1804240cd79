"""Regular expressions that users write (`re:"…"`), matched against names within a time limit.

Python's own `re` cannot be stopped, and some expressions of ten letters take it years. They are
matched by the package `regex`, which reads the same expressions and can be stopped; they take no
part in the one pass over all names that the other selectors share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from functools import wraps
from time import monotonic
from typing import Any, Literal, ParamSpec, TypeVar

from unifreeze.errors import ResolveError, SelectorSyntaxError, cut

P = ParamSpec("P")
T = TypeVar("T")
MOST_SECONDS = 1.0
"""Time that one expression may take on the names of a small model."""
NAMES_ALONE = 50_000
"""Names beyond which an expression may take longer; plain ones take a tenth of that time."""
TOGETHER = 4.0
"""Time that all expressions of a plan may take on the names of a small model."""
NAMES_TOGETHER = 2_500
"""Names beyond which they may take longer: enough for 200 plain ones."""
_spent: ContextVar[list[float] | None] = ContextVar("_spent", default=None)
"""Seconds that expressions have taken, where they are limited together."""


def limited_together(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function limit the time of all expressions that are matched while it runs."""

    def begin(*args: P.args, **kwargs: P.kwargs) -> T:
        _spent.set([])
        return function(*args, **kwargs)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if _spent.get() is not None:
            return function(*args, **kwargs)
        # In a context of its own, so that nothing is left of it wherever it is interrupted.
        return copy_context().run(begin, *args, **kwargs)

    return call


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
    seconds = MOST_SECONDS + len(names) / NAMES_ALONE
    together = TOGETHER + len(names) / NAMES_TOGETHER
    spent = _spent.get()
    left = together - sum(spent or ())
    start = monotonic()
    end = start + min(seconds, left)
    try:
        return [bool(matches(name, timeout=_until(end))) for name in names]
    except TimeoutError:
        shown = repr(cut(pattern, 120))
        alone = (
            f"regular expression {shown} takes more than {seconds:.1f} s on {len(names):,} names"
        )
        all_of_them = (
            f"the plan's regular expressions take more than {together:.1f} s together on "
            f"{len(names):,} names; the last is {shown}"
        )
        raise ResolveError(
            all_of_them if left < seconds else alone,
            hint="write it without one repetition inside another, or use a path: **.bias",
        ) from None
    finally:
        if spent is not None:
            spent.append(monotonic() - start)


def _until(end: float) -> float:
    """Return how many seconds are left.

    Raises:
        TimeoutError: None are.
    """
    seconds = end - monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
