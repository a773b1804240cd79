"""The rows of PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.support.matrix.cells import Row
from tests.support.matrix.columns import Kit, cells_of
from tests.support.matrix.torch_kits import join, load_parts, optimized, save_parts, wrapped
from tests.support.torch_processes import ENGINES

__all__ = ["ROWS", "join"]


def row(
    part: str, name: str, kit: Kit, *, processes: int = 1, fast: bool = True, **cells: Any
) -> Row:
    """Return a row for what a kit describes."""
    rows = cells_of(kit, processes=processes, **cells)
    return Row(name, part, "PyTorch", rows, processes=processes, fast=fast and processes == 1)


def _engines() -> list[Row]:
    rows = []
    for name, wrap in ENGINES.items():
        parts = {"save": save_parts, "load": load_parts} if name.startswith("FSDP2") else {}
        shown = name if parts else f"DistributedDataParallel: {name}"
        rows.append(row("engines", shown, wrapped(wrap, **parts), processes=2))
    return rows


ROWS = [
    *_engines(),
    row("optimizers", "SGD", optimized(torch.optim.SGD)),
]
