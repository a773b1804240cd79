"""Sees through optimizers that wrap another one: those of fleet, its shards, and LookAhead."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer import dygraph_sharding_optimizer
from paddle.optimizer import Optimizer

from unifreeze.backend import LiveOptimizer, Processes, share_bytes
from unifreeze.errors import OptimizerError
from unifreeze_paddle import _engines as engines

Sharding = dygraph_sharding_optimizer.DygraphShardingOptimizer
SplitSharding = dygraph_sharding_optimizer.DygraphShardingOptimizerV2

NAMES = "unifreeze_names"
"""The entry of an optimizer's saved state that names parameters; of a shard, with its rank."""
_SHARDING = "_unifreeze_sharding"


def innermost(optimizer: LiveOptimizer) -> LiveOptimizer:
    """Return the optimizer that updates parameters, inside of those that wrap it."""
    inner = optimizer
    while next_one := _inside(inner):
        _notice_shards(inner)
        inner = next_one
    return inner if isinstance(inner, Optimizer) else optimizer


def _inside(optimizer: LiveOptimizer) -> LiveOptimizer | None:
    attributes = getattr(optimizer, "__dict__", {})
    return attributes.get("_inner_opt") or attributes.get("inner_optimizer")


def _notice_shards(optimizer: LiveOptimizer) -> None:
    """Let an optimizer know who divides its parameters among processes."""
    if isinstance(optimizer, Sharding | SplitSharding):
        vars(optimizer._inner_opt)[_SHARDING] = optimizer


def sharding_of(optimizer: Optimizer) -> Any:
    """Return what divides an optimizer's parameters among processes; None if nothing does."""
    return vars(optimizer).get(_SHARDING)


def rows_of(optimizer: Optimizer) -> Sequence[Any]:
    """Return an optimizer's list of parameters or groups, those of other processes included."""
    sharding = sharding_of(optimizer)
    if isinstance(sharding, Sharding):
        return list(sharding._origin_parameter_list)
    return optimizer._parameter_list or []


def owned_by(optimizer: Optimizer) -> tuple[str, frozenset[str] | None]:
    """Return a shard's entry of names, and the parameters, by Paddle's names, that it updates.

    Returns:
        `NAMES` and None for an optimizer that updates all of them.
    """
    sharding = sharding_of(optimizer)
    if not isinstance(sharding, Sharding):
        return NAMES, None
    rank = sharding._sharding_rank
    return f"{NAMES}/{rank}", frozenset(tensor.name for tensor in sharding._rank2params[rank])


def is_named(state: Mapping[str, Any]) -> bool:
    """Return whether a saved state names its parameters by their paths."""
    return any(key.partition("/")[0] == NAMES for key in state)


def _pass_on_named_states(cls: Any) -> None:
    """Let shards pass states with paths on; Paddle keeps what its own names match, of the rest."""
    paddles_load = cls.set_state_dict

    @wraps(paddles_load)
    def set_state_dict(self: Any, state_dict: Any) -> None:
        if is_named(state_dict):
            self._inner_opt.set_state_dict(state_dict)
        else:
            paddles_load(self, state_dict)

    cls.set_state_dict = set_state_dict


_stepping: list[Any] = []
"""What divides the parameters of the optimizer whose step is about to happen."""


@contextmanager
def about_to_step(optimizer: Optimizer) -> Iterator[None]:
    """Note for a while that all processes are about to take a step of their optimizers."""
    sharding = sharding_of(optimizer)
    if sharding is None:
        yield
        return
    _stepping.append(sharding)
    try:
        yield
    finally:
        _stepping.pop()


def whole_norms(
    norms: dict[str, float | None], find: Callable[[], Processes]
) -> dict[str, float | None]:
    """Return the norms of averaged gradients, which only the process that updates them has.

    Args:
        norms: This process's norms, by the parameter's name in Paddle.
        find: Returns the processes that train together.
    """
    processes = find() if _stepping else Processes()
    if processes.count == 1:
        return norms
    owners, own = _stepping[-1]._param2rank, _stepping[-1]._sharding_rank
    updated = {name: norm for name, norm in norms.items() if owners.get(name) == own}
    rows = share_bytes(processes, "norms", json.dumps(updated).encode(), "take a step")
    whole: dict[str, float | None] = {}
    for row in rows:
        whole |= json.loads(row)
    return {name: whole.get(name, norm) for name, norm in norms.items()}


def refuse_fused(optimizer: Optimizer) -> None:
    """Refuse shards that hold several parameters in one, where freezing cannot be partial.

    Raises:
        OptimizerError: They are such shards.
    """
    sharding = sharding_of(optimizer)
    if isinstance(sharding, SplitSharding):
        setting = "split_param"
    elif sharding is not None and (sharding.tensor_fusion or sharding.comm_overlap):
        setting = "tensor_fusion" if sharding.tensor_fusion else "comm_overlap"
    else:
        return
    raise OptimizerError(
        f"fleet's sharding with {setting} updates several parameters as one",
        context="what is frozen among them would be moved, by weight decay and by momentum",
        hint=f"leave {setting} out of sharding_configs",
    )


for _class in (Sharding, SplitSharding):
    engines.call_after(_class, "__init__", _notice_shards)
    _pass_on_named_states(_class)
