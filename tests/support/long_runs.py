"""A long run under DDP whose plan changes at random, and the memory that it takes."""

from __future__ import annotations

import gc
import random
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import unifreeze as uf
from tests.support.torch_processes import bits, join, make, shard

STEPS, CHANGES, EVERY = 1000, 200, 100
WORDS = ("head", "stem | head", "blocks[1]", "blocks[-2:]", "norm", "~stem", "all")


def _memory() -> int:
    """Return the bytes of memory that this process takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def changed(model: Any, engine: Any, handle: uf.Handle | None, draw: random.Random) -> Any:
    """Apply another plan to the wrapper or the bare model, or remove the one in force."""
    if handle is not None and draw.random() < 0.2:
        handle.remove()
        return None
    words = draw.choice(WORDS)
    plan = uf.FreezePlan().train("all") if words == "all" else uf.FreezePlan().only(words)
    return plan.apply(draw.choice([model, engine]))


def run(rank: int, count: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train; return the digests of all parameters, how many objects there were, and the memory."""
    join(rank, count)
    model, draw = make(), random.Random(7)
    engine = DistributedDataParallel(model, **settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    at = set(draw.sample(range(STEPS), CHANGES))
    handle, digests, objects, memory = None, [], [], []
    for step in range(STEPS):
        if step in at:
            handle = changed(model, engine, handle, draw)
        optimizer.zero_grad()
        engine(shard(step, rank)).square().mean().backward()
        optimizer.step()
        digests.append(bits(model))
        if (step + 1) % EVERY == 0:
            gc.collect()
            objects.append(len(gc.get_objects()))
            memory.append(_memory())
            dist.barrier()
    return {"digests": digests, "objects": objects, "memory": memory}
