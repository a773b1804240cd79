"""The second protocol: build optimizers over a plan's groups, and steer them through phases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from unifreeze._protocol.live import LiveOptimizer, LiveTensor, Model
from unifreeze._protocol.optimizer_settings import Control, ParamGroup
from unifreeze._protocol.results import Undo


@runtime_checkable
class OptimizerBackend(Protocol):
    """One framework's optimizers."""

    def param_groups(
        self, model: Model, groups: Sequence[ParamGroup], *, lr: float | None
    ) -> list[dict[str, Any]]:
        """Build param groups as this framework's optimizers take them."""

    def optimizer(
        self, model: Model, cls: type, groups: Sequence[ParamGroup], settings: Mapping[str, Any]
    ) -> LiveOptimizer:
        """Build an optimizer; `settings` use neutral names (`lr`, `weight_decay`)."""

    def optimizer_parameters(self, optimizer: LiveOptimizer) -> list[LiveTensor]:
        """Return the live tensors that an optimizer updates."""

    def unset_groups(
        self, model: Model, built: Sequence[LiveOptimizer], groups: Sequence[ParamGroup]
    ) -> list[ParamGroup]:
        """Return those of a plan's groups whose settings some optimizers were not built with."""

    def without_rate(self, model: Model, optimizer: LiveOptimizer | None) -> dict[str, str]:
        """Return the parameters whose learning rate stays 0, by native path, each with the reason.

        Args:
            model: A live model.
            optimizer: The optimizer that trains it, or None.
        """

    def base_rate(self, optimizer: LiveOptimizer) -> float | None:
        """Return the learning rate an optimizer was built with; None if it has none."""

    def rates(self, optimizer: LiveOptimizer, tensors: Sequence[LiveTensor]) -> list[float]:
        """Return the learning rate that an optimizer has for each of some tensors now.

        It is the scheduler's current rate times the scale of the tensor's group. A phase's factor
        is not included: `steer` applies it at each step.
        """

    def steer(self, optimizer: LiveOptimizer, control: Control) -> Undo:
        """Take learning rate and weight decay from a phase, at each of an optimizer's steps.

        The scheduler's rate is multiplied during the step, and then put back, so that schedulers
        and saved states never contain a phase's rate.

        Args:
            optimizer: A live optimizer.
            control: Returns the rate and weight decay of each step.

        Raises:
            OptimizerError: It cannot be steered, or breaks when flags change; with the reason.
        """

    def on_step(self, optimizer: LiveOptimizer, call: Callable[[LiveOptimizer], bool]) -> None:
        """Call a function with an optimizer after its steps, until it returns True.

        Steps of an object that only wraps an optimizer may go unnoticed.
        """

    def has_gradients(self, optimizer: LiveOptimizer) -> bool:
        """Return whether anything that an optimizer updates has a gradient."""

    def refuse_mixed_rows(self, optimizer: LiveOptimizer) -> None:
        """Refuse an optimizer that moves the rows of a table that train by what is in the others.

        Raises:
            OptimizerError: It does, or it cannot be tried.
        """

    def clear_moments(self, optimizer: LiveOptimizer, tensors: Sequence[LiveTensor]) -> None:
        """Clear the moments that an optimizer keeps of some parameters."""

    def values_written(self, optimizer: LiveOptimizer, tensors: Sequence[LiveTensor]) -> None:
        """Copy new parameter values into the optimizer's master weights, where it keeps any."""

    def name_states(self, optimizer: LiveOptimizer, paths: Mapping[int, str]) -> None:
        """Store parameter names in an optimizer's saved states, and match states by them.

        Args:
            optimizer: A live optimizer.
            paths: Native path of each of its parameters, by identity.
        """
