"""Assert in a test what a plan freezes, and that two models freeze the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unifreeze._arguments import checked
from unifreeze._evidence import Report, check_parity
from unifreeze._handle import resolve
from unifreeze._plan import FreezePlan
from unifreeze._protocol import backend_for
from unifreeze.errors import ParityError, counted

_SHOWN = 10


@checked
def assert_parity(plan: FreezePlan, model: Any, other: Any, *, batch: Any, **how: Any) -> Report:
    """Fail unless a plan means the same on two models, and training keeps it.

    Args:
        plan: The plan.
        model: A live model.
        other: The same network in another framework.
        batch: One batch of inputs for both.
        **how: Further arguments of `unifreeze.check_parity`.

    Returns:
        The report, for further assertions.

    Raises:
        ParityError: An `AssertionError` that names each broken clause and what breaks it.
    """
    __tracebackhide__ = True
    report = check_parity(plan, model, other, batch=batch, **how)
    report.raise_if_broken()
    return report


@checked
def assert_frozen(model: Any, plan: FreezePlan, *, batch: Any = None) -> None:
    """Fail unless a model's flags are those that a plan decides; nothing is written.

    Args:
        model: A live model, as some code has left it: by this library or by a loop of its own.
        plan: The plan.
        batch: One batch of inputs, to count positions in order of execution.

    Raises:
        ParityError: An `AssertionError` that names the parameters whose flags differ.
        ResolveError: The plan does not fit the model.
    """
    __tracebackhide__ = True
    resolution = resolve(plan, model, batch=batch)
    backend = backend_for(model)
    found = {row.path: row.trainable for row in backend.describe(model).parameters}
    _refuse_differences(
        f"{type(model).__name__} is not frozen as the plan says",
        (
            (row.path, found[row.path], trainable)
            for row, trainable in zip(
                resolution.spec.parameters, resolution.trainable.tolist(), strict=True
            )
        ),
        "the plan says",
    )


@checked
def assert_same_trainability(model: Any, other: Any) -> None:
    """Fail unless the same parameters train in two models, by their canonical names.

    Args:
        model: A live model.
        other: Another port of the same network, or another instance of it.

    Raises:
        ParityError: An `AssertionError` that names the parameters that train in one model
            alone, and those that only one model has.
    """
    __tracebackhide__ = True
    flags, others = (
        {row.name: row.trainable for row in backend_for(each).describe(each).parameters}
        for each in (model, other)
    )
    if alone := flags.keys() ^ others.keys():
        raise ParityError(
            f"the two models are not one network: {counted(len(alone), 'parameter')} in one alone",
            context=_listed(
                f"{name}: only in the {'first' if name in flags else 'second'}"
                for name in sorted(alone)
            ),
            hint="compare ports of one network, of one size",
        )
    _refuse_differences(
        "the two models do not train the same",
        ((name, flags[name], others[name]) for name in flags),
        "the other model says",
    )


def _refuse_differences(fact: str, rows: Iterable[tuple[str, bool, bool]], who: str) -> None:
    """Raise if flags differ; each row is a name, its flag, and the flag that it should have."""
    __tracebackhide__ = True
    words = {True: "trains", False: "frozen"}
    wrong = [
        f"{name}: {words[has]}, {who}: {words[should]}"
        for name, has, should in rows
        if has != should
    ]
    if wrong:
        raise ParityError(f"{fact}: {counted(len(wrong), 'parameter')}", context=_listed(wrong))


def _listed(lines: Iterable[str]) -> str:
    shown = list(lines)
    rest = [f"… and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return "\n".join([*shown[:_SHOWN], *rest])
