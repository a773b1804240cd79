"""Lets `paddle.incubate.LookAhead` thaw parameters, and save all that it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import paddle
from paddle.incubate import LookAhead

from unifreeze.backend import LiveTensor
from unifreeze_paddle import _engines as engines
from unifreeze_paddle._wrapped_optimizers import is_named

_KEY = "unifreeze_look_ahead"
"""The entry of a saved state with the slow weights and the count of steps."""


def _prepare(optimizer: Any) -> None:
    """Let slow weights begin at a parameter's value, also if it is thawed later, and be saved.

    Paddle fills them at the first step alone, so those of a thawed parameter would begin at zero.
    It saves them without the states of the optimizer inside, and without the count of steps.
    """
    vars(optimizer)["_create_accumulators"] = partial(_create_slow_weights, optimizer)
    paddles_state, paddles_load = optimizer.state_dict, optimizer.set_state_dict

    def state_dict() -> dict[str, Any]:
        inner = optimizer.inner_optimizer.state_dict()
        if not is_named(inner):  # no plan knows of it
            return dict(paddles_state())
        count = optimizer._global_step_var
        slow = optimizer._accumulators[optimizer._slow_str]
        numbers = {tensor.name: number for number, tensor in enumerate(optimizer._parameter_list)}
        state = {str(numbers[name]): value for name, value in slow.items()}
        return {**inner, _KEY: {"slow": state, "count": 0 if count is None else int(count.item())}}

    def load(state_dict: Mapping[str, Any]) -> None:
        if _KEY not in state_dict:
            paddles_load(state_dict)
            return
        inner = {key: value for key, value in state_dict.items() if key != _KEY}
        optimizer.inner_optimizer.set_state_dict(inner)
        saved = state_dict[_KEY]
        tensors = [optimizer._parameter_list[int(number)] for number in saved["slow"]]
        _create_slow_weights(
            optimizer, paddle.static.default_main_program().global_block(), tensors
        )
        slow = optimizer._accumulators[optimizer._slow_str]
        for tensor, value in zip(tensors, saved["slow"].values(), strict=True):
            slow[tensor.name].set_value(value)
        if optimizer._global_step_var is None:
            optimizer._increment_global_var()
        paddle.assign(
            paddle.full_like(optimizer._global_step_var, saved["count"]), optimizer._global_step_var
        )

    optimizer.state_dict = state_dict
    optimizer.set_state_dict = optimizer.load_state_dict = load


def _create_slow_weights(optimizer: Any, block: Any, parameters: Sequence[LiveTensor]) -> None:
    known = optimizer._accumulators[optimizer._slow_str]
    new = [tensor for tensor in parameters if tensor.name not in known]
    type(optimizer)._create_accumulators(optimizer, block, new)
    for tensor in new:
        optimizer._accumulators[optimizer._slow_str][tensor.name].set_value(tensor.detach())


def watch_new_ones() -> None:
    """Prepare each LookAhead when it is made."""
    engines.call_after(LookAhead, "__init__", _prepare)
