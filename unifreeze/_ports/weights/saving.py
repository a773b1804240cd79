"""Weights at rest, written: checked first, streamed, and in place only when complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from unifreeze._files import is_folder, whole_file, writing_hint
from unifreeze._ports.weights.contents import DTYPES, Named, TensorProgress, is_possible
from unifreeze._ports.weights.opening import SUFFIXES, torch_checkpoints
from unifreeze._ports.weights.paddle_writing import write_pdparams
from unifreeze._ports.weights.safetensors_format import ALIASES, write_safetensors
from unifreeze.errors import WeightFileError, listing


def save_weights(
    path: str | Path,
    tensors: Iterable[Named],
    *,
    metadata: Mapping[str, str] | None = None,
    progress: TensorProgress | None = None,
) -> None:
    """Write a weight file; its format follows from its name.

    A reader sees all of it or the file that was there before. A tensor is read when its turn comes
    and dropped after; only `torch.save` wants all of them at once. Names that are tied stand in the
    file under each name, since the frameworks' own loaders want every name: in safetensors with
    their values once more, elsewhere as one tensor.

    Args:
        path: A `.safetensors`, `.pdparams`, `.pt`, `.pth`, `.bin` or `.ckpt` file.
        tensors: What to write.
        metadata: Text for a safetensors file to carry; libraries that load a model want `format`.
        progress: Called after each tensor.

    Raises:
        WeightFileError: The format cannot hold them, or the file cannot be written.
        MissingFrameworkError: It is a file for `torch.load`, and PyTorch is not installed.
    """
    path, rows = Path(path), list(tensors)
    kind = _kind(path)
    _check(rows)
    _check_metadata(path, kind, metadata or {})
    report = progress or _silent
    save_checkpoint = torch_checkpoints().save_checkpoint if kind == "torch" else None
    try:
        with whole_file(path) as file:
            if save_checkpoint is not None:
                save_checkpoint(file, rows, report)
            elif kind == "paddle":
                write_pdparams(file, rows, report)
            else:
                write_safetensors(file, rows, metadata or {}, report)
    except OSError as error:
        raise WeightFileError(
            f"cannot write {path}: {error.strerror or error}", hint=writing_hint(error)
        ) from None


def _silent(name: str, done: int, total: int) -> None:
    """Report nothing."""


def _kind(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise WeightFileError(
            f"{path} does not say which format to write",
            hint=f"name it {listing(SUFFIXES, limit=len(SUFFIXES))}",
        )
    if is_folder(path):
        raise WeightFileError(f"cannot write {path}: it is a folder", hint="name a file in it")
    return SUFFIXES[path.suffix]


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


def _check_metadata(path: Path, kind: str, metadata: Mapping[str, str]) -> None:
    if metadata and kind != "safetensors":
        raise WeightFileError(f"{path} cannot carry metadata", hint="only safetensors files can")
    if ALIASES in metadata:
        raise WeightFileError(f"{ALIASES} in the metadata is written by save_weights itself")
