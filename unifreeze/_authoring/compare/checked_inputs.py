"""What users give to a comparison, read with care: plans, metrics, and what `train` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from unifreeze._plan import FreezePlan
from unifreeze._protocol import backend_for
from unifreeze.errors import PlanError, TargetError, brief, listing

Metrics = float | Mapping[str, float]
Plans = Mapping[str, FreezePlan | str | Path] | Sequence[FreezePlan | str | Path]


def named_plans(plans: Any) -> dict[str, FreezePlan]:
    """Read plans by name; those of a list are named by position, plan files by their stem.

    Raises:
        PlanError: There is none, one is not a plan, or a name is given twice.
        PlanFileError: A file has mistakes.
    """
    pairs = [*plans.items()] if isinstance(plans, Mapping) else [*enumerate(plans, start=1)]
    if not pairs:
        raise PlanError("there is no plan to compare", hint='{"head": FreezePlan().only("head")}')
    found: dict[str, FreezePlan] = {}
    for key, plan in pairs:
        is_file = isinstance(plan, str | Path)
        name = (
            str(key)
            if isinstance(plans, Mapping)
            else Path(plan).stem
            if is_file
            else f"plan {key}"
        )
        if not name:
            raise PlanError(f"{name!r} cannot name a plan", hint="a word")
        if name in found:
            raise PlanError(
                f"two plans are called {name!r}",
                context=f"given: {listing(str(one) for one in plans if not _is_plan(one))}",
                hint='name them: {"one": "a/plan.yaml", "other": "b/plan.yaml"}',
            )
        found[name] = FreezePlan.load(plan) if is_file else plan
    return found


def _is_plan(value: object) -> bool:
    return isinstance(value, FreezePlan)


def check_in_place(model: Any, returned: Any) -> None:
    """Refuse a `train` that returns another model than it was given.

    Raises:
        TargetError: It does.
    """
    if returned is not model and _is_module_like(model, returned):
        raise TargetError(
            "train returned another model than it was given",
            hint="train in place; build and change models in make_model",
        )


def _is_module_like(model: Any, value: Any) -> bool:
    """Return whether a value is of the class that all of the framework's models are of.

    Its optimizers and tensors, which belong to the framework too, are not.
    """
    root = backend_for(model).name
    shared = set(type(model).__mro__) & set(type(value).__mro__)
    return any(base.__module__.partition(".")[0] == root for base in shared)


def read_metrics(given: object) -> dict[str, float]:
    """Read what `evaluate` returned.

    Raises:
        TargetError: It is not a number, or not a finite one.
    """
    named = given if isinstance(given, Mapping) else {"metric": given}
    if not named:
        raise TargetError("evaluate returned no metric", hint="return a number, or several by name")
    return {str(name): _metric(str(name), value) for name, value in named.items()}


def _metric(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TargetError(
            f"evaluate returned {brief(value)} for {name!r}, and that is not a number",
            hint='return a number, or several by name: {"accuracy": 0.93}',
        ) from None
    if not isfinite(found):
        raise TargetError(
            f"evaluate returned {found} for {name!r}",
            context="a training that diverges gives that: the weights are not finite",
            hint="a lower learning rate, or clipped gradients",
        )
    return found
