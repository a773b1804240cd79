"""A run of 20 steps that stops or is killed anywhere, and goes on in any number of processes.

Under Paddle's launcher: python -m paddle.distributed.launch --nproc_per_node 2 \
    tests/support/paddle_ranks/resumed.py ENGINE FOLDER KILL_AT
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist

import unifreeze as uf
from tests.support.paddle_ranks.fleets import begin, optimizer_of, wrapped_by
from tests.support.paddle_ranks.nets import digests
from tests.support.paddle_ranks.runs import Alone, Together
from unifreeze._whole_files import whole_file

STEPS = 20
PLAN = uf.FreezePlan.from_yaml("""
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.01}
  - {name: top, at: {step: 4}, add: [{train: "blocks[-1]"}], warmup: {steps: 2, divisor: 4}}
  - {name: all, when: {metric: loss, stalled_for: 3}, add: [{train: all}], lr: 0.005}
  - {name: few, after: {steps: 4}, freeze_smallest: {share: 40}, lr: 0.002}
  - {name: head again, at: {step: 16}, like: head}
""")
SHARDS = {"DataParallel": 1, "fleet": 1, "sharded fleet": 2}
"""Among how many processes each engine divides the optimizer's states."""


def loss_before(step: int) -> dict[str, float] | None:
    """Return what is measured before a step: it gets better up to step 5, and then no more."""
    return {"loss": 1.0 - 0.1 * min(step, 5)} if step else None


class Resumed:
    """A run that goes on from the checkpoint in a folder, if there is one.

    Attributes:
        phases: The name of each step's phase.
    """

    def __init__(self, run: Together, engine: str, folder: Path) -> None:
        """Build all of it anew.

        Args:
            run: Alone, or this process's part of a run.
            engine: What exchanges gradients.
            folder: Where checkpoints are.
        """
        self._run, self._folder = run, folder
        is_alone = isinstance(run, Alone)
        self._rank = 0 if is_alone else dist.get_rank()
        files = sorted(folder.glob("*.ckpt"))
        states = [dict(paddle.load(str(file))) for file in files]
        if states:
            run.model.set_state_dict(states[0]["model"])
        self._handle = PLAN.apply(run.model)
        by = "DataParallel" if engine == "DataParallel" else "fleet"
        run.wrapped = run.model if is_alone else wrapped_by(by, run.model)
        if states:
            self._handle.load_state_dict(states[0]["handle"])
        self._optimizer = self._handle.optimizer(paddle.optimizer.AdamW, weight_decay=0.01)
        if not is_alone:
            self._optimizer = optimizer_of(by, self._optimizer)
        moments: dict[str, Any] = {}
        for state in states:  # each process of stage 1 keeps those of its part
            moments |= state["optimizer"]
        if states:
            self._optimizer.set_state_dict(moments)
        self._done = int(states[0]["done"]) if states else 0
        self.phases = list(states[0]["phases"]) if states else []

    def go_on(self, until: int, *, kill_at: int = -1, saving: bool) -> None:
        """Take steps.

        Args:
            until: The step before which it ends.
            kill_at: The step before which the last process is killed; -1 for never.
            saving: Save after each step; else at the end alone.
        """
        for step in range(self._done, until):
            if step == kill_at and self._rank == dist.get_world_size() - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            self._handle.step(step=step, metrics=loss_before(step))
            self.phases.append(self._handle.phase.name)
            self._run.step(self._optimizer, step)
            if saving or step == until - 1:
                self._save(step + 1)
        self._handle.verify()

    def _save(self, done: int) -> None:
        state = {
            "done": done,
            "phases": self.phases,
            "model": self._run.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "handle": self._handle.state_dict(),
        }
        buffer = io.BytesIO()
        paddle.save(state, buffer)
        with whole_file(self._folder / f"{self._rank}.ckpt") as file:
            file.write(buffer.getvalue())
        if not isinstance(self._run, Alone):
            dist.barrier()

    def end(self) -> dict[str, Any]:
        """Return the phases, and digests of the values."""
        return {"phases": self.phases, "after": digests(self._run.model)}


def part(engine: str, folder: str, until: int) -> dict[str, Any]:
    """Go on in this process's part; save at the end."""
    begin(SHARDS[engine])
    run = Resumed(Together(), engine, Path(folder))
    run.go_on(until, saving=False)
    return run.end()


def alone(folder: Path, until: int, count: int = 2) -> dict[str, Any]:
    """Go on in one process that averages the shards of some; save at the end."""
    run = Resumed(Alone(count), "alone", folder)
    run.go_on(until, saving=False)
    return run.end()


def _main(engine: str, folder: str, kill_at: str) -> None:
    begin(SHARDS[engine])
    run = Resumed(Together(), engine, Path(folder))
    run.go_on(STEPS, kill_at=int(kill_at), saving=True)
    (Path(folder) / f"{dist.get_rank()}.json").write_text(json.dumps(run.end()))


if __name__ == "__main__":
    _main(*sys.argv[1:])
