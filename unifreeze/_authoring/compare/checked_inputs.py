"""Checks of what users give to `compare_plans`: plans, metrics, and what `train` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from unifreeze._plan import FreezePlan
from unifreeze._protocol import backend_for
from unifreeze._protocol.live import Model
from unifreeze.errors import PlanError, TargetError, brief, listing

Metrics = float | Mapping[str, float]
Plans = Mapping[str, FreezePlan | str | Path] | Sequence[FreezePlan | str | Path]


def named_plans(plans: Any) -> dict[str, FreezePlan]:
    """Read plans by name; in a list, plans are named by position, and plan files by their stem.

    Raises:
        PlanError: There is no plan, something is not a plan, or a name is given twice.
        PlanFileError: A file has mistakes.
    """
    pairs = [*plans.items()] if isinstance(plans, Mapping) else [*enumerate(plans, start=1)]
    if not pairs:
        raise PlanError("there is no plan to compare", hint='{"head": FreezePlan().only("head")}')
    named: dict[str, FreezePlan] = {}
    for key, plan in pairs:
        is_file = isinstance(plan, str | Path)
        name = Path(plan).stem if is_file else f"plan {key}"
        name = str(key) if isinstance(plans, Mapping) else name
        if not name:
            raise PlanError(f"{name!r} cannot name a plan", hint="a word")
        if name in named:
            raise PlanError(
                f"two plans are called {name!r}",
                context=f"given: {listing(str(p) for p in plans if not isinstance(p, FreezePlan))}",
                hint='name them: {"one": "a/plan.yaml", "other": "b/plan.yaml"}',
            )
        named[name] = FreezePlan.load(plan) if is_file else plan
    return named


def check_same_model(model: Model, returned: Any) -> None:
    """Refuse a `train` that returns another model than it was given.

    Raises:
        TargetError: It does.
    """
    if returned is not model and _is_module_like(model, returned):
        raise TargetError(
            "train returned another model than it was given",
            hint="train in place; build and change models in make_model",
        )


def _is_module_like(model: Model, value: Any) -> bool:
    """Return whether a value is a model of the framework, and not an optimizer or a tensor."""
    root = backend_for(model).name
    shared = set(type(model).__mro__) & set(type(value).__mro__)
    return any(base.__module__.partition(".")[0] == root for base in shared)


def read_metrics(returned: object) -> dict[str, float]:
    """Read what `evaluate` returned.

    Raises:
        TargetError: A metric is not a finite number.
    """
    named = returned if isinstance(returned, Mapping) else {"metric": returned}
    if not named:
        raise TargetError("evaluate returned no metric", hint="return a number, or several by name")
    return {str(name): _metric(str(name), value) for name, value in named.items()}


def _metric(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        metric = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TargetError(
            f"evaluate returned {brief(value)} for {name!r}, and that is not a number",
            hint='return a number, or several by name: {"accuracy": 0.93}',
        ) from None
    if not isfinite(metric):
        raise TargetError(
            f"evaluate returned {metric} for {name!r}",
            context="a training that diverges gives that: the weights are not finite",
            hint="a lower learning rate, or clipped gradients",
        )
    return metric
