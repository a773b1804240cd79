"""Guards on modules that are copied with their model: when such a copy is released.

A copy of a model under a plan keeps the plan's guards: an average of weights must hold what the
model holds. But once somebody thaws in the copy what was frozen, or resets its statistics, the copy
will be trained by itself, and no plan would ever take its guards off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from unifreeze._protocol.live import Layer, LiveTensor


class CopiedGuard(ABC):
    """A guard that is on a module, and knows when its module is a copy that should be released.

    Attributes:
        module: The module.
        copied: The module came with a copy of a model under a plan.
        frozen: On a copy, names of the parameters that were frozen when it was copied.
        measured: On a copy, whether the module had gathered statistics then.
    """

    def __init__(self, module: Layer, *, copied: bool) -> None:
        self.module, self.copied = module, copied
        self.frozen: tuple[str, ...] = ()
        self.measured = False
        if copied:
            self.frozen, self.measured = self._as_copied()

    @abstractmethod
    def trains(self, parameter: LiveTensor) -> bool:
        """Return whether a parameter is trainable now."""

    @abstractmethod
    def is_reset(self) -> bool:
        """Return whether the module is a norm whose statistics have seen nothing yet."""

    def parameters(self) -> Iterable[tuple[str, LiveTensor]]:
        """Return the names and parameters of the module, and of all that is in it."""
        named: Iterable[tuple[str, LiveTensor]] = self.module.named_parameters()
        return named

    def is_thawed(self) -> bool:
        """Return whether any parameter that was frozen at the time of the copy trains now."""
        names = set(self.frozen)
        return any(self.trains(tensor) for name, tensor in self.parameters() if name in names)

    def _as_copied(self) -> tuple[tuple[str, ...], bool]:
        frozen = tuple(name for name, tensor in self.parameters() if not self.trains(tensor))
        return frozen, not self.is_reset()

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields of a copy; the original records what is frozen now."""
        state = dict(vars(self))
        if not self.copied:
            state["frozen"], state["measured"] = self._as_copied()
        return {**state, "copied": True}
