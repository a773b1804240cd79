"""Runs under communication hooks that round gradients, beside one without: by how much they differ.

A hook is asked for its result, and the exact average is taken beside it: their distance is what the
hook itself has rounded away in that step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

import unifreeze as uf
from tests.support.torch_processes import bits, join, make, shard

RATE, STEPS = 0.01, 20
PLAN = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: top, at: {step: 4}, add: [{train: "blocks[-1]"}]}
  - {name: head again, at: {step: 8}, like: head}
  - {name: all, at: {step: 10}, rules: [{train: all}]}
"""
)


class Rounded:
    """A hook with its state, and how far its results are from exact averages.

    Attributes:
        squares: For each step, the square of that distance over all buckets.
    """

    def __init__(self, hook: Any, state: Any) -> None:
        for name in ("error_dict", "p_memory_dict", "q_memory_dict"):  # cleared at a change
            if hasattr(state, name):
                setattr(self, name, getattr(state, name))
        self.hook, self.state = hook, state
        self.squares = [0.0]


def measured_hook(state, bucket):
    """Exchange a bucket by the hook of a state, and exactly beside it."""
    exact = bucket.buffer().clone()
    dist.all_reduce(exact)
    exact /= dist.get_world_size()

    def measured(future):
        state.squares[-1] += float((future.value() - exact).double().square().sum())
        return future.value()

    return state.hook(state.state, bucket).then(measured)


def _power() -> Any:
    return powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=1, start_powerSGD_iter=2, min_compression_rate=1
    )


HOOKS: dict[str, Any] = {
    "none": (default_hooks.allreduce_hook, lambda: None),
    "fp16": (default_hooks.fp16_compress_hook, lambda: None),
    "bf16": (default_hooks.bf16_compress_hook, lambda: None),
    "PowerSGD": (powerSGD_hook.powerSGD_hook, _power),
}


def trained(name: str) -> tuple[list[float], list[float], str]:
    """Train under a hook; return all parameters, what it rounded away each step, and the bits."""
    model = make()
    engine = DistributedDataParallel(model)
    hook, state = HOOKS[name]
    rounded = Rounded(hook, state())
    engine.register_comm_hook(rounded, measured_hook)
    handle = PLAN.apply(model)
    optimizer = handle.optimizer(torch.optim.SGD, lr=RATE)
    for step in range(STEPS):
        handle.step(step=step)
        optimizer.zero_grad()
        engine(shard(step, dist.get_rank())).square().mean().backward()
        rounded.squares.append(0.0)
        optimizer.step()
    handle.verify()
    values = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double().tolist()
    return values, [square**0.5 for square in rounded.squares], bits(model)


def every(rank: int, count: int) -> dict[str, Any]:
    """Train under each hook."""
    join(rank, count)
    return {name: trained(name) for name in HOOKS}
