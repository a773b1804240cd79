"""Weights at rest, opened: which format a file is in is told by its content."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from unifreeze._files import is_folder
from unifreeze._ports.weights.contents import Named, TensorProgress, WeightFile
from unifreeze._ports.weights.paddle_format import open_pdparams
from unifreeze._ports.weights.safetensors_format import open_safetensors
from unifreeze._ports.weights.shards import open_index, weights_in
from unifreeze._protocol import load_backend
from unifreeze.errors import WeightFileError

ZIP = b"PK\x03\x04"
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that torch's files before the zip format start with, as they pickle it."""
LFS = b"version https://git-lfs.github.com/spec/"
"""What Git LFS puts in place of a large file until that is fetched."""
SUFFIXES = {
    ".safetensors": "safetensors",
    ".pdparams": "paddle",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
}


class TorchCheckpoints(Protocol):
    """What `unifreeze_torch._checkpoints` offers."""

    def open_checkpoint(self, path: Path, key: str | None = None) -> WeightFile:
        """Open a file of `torch.save` without running what it names."""

    def save_checkpoint(self, file: object, tensors: list[Named], progress: TensorProgress) -> None:
        """Write tensors for `torch.load`."""


def torch_checkpoints() -> TorchCheckpoints:
    """Return the part of the torch backend that reads and writes torch's own files.

    Raises:
        MissingFrameworkError: PyTorch is not installed.
    """
    load_backend("torch")
    return cast(TorchCheckpoints, import_module("unifreeze_torch._checkpoints"))


def open_weights(path: str | Path, *, key: str | None = None) -> WeightFile:
    """Open a weight file for reading, one tensor at a time.

    Nothing in a file is ever run. Of safetensors and `.pdparams` files only the description of the
    tensors is read; those of `torch.save` are mapped into memory by torch.

    Args:
        path: A `.safetensors`, `.pdparams`, `.pt`, `.pth`, `.bin` or `.ckpt` file, the index of
            several, or the folder of a model.
        key: In a checkpoint that holds several state dicts, the one to take.

    Raises:
        WeightFileError: The file is missing, cut short, of no known format, or holds more than
            weights.
        MissingFrameworkError: It is a file of `torch.save`, and PyTorch is not installed.

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
    except OSError as error:
        raise WeightFileError(
            f"cannot read {path}: {error.strerror or error}", hint="give a file that is there"
        ) from None


def _open_file(path: Path, key: str | None) -> WeightFile:
    kind = _kind(path)
    if kind == "torch":
        return torch_checkpoints().open_checkpoint(path, key)
    if kind == "paddle":
        return open_pdparams(path, key)
    if key is not None:
        raise WeightFileError(f"{path} is a safetensors file, which has no part {key!r}")
    return open_safetensors(path)


def _kind(path: Path) -> str:
    """Tell a file's format by its first bytes, and where those say nothing by its name."""
    with path.open("rb") as file:
        start = file.read(len(OLD_TORCH))
    if start.startswith(LFS[: len(OLD_TORCH)]):
        raise WeightFileError(
            f"{path} is not a weight file: it is a pointer, and Git LFS has the file",
            hint="git lfs pull, where the repository was cloned; or download the file itself",
        )
    if start[5:9] == b"\0\0\0{":  # a header of less than 1 TiB, which is JSON
        return "safetensors"
    if start.startswith((ZIP, OLD_TORCH)):
        return "torch"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return "paddle"
    return _kind_by_name(path, start)


def _kind_by_name(path: Path, start: bytes) -> str:
    if not start:
        raise WeightFileError(
            f"{path} is not a weight file: it is empty",
            hint="copy or download it again; was there room on the disk?",
        )
    if start.lstrip().startswith(b"<"):
        raise WeightFileError(
            f"{path} is not a weight file: it is a web page", hint="download the file itself"
        )
    if path.suffix == ".safetensors":
        return "safetensors"
    kind = SUFFIXES.get(path.suffix)
    named = f"it is named as a file of {kind}, and " if kind else "it "
    raise WeightFileError(
        f"{path} is not a weight file",
        context=f"{named}starts with {start.hex(' ')}",
        hint="safetensors, and the files of torch.save and paddle.save, can be read",
    )
