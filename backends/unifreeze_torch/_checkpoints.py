"""Weights at rest in PyTorch's own files: read as weights only, and mapped into memory."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
import torch

from unifreeze.backend import (
    COPY_AGAIN,
    DTYPES,
    Array,
    NamedWeight,
    TensorEntry,
    TensorProgress,
    WeightFile,
    find_state,
    make_entry,
    values_of,
)
from unifreeze.errors import WeightFileError, listing


def open_checkpoint(path: Path, key: str | None = None) -> WeightFile:
    """Open a file of `torch.save` without running anything that it names.

    Files in the format of torch 1.6 and later are mapped, older ones are read whole.

    Args:
        path: The file.
        key: Which part of a nested checkpoint to take.

    Raises:
        WeightFileError: It holds more than weights, or is cut short.
        OSError: It cannot be opened.
    """
    source, size = str(path), path.stat().st_size
    tensors, ignored = find_state(source, _load(path), torch.Tensor, key)
    entries = {name: _entry(source, name, tensor, size) for name, tensor in tensors.items()}

    def load(name: str) -> Array:
        return _to_array(tensors[name], entries[name])

    return WeightFile(
        source, entries, load, tied=_tied(tensors), ignored=ignored, close=tensors.clear
    )


def _load(path: Path) -> Any:
    mapped = zipfile.is_zipfile(path)
    try:
        if mapped:
            _refuse_compressed(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (WeightFileError, OSError, MemoryError):
        raise
    except UnpicklingError as error:
        raise WeightFileError(
            f"{path} asks for more than weights need",
            context=f"nothing was run: {_reason(error)}",
            hint="load it where you trust it, and save its state_dict() alone",
        ) from None
    except Exception as error:  # a broken file can fail anywhere in torch's reader
        reason = f"{type(error).__name__}: {_reason(error)}"
        raise WeightFileError(
            f"{path} is not a complete file of torch.save", context=reason, hint=COPY_AGAIN
        ) from None


def _reason(error: Exception) -> str:
    """Return why weights-only loading refused a file, without its advice to load it unsafely."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line.startswith("WeightsUnpickler error:")]
    first = (reasons or lines or [""])[0].removeprefix("WeightsUnpickler error: ")
    return first.partition(" was not an allowed global")[0][:300]


def _refuse_compressed(path: Path) -> None:
    """Refuse what could grow beyond its size; `torch.save` never compresses."""
    with zipfile.ZipFile(path) as archive:
        packed = [row.filename for row in archive.infolist() if row.file_size > row.compress_size]
    if packed:
        raise WeightFileError(
            f"{path} is not a file of torch.save", context=f"compressed: {listing(packed)}"
        )


def _entry(source: str, name: str, tensor: torch.Tensor, size: int) -> TensorEntry:
    """Describe a tensor; one that has no values of its own in the file is refused."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    if not plain or tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise WeightFileError(
            f"{source}: {name!r} is not an ordinary tensor",
            context=f"{type(tensor).__name__}, {tensor.layout}, {tensor.dtype}, {tensor.device}",
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    entry = make_entry(source, name, tensor.shape, dtype)
    if entry.nbytes > size:
        raise WeightFileError(
            f"{source}: {name!r} is {entry}, {entry.nbytes} bytes, and the file has {size}",
            hint="save it with .contiguous()",
        )
    return entry


def _to_array(tensor: torch.Tensor, entry: TensorEntry) -> Array:
    """Copy a tensor's bits out."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    flat: Array = plain.reshape(-1).view(torch.uint8).numpy()
    return np.array(flat).view(DTYPES[entry.dtype]).reshape(entry.shape)


def _tied(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return names that share their values in memory with an earlier name, with that name."""
    first: dict[object, str] = {}
    tied = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        target = first.setdefault(place, name) if tensor.numel() else name
        if target != name:
            tied[name] = target
    return tied


def save_checkpoint(
    file: BinaryIO, tensors: Sequence[NamedWeight], progress: TensorProgress
) -> None:
    """Write tensors for `torch.load`, which keeps tied tensors tied.

    `torch.save` needs all of them in memory at once.

    Raises:
        WeightFileError: A tensor gave other values than it announced.
    """
    written: dict[str, torch.Tensor] = {}
    for done, row in enumerate(tensors, start=1):
        written[row.name] = written[row.alias_of] if row.alias_of is not None else _to_tensor(row)
        progress(row.name, done, len(tensors))
    torch.save(written, file)


def _to_tensor(row: NamedWeight) -> torch.Tensor:
    tensor = torch.empty(row.shape, dtype=getattr(torch, row.dtype))
    tensor.reshape(-1).view(torch.uint8).numpy()[:] = values_of(row).reshape(-1).view(np.uint8)
    return tensor
