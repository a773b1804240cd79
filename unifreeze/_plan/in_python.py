"""Phases built in Python: written as in a plan file, and checked by the reader of plan files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from unifreeze._arguments.cures import EXAMPLES
from unifreeze._plan.document import read_document
from unifreeze._plan.fields import JOIN
from unifreeze._plan.model import FreezePlan
from unifreeze._plan.plain_parts import plain
from unifreeze.errors import PlanError, PlanFileError

_WHOLE = '.phase("top", at={"epoch": 5}, add=[{"train": "blocks[-2:]"}], lr=1e-4)'

_RULES = 'rules={"only": "head | blocks[-1]"}'
_HINTS = {
    "an earlier phase has that name": 'give each phase a name of its own: .phase("top 2", …)',
    "has rules and": "leave one out: rules begins anew, add goes on from the phase before, and "
    "like from an earlier one",
    "has at and": 'leave one out: at={"epoch": 5} counts from the start of the run, and '
    'after={"epochs": 2} from the start of the phase before',
    "has after and": 'leave one out: after={"epochs": 2} goes by time, when={…} by a metric',
    "one of them": "leave one out; the other goes into a phase of its own",
    "the first phase begins at once": "leave that out of the first phase; it belongs to the next: "
    '.phase("head", rules={"only": "head"}).phase("top", at={"epoch": 3}, …)',
    "there is no such phase before it": "like names an earlier phase; to go on from the one just "
    "before, leave it out",
    "changes nothing": 'say what is new: add={"train": "blocks[-2:]"}, rules={…} or lr=1e-4',
    "training has ended before it": "put the phase with stop=True last",
    "can never be entered": "phases stand in the order in which they begin: give a later epoch or "
    "step, or put it earlier",
    "needs a start": 'add at={"epoch": 5}, after={"epochs": 2} or when={"metric": …}',
    "training ends there": "leave out all but its name, when it begins, and stop=True",
    "to begin from": "put a phase before it",
    "the first phase unfreezes nothing": "leave warmup out, and give the optimizer a scheduler",
    "a generator makes": "put the rules into a phase before it",
    "restore_best needs": 'add when={"metric": "val_loss", "stalled_for": 2}, or leave it out',
}
"""What to write instead, by a part of the error message; the first match counts."""


def with_phase(plan: FreezePlan, said: Mapping[str, Any]) -> FreezePlan:
    """Return a plan with one more phase.

    Args:
        plan: The plan.
        said: The phase by the keys of a plan file; None, False and "" stand for a missing key.

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
    """Return a phase as it would be read from a file."""
    if key in ("rules", "add"):
        return _rules(key, value)
    return _as_read(value)


def _rules(key: str, value: Any) -> Any:
    """Return rules that are given as a list, as one rule, or as a plan of rules."""
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
            f"{key} of a phase is a captured plan, and in a phase nothing checks what it decides",
            context="a captured plan is checked where its rules hold from the beginning",
            hint="add the phase to it: captured.phase(…); or give its rules unchecked: "
            f"{key}=FreezePlan(captured.rules)",
        )
    return plain(value.rules)


def _as_read(value: Any) -> Any:
    """Return plain data with lists for all sequences, and Python numbers for NumPy's numbers."""
    if isinstance(value, Mapping):
        return {key: _as_read(item) for key, item in value.items()}
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        return value.item()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_as_read(item) for item in value]
    return value


def _hint(mistakes: tuple[str, ...]) -> str:
    """Return what to write in place of the first mistake."""
    first = mistakes[0]
    for part, hint in _HINTS.items():
        if part in first:
            return hint
    if JOIN in first:
        return f"several selectors are one, joined by |: {first.partition(JOIN)[2]}"
    key = re.match(r"phases\[\d+\]\.(\w+)", first)
    name = key[1] if key else ""
    return f"for example {_RULES if name == 'rules' else EXAMPLES.get(name, _WHOLE)}"
