"""Runs under sharding stage 1: what all processes say and write together, and whole values."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist

import unifreeze as uf
from tests.support.paddle_ranks.fleets import begin, optimizer_of, wrapped_by
from tests.support.paddle_ranks.nets import Net, digests, loss_of
from unifreeze.errors import FrozenDriftError, RanksError, WeightFileError

BEST = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: again, when: {metric: loss, stalled_for: 2}, rules: [{only: "head | stem"}],
     restore_best: true}
"""


class Divided:
    """A model whose optimizer's states are divided among the processes.

    Attributes:
        model: The bare model.
        handle: The plan in force on it.
    """

    def __init__(self, engine: str = "fleet", plan: uf.FreezePlan | None = None) -> None:
        paddle.seed(0)
        self.model = Net()
        self.handle = (plan or uf.FreezePlan().only("head")).apply(self.model)
        optimizer = self.handle.optimizer(paddle.optimizer.AdamW, lr=0.01)
        self.wrapped = self.model if engine == "alone" else wrapped_by(engine, self.model)
        self.optimizer = optimizer if engine == "alone" else optimizer_of(engine, optimizer)

    def step(self, step: int) -> None:
        """Train on the same rows in each process, so that any number of them does the same."""
        loss_of(self.wrapped, step, 0).backward()
        self.optimizer.step()
        self.optimizer.clear_grad()


def every_run(sharding: int, folder: str) -> dict[str, Any]:
    """Do every run in this process's part."""
    os.environ["UNIFREEZE_TIMEOUT"] = "2"
    begin(sharding)
    place = Path(folder)
    return {
        "verdict": _verdict(),
        "alone": _verifies_alone(),
        "file": trained("fleet", place),
        "writers": _writers(place),
        "unwritable": _unwritable(place),
        "best": best("fleet", place / "best"),
    }


def trained(engine: str, folder: Path) -> dict[str, str]:
    """Train, save, and load what was saved again; return digests."""
    run = Divided(engine)
    for step in range(3):
        run.step(step)
    file = folder / "trained.safetensors"
    run.handle.save_trained(file)
    state = run.handle.trainable_state_dict()
    after = digests(run.model)
    run.step(3)
    run.handle.load_trainable_state_dict(state)
    assert digests(run.model) == after
    values = {
        path: hashlib.sha256(array.tobytes()).hexdigest()
        for path, array in state["tensors"].items()
    }
    return {"file": hashlib.sha256(file.read_bytes()).hexdigest(), **values}


def best(engine: str, folder: Path) -> dict[str, Any]:
    """Go on from the best values once a metric stalls."""
    run = Divided(engine, uf.FreezePlan.from_yaml(BEST))
    run.handle.keep_best(folder)
    phases = []
    for epoch, loss in enumerate((None, 1.0, 0.5, 0.7, 0.8, 0.4)):
        run.handle.step(epoch=epoch, metrics=None if loss is None else {"loss": loss})
        phases.append(run.handle.phase.name)
        run.step(epoch)
    return {"phases": phases, "after": digests(run.model)}


def _verdict() -> str:
    """Move a frozen value in the last process; return what this one is told."""
    run = Divided()
    run.step(0)
    run.handle.verify()
    if dist.get_rank() == dist.get_world_size() - 1:
        run.model.stem.bias.set_value(run.model.stem.bias + 1)
    try:
        run.handle.verify()
    except FrozenDriftError as error:
        return str(error)
    return ""


def _verifies_alone() -> str:
    """Verify in the first process alone; return what it is told."""
    run = Divided()
    told = ""
    if dist.get_rank() == 0:
        try:
            run.handle.verify()
        except RanksError as error:
            told = str(error)
    dist.barrier()
    run.handle.verify()
    return told


def _writers(folder: Path) -> list[int]:
    """Return the numbers of the processes that write a file of trained values."""
    run = Divided()
    file = folder / "writers.safetensors"
    run.handle.save_trained(file)
    number = file.stat().st_ino
    dist.barrier()
    return [number, file.stat().st_ino]


def _unwritable(folder: Path) -> str:
    """Save where a file cannot be; return what this process is told."""
    run = Divided()
    try:
        run.handle.save_trained(folder / "missing" / "trained.safetensors")
    except WeightFileError as error:
        return str(error)
    return ""
