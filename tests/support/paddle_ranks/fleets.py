"""Begins fleet, and wraps models in what exchanges gradients."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.distributed import fleet


def begin(sharding: int) -> None:
    """Let fleet divide optimizers' states among so many processes, and data among the others."""
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {
        "dp_degree": dist.get_world_size() // sharding,
        "mp_degree": 1,
        "pp_degree": 1,
        "sharding_degree": sharding,
    }
    fleet.init(is_collective=True, strategy=strategy)


def wrapped_by(engine: str, model: nn.Layer) -> Any:
    """Return a model, wrapped by "fleet" or "DataParallel"."""
    return fleet.distributed_model(model) if engine == "fleet" else paddle.DataParallel(model)


def optimizer_of(engine: str, optimizer: Any) -> Any:
    """Return an optimizer as that engine needs it."""
    return fleet.distributed_optimizer(optimizer) if engine == "fleet" else optimizer
