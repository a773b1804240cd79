"""Paddle's optimizers over a plan's groups, steered through phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import paddle

from unifreeze.backend import (
    LiveOptimizer,
    Model,
    ModuleBackend,
    ModuleOptimizers,
    ParamGroup,
    build_optimizer,
)
from unifreeze_paddle import _optimizer_moments as moments
from unifreeze_paddle import _optimizer_states as saved_states
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle import _phase_rates as steering


class PaddleOptimizers(ModuleOptimizers, ModuleBackend):
    """Builds `paddle.optimizer` optimizers; the rate of a group is a scale on the optimizer's."""

    base_rate = staticmethod(steering.base_rate)
    rates = staticmethod(steering.rates)
    steer = staticmethod(steering.steer)
    on_step = staticmethod(steering.on_step)
    clear_moments = staticmethod(moments.clear_moments)
    values_written = staticmethod(optimizers.write_masters)
    name_states = staticmethod(saved_states.name_states)

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
        if not isinstance(optimizer, paddle.optimizer.Optimizer):
            return super().optimizer_parameters(optimizer)
        return optimizers.parameters_of(optimizer)

    def unset_groups(
        self, model: Model, built: Sequence[LiveOptimizer], groups: Sequence[ParamGroup]
    ) -> list[ParamGroup]:
        """Return groups whose settings are not on their parameters or not in the optimizers."""
        return optimizers.unset_groups(self.objects(model), built, groups)

    def without_rate(self, model: Model, optimizer: LiveOptimizer) -> dict[str, str]:
        """Return what has a learning rate of 0; an optimizer's groups write it into parameters."""
        return {
            path: "ParamAttr(learning_rate=0), or a group of that rate"
            for path, tensor in self.objects(model).items()
            if getattr(tensor, "optimize_attr", {}).get("learning_rate") == 0
        }
