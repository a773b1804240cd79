"""Training under a plan with DDP and FSDP2, as each of several PyTorch processes does it."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import unifreeze as uf
from unifreeze_torch import _exchange as exchange

STEPS = 20
PLAN = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: top, at: {step: 3}, add: [{train: "blocks[-1]"}]}
  - {name: head again, at: {step: 6}, like: head}
  - {name: all, at: {step: 8}, rules: [{train: all}]}
  - {name: measured, after: {steps: 4}, freeze_smallest: {share: 40}}
  - {name: last, when: {metric: loss, stalled_for: 2}, rules: [{freeze: stem}, {train: "~stem"}]}
"""
)
NAMES = ["head"] * 3 + ["top"] * 3 + ["head again"] * 2 + ["all"] * 4 + ["measured"] * 4
NAMES += ["last"] * (STEPS - len(NAMES))


class Block(nn.Module):
    """Two linear layers and a norm without statistics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        """Add to the input."""
        return x + self.second(torch.tanh(self.first(self.norm(x))))


class Net(nn.Module):
    """A stem, blocks and a small head."""

    def __init__(self, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 2)

    def forward(self, x: Any) -> Any:
        """Run all parts in order."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def make(seed: int = 0) -> Net:
    """Build the model from a seed."""
    torch.manual_seed(seed)
    return Net()


def join(rank: int, count: int) -> None:
    """Join the group of processes."""
    dist.init_process_group(
        "gloo", init_method=f"file://{os.environ['STORE']}", rank=rank, world_size=count
    )


def shard(step: int, rank: int) -> Any:
    """Return one process's share of a batch."""
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(100 * step + rank))


def loss_before(step: int) -> dict[str, float] | None:
    """Return what is measured before a step: it gets better up to step 14, and then no more."""
    return {"loss": 1.0 - 0.01 * min(step, 14)} if step else None


def bits(model: nn.Module) -> str:
    """Return a digest of all parameters, whole ones."""
    hasher = hashlib.sha256()
    for parameter in model.parameters():
        whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        hasher.update(whole.detach().clone().contiguous().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


class Counted:
    """Counts the bytes that a communication hook exchanges."""

    bytes = 0


def counting_hook(state, bucket):
    """Exchange a bucket as DDP does, and count it."""
    state.bytes += bucket.buffer().nbytes
    return default_hooks.allreduce_hook(None, bucket)


def _compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="aot_eager")


def _hooked(hook: Any, state: Any = None) -> Any:
    def wrap(model: nn.Module) -> Any:
        engine = DistributedDataParallel(model)
        engine.register_comm_hook(state() if callable(state) else state, hook)
        return engine

    return wrap


def _built_in(model: nn.Module) -> Any:
    engine = DistributedDataParallel(model)
    engine._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
    return engine


def _power() -> Any:
    return powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=1, start_powerSGD_iter=2, min_compression_rate=1
    )


def _by_block(model: Net) -> Any:
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


OWN = "a DDP that is built in an unknown way"
ENGINES: dict[str, Any] = {
    "plain": DistributedDataParallel,
    "static graph": lambda m: DistributedDataParallel(m, static_graph=True),
    "find unused": lambda m: DistributedDataParallel(m, find_unused_parameters=True),
    "bucket views": lambda m: DistributedDataParallel(m, gradient_as_bucket_view=True),
    "small buckets": lambda m: DistributedDataParallel(m, bucket_cap_mb=0.001),
    "no buffers": lambda m: DistributedDataParallel(m, broadcast_buffers=False),
    "static graph and bucket views": lambda m: DistributedDataParallel(
        m, static_graph=True, gradient_as_bucket_view=True
    ),
    "a hook": _hooked(default_hooks.allreduce_hook),
    "a built-in hook": _built_in,
    "compiled around": lambda m: _compiled(DistributedDataParallel(m)),
    "compiled inside": lambda m: DistributedDataParallel(_compiled(m)),
    OWN: DistributedDataParallel,
    "FSDP2 whole": fully_shard,
    "FSDP2 by block": _by_block,
}
LOSSY: dict[str, Any] = {
    "fp16": _hooked(default_hooks.fp16_compress_hook),
    "PowerSGD": _hooked(powerSGD_hook.powerSGD_hook, _power),
}
COMPILED = {"compiled around", "compiled inside"}
"""Engines whose reference runs under the same compiler."""


def train(
    model: Any, called: Any, handle: uf.Handle, optimizer: Any, shards: list[int]
) -> tuple[list[str], list[str]]:
    """Train by the plan; return the phase and the bits of all parameters at each step.

    Args:
        model: The bare model.
        called: The model as it is called.
        handle: The plan in force.
        optimizer: Its optimizer.
        shards: The shares of the batch that this process computes; their gradients are averaged.
    """
    names, seen = [], []
    for step in range(STEPS):
        handle.step(step=step, metrics=loss_before(step))
        optimizer.zero_grad()
        parts: list[list[Any]] = []
        for number in shards:
            called(shard(step, number)).square().mean().backward()
            if len(shards) > 1:
                parts.append([p.grad for p in model.parameters()])
                optimizer.zero_grad()
        for parameter, *parted in zip(model.parameters(), *parts, strict=True) if parts else ():
            if parted[0] is not None:
                parameter.grad = sum(part / len(parts) for part in parted)
        optimizer.step()
        assert handle.phase is not None
        names.append(handle.phase.name)
        seen.append(bits(model))
    handle.verify()
    return names, seen


def reference(rank: int, count: int, compiled: bool) -> tuple[list[str], list[str]]:
    """Train in one process that averages the gradients of two shares.

    It is a process of its own, so that it uses as many threads as those it is compared with.
    """
    model = make()
    handle = PLAN.apply(model)
    optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-2)
    called = _compiled(model) if compiled else model
    return train(model, called, handle, optimizer, [0, 1])


def runs(rank: int, count: int, engines: list[str]) -> dict[str, Any]:
    """Train with each of some engines, the plan applied to the bare model after wrapping."""
    join(rank, count)
    results: dict[str, Any] = {}
    way = exchange.way
    for name in engines:
        torch._dynamo.reset()
        exchange.way = (lambda: "own") if name == OWN else way
        model = make()
        called = {**ENGINES, **LOSSY}[name](model)
        handle = PLAN.apply(model)
        optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-2)
        results[name] = train(model, called, handle, optimizer, [rank])
    return results
