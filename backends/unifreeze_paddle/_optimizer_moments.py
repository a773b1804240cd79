"""What an optimizer gathers about parameters: made, cleared, and taken in from a loaded state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import paddle

from unifreeze.errors import OptimizerError, listing
from unifreeze_paddle import _optimizers as optimizers


def create_moments(optimizer: Any, tensors: Sequence[Any]) -> None:
    """Let an optimizer make the moments of some parameters, from a loaded state if it has one."""
    block = paddle.base.framework.default_main_program().global_block()
    optimizer._create_accumulators(block, tensors)


def settle_loaded(optimizer: Any) -> None:
    """Take in a loaded state at once, also of what is frozen now.

    Paddle takes it in parameter by parameter, as each trains for the first time; what it finds no
    state for is then an error, and the state of what is still frozen is lost at the next save.
    """
    loaded = optimizer._accumulators_holder
    if not loaded:
        return
    found = [
        tensor
        for tensor in optimizers.parameters_of(optimizer)
        if any(name.startswith(f"{tensor.name}_") for name in loaded)
    ]
    if not found:
        raise OptimizerError(
            "the optimizer's state is of other parameters, or names them otherwise",
            context=f"it has {listing(loaded)}",
            hint="save states of optimizers that a handle has built or attached: "
            "they are matched by native paths",
        )
    created = optimizer._already_create_accumulator
    create_moments(optimizer, [t for t in found if t.name not in created])
    optimizer._accumulators_holder = {}


def clear_moments(optimizer: Any, tensors: Sequence[Any]) -> None:
    """Set the moments of some parameters to what they are at first.

    They are not dropped: Paddle would number the new ones on, and saved states go by those names.
    """
    had = [tensor for tensor in tensors if tensor.name in optimizer._already_create_accumulator]
    own = optimizer._accumulators, optimizer._already_create_accumulator
    known = optimizer._accumulators_holder
    optimizer._accumulators, optimizer._already_create_accumulator = defaultdict(dict), set()
    optimizer._accumulators_holder = {}
    try:
        create_moments(optimizer, had)
        first = optimizer._accumulators
    finally:
        optimizer._accumulators, optimizer._already_create_accumulator = own
        optimizer._accumulators_holder = known
    for name, moments in first.items():
        for tensor, value in moments.items():
            optimizer._accumulators[name][tensor].set_value(value)
