"""Param groups: parameters that share an optimizer's settings, the same in every phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unifreeze._protocol import Backend, ParamGroup, Rate
from unifreeze._resolution import Resolution
from unifreeze.errors import OptimizerError, counted, listing

Classes = list[tuple[str, ...]]


def param_groups(resolution: Resolution, warmed: Classes | None = None) -> tuple[ParamGroup, ...]:
    """Group a resolution's trainable parameters by their optimizer settings.

    Args:
        resolution: The decisions.
        warmed: For each parameter, the phases that unfreeze it with a warm-up of its rate; a group
            holds only parameters with the same phases.
    """
    spec = resolution.spec
    members: dict[tuple[float, float | None, tuple[str, ...]], list[str]] = {}
    for number in spec.canonical_order:
        if resolution.trainable[number]:
            decay = float(resolution.weight_decay[number])
            key = (
                float(resolution.lr_scale[number]),
                None if np.isnan(decay) else decay,
                warmed[number] if warmed else (),
            )
            path = spec.tree.names[spec.first_names[number]]
            members.setdefault(key, []).append(path)
    return tuple(
        ParamGroup(_name(*key), tuple(paths), key[0], key[1]) for key, paths in members.items()
    )


def check_in_place(backend: Backend, model: Any, groups: Sequence[ParamGroup]) -> None:
    """Refuse to train parameters that are offloaded: their objects are replaced at each pass.

    Raises:
        OptimizerError: Naming the parameters.
    """
    trained = {path for group in groups for path in group.paths}
    offloaded = [path for path in backend.offloaded(model) if path in trained]
    if offloaded:
        many = "parameters that the plan trains are"
        which = counted(len(offloaded), "parameter that the plan trains is", many)
        raise OptimizerError(
            f"{which} offloaded: {listing(offloaded)}",
            context="each forward pass puts new objects in their place, so an optimizer that holds "
            "the current ones would train nothing",
            hint="freeze them, or load the model without offloading these modules",
        )


def check_optimizers(
    backend: Backend, model: Any, groups: Sequence[ParamGroup], optimizers: Sequence[Any]
) -> None:
    """Refuse optimizers that lack a parameter that the plan trains, or a setting of the plan.

    Raises:
        OptimizerError: Naming the parameters, or the groups.
    """
    check_in_place(backend, model, groups)
    tensors = [t for optimizer in optimizers for t in backend.optimizer_parameters(optimizer)]
    held, live = set(map(id, tensors)), backend.objects(model)
    paths = [path for group in groups for path in group.paths]
    if missing := [path for path in paths if id(live[path]) not in held]:
        raise OptimizerError(
            f"the optimizer lacks {counted(len(missing), 'parameter')} that the plan trains: "
            f"{listing(missing)}",
            hint="build it over all of them: handle.optimizer(cls, …), or over model.parameters(), "
            "as frozen ones cost it nothing",
        )
    special = [group for group in groups if group.lr_scale != 1 or group.weight_decay is not None]
    if special and (unset := backend.unset_groups(model, optimizers, special)):
        raise OptimizerError(
            "the plan sets learning rates or weight decay by group, and the optimizer was built "
            "without these groups",
            context=f"they are: {', '.join(group.name for group in unset)}",
            hint="build it with them: handle.optimizer(cls, lr=…)",
        )


def group_rates(
    backend: Backend, model: Any, groups: Sequence[ParamGroup], optimizer: Any, rate: Rate
) -> dict[str, float]:
    """Return the rate at which an optimizer's next step would train each group.

    Args:
        backend: The model's backend.
        model: The live model.
        groups: The plan's groups.
        optimizer: The optimizer; None if there is none.
        rate: How the current phase changes its settings.

    Raises:
        OptimizerError: There is no optimizer, or it lacks parameters of a group.
    """
    if optimizer is None:
        raise OptimizerError(
            "the handle has no optimizer, so there are no rates",
            context="it knows the one that handle.optimizer built last, or, of a plan with phases, "
            "the one attached",
            hint="optimizer = handle.optimizer(cls, lr=1e-3), and keep it; in a plan with phases "
            "also handle.attach(optimizer)",
        )
    check_optimizers(backend, model, groups, [optimizer])
    live = backend.objects(model)
    named: dict[str, float] = {}
    for group in groups:
        tensors = [live[path] for path in group.paths]
        factors = [rate.fresh_factor if id(tensor) in rate.fresh else 1.0 for tensor in tensors]
        scheduled = backend.rates(optimizer, tensors)
        rates = [rate.factor * lr * factor for lr, factor in zip(scheduled, factors, strict=True)]
        counts = {lr: rates.count(lr) for lr in rates}
        for lr, count in counts.items():  # a model's author may scale some in Paddle
            name = group.name if len(counts) == 1 else f"{group.name} ({count} at {lr:g})"
            named[name] = lr
    return named


def _name(lr_scale: float, weight_decay: float | None, warmed: tuple[str, ...]) -> str:
    decay = "" if weight_decay is None else f", weight decay {weight_decay:g}"
    phases = f", warmed up in {', '.join(warmed)}" if warmed else ""
    return f"lr x {lr_scale:g}{decay}{phases}"
