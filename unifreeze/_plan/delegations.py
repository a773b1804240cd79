"""Calls from `FreezePlan` to the modules that read, write, resolve and apply plans.

These modules import `FreezePlan`, so each function here imports one of them when it is called. No
other module of this folder imports a module that depends on the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unifreeze._handle import Handle as Handle
    from unifreeze._plan.model import FreezePlan
    from unifreeze._resolution import Resolution as Resolution


def with_phase(plan: FreezePlan, arguments: Mapping[str, Any]) -> FreezePlan:
    """Return a plan with one more phase, from the arguments of `FreezePlan.phase`."""
    from unifreeze._plan.in_python import with_phase

    return with_phase(plan, arguments)


def read_document(document: Mapping[str, Any]) -> FreezePlan:
    """Read the document of a plan that was changed in Python."""
    from unifreeze._plan.document import read_document

    return read_document(document, source="FreezePlan")


def read_data(data: Mapping[str, Any]) -> FreezePlan:
    """Read a plan given as plain data."""
    from unifreeze._plan.document import read_data

    return read_data(data)


def write_document(plan: FreezePlan) -> dict[str, Any]:
    """Return a plan as plain data."""
    from unifreeze._plan.document import write_document

    return write_document(plan)


def load_plan(path: Path) -> FreezePlan:
    """Read a plan file."""
    from unifreeze._plan.plan_file import load_plan

    return load_plan(path)


def parse_text(text: str) -> FreezePlan:
    """Read a plan from YAML text."""
    from unifreeze._plan.plan_file import parse_text

    return parse_text(text)


def plan_text(plan: FreezePlan) -> str:
    """Return a plan as YAML text."""
    from unifreeze._plan.plan_file import plan_text

    return plan_text(plan)


def save_text(path: str | Path, text: str) -> None:
    """Write the text of a plan file."""
    from unifreeze._plan.plan_file import save_text

    save_text(path, text)


def resolve(plan: FreezePlan, model: Any, *, batch: Any, phase: int | str) -> Resolution:
    """Decide every parameter of a model without touching it."""
    from unifreeze._handle import resolve

    return resolve(plan, model, batch=batch, phase=phase)


def expand(plan: FreezePlan, model: Any, *, batch: Any) -> FreezePlan:
    """Return a plan with plain phases in place of generators."""
    from unifreeze._handle import expand

    return expand(plan, model, batch=batch)


def apply(plan: FreezePlan, model: Any, *, batch: Any, keep_values: bool) -> Handle:
    """Put a plan in force on a live model."""
    from unifreeze._handle import apply

    return apply(plan, model, batch=batch, keep_values=keep_values)
