"""Runs under DDP and FSDP2 that `torch.distributed.checkpoint` saves, each process its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.support.matrix.columns import Kit, Run, go_on, save
from tests.support.matrix.torch_kits import join, load_parts, save_parts, wrapped
from tests.support.torch_processes import ENGINES


def _everything(run: Run) -> dict[str, Any]:
    """Return what is saved where each part speaks for itself; the plan stands before the rest."""
    model = get_model_state_dict(run.model)
    return {"a plan": run.handle, "model": model, "optimizer": run.optimizer}


def _save_each(folder: Path, run: Run) -> None:
    dcp.save(_everything(run), checkpoint_id=folder / "parts")


def _load_each(folder: Path, run: Run) -> None:
    dcp.load(_everything(run), checkpoint_id=folder / "parts")


def _with(wrap: Callable[[Any], Any]) -> Kit:
    return wrapped(wrap, save=save_parts, load=load_parts)


KITS = {
    "DDP": _with(DistributedDataParallel),
    "FSDP2": _with(fully_shard),
    "FSDP2 by block": _with(ENGINES["FSDP2 by block"]),
}
KITS |= {
    f"{name}, each part for itself": replace(kit, save=_save_each, load=_load_each)
    for name, kit in KITS.items()
}


def every(rank: int, count: int, folder: str, stage: str) -> list[str]:
    """Save every run, or go on with it; the end must be that of the unbroken run, to the bit.

    Args:
        rank: The number of this process.
        count: How many there are.
        folder: Where all of them save.
        stage: "save", "go on", or both words with "and" between.
    """
    join(rank, count)
    for name, kit in KITS.items():
        place = Path(folder) / name.replace(" ", "-")
        place.mkdir(exist_ok=True)
        for word in stage.split(" and "):
            {"save": save, "go on": go_on}[word](kit, place, own=False)
    return list(KITS)
