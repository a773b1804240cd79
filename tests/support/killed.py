"""A run of 30 steps and 5 phase changes that can be killed anywhere and goes on where it was.

python -m tests.support.killed torch adamw FOLDER            to the end, from a checkpoint if there
python -m tests.support.killed torch adamw FOLDER --every    killed at every step, resumed, compared
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import unifreeze as uf
from tests.support.pairs import small
from unifreeze._whole_files import whole_file

STEPS = 30
PLAN = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.02}
  - {name: top, at: {step: 5}, add: [{train: "blocks[-1]"}], lr: 0.01,
     warmup: {steps: 3, divisor: 4}}
  - {name: all, after: {steps: 5}, add: [{train: all}], lr: 0.005, norm_stats: update}
  - {name: head again, at: {step: 15}, like: head, norm_stats: hold}
  - {name: turned, when: {metric: loss, stalled_for: 4}, rules: [{freeze: head}, {train: backbone}]}
  - {name: rest, after: {steps: 3}, freeze_smallest: {share: 40}, lr: 0.002}
moments: clear
"""
)


def loss_before(step: int) -> dict[str, float] | None:
    """Return what is measured before a step: it gets better up to step 17, and then no more."""
    return {"loss": 1.0 - 0.01 * min(step, 17)} if step else None


def batch(step: int) -> Any:
    """Return the inputs of a step."""
    return np.random.default_rng(step).standard_normal((4, 3, 7, 7)).astype("float32")


class TorchRun:
    """The run in PyTorch."""

    def __init__(self, optimizer: str, saved: dict[str, Any] | None) -> None:
        import torch

        torch.manual_seed(0)
        self.torch, self.model = torch, small.torch_image()
        if saved:
            self.model.load_state_dict(saved["model"])
        self.handle = PLAN.apply(self.model)
        if saved:
            self.handle.load_state_dict(saved["handle"])
        kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
        more = {"momentum": 0.9} if optimizer == "sgd" else {}
        self.optimizer = self.handle.optimizer(kind, weight_decay=0.01, **more)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, shape)
        if saved:
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scheduler.load_state_dict(saved["scheduler"])

    @staticmethod
    def load(file: Path) -> dict[str, Any]:
        import torch

        return dict(torch.load(file, weights_only=True))

    def step(self, number: int) -> None:
        self.model.train()
        loss = (self.model(self.torch.tensor(batch(number))) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()

    def save(self, state: dict[str, Any]) -> bytes:
        state |= {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        buffer = io.BytesIO()
        self.torch.save(state, buffer)
        return buffer.getvalue()


class PaddleRun:
    """The run in Paddle."""

    def __init__(self, optimizer: str, saved: dict[str, Any] | None) -> None:
        import paddle

        paddle.seed(0)
        self.paddle, self.model = paddle, small.paddle_image()
        if saved:
            self.model.set_state_dict(saved["model"])
        self.handle = PLAN.apply(self.model)
        if saved:
            self.handle.load_state_dict(saved["handle"])
        kind = {"adamw": paddle.optimizer.AdamW, "sgd": paddle.optimizer.Momentum}[optimizer]
        more = {"momentum": 0.9} if optimizer == "sgd" else {}
        self.scheduler = paddle.optimizer.lr.LambdaDecay(0.02, shape)
        more["lr"] = self.scheduler
        self.optimizer = self.handle.optimizer(kind, weight_decay=0.01, **more)
        if saved:
            self.optimizer.set_state_dict(saved["optimizer"])

    @staticmethod
    def load(file: Path) -> dict[str, Any]:
        import paddle

        return dict(paddle.load(str(file)))

    def step(self, number: int) -> None:
        self.model.train()
        loss = (self.model(self.paddle.to_tensor(batch(number))) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.scheduler.step()

    def save(self, state: dict[str, Any]) -> bytes:
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        buffer = io.BytesIO()
        self.paddle.save(state, buffer)
        return buffer.getvalue()


RUNS = {"torch": TorchRun, "paddle": PaddleRun}


def shape(step: int) -> float:
    """Warm up over 6 steps, then go down as a cosine."""
    if step < 6:
        return (step + 1) / 6
    return float(0.5 * (1 + np.cos(np.pi * (step - 6) / (STEPS - 6))))


def train(
    framework: str, optimizer: str, folder: str, kill_at: int = -1, *, saving: bool = False
) -> None:
    """Run to the end from the last checkpoint, or until it is killed.

    Args:
        framework: "torch" or "paddle".
        optimizer: "adamw" or "sgd".
        folder: Where the checkpoint is, and at last the digests.
        kill_at: Before which step the process is killed; -1 for never.
        saving: It is killed while that step's checkpoint is being written instead.
    """
    file = Path(folder) / "last.ckpt"
    made = RUNS[framework]
    saved = made.load(file) if file.exists() else None
    run = made(optimizer, saved)
    done = int(saved["done"]) if saved else 0
    phases = list(saved["phases"]) if saved else []
    for step in range(done, STEPS):
        if step == kill_at and not saving:
            os.kill(os.getpid(), signal.SIGKILL)
        run.handle.step(step=step, metrics=loss_before(step))
        phases.append(run.handle.phase.name)
        run.step(step)
        state = {"done": step + 1, "phases": phases}
        content = run.save({**state, "handle": run.handle.state_dict()})
        with whole_file(file) as checkpoint:
            checkpoint.write(content[: len(content) // 2])
            if step == kill_at and saving:
                checkpoint.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            checkpoint.write(content[len(content) // 2 :])
    run.handle.verify()
    digest = hashlib.sha256()
    for name, tensor in sorted(run.model.state_dict().items()):
        digest.update(name.encode() + np.ascontiguousarray(tensor.numpy()).tobytes())
    (Path(folder) / "end.txt").write_text("\n".join([digest.hexdigest(), *phases]))


def finished(framework: str, optimizer: str, kills: tuple[tuple[int, bool], ...] = ()) -> str:
    """Run to the end in processes of their own, killed at the steps given; return what came out.

    Raises:
        RuntimeError: A process was not killed where it should be, or did not finish.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.killed", "torch", "paddle"])
    with tempfile.TemporaryDirectory(prefix="unifreeze-") as folder:
        for step, saving in (*kills, (-1, False)):
            process = context.Process(
                target=train, args=(framework, optimizer, folder, step), kwargs={"saving": saving}
            )
            process.start()
            process.join()
            wanted = 0 if step < 0 else -signal.SIGKILL
            if process.exitcode != wanted:
                raise RuntimeError(f"exit code {process.exitcode}, and not {wanted}, at {step}")
        return (Path(folder) / "end.txt").read_text()


def main() -> int:
    """Run from the command line."""
    framework, optimizer, folder = sys.argv[1:4]
    if "--every" not in sys.argv:
        train(framework, optimizer, folder)
        return 0
    whole = finished(framework, optimizer)
    unequal = []
    for step in range(STEPS):
        for saving in (False, True):
            if finished(framework, optimizer, ((step, saving),)) != whole:
                unequal.append((step, saving))
    print(f"{framework}, {optimizer}: killed {2 * STEPS} times, {len(unequal)} not as without")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
