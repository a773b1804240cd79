"""Giving a PyTorch optimizer the learning rate and weight decay of a phase, at each step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from unifreeze.backend import Control, Undo, refuse_lbfgs, takes_phase_decay, undo_all
from unifreeze.errors import OptimizerError
from unifreeze_torch._distributed_checkpoints import initialises


def default_rate(cls: type) -> float | None:
    """Return the learning rate that an optimizer's class takes if none is given; None for none."""
    setting = inspect.signature(cls).parameters.get("lr")
    default = None if setting is None else setting.default
    return float(default) if isinstance(default, int | float) else None


def base_rate(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the learning rate an optimizer was built with, None if it has none.

    Raises:
        OptimizerError: It only wraps another optimizer.
    """
    if not hasattr(optimizer, "defaults"):
        raise OptimizerError(
            f"{type(optimizer).__name__} wraps another optimizer, and has no settings of its own",
            hint="give the handle the optimizer inside, which takes the steps: its .optim",
        )
    rate = optimizer.defaults.get("lr")
    if isinstance(rate, torch.Tensor):  # schedulers write into it; `initial_lr` is what it was
        groups = (group for group in optimizer.param_groups if group.get("lr") is rate)
        rate = next((group.get("initial_lr", rate) for group in groups), rate)
    return None if rate is None else float(rate)


def rates(optimizer: torch.optim.Optimizer, tensors: Sequence[torch.Tensor]) -> list[float]:
    """Return the rate of each tensor's group, as the last scheduler left it."""
    groups = optimizer.param_groups
    rate_of = {id(tensor): group["lr"] for group in groups for tensor in group["params"]}
    return [float(rate_of[id(tensor)]) for tensor in tensors]


def steer(optimizer: torch.optim.Optimizer, control: Control) -> Undo:
    """Multiply every group's rate for the time of each step; schedulers see their own rate.

    Raises:
        OptimizerError: It is not a torch optimizer, or it moves what is frozen.
    """
    _check(optimizer, control)
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def put_back() -> None:
        while kept:
            group, settings = kept.pop()
            group.update(settings)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        put_back()  # a step that failed did not
        if initialises():
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            return begin()
        after = _once_after(closure, begin)  # the closure computes the gradients
        if "closure" in kwargs:
            return args, {**kwargs, "closure": after}
        return (args[0], after, *args[2:]), kwargs

    def begin() -> None:
        control.begin_step()
        factor, decay, fresh, fresh_factor = control.rate()
        groups = optimizer.param_groups
        for group, takes in zip(groups, takes_phase_decay(groups, "weight_decay"), strict=True):
            changed: dict[str, Any] = {}
            scale = factor
            if fresh and group["params"] and id(group["params"][0]) in fresh:
                scale *= fresh_factor
            if scale != 1 and group.get("lr") is not None:
                changed["lr"] = group["lr"] * scale
            if decay is not None and takes:
                changed["weight_decay"] = decay
            kept.append((group, {name: group[name] for name in changed}))
            group.update(changed)

    def after(*_: Any) -> None:
        put_back()
        _refuse_made_up(optimizer)

    first = optimizer.register_step_pre_hook(before)
    last = optimizer.register_step_post_hook(after)
    return partial(undo_all, (put_back, first.remove, last.remove))


def on_step(optimizer: torch.optim.Optimizer, call: Callable[[Any], bool]) -> None:
    """Call a function with an optimizer after its steps, until it returns True."""
    if not isinstance(getattr(optimizer, "_optimizer_step_post_hooks", None), dict):
        return  # it wraps an optimizer
    calls = [call]

    def after(stepping: Any, *_: Any) -> None:
        if calls and not initialises() and calls[0](stepping):
            calls.clear()  # PyTorch is going through its hooks now, so none can be removed

    optimizer.register_step_post_hook(after)


def _once_after(closure: Callable[[], Any], call: Callable[[], None]) -> Callable[[], Any]:
    """Return a closure that also calls a function after its first run."""
    calls = [call]

    def run() -> Any:
        result = closure()
        while calls:
            calls.pop()()
        return result

    return run


def _refuse_made_up(optimizer: torch.optim.Optimizer) -> None:
    """Stop a run whose optimizer gives frozen parameters a gradient, and so moves them.

    Some optimizers do so to keep processes in step: `if p.grad is None: p.grad = zeros_like(p)`.
    """
    for number, group in enumerate(optimizer.param_groups):
        for tensor in group["params"]:
            if not tensor.requires_grad and tensor.grad is not None:
                raise OptimizerError(
                    f"{type(optimizer).__name__} made up a gradient for what is frozen, and has "
                    f"moved it by its weight decay or momentum (in param group {number})",
                    hint="take another optimizer; then start from the last checkpoint",
                )


def _check(optimizer: torch.optim.Optimizer, control: Control) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise OptimizerError(f"{type(optimizer).__name__} is not a torch optimizer")
    refuse_lbfgs(type(optimizer), torch.optim.LBFGS)
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer):
        raise OptimizerError(
            f"{type(optimizer).__name__} only passes on to the {type(inner).__name__} inside it",
            hint="attach that one: handle.attach(optimizer.optimizer)",
        )
    for warmed in control.warmed_sets():
        for number, group in enumerate(optimizer.param_groups):
            count = sum(id(tensor) in warmed for tensor in group["params"])
            if 0 < count < len(group["params"]):
                raise OptimizerError(
                    f"a phase warms up {count} of the {len(group['params'])} parameters in param "
                    f"group {number}, and PyTorch has one rate per group",
                    hint="build it over the plan's groups: handle.optimizer(cls, …)",
                )


def clear_moments(optimizer: torch.optim.Optimizer, tensors: Sequence[torch.Tensor]) -> None:
    """Drop the state of some parameters; the optimizer creates it again when they train again."""
    for tensor in tensors:
        optimizer.state.pop(tensor, None)
