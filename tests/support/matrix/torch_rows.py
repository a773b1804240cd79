"""The rows of PyTorch."""

from __future__ import annotations

from tests.support.matrix import torch_alone, torch_trainers
from tests.support.matrix.cells import Row
from tests.support.matrix.columns import cells_of
from tests.support.matrix.torch_kits import join, load_parts, save_parts, wrapped
from tests.support.torch_processes import ENGINES

__all__ = ["ROWS", "join"]


def _engines() -> list[Row]:
    rows = []
    for name, wrap in ENGINES.items():
        parts = {"save": save_parts, "load": load_parts} if name.startswith("FSDP2") else {}
        shown = name if parts else f"`DistributedDataParallel`: {name}"
        cells = cells_of(wrapped(wrap, **parts), processes=2)
        rows.append(Row(shown, "engines", "PyTorch", cells, processes=2, fast=False))
    return rows


ROWS: list[Row] = [*_engines(), *torch_trainers.ROWS, *torch_alone.ROWS]
