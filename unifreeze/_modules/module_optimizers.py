"""The optimizers of a framework of modules: two methods to write, the others have defaults."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unifreeze._modules.tensor_operations import TensorOperations
from unifreeze._protocol.live import LiveOptimizer, LiveTensor, Model
from unifreeze._protocol.optimizer_settings import Control, ParamGroup
from unifreeze._protocol.results import Undo
from unifreeze.errors import OptimizerError, brief


class ModuleOptimizers(TensorOperations):
    """The second protocol for a framework of modules.

    Without phases a framework needs `param_groups` and `optimizer` alone.
    """

    @abstractmethod
    def param_groups(
        self, model: Model, groups: Sequence[ParamGroup], *, lr: float | None
    ) -> list[dict[str, Any]]:
        """Build param groups as this framework's optimizers take them."""

    @abstractmethod
    def optimizer(
        self, model: Model, cls: type, groups: Sequence[ParamGroup], settings: Mapping[str, Any]
    ) -> LiveOptimizer:
        """Build an optimizer; `settings` use neutral names."""

    def optimizer_parameters(self, optimizer: LiveOptimizer) -> list[LiveTensor]:
        """Return the live tensors that an optimizer updates.

        Raises:
            OptimizerError: It is not an optimizer whose parameters this backend knows how to read.
        """
        raise OptimizerError(
            f"{self.name} cannot say what {brief(optimizer)} updates",
            hint="pass the optimizer that it steers: its .optimizer"
            if hasattr(optimizer, "optimizer")
            else f"pass one of {self.name}'s own optimizers, or leave it out",
        )

    def unset_groups(
        self, model: Model, built: Sequence[LiveOptimizer], groups: Sequence[ParamGroup]
    ) -> list[ParamGroup]:
        """Return groups whose settings some optimizers were not built with; [] by default."""
        return []

    def without_rate(self, model: Model, optimizer: LiveOptimizer | None) -> dict[str, str]:
        """Return parameters whose learning rate stays 0, by native path, each with the reason."""
        return {}

    def base_rate(self, optimizer: LiveOptimizer) -> float | None:
        """Return the learning rate an optimizer was built with; None if it has none."""
        raise self._no_schedules("read a learning rate")

    def rates(self, optimizer: LiveOptimizer, tensors: Sequence[LiveTensor]) -> list[float]:
        """Return the learning rate that an optimizer has for each of some tensors now."""
        raise self._no_schedules("read a learning rate")

    def steer(self, optimizer: LiveOptimizer, control: Control) -> Undo:
        """Take learning rate and weight decay from a phase, at each of an optimizer's steps."""
        raise self._no_schedules("steer an optimizer")

    def clear_moments(self, optimizer: LiveOptimizer, tensors: Sequence[LiveTensor]) -> None:
        """Clear the moments that an optimizer keeps of some parameters."""
        raise self._no_schedules("clear moments")

    def _no_schedules(self, job: str) -> OptimizerError:
        return OptimizerError(f"{self.name} has no schedules: it cannot {job}")

    def refuse_mixed_rows(self, optimizer: LiveOptimizer) -> None:
        """Do nothing: by default a framework refuses plans on rows of tables."""

    def on_step(self, optimizer: LiveOptimizer, call: Callable[[LiveOptimizer], bool]) -> None:
        """Do nothing: by default a framework does not report an optimizer's steps."""

    def has_gradients(self, optimizer: LiveOptimizer) -> bool:
        """Return whether anything that an optimizer updates has a gradient."""
        tensors = self.optimizer_parameters(optimizer)
        return any(self.get_gradient(tensor) is not None for tensor in tensors)

    def values_written(self, optimizer: LiveOptimizer, tensors: Sequence[LiveTensor]) -> None:
        """Copy new parameter values into master weights; by default there are none."""

    def name_states(self, optimizer: LiveOptimizer, paths: Mapping[int, str]) -> None:
        """Match an optimizer's saved states by parameter names; by default they are by position."""
