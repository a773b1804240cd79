"""Weights at rest, written: checked first, streamed, and in place only when complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from unifreeze._files import is_folder
from unifreeze._ports.weights.contents import DTYPES, Named, TensorProgress, is_possible
from unifreeze._ports.weights.formats import (
    SAFETENSORS,
    WeightFormat,
    format_by_name,
    known_suffixes,
)
from unifreeze._ports.weights.safetensors_format import ALIASES, write_safetensors
from unifreeze._whole_files import whole_file, writing_hint
from unifreeze.errors import WeightFileError, listing


def save_weights(
    path: str | Path,
    tensors: Iterable[Named],
    *,
    metadata: Mapping[str, str] | None = None,
    progress: TensorProgress | None = None,
) -> None:
    """Write a weight file; its format follows from its name.

    A reader sees all of it or the file that was there before. Each tensor is read just before
    it is written, and dropped after; only `torch.save` needs all of them at once. A tied tensor is
    written under each of its names, because the frameworks' own loaders want every name: in
    safetensors its values are repeated, elsewhere they are stored once.

    Args:
        path: A `.safetensors`, `.pdparams`, `.pt`, `.pth`, `.bin` or `.ckpt` file.
        tensors: What to write.
        metadata: Text for a safetensors file to carry; libraries that load a model want `format`.
        progress: Called after each tensor.

    Raises:
        WeightFileError: The format cannot hold them, or the file cannot be written.
        MissingFrameworkError: It is a file that only its framework writes, such as one for
            `torch.load`, and that is not installed.
    """
    path, rows = Path(path), list(tensors)
    weight_format = _format(path)
    _check(rows)
    _check_metadata(path, weight_format, metadata or {})
    report = progress or _silent
    weight_format.need_framework()
    try:
        with whole_file(path) as file:
            if weight_format is SAFETENSORS:
                write_safetensors(file, rows, metadata or {}, report)
            else:
                weight_format.save(file, rows, report)
    except OSError as error:
        raise WeightFileError(
            f"cannot write {path}: {error.strerror or error}", hint=writing_hint(error)
        ) from None


def _silent(name: str, done: int, total: int) -> None:
    """Report nothing."""


def _format(path: Path) -> WeightFormat:
    weight_format = format_by_name(path)
    if weight_format is None:
        suffixes = known_suffixes()
        raise WeightFileError(
            f"{path} does not say which format to write",
            hint=f"name it {listing(suffixes, limit=len(suffixes))}",
        )
    if is_folder(path):
        raise WeightFileError(f"cannot write {path}: it is a folder", hint="name a file in it")
    return weight_format


def _check(rows: list[Named]) -> None:
    seen: dict[str, Named] = {}
    for row in rows:
        problem = _problem(row, seen)
        if problem:
            raise WeightFileError(f"{row.name!r} cannot be written: {problem}")
        seen[row.name] = row


def _problem(row: Named, seen: Mapping[str, Named]) -> str:
    if row.name in seen:
        return "the name is given twice"
    if row.name.encode("utf-8", "replace").decode("utf-8") != row.name:
        return "its name is not Unicode text"
    if row.dtype not in DTYPES or not is_possible(row.shape, row.dtype):
        return f"no array is {row.dtype}{list(row.shape)}"
    if row.alias_of is None:
        return ""
    target = seen.get(row.alias_of)
    if target is None or target.alias_of is not None:
        return f"it is tied to {row.alias_of!r}, which is not a tensor before it"
    unlike = target.entry != row.entry
    return f"it is {row.entry} and tied to {target.name!r}, {target.entry}" if unlike else ""


def _check_metadata(path: Path, weight_format: WeightFormat, metadata: Mapping[str, str]) -> None:
    if metadata and weight_format is not SAFETENSORS:
        raise WeightFileError(f"{path} cannot carry metadata", hint="only safetensors files can")
    if ALIASES in metadata:
        raise WeightFileError(f"{ALIASES} in the metadata is written by save_weights itself")
