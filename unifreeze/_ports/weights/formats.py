"""Formats of weight files: two that are read here, and those that backends declare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unifreeze._ports.weights.contents import Named, TensorProgress, WeightFile
from unifreeze._ports.weights.paddle_format import open_pdparams
from unifreeze._ports.weights.paddle_writing import write_pdparams
from unifreeze._ports.weights.safetensors_format import open_safetensors, write_safetensors
from unifreeze._protocol.registry import declared_by_backends, load_backend
from unifreeze.errors import WeightFileError

DECLARED_AS = "WEIGHT_FORMATS"
"""What a backend's package calls the formats that it declares."""


@dataclass(frozen=True)
class WeightFormat:
    """A format of weight files.

    Attributes:
        name: What it is called, such as "torch".
        suffixes: Of names of files to be written in it.
        starts: First bytes of its files.
        open: Opens a file: takes its path, and which part of a nested one to take (None for all).
        save: Writes tensors into an open file, and reports each.
        framework: The framework that must be installed, "" for none.
    """

    name: str
    suffixes: tuple[str, ...]
    starts: tuple[bytes, ...]
    open: Callable[[Path, str | None], WeightFile]
    save: Callable[[BinaryIO, Sequence[Named], TensorProgress], None]
    framework: str = ""

    def need_framework(self) -> None:
        """Load the framework that opening and saving need.

        Raises:
            MissingFrameworkError: It is not installed.
        """
        if self.framework:
            load_backend(self.framework)


def _open_safetensors(path: Path, key: str | None) -> WeightFile:
    if key is not None:
        raise WeightFileError(f"{path} is a safetensors file, which has no part {key!r}")
    return open_safetensors(path)


def _save_safetensors(file: BinaryIO, tensors: Sequence[Named], progress: TensorProgress) -> None:
    write_safetensors(file, tensors, {}, progress)


SAFETENSORS = WeightFormat(
    "safetensors", (".safetensors",), (), _open_safetensors, _save_safetensors
)
PDPARAMS = WeightFormat("paddle", (".pdparams",), (), open_pdparams, write_pdparams)
"""Their first bytes alone do not identify these two formats; `opening` looks closer."""


def declared_formats() -> Iterator[WeightFormat]:
    """Yield the formats that backends declare, for which their packages are imported."""
    yield from declared_by_backends(DECLARED_AS)


def format_by_name(path: Path) -> WeightFormat | None:
    """Return the format that a file's name says, None where it says none."""
    known = (fmt for fmt in _formats() if path.suffix in fmt.suffixes)
    return next(known, None)


def known_suffixes() -> list[str]:
    """Return the suffixes of all formats."""
    return [suffix for fmt in _formats() for suffix in fmt.suffixes]


def _formats() -> Iterator[WeightFormat]:
    yield SAFETENSORS
    yield PDPARAMS
    yield from declared_formats()
