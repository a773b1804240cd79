"""Training rows of a table in several processes of each framework, and in one for comparison."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import paddle
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import unifreeze as uf
from tests.support.table_rows import OLD, batch, clear, model, values
from unifreeze.errors import UnifreezeError

STEPS = 9
PLAN = uf.FreezePlan.from_yaml(
    f"""
unifreeze: 1
phases:
  - {{name: new, rules: [{{freeze: all}}, {{train: 'rows("word_embeddings", {OLD}:)'}}]}}
  - {{name: more, at: {{step: 3}}, add: [{{train: 'rows("word_embeddings", 6:)'}}]}}
  - {{name: again, at: {{step: 6}}, like: new, add: [{{train: middle}}]}}
"""
)
TORCH = {
    "plain": {}, "static graph": {"static_graph": True}, "find unused":
    {"find_unused_parameters": True}, "bucket views": {"gradient_as_bucket_view": True},
}  # fmt: skip


def _torch_run(wrap: Any, shards: list[int], *, before: bool) -> dict[str, Any]:
    net = model(torch, tied=True)
    start = values(net.word_embeddings.weight)
    if before:
        handle, called = PLAN.apply(net), wrap(net)
    else:
        called, handle = wrap(net), PLAN.apply(net)
    optimizer = handle.optimizer(torch.optim.AdamW, lr=0.05, weight_decay=0.2)
    for step in range(STEPS):
        handle.step(step=step)
        parts: list[list[Any]] = []
        for number in shards:
            (called(batch(torch, 10 * step + number)) ** 2).mean().backward()
            if len(shards) > 1:
                parts.append([p.grad for p in net.parameters()])
                clear(optimizer)
        for tensor, *grads in zip(net.parameters(), *parts, strict=True) if parts else ():
            if grads[0] is not None:
                tensor.grad = sum(grad / len(grads) for grad in grads)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.05)
        optimizer.step()
        clear(optimizer)
    handle.verify()
    end = values(net.word_embeddings.weight)
    moved = np.flatnonzero((end != start).any(axis=1)).tolist()
    return {"end": end.tobytes(), "moved": moved}


def torch_alone(rank: int, count: int) -> dict[str, Any]:
    """Train in one process that averages what two would compute."""
    return _torch_run(lambda net: net, [0, 1], before=True)


def torch_together(rank: int, count: int) -> dict[str, Any]:
    """Train under each form of DDP, with the plan before and after it; and try `fully_shard`."""
    dist.init_process_group(
        "gloo", init_method=f"file://{os.environ['STORE']}", rank=rank, world_size=count
    )
    runs: dict[str, Any] = {}
    for name, settings in TORCH.items():
        for before in (True, False):
            runs[f"{name}, plan {'before' if before else 'after'}"] = _torch_run(
                lambda net, settings=settings: DistributedDataParallel(net, **settings),
                [rank],
                before=before,
            )
    net = model(torch, tied=False)
    fully_shard(net)
    runs["shards first"] = _refused(lambda: PLAN.apply(net))
    net = model(torch, tied=False)
    handle = PLAN.apply(net)
    fully_shard(net)
    runs["shards after"] = _refused(lambda: net(batch(torch, 0)))
    runs["shards and an optimizer"] = _refused(lambda: handle.optimizer(torch.optim.SGD, lr=0.1))
    return runs


def _refused(call: Any) -> str:
    try:
        call()
    except UnifreezeError as error:
        return str(error)
    return ""


def _paddle_run(wrap: Any, shards: list[int], *, before: bool, sparse: bool) -> dict[str, Any]:
    net = model(paddle, tied=not sparse, sparse=sparse)
    start = values(net.word_embeddings.weight)
    if before:
        handle, called = PLAN.apply(net), wrap(net)
    else:
        called, handle = wrap(net), PLAN.apply(net)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=0.05, weight_decay=0.2)
    for step in range(STEPS):
        handle.step(step=step)
        parts: list[list[Any]] = []
        for number in shards:
            (called(batch(paddle, 10 * step + number)) ** 2).mean().backward()
            if len(shards) > 1:
                grads = (p.grad for p in net.parameters())
                parts.append([None if grad is None else values(grad) for grad in grads])
                clear(optimizer)
        for tensor, *grads in zip(net.parameters(), *parts, strict=True) if parts else ():
            if grads[0] is not None:
                tensor.grad = paddle.to_tensor(sum(grads) / len(grads))
        optimizer.step()
        clear(optimizer)
    handle.verify()
    end = values(net.word_embeddings.weight)
    moved = np.flatnonzero((end != start).any(axis=1)).tolist()
    return {"end": end.tobytes().hex(), "moved": moved}


def paddle_alone() -> dict[str, Any]:
    """Train in one process that averages what two would compute."""
    return _paddle_run(lambda net: net, [0, 1], before=True, sparse=False)


def paddle_together() -> dict[str, Any]:
    """Train under DataParallel, with the plan before and after it."""
    paddle.distributed.init_parallel_env()
    rank = paddle.distributed.get_rank()
    runs = {}
    for before in (True, False):
        name = f"plan {'before' if before else 'after'}"
        runs[name] = _paddle_run(paddle.DataParallel, [rank], before=before, sparse=False)
    return runs
