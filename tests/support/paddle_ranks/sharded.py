"""Runs under fleet: data parallel, and sharding of the optimizer's states (stage 1)."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.distributed import fleet

import unifreeze as uf
from tests.support.paddle_ranks.data_parallel import PHASES
from tests.support.paddle_ranks.fleets import begin
from tests.support.paddle_ranks.nets import Net
from tests.support.paddle_ranks.runs import Alone, Together
from unifreeze.errors import DescriptionError, OptimizerError

ATTACHED = ("built", "before", "after")
"""The handle builds the optimizer, or gets one before or after fleet has wrapped it."""
MEASURED = """
unifreeze: 1
phases:
  - {name: all, rules: [{train: all}]}
  - {name: few, at: {step: 6}, rules: [{train: all}], freeze_smallest: {share: 50}}
  - {name: head, at: {step: 12}, rules: [{only: head}]}
"""


def every_run(sharding: int, folder: str) -> dict[str, Any]:
    """Train through phases; return the digests after each step, and of the saved file."""
    begin(sharding)
    runs = {how: _run(Together(), PHASES, how, Path(folder)) for how in ATTACHED}
    measured = _run(Together(), MEASURED, "before", Path(folder))
    refused = {"fused": _fused(), "auto-parallel": _auto_parallel()} if sharding > 1 else {}
    return runs | {"measured": measured, **refused}


def alone(count: int, folder: Path) -> dict[str, Any]:
    """Do the same in one process that averages the shards."""
    return {
        "phases": _run(Alone(count), PHASES, "built", folder),
        "measured": _run(Alone(count), MEASURED, "built", folder),
    }


def _run(run: Together, plan: str, how: str, folder: Path) -> dict[str, Any]:
    handle = uf.FreezePlan.from_yaml(plan).apply(run.model)
    is_alone = isinstance(run, Alone)
    run.wrapped = run.model if is_alone else fleet.distributed_model(run.model)
    optimizer: Any
    if how == "built":
        optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=0.01, weight_decay=0.01)
    else:
        optimizer = paddle.optimizer.AdamW(
            0.01, parameters=run.model.parameters(), weight_decay=0.01
        )
    if how == "before":
        handle.attach(optimizer)
    if not is_alone:
        optimizer = fleet.distributed_optimizer(optimizer)
    if how == "after":
        handle.attach(optimizer)
    for step in range(20):
        handle.step(step=step)
        run.step(optimizer, step)
    handle.verify()
    file = folder / f"{how}.safetensors"
    handle.save_trained(file)
    if not is_alone:
        dist.barrier()
    kept = sha256(file.read_bytes()).hexdigest()
    return {"after": run.after, "file": kept, "plan": handle.plan.to_yaml()}


def _fused() -> str:
    """Return the message about shards that hold several parameters as one."""
    run = Together()
    handle = uf.FreezePlan.from_yaml(PHASES).apply(run.model)
    run.wrapped = fleet.distributed_model(run.model)
    inner = handle.optimizer(paddle.optimizer.AdamW, lr=0.01)
    optimizer = fleet.distributed_optimizer(inner)
    optimizer._inner_opt.comm_overlap = True  # which itself needs a GPU
    handle.step(step=0)
    try:
        run.step(optimizer, 0)
    except OptimizerError as error:
        return str(error)
    return ""


def _auto_parallel() -> str:
    """Return the message about parameters that auto-parallel has made distributed tensors."""
    model = Net()
    mesh = dist.ProcessMesh([0, 1], dim_names=["x"])
    for layer in model.sublayers():
        for name, tensor in list(layer._parameters.items()):
            layer._parameters[name] = dist.shard_tensor(tensor, mesh, [dist.Replicate()])
    try:
        uf.freeze(model, "backbone")
    except DescriptionError as error:
        return str(error)
    return ""
