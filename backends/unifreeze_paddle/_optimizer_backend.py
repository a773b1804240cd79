"""Paddle's optimizers over a plan's groups, steered through phases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import paddle

from unifreeze.backend import (
    Control,
    LiveOptimizer,
    LiveTensor,
    Model,
    ModuleBackend,
    ModuleOptimizers,
    ParamGroup,
    Undo,
    build_optimizer,
)
from unifreeze_paddle import _optimizer_moments as moments
from unifreeze_paddle import _optimizer_states as saved_states
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle import _phase_rates as steering
from unifreeze_paddle._held_rows import held
from unifreeze_paddle._slow_weights import watch_new_ones
from unifreeze_paddle._wrapped_optimizers import innermost


class PaddleOptimizers(ModuleOptimizers, ModuleBackend):
    """Builds `paddle.optimizer` optimizers; the rate of a group is a scale on the optimizer's."""

    def base_rate(self, optimizer: LiveOptimizer) -> float | None:
        """Return the learning rate an optimizer was built with."""
        return steering.base_rate(innermost(optimizer))

    def rates(self, optimizer: LiveOptimizer, tensors: Sequence[LiveTensor]) -> list[float]:
        """Return the rate that an optimizer has for each of some tensors now."""
        return steering.rates(innermost(optimizer), tensors)

    def steer(self, optimizer: LiveOptimizer, control: Control) -> Undo:
        """Take learning rate and weight decay from a phase, at each step."""
        return steering.steer(innermost(optimizer), control)

    def on_step(self, optimizer: LiveOptimizer, call: Callable[[LiveOptimizer], bool]) -> None:
        """Call a function with an optimizer after its steps, until it returns True."""
        steering.on_step(innermost(optimizer), call)

    def refuse_mixed_rows(self, optimizer: LiveOptimizer) -> None:
        """Refuse an optimizer that moves the rows that train by what is in the others."""
        held.check(innermost(optimizer))

    def clear_moments(self, optimizer: LiveOptimizer, tensors: Sequence[LiveTensor]) -> None:
        """Reset the moments of some parameters."""
        moments.clear_moments(innermost(optimizer), tensors)

    def values_written(self, optimizer: LiveOptimizer, tensors: Sequence[LiveTensor]) -> None:
        """Bring master weights to the values of their parameters."""
        optimizers.write_masters(innermost(optimizer), tensors)

    def name_states(self, optimizer: LiveOptimizer, paths: Mapping[int, str]) -> None:
        """Match an optimizer's saved states by native paths."""
        saved_states.name_states(innermost(optimizer), paths)

    def param_groups(
        self, model: Model, groups: Sequence[ParamGroup], *, lr: float | None
    ) -> list[dict[str, Any]]:
        """Build param groups; a group's rate is a scale on the optimizer's, so `lr` is unused."""
        return [row for _, row in optimizers.param_groups(self.objects(model), groups)]

    def optimizer(
        self, model: Model, cls: type, groups: Sequence[ParamGroup], settings: Mapping[str, Any]
    ) -> Any:
        """Build a Paddle optimizer over a plan's groups."""
        rows = optimizers.param_groups(self.objects(model), groups)
        build = partial(optimizers.build, cls, rows, settings)
        return build_optimizer(cls, settings, build)

    def optimizer_parameters(self, optimizer: LiveOptimizer) -> list[Any]:
        """Return the live tensors of an optimizer's list or groups."""
        optimizer = innermost(optimizer)
        if not isinstance(optimizer, paddle.optimizer.Optimizer):
            return super().optimizer_parameters(optimizer)
        return optimizers.parameters_of(optimizer)

    def unset_groups(
        self, model: Model, built: Sequence[LiveOptimizer], groups: Sequence[ParamGroup]
    ) -> list[ParamGroup]:
        """Return groups whose settings are not on their parameters or not in the optimizers."""
        return optimizers.unset_groups(self.objects(model), map(innermost, built), groups)

    def without_rate(self, model: Model, optimizer: LiveOptimizer) -> dict[str, str]:
        """Return what has a learning rate of 0; an optimizer's groups write it into parameters."""
        return {
            path: "ParamAttr(learning_rate=0), or a group of that rate"
            for path, tensor in self.objects(model).items()
            if getattr(tensor, "optimize_attr", {}).get("learning_rate") == 0
        }


watch_new_ones()
