"""PyTorch's optimizers over a plan's groups, steered through phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from unifreeze.backend import (
    OWN_DECAY,
    LiveOptimizer,
    Model,
    ModuleBackend,
    ModuleOptimizers,
    ParamGroup,
    build_optimizer,
    refuse_lbfgs,
)
from unifreeze.errors import OptimizerError, brief
from unifreeze_torch import _optimizer_states as saved_states
from unifreeze_torch import _phase_rates as steering
from unifreeze_torch._held_rows import held


class TorchOptimizers(ModuleOptimizers, ModuleBackend):
    """Builds `torch.optim` optimizers; the rates of their groups are absolute."""

    base_rate = staticmethod(steering.base_rate)
    rates = staticmethod(steering.rates)
    steer = staticmethod(steering.steer)
    on_step = staticmethod(steering.on_step)
    clear_moments = staticmethod(steering.clear_moments)
    name_states = staticmethod(saved_states.name_states)
    refuse_mixed_rows = staticmethod(held.check)

    def param_groups(
        self, model: Model, groups: Sequence[ParamGroup], *, lr: float | None
    ) -> list[dict[str, Any]]:
        """Build param groups; rates are absolute, so a group with a scale needs `lr`."""
        live = self.objects(model)
        rows = []
        for group in groups:
            row: dict[str, Any] = {"params": [live[path] for path in group.paths]}
            row["name"] = group.name
            if lr is not None:
                row["lr"] = lr * group.lr_scale
            elif group.lr_scale != 1:
                raise OptimizerError(
                    f"group {group.name!r} scales the learning rate, and none was given",
                    hint="pass lr=…, the rate that lr_scale and layer_decay multiply",
                )
            if group.weight_decay is not None:
                row |= {"weight_decay": group.weight_decay, OWN_DECAY: True}
            rows.append(row)
        return rows

    def optimizer(
        self, model: Model, cls: type, groups: Sequence[ParamGroup], settings: Mapping[str, Any]
    ) -> Any:
        """Build a torch optimizer over a plan's groups."""
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
            raise OptimizerError(
                f"{brief(cls)} is not a torch optimizer class",
                hint="for example handle.optimizer(torch.optim.AdamW, lr=1e-3)",
            )
        refuse_lbfgs(cls, torch.optim.LBFGS)

        def build() -> Any:
            lr = settings.get("lr", steering.default_rate(cls))
            rows = self.param_groups(model, groups, lr=lr)
            return cls(rows, **settings)

        return build_optimizer(cls, settings, build)

    def optimizer_parameters(self, optimizer: LiveOptimizer) -> list[Any]:
        """Return the live tensors of an optimizer's groups."""
        groups = getattr(optimizer, "param_groups", None)
        if not isinstance(groups, list):
            return super().optimizer_parameters(optimizer)
        return [tensor for group in groups for tensor in group["params"]]

    def unset_groups(
        self, model: Model, built: Sequence[LiveOptimizer], groups: Sequence[ParamGroup]
    ) -> list[ParamGroup]:
        """Return groups whose name is on no param group of some optimizers."""
        live = self.objects(model)
        rows = [row for optimizer in built for row in optimizer.param_groups]
        name_of = {id(tensor): row.get("name") for row in rows for tensor in row["params"]}
        return [
            group
            for group in groups
            if any(name_of.get(id(live[path])) != group.name for path in group.paths)
        ]

    def without_rate(self, model: Model, optimizer: LiveOptimizer) -> dict[str, str]:
        """Return what is in a group with a rate of 0, unless a scheduler has set that rate."""
        groups = getattr(optimizer, "param_groups", [])
        groups = groups if isinstance(groups, list) else []
        still = [g for g in groups if float(g.get("lr", 1)) == float(g.get("initial_lr", 0)) == 0]
        tensors = {id(tensor) for group in still for tensor in group["params"]}
        named = self.objects(model).items()
        return {path: "a param group with lr=0" for path, tensor in named if id(tensor) in tensors}
