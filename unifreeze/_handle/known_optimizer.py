"""The optimizer that trains under a plan without phases: known to the handle, never changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from unifreeze._handle.in_force import PlanInForce
from unifreeze._protocol import Rate
from unifreeze.errors import OptimizerError


class KnownOptimizer:
    """The optimizer that the handle built last, if it is still there.

    `SteeredOptimizer` has the same methods, for plans with phases.
    """

    def __init__(self, plan: PlanInForce) -> None:
        self._plan = plan
        self._optimizer: Callable[[], Any] = lambda: None

    @property
    def optimizer(self) -> Any:
        """The optimizer; None if there is none."""
        return self._optimizer()

    def take(self, optimizer: Any) -> None:
        """Remember an optimizer that the handle has built, without keeping it alive."""
        self.check([optimizer])
        self._optimizer = weakref.ref(optimizer)

    def attach(self, optimizer: Any) -> None:
        """Refuse an optimizer that was built elsewhere; raises as `Handle.attach` does."""
        raise OptimizerError(
            "the plan has no phases, so there is nothing to steer",
            hint="leave attach out: an optimizer over the plan's parameters trains as it is",
        )

    def check(self, optimizers: Sequence[Any]) -> None:
        """Watch the first steps of optimizers, which may come before any forward pass."""
        self._plan.order.expect(self._plan.backend, *optimizers)
        self._plan.gradients.expect(self._plan.backend, *optimizers)

    def detach(self) -> None:
        """Do nothing: the optimizer is as it was."""

    def phase_began(self) -> None:
        """Do nothing: the rate is the optimizer's own."""

    def next_rate(self) -> Rate:
        """Return that the next step uses the optimizer's own settings."""
        return Rate()
