"""Sees that something that exchanges gradients has wrapped a model under a plan.

Wrapping itself writes: it gives all processes the values of the first one, or divides parameters
among them. The values that frozen tensors have then are those that they are held to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from unifreeze._protocol import Backend, Undo
from unifreeze._undo import nothing
from unifreeze.errors import UnsupportedPlanError


class WrappingWatch:
    """Sees whether a model was wrapped since the plan took effect."""

    def __init__(self, has_rows: Callable[[], bool]) -> None:
        """Begin without watching anything.

        Args:
            has_rows: Returns whether rows of a table train in any phase.
        """
        self._has_rows = has_rows
        self._count = 0
        self._stop: Undo = nothing

    def watch(
        self, backend: Backend, model: Any, accept: Callable[[], None], check: Callable[[], None]
    ) -> Undo:
        """Take in a wrapping before the model first trains in it; return what stops the watch.

        Args:
            backend: The model's backend.
            model: The live model.
            accept: Takes the new values in.
            check: Refuses a plan with a phase that the wrapper does not allow; in every process,
                also in the one that has given the others its values.
        """
        self._stop()
        self._stop = nothing
        self._count = backend.wrappings(model)
        if backend.several() and not self._count:
            self._stop = backend.watch_training(
                model, partial(self._trains, backend, model, accept, check)
            )
        return self._stop

    def is_new(self, backend: Backend, model: Any) -> bool:
        """Return whether the model was wrapped since it was last taken in."""
        return backend.wrappings(model) > self._count

    def taken_in(self, backend: Backend, model: Any) -> None:
        """Note that the values of now are taken in."""
        self._count = backend.wrappings(model)

    def _trains(
        self, backend: Backend, model: Any, accept: Callable[[], None], check: Callable[[], None]
    ) -> None:
        """Take new values in, unless parameters are being gathered for this pass right now.

        Raises:
            UnsupportedPlanError: Parameters are divided, and rows of a table cannot be.
        """
        if backend.is_sharded(model):
            if self._has_rows() and self.is_new(backend, model):
                raise UnsupportedPlanError(
                    "processes have divided the model, and rows of a table train under its plan",
                    context="the rows that stay would move",
                    hint="train the whole table, or freeze it; or train under data parallelism",
                )
        elif self.is_new(backend, model):
            accept()
        elif backend.processes(model).count > 1:
            check()
        if backend.processes(model).count > 1:
            self._stop()
            self._stop = nothing
