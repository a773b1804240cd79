"""Assert in a test that a plan has parity on two models."""

from __future__ import annotations

from typing import Any

from unifreeze._arguments import checked
from unifreeze._evidence import Report, check_parity
from unifreeze._plan import FreezePlan


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
