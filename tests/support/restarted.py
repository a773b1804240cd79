"""A run with phases under torchrun that is killed, started again, and goes on from its checkpoint.

torchrun --nproc-per-node 2 -m tests.support.restarted FOLDER [RANK:STEP …]

Each `RANK:STEP` says where a process kills itself, once. What each rank ends with goes into FOLDER:
the phase and a digest of all parameters of each step, and the same of a run that nobody kills.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import unifreeze as uf
from tests.support.torch_processes import bits, make, shard

STEPS = 16
PLAN = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.02}
  - {name: top, at: {step: 3}, add: [{train: "blocks[-1]"}], lr: 0.01,
     warmup: {steps: 3, divisor: 4}}
  - {name: all, when: {metric: loss, stalled_for: 2}, add: [{train: all}], restore_best: true}
  - {name: head again, after: {steps: 2}, like: head}
  - {name: rest, after: {steps: 2}, rules: [{train: all}]}
  - {name: measured, after: {steps: 2}, freeze_smallest: {share: 40}}
"""
)


def loss_before(step: int) -> dict[str, float] | None:
    """Return what is measured before a step: it gets better up to step 5, and then no more."""
    return {"loss": 1.0 - 0.01 * min(step, 5)} if step else None


def train(folder: Path, kills: list[tuple[int, int]]) -> list[Any]:
    """Train to the end, from the checkpoint if there is one; return what was seen."""
    rank, file = dist.get_rank(), folder / "checkpoint"
    model = make()
    handle = PLAN.apply(model)
    handle.keep_best(folder / "best")
    engine = DistributedDataParallel(model)
    optimizer = handle.optimizer(torch.optim.AdamW, weight_decay=0.1)
    first, names, seen = 0, [], []
    if file.exists():
        saved: dict[str, Any] = torch.load(file, weights_only=False)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        handle.load_state_dict(saved["plan"])
        first, names, seen = saved["step"], saved["names"], saved["seen"]
    for step in range(first, STEPS):
        handle.step(step=step, metrics=loss_before(step))
        optimizer.zero_grad()
        loss = engine(shard(step, rank)).square().mean()
        if (rank, step) in kills and not (folder / f"killed-{rank}-{step}").exists():
            (folder / f"killed-{rank}-{step}").touch()
            os.kill(os.getpid(), signal.SIGKILL)  # the other rank waits for its gradients
        loss.backward()
        optimizer.step()
        assert handle.phase is not None
        names.append(handle.phase.name)
        seen.append(bits(model))
        if rank == 0:
            part = folder / "part"
            states = {"optimizer": optimizer.state_dict(), "plan": handle.state_dict()}
            states |= {"step": step + 1, "names": names, "seen": seen}
            torch.save({"model": model.state_dict(), **states}, part)
            part.replace(file)
        dist.barrier()
    return [names, seen, str(handle.verify())]


def main(folder: Path, kills: list[tuple[int, int]]) -> None:
    """Train to the end, and train again without a kill."""
    dist.init_process_group("gloo")
    whole = folder / "unbroken"
    whole.mkdir(exist_ok=True)
    ends = [train(folder, kills), train(whole, [])]
    (folder / f"end-{dist.get_rank()}").write_text(json.dumps(ends))
    dist.barrier()


if __name__ == "__main__":
    places = [word.split(":") for word in sys.argv[2:]]
    main(Path(sys.argv[1]), [(int(rank), int(step)) for rank, step in places])
