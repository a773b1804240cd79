"""Which weight files are PyTorch's own: known by name and first bytes, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from unifreeze.backend import NamedWeight, TensorProgress, WeightFile, WeightFormat

ZIP = b"PK\x03\x04"
BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that files of torch before 1.6 start with, as they pickle it."""


def _open(path: Path, key: str | None) -> WeightFile:
    from unifreeze_torch._checkpoints import open_checkpoint

    return open_checkpoint(path, key)


def _save(file: BinaryIO, tensors: Sequence[NamedWeight], progress: TensorProgress) -> None:
    from unifreeze_torch._checkpoints import save_checkpoint

    save_checkpoint(file, tensors, progress)


WEIGHT_FORMATS = (
    WeightFormat(
        "torch",
        suffixes=(".pt", ".pth", ".bin", ".ckpt"),
        starts=(ZIP, BEFORE_ZIP),
        open=_open,
        save=_save,
        framework="torch",
    ),
)
