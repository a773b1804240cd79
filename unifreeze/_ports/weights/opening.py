"""Weights at rest, opened: a file's content says which format it is in."""

from __future__ import annotations

from pathlib import Path

from unifreeze._files import is_folder
from unifreeze._ports.weights.contents import WeightFile, check_ordinary
from unifreeze._ports.weights.formats import (
    PDPARAMS,
    SAFETENSORS,
    WeightFormat,
    declared_formats,
    format_by_name,
    known_suffixes,
)
from unifreeze._ports.weights.shards import open_index, weights_in
from unifreeze._wrong_files import LFS, START, looks_like, meant
from unifreeze.errors import WeightFileError


def open_weights(path: str | Path, *, key: str | None = None) -> WeightFile:
    """Open a weight file for reading, one tensor at a time.

    Nothing in a file is ever run, and only the description of its tensors is read. No file is
    mapped into memory, where one that is cut meanwhile would end the process.

    Args:
        path: A `.safetensors`, `.pdparams`, `.pt`, `.pth`, `.bin` or `.ckpt` file, the index of
            several, or the folder of a model.
        key: In a checkpoint that holds several state dicts, the one to take.

    Raises:
        WeightFileError: The file is missing, cut short, of no known format, or holds more than
            weights.
        MissingFrameworkError: It is a file that only its framework reads, such as one of
            `torch.save`, and that is not installed.

    Example:
        >>> import tempfile, numpy as np
        >>> from unifreeze._ports.weights import Named, open_weights, save_weights
        >>> file = Path(tempfile.mkdtemp(), "small.safetensors")
        >>> save_weights(file, [Named("bias", (2,), "float32", lambda: np.ones(2, "float32"))])
        >>> with open_weights(file) as weights:
        ...     print(weights.names, weights.entry("bias"), weights.read("bias"))
        ('bias',) float32[2] [1. 1.]
    """
    path = Path(path)
    try:
        path = weights_in(path) if is_folder(path) else path
        if path.name.endswith(".index.json"):
            return open_index(path, lambda shard: _open_file(shard, key))
        return _open_file(path, key)
    except (OSError, ValueError) as error:  # ValueError: the path holds a character that none can
        reason = getattr(error, "strerror", None) or error
        hint = meant(path, known_suffixes()) or "give a file that is there"
        raise WeightFileError(f"cannot read {path}: {reason}", hint=hint) from None


def _open_file(path: Path, key: str | None) -> WeightFile:
    weight_format = _format(path)
    weight_format.need_framework()
    return weight_format.open(path, key)


def _format(path: Path) -> WeightFormat:
    """Return a file's format by its first bytes, and where those say nothing by its name."""
    check_ordinary(path)
    with path.open("rb") as file:
        start = file.read(START)
    if start.startswith(LFS):
        raise WeightFileError(
            f"{path} is not a weight file: it is a pointer, and Git LFS has the file",
            hint="git lfs pull, where the repository was cloned; or download the file itself",
        )
    if start[5:9] == b"\0\0\0{":  # a header of less than 1 TiB, which is JSON
        return SAFETENSORS
    # Before Paddle's: any pickle may be one of Paddle's files.
    for declared in declared_formats():
        if start.startswith(declared.starts):
            return declared
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return PDPARAMS
    return _format_by_name(path, start)


def _format_by_name(path: Path, start: bytes) -> WeightFormat:
    if not start:
        raise WeightFileError(
            f"{path} is not a weight file: it is empty",
            hint="copy or download it again; was there room on the disk?",
        )
    if start.lstrip().startswith(b"<"):
        raise WeightFileError(
            f"{path} is not a weight file: it is a web page", hint="download the file itself"
        )
    named, kind = format_by_name(path), looks_like(start)
    if named is SAFETENSORS and not kind:
        return named
    said = f"it is named as a file of {named.name}, and " if named else "it "
    raise WeightFileError(
        f"{path} is not a weight file",
        context=f"{said}looks like {kind or 'a binary file of an unknown kind'}",
        hint="safetensors, and the files of torch.save and paddle.save, can be read: "
        f"{', '.join(known_suffixes())}",
    )
