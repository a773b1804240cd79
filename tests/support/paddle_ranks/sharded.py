"""Runs under fleet: data parallel, and sharding of the optimizer's states (stage 1)."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
from paddle.distributed import fleet

import unifreeze as uf
from tests.support.paddle_ranks.data_parallel import PHASES
from tests.support.paddle_ranks.nets import digests, loss_of
from tests.support.paddle_ranks.runs import Together


def phases(sharding: int, *, attach: str) -> dict[str, Any]:
    """Train through phases under fleet; return values by step."""
    strategy = fleet.DistributedStrategy()
    count = dist.get_world_size()
    strategy.hybrid_configs = {
        "dp_degree": count // sharding, "mp_degree": 1, "pp_degree": 1,
        "sharding_degree": sharding,
    }
    fleet.init(is_collective=True, strategy=strategy)
    run = Together()
    handle = uf.FreezePlan.from_yaml(PHASES).apply(run.model)
    wrapped = fleet.distributed_model(run.model)
    if attach == "built":
        inner = handle.optimizer(paddle.optimizer.AdamW, lr=0.01, weight_decay=0.01)
    else:
        inner = paddle.optimizer.AdamW(0.01, parameters=run.model.parameters(), weight_decay=0.01)
    if attach == "before":
        handle.attach(inner)
    optimizer = fleet.distributed_optimizer(inner)
    if attach == "after":
        handle.attach(optimizer)
    for step in range(20):
        handle.step(step=step)
        loss_of(wrapped, step, dist.get_rank()).backward()
        optimizer.step()
        optimizer.clear_grad()
        run.after.append(digests(run.model))
    handle.verify()
    return {"after": run.after, "taken": handle.state_dict()["taken"]}
