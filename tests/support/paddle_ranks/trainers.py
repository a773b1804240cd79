"""Runs of Paddle's trainers in several processes, each on rows of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist

from tests.support import paddle_trainer_runs as runs
from unifreeze_paddle.trainers import model_fit
from unifreeze_paddle.trainers.paddlenlp import FreezeCallback


def every_trainer(folder: str) -> dict[str, Any]:
    """Train in each trainer; return the phase of each step, and what it left, by trainer."""
    dist.init_parallel_env()
    return {"paddlenlp": _paddlenlp(Path(folder)), "model_fit": _model_fit(Path(folder))}


def _shown(trace: runs.Trace) -> dict[str, Any]:
    trace.handle.verify()
    return {"phases": trace.phases, "after": list(map(_digest, trace.after))}


def _digest(step: dict[str, bytes]) -> dict[str, str]:
    """Return digests of parameters; each process keeps running statistics of its own rows."""
    parameters = {n: b for n, b in step.items() if not n.endswith(("._mean", "._variance"))}
    return {name: hashlib.sha256(b).hexdigest() for name, b in parameters.items()}


def _paddlenlp(folder: Path) -> dict[str, Any]:
    paddle.seed(0)
    freeze = FreezeCallback(runs.PLAN)
    trainer = runs.trainer_of(folder / "paddlenlp", [freeze])
    trainer.train_dataset = _rows(named=True)
    with runs.traced(trainer.model, lambda: freeze.handle, folder) as trace:
        trainer.train()
    return _shown(trace)


def _model_fit(folder: Path) -> dict[str, Any]:
    paddle.seed(0)
    network = runs.Stack()
    freeze = model_fit.FreezeCallback(runs.PLAN)
    model = paddle.Model(network)
    model.prepare(runs.over_everything(network), runs.share)
    with runs.traced(network, lambda: freeze.handle, folder) as trace:
        model.fit(
            paddle.io.DataLoader(_rows(named=False), batch_size=runs.SIZE),
            paddle.io.DataLoader(runs.Samples(99, 1), batch_size=runs.SIZE),
            epochs=runs.EPOCHS,
            accumulate_grad_batches=runs.ACCUMULATED,
            save_dir=str(folder / "model_fit"),
            verbose=0,
            callbacks=[freeze],
        )
    return _shown(trace)


def _rows(*, named: bool) -> paddle.io.Dataset:
    return runs.Samples(dist.get_rank() * runs.BATCHES, named=named)
