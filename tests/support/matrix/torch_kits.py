"""How PyTorch's rows make, train, save and load a model; in one process or several."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import unifreeze as uf
from tests.support.matrix.columns import Kit, Run
from tests.support.torch_processes import make, shard
from unifreeze._protocol import backend_for

RATE = 1e-2


def join(rank: int, count: int) -> None:
    """Make a group of processes; one process is one, too."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "NODE_RANK": 0}
    os.environ.update({name: str(number) for name, number in names.items()})
    os.environ.update(
        UNIFREEZE_TIMEOUT="60",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29500",  # nobody meets there: the group is made here
        ACCELERATE_USE_CPU="true",
    )
    store = f"file://{os.environ['STORE']}"
    seconds = timedelta(seconds=300)
    dist.init_process_group("gloo", store, timeout=seconds, rank=rank, world_size=count)


def adamw(handle: uf.Handle, _model: Any) -> Any:
    """Build AdamW from a handle."""
    return handle.optimizer(torch.optim.AdamW, lr=RATE, weight_decay=0.1)


def step(run: Run, number: int, own: bool) -> None:
    """Train a step on a few rows."""
    run.optimizer.zero_grad()
    rank = dist.get_rank() if own else 0
    run.called(shard(number, rank)).square().mean().backward()
    run.optimizer.step()


def tensors_of(model: Any) -> dict[str, Any]:
    """Return the live parameters by native path."""
    backend = backend_for(model)
    live = backend.objects(model)
    return {path: live[path] for path in backend.read(model)}


def values(model: Any) -> dict[str, bytes]:
    """Return all parameters' bytes, whole ones."""
    rows = {}
    for path, tensor in tensors_of(model).items():
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        flat = whole.detach().clone().contiguous().reshape(-1).view(torch.uint8)
        rows[path] = flat.numpy().tobytes()
    return rows


def spoil(model: Any, path: str) -> None:
    """Change a parameter in place, as an average that is copied back does."""
    with torch.no_grad():
        tensors_of(model)[path].add_(1)


def same(text: str) -> bool:
    """Return whether all processes say the same."""
    texts = [None] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return len(set(texts)) == 1


def save(folder: Path, run: Run) -> None:
    """Save values and states as one file, by rank 0."""
    state = {"optimizer": run.optimizer.state_dict(), "plan": run.handle.state_dict()}
    if dist.get_rank() == 0:
        torch.save({"model": run.model.state_dict(), **state}, folder / "saved.pt")
    dist.barrier()


def load(folder: Path, run: Run) -> None:
    """Load what `save` has written."""
    state = torch.load(folder / "saved.pt", weights_only=False)
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.handle.load_state_dict(state["plan"])


def save_parts(folder: Path, run: Run) -> None:
    """Save each process's parts by `torch.distributed.checkpoint`, with the handle as Stateful."""
    model, optimizer = get_state_dict(run.model, run.optimizer)
    state = {"model": model, "optim": optimizer, "plan": run.handle}
    dcp.save(state, checkpoint_id=folder / "parts")


def load_parts(folder: Path, run: Run) -> None:
    """Load what `save_parts` has written, in any number of processes."""
    model, optimizer = get_state_dict(run.model, run.optimizer)
    state = {"model": model, "optim": optimizer, "plan": run.handle}
    dcp.load(state, checkpoint_id=folder / "parts")
    set_state_dict(run.model, run.optimizer, model_state_dict=model, optim_state_dict=optimizer)


def whole(model: Any) -> Any:
    """Return the model itself: nothing wraps it."""
    return model


PLAIN = Kit(
    make=make,
    wrap=whole,
    optimizer=adamw,
    step=step,
    values=values,
    spoil=spoil,
    same=same,
    save=save,
    load=load,
)


def wrapped(wrap: Callable[[Any], Any], **others: Any) -> Kit:
    """Return the kit of a wrapper."""
    return replace(PLAIN, wrap=wrap, **others)


def optimized(cls: type, **settings: Any) -> Kit:
    """Return the kit of an optimizer that a handle builds."""
    return replace(PLAIN, optimizer=partial(_build, cls, {"lr": RATE, **settings}))


def _build(cls: type, settings: dict[str, Any], handle: uf.Handle, _model: Any) -> Any:
    return handle.optimizer(cls, **settings)
