"""Taking learning rate and weight decay from a phase, around each step of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from unifreeze.backend import Control, Undo
from unifreeze.errors import OptimizerError

OWN_DECAY = "weight_decay_by_plan"
"""Key in a param group that has its weight decay from the plan's groups."""


def base_rate(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the rate an optimizer was built with."""
    rate = optimizer.defaults.get("lr")
    if isinstance(rate, torch.Tensor):  # schedulers write into it, and say what it was
        groups = (group for group in optimizer.param_groups if group.get("lr") is rate)
        rate = next((group.get("initial_lr", rate) for group in groups), rate)
    return None if rate is None else float(rate)


def rates(optimizer: torch.optim.Optimizer, tensors: Sequence[torch.Tensor]) -> list[float]:
    """Return the rate of each tensor's group, as the last scheduler left it."""
    groups = optimizer.param_groups
    found = {id(tensor): group["lr"] for group in groups for tensor in group["params"]}
    return [float(found[id(tensor)]) for tensor in tensors]


def steer(optimizer: torch.optim.Optimizer, control: Control) -> Undo:
    """Multiply every group's rate for the time of each step; what schedulers see stays as it is.

    Raises:
        OptimizerError: It is not an optimizer of PyTorch, or moves what is frozen.
    """
    _check(optimizer, control)
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def put_back() -> None:
        while kept:
            group, own = kept.pop()
            group.update(own)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        put_back()  # a step that failed left them
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            return begin()
        after = _once_after(closure, begin)  # it is what makes the gradients
        if "closure" in kwargs:
            return args, {**kwargs, "closure": after}
        return (args[0], after, *args[2:]), kwargs

    def begin() -> None:
        control.begin_step()
        factor, decay, fresh, fresh_factor = control.rate()
        exempt = any(group.get("weight_decay") for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            changed: dict[str, Any] = {}
            own = factor
            if fresh and group["params"] and id(group["params"][0]) in fresh:
                own *= fresh_factor
            if own != 1 and group.get("lr") is not None:
                changed["lr"] = group["lr"] * own
            if decay is not None and _takes_decay(group, exempt=exempt):
                changed["weight_decay"] = decay
            kept.append((group, {name: group[name] for name in changed}))
            group.update(changed)

    def after(*_: Any) -> None:
        put_back()
        _refuse_made_up(optimizer)

    hooks = (
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
    )

    def undo() -> None:
        put_back()
        for hook in hooks:
            hook.remove()

    return undo


def on_step(optimizer: Any, call: Callable[[Any], bool]) -> None:
    """Call a function with an optimizer after its steps, until it returns True."""
    if not isinstance(getattr(optimizer, "_optimizer_step_post_hooks", None), dict):
        return  # it wraps one
    calls = [call]

    def after(stepping: Any, *_: Any) -> None:
        if calls and calls[0](stepping):
            calls.clear()  # PyTorch is going through its hooks, so this one stays

    optimizer.register_step_post_hook(after)


def _once_after(closure: Callable[[], Any], call: Callable[[], None]) -> Callable[[], Any]:
    """Return a closure after whose first run something is called."""
    calls = [call]

    def run() -> Any:
        result = closure()
        while calls:
            calls.pop()()
        return result

    return run


def _refuse_made_up(optimizer: torch.optim.Optimizer) -> None:
    """Stop a run whose optimizer gives frozen parameters a gradient, and so moves them.

    Some do in order to keep processes in step: `if p.grad is None: p.grad = zeros_like(p)`.
    """
    for number, group in enumerate(optimizer.param_groups):
        for tensor in group["params"]:
            if not tensor.requires_grad and tensor.grad is not None:
                raise OptimizerError(
                    f"{type(optimizer).__name__} made up a gradient for what is frozen, and has "
                    f"moved it by its weight decay or momentum (in param group {number})",
                    hint="take another optimizer; then start from the last checkpoint",
                )


def _takes_decay(group: dict[str, Any], *, exempt: bool) -> bool:
    """Tell whether a phase sets a group's decay: not by plan, nor where it has none beside others.

    Args:
        group: A param group.
        exempt: Some group has a decay, so that one without has none on purpose.
    """
    if "weight_decay" not in group or group.get(OWN_DECAY):
        return False
    return bool(group["weight_decay"]) or not exempt


def _check(optimizer: torch.optim.Optimizer, control: Control) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise OptimizerError(f"{type(optimizer).__name__} is not a torch optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise OptimizerError(
            "LBFGS keeps one direction over all parameters and moves frozen ones",
            hint="use a first-order optimizer",
        )
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
    """Drop the state of some parameters; it is made anew when they train again."""
    for tensor in tensors:
        optimizer.state.pop(tensor, None)


def processes() -> int:
    """Return how many processes train together."""
    distributed = torch.distributed
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1
