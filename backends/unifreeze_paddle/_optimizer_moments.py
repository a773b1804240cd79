"""Moments that a Paddle optimizer keeps of parameters: creating, clearing and loading them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import paddle
from paddle.optimizer import Optimizer

from unifreeze.errors import OptimizerError, listing
from unifreeze_paddle import _optimizers as optimizers


def create_moments(optimizer: Optimizer, tensors: Sequence[paddle.Tensor]) -> None:
    """Let an optimizer create the moments of some parameters, from a loaded state if it has one."""
    block = paddle.base.framework.default_main_program().global_block()
    optimizer._create_accumulators(block, tensors)


def load_pending_moments(optimizer: Optimizer) -> None:
    """Load a pending state at once, also for parameters that are frozen now.

    Paddle itself keeps a loaded state and loads the part of a parameter when that trains for the
    first time. A parameter without a state is an error then, and the next save loses the states of
    parameters that are still frozen.

    Raises:
        OptimizerError: The state is of other parameters.
    """
    loaded = optimizer._accumulators_holder
    if not loaded:
        return
    with_state = [
        tensor
        for tensor in optimizers.parameters_of(optimizer)
        if any(name.startswith(f"{tensor.name}_") for name in loaded)
    ]
    if not with_state:
        raise OptimizerError(
            "the optimizer's state is of other parameters, or names them otherwise",
            context=f"it has {listing(loaded)}",
            hint="save states of optimizers that a handle has built or attached: "
            "they are matched by native paths",
        )
    created = optimizer._already_create_accumulator
    create_moments(optimizer, [t for t in with_state if t.name not in created])
    optimizer._accumulators_holder = {}


def clear_moments(optimizer: Optimizer, tensors: Sequence[paddle.Tensor]) -> None:
    """Reset the moments of some parameters to their first values.

    They are not deleted: Paddle would give new moments new numbers, and saved states go by those.
    """
    with_moments = [
        tensor for tensor in tensors if tensor.name in optimizer._already_create_accumulator
    ]
    kept = optimizer._accumulators, optimizer._already_create_accumulator
    pending = optimizer._accumulators_holder
    optimizer._accumulators, optimizer._already_create_accumulator = defaultdict(dict), set()
    optimizer._accumulators_holder = {}
    try:
        create_moments(optimizer, with_moments)
        first = optimizer._accumulators
    finally:
        optimizer._accumulators, optimizer._already_create_accumulator = kept
        optimizer._accumulators_holder = pending
    for name, moments in first.items():
        for tensor, value in moments.items():
            optimizer._accumulators[name][tensor].set_value(value)
