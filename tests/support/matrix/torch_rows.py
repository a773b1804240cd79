"""The rows of PyTorch."""

from __future__ import annotations

from tests.support.matrix import torch_alone, torch_engines, torch_trainers
from tests.support.matrix.cells import Row
from tests.support.matrix.torch_kits import join

__all__ = ["ROWS", "join"]

ROWS: list[Row] = [*torch_engines.ROWS, *torch_trainers.ROWS, *torch_alone.ROWS]
