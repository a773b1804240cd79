"""PaddlePaddle optimizers over a plan's groups.

Paddle writes a group's learning rate and weight decay onto its parameters, where they outlive the
optimizer and overrule the settings of the model's author. So these are remembered when the first
optimizer is built, taken into account, and put back when the plan is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import paddle

from unifreeze.backend import OWN_DECAY, LiveOptimizer, LiveTensor, ParamGroup, refuse_lbfgs
from unifreeze.errors import OptimizerError, brief
from unifreeze_paddle._wrapped_optimizers import rows_of

_MARK = "_unifreeze_found"


class _AuthorSettings(NamedTuple):
    """A parameter's own settings, as its model's author gave them."""

    lr_scale: float
    regularizer: Any


def param_groups(
    live: Mapping[str, LiveTensor], groups: Iterable[ParamGroup]
) -> list[tuple[ParamGroup, dict[str, Any]]]:
    """Build rows for an optimizer, each with its group of the plan.

    A group becomes one row for each learning rate that its parameters had before.
    """
    rows = []
    for group in groups:
        by_rate: dict[float, list[Any]] = {}
        for path in group.paths:
            by_rate.setdefault(_author_settings(live[path]).lr_scale, []).append(live[path])
        for rate, tensors in by_rate.items():
            row = {"params": tensors, "learning_rate": group.lr_scale * rate}
            if group.weight_decay is not None:
                row |= {"weight_decay": group.weight_decay, OWN_DECAY: True}
            rows.append((group, row))
    return rows


def parameters_of(optimizer: LiveOptimizer) -> list[LiveTensor]:
    """Return the live tensors an optimizer updates, those that other processes update included."""
    rows = rows_of(optimizer)
    return [t for row in rows for t in (row["params"] if isinstance(row, dict) else [row])]


def unset_groups(
    live: Mapping[str, LiveTensor], built: Iterable[LiveOptimizer], groups: Iterable[ParamGroup]
) -> list[ParamGroup]:
    """Return groups whose rate does not stand on their parameters, or decay in no optimizer."""
    rows = [row for optimizer in built for row in optimizer._param_groups]
    rows = [row for row in rows if isinstance(row, dict)]
    decayed = {id(tensor) for row in rows if row.get(OWN_DECAY) for tensor in row["params"]}

    def has(tensor: LiveTensor, group: ParamGroup) -> bool:
        rate = _author_settings(tensor).lr_scale * group.lr_scale
        return bool(
            tensor.optimize_attr["learning_rate"] == rate
            and (group.weight_decay is None or id(tensor) in decayed)
        )

    return [group for group in groups if not all(has(live[p], group) for p in group.paths)]


def write_masters(optimizer: LiveOptimizer, tensors: Iterable[LiveTensor]) -> None:
    """Bring master weights to the values of their parameters, or the next step undoes those."""
    masters = getattr(optimizer, "_master_weights", {})
    for tensor in tensors:
        if tensor.name in masters:
            master = masters[tensor.name]
            master.set_value(tensor.detach().astype(master.dtype))


def step_dense(optimizer: LiveOptimizer) -> None:
    """Step an optimizer, but refuse sparse gradients first.

    Paddle's AdamW fails on one only after writing where it should not; the process may abort.
    """
    for parameter in optimizer._parameter_list:
        gradient = parameter.grad
        if gradient is not None and gradient.is_selected_rows():
            raise OptimizerError(f"{type(optimizer).__name__} takes no sparse gradients")
    optimizer.step()


def build(
    cls: Any, rows: Sequence[tuple[ParamGroup, dict[str, Any]]], settings: Mapping[str, Any]
) -> Any:
    """Build an optimizer; `lr` becomes `learning_rate`, and Lamb names its decay its own way.

    Where the plan sets neither rate nor decay it is an ordinary one over a list of parameters.

    Raises:
        OptimizerError: It is not a Paddle optimizer, or would not do what the plan says.
    """
    plain = all(group.lr_scale == 1.0 and group.weight_decay is None for group, _ in rows)
    _check(cls, 1 if plain else len(rows), settings)
    names = {"lr": "learning_rate"}
    if issubclass(cls, paddle.optimizer.Lamb):
        names["weight_decay"] = "lamb_weight_decay"
    named = {names.get(key, key): value for key, value in settings.items()}
    if plain:
        # Paddle's high-level Model takes no groups.
        tensors = [tensor for _, row in rows for tensor in row["params"]]
        _put_back(tensors)
        return cls(parameters=tensors, **named)
    named_rows = [{names.get(key, key): value for key, value in row.items()} for _, row in rows]
    optimizer = cls(parameters=named_rows, **named)
    for group, row in rows:
        _settle_decay(cls, group, row["params"])
    return optimizer


def _check(cls: Any, rows: int, settings: Mapping[str, Any]) -> None:
    if not (isinstance(cls, type) and issubclass(cls, paddle.optimizer.Optimizer)):
        raise OptimizerError(
            f"{brief(cls)} is not a Paddle optimizer class",
            hint="for example handle.optimizer(paddle.optimizer.AdamW, lr=1e-3)",
        )
    refuse_lbfgs(cls, paddle.optimizer.LBFGS)
    if rows > 1 and isinstance(settings.get("grad_clip"), paddle.nn.ClipGradByGlobalNorm):
        raise OptimizerError(
            f"ClipGradByGlobalNorm would clip each of {rows} groups by a norm of its own",
            hint="clip before step(): paddle.nn.utils.clip_grad_norm_(model.parameters(), …)",
        )


def _settle_decay(cls: type, group: ParamGroup, tensors: Iterable[LiveTensor]) -> None:
    """Put each parameter's own decay back where the plan says nothing about it."""
    decoupled = issubclass(cls, paddle.optimizer.AdamW | paddle.optimizer.Lamb)
    for tensor in tensors:
        if group.weight_decay is None:
            tensor.regularizer = _author_settings(tensor).regularizer
        elif decoupled:
            tensor.regularizer = None


def _author_settings(tensor: LiveTensor) -> _AuthorSettings:
    """Return a parameter's settings from before the first optimizer of a plan."""
    settings: _AuthorSettings | None = tensor.__dict__.get(_MARK)
    if settings is None:
        settings = _AuthorSettings(tensor.optimize_attr["learning_rate"], tensor.regularizer)
        setattr(tensor, _MARK, settings)
    return settings


def _put_back(tensors: Iterable[LiveTensor]) -> None:
    for tensor in tensors:
        tensor.optimize_attr["learning_rate"], tensor.regularizer = _author_settings(tensor)


def forget(tensors: Iterable[LiveTensor]) -> None:
    """Put every parameter's own settings back."""
    marked = [tensor for tensor in tensors if _MARK in tensor.__dict__]
    _put_back(marked)
    for tensor in marked:
        del tensor.__dict__[_MARK]
