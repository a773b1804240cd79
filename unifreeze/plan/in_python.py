"""Phases built in Python: written as they stand in a plan file, and read by the same reader."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from unifreeze.arguments.cures import EXAMPLES
from unifreeze.errors import PlanError, PlanFileError
from unifreeze.plan.document import read_document
from unifreeze.plan.fields import JOIN, plain_rule
from unifreeze.plan.model import FreezePlan

_WHOLE = '.phase("top", at={"epoch": 5}, add=[{"train": "blocks[-2:]"}], lr=1e-4)'


def with_phase(plan: FreezePlan, said: Mapping[str, Any]) -> FreezePlan:
    """Return a plan with one more phase.

    Args:
        plan: The plan.
        said: What the phase says, by the keys of a plan file; None, False and "" say nothing.

    Raises:
        PlanError: A plan file would be refused for the same phase.
    """
    phase = {key: _plain(key, value) for key, value in said.items() if not _says_nothing(value)}
    document = plan.document()
    document["phases"] = [*document.get("phases", []), phase]
    try:
        return read_document(document, source="FreezePlan.phase")
    except PlanFileError as error:
        hint = _hint(error.mistakes)
        raise PlanFileError("FreezePlan.phase", error.mistakes, hint=hint) from None


def _says_nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, str) and not value)


def _plain(key: str, value: Any) -> Any:
    """Return what a phase says as it would be read from a file."""
    if key in ("rules", "add"):
        return _rules(key, value)
    return _as_read(value)


def _rules(key: str, value: Any) -> Any:
    """Return rules given as a list, as one rule, or as a plan that has nothing else."""
    if not isinstance(value, FreezePlan):
        return [_as_read(value)] if isinstance(value, Mapping) else _as_read(value)
    if value != FreezePlan(value.rules):
        raise PlanError(
            f"{key} of a phase is a plan that has more than rules",
            context="groups, policies and phases belong to the whole plan, not to one phase",
            hint=f"give rules alone: {key}=FreezePlan().train(…), or {EXAMPLES[key]}",
        )
    if value.captured is not None:
        raise PlanError(
            f"{key} of a phase is a captured plan, and in a phase nothing checks what it came to",
            context="a captured plan is checked where its rules hold from the beginning",
            hint="add the phase to it: captured.phase(…); or give its rules unchecked: "
            f"{key}=FreezePlan(captured.rules)",
        )
    return [plain_rule(rule) for rule in value.rules]


def _as_read(value: Any) -> Any:
    """Return plain data with lists for all sequences, and numbers for those of NumPy."""
    if isinstance(value, Mapping):
        return {key: _as_read(one) for key, one in value.items()}
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        return value.item()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_as_read(one) for one in value]
    return value


def _hint(mistakes: tuple[str, ...]) -> str:
    """Return what to write in place of the first mistake."""
    first = mistakes[0]
    if JOIN in first:
        return f"several selectors are one, joined by |: {first.partition(JOIN)[2]}"
    key = re.match(r"phases\[\d+\]\.(\w+)", first)
    return f"for example {EXAMPLES.get(key[1], _WHOLE) if key else _WHOLE}"
