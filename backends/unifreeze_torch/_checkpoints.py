"""Weights at rest in PyTorch's own files: read tensor by tensor, and never mapped or run."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from unifreeze.backend import (
    Array,
    NamedWeight,
    TensorEntry,
    TensorProgress,
    WeightFile,
    broken_file,
    find_state,
    make_entry,
    open_with,
    read_pickle,
    values_of,
)
from unifreeze.errors import WeightFileError, brief, listing
from unifreeze_torch._pickled_tensors import Storage, StoredTensor, admit, read_identifier

COMPLETE = "a complete file of torch.save"
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class Record(NamedTuple):
    """The place of a storage's values in a file.

    Attributes:
        start: Its first byte.
        size: How many bytes.
    """

    start: int
    size: int


def open_checkpoint(path: Path, key: str | None = None) -> WeightFile:
    """Open a file of `torch.save` without running anything that it names.

    Args:
        path: The file.
        key: Which part of a nested checkpoint to take.

    Raises:
        WeightFileError: It holds more than weights, or is cut short.
        OSError: It cannot be opened.
    """
    return open_with(path, lambda file, source: _open(file, source, key))


def _open(file: BinaryIO, source: str, key: str | None) -> WeightFile:
    size = os.fstat(file.fileno()).st_size
    read = _read_archive if file.read(2) == b"PK" else _read_before_zip
    file.seek(0)
    try:
        content, records = read(file, size, source)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        LookupError,
        ValueError,
    ) as error:
        raise broken_file(source, COMPLETE, error) from None
    except (struct.error, EOFError, OverflowError) as error:
        raise broken_file(source, COMPLETE, error) from None
    tensors, ignored = find_state(source, content, StoredTensor, key)
    entries = {name: _entry(source, name, tensor, size) for name, tensor in tensors.items()}
    _check_records(source, tensors, records)

    def load(name: str) -> Array:
        tensor = tensors[name]
        assert tensor.storage is not None  # _entry has refused others
        begin, length = tensor.span
        file.seek(records[tensor.storage.key].start + begin)
        raw = bytearray(length)
        if file.readinto(raw) != length:  # type: ignore[attr-defined]
            raise WeightFileError(f"{source} was cut while it was read")
        return tensor.values(raw)

    return WeightFile(source, entries, load, tied=_tied(tensors), ignored=ignored, close=file.close)


def _read_archive(file: BinaryIO, size: int, source: str) -> tuple[Any, dict[str, Record]]:
    """Read a file as torch writes it since 1.6: a zip archive with a record for each storage."""
    with zipfile.ZipFile(file) as archive:
        rows = archive.infolist()
        _check_rows(source, rows, size)
        names = {row.filename: row for row in rows}
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        root = pickles[0].partition("/")[0] if len(pickles) == 1 else ""
        if not root:
            raise _another_archive(source, list(names))
        if f"{root}/constants.pkl" in names:
            raise ValueError("it is a TorchScript program")
        order = names.get(f"{root}/byteorder")
        if order is not None and archive.read(order)[:10] != b"little":
            raise ValueError("its values are big-endian")
        text = archive.read(names[f"{root}/data.pkl"])
    content = _unpickled(io.BytesIO(text), len(text), source)
    front = f"{root}/data/"
    places = {n.removeprefix(front): row for n, row in names.items() if n.startswith(front)}
    return content, {name: _place(file, row, size) for name, row in places.items()}


def _another_archive(source: str, names: Sequence[str]) -> WeightFileError:
    """Return the error for a zip archive that `torch.save` did not write."""
    arrays = bool(names) and all(name.endswith(".npy") for name in names)
    to_weights = 'safetensors.numpy.save_file(dict(np.load(path)), "weights.safetensors")'
    return WeightFileError(
        f"{source} is not a file of torch.save",
        context=f"it is a zip archive of {listing(map(brief, names)) or 'nothing'}",
        hint=f"arrays of np.savez become a weight file by {to_weights}"
        if arrays
        else "give the file that torch.save wrote; unpack an archive that holds it",
    )


def _check_rows(source: str, rows: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse what could grow beyond the file's size; `torch.save` never compresses."""
    packed = [row.filename for row in rows if row.file_size > row.compress_size]
    packed += [row.filename for row in rows if row.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise WeightFileError(
            f"{source} is not a file of torch.save", context=f"compressed: {listing(packed)}"
        )
    if len({row.filename for row in rows}) != len(rows):
        raise ValueError("two of its records have one name")
    if sum(row.file_size for row in rows) > size:
        raise ValueError("its records claim more bytes than it has")


def _place(file: BinaryIO, row: zipfile.ZipInfo, size: int) -> Record:
    """Return where a record's bytes are: after a header of its own."""
    file.seek(row.header_offset)
    mark, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = row.header_offset + _LOCAL_HEADER.size + name + extra
    if mark != b"PK\x03\x04" or start + row.file_size > size or row.flag_bits & 1:
        raise ValueError(f"its record {brief(row.filename)} is cut or encrypted")
    return Record(start, row.file_size)


def _read_before_zip(file: BinaryIO, size: int, source: str) -> tuple[Any, dict[str, Record]]:
    """Read a file as torch wrote it before 1.6: pickles, then the values of each storage."""
    storages: dict[str, Storage] = {}

    def persistent(identifier: Any) -> Storage:
        storage = read_identifier(identifier)
        return storages.setdefault(storage.key, storage)

    for _ in ("its magic number", "its version"):
        read_pickle(file, size, source, admit=admit, start=file.tell())
    machine = read_pickle(file, size, source, admit=admit, start=file.tell())
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise ValueError("its values are big-endian")
    content = read_pickle(file, size, source, admit=admit, persistent=persistent, start=file.tell())
    keys = read_pickle(file, size, source, admit=admit, start=file.tell())
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it has no list of storages")
    records: dict[str, Record] = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        if key in records or key not in storages or count != storages[key].count:
            raise ValueError(f"its storage {brief(key)} is not of the size that its tensors need")
        records[key] = Record(file.tell(), storages[key].nbytes)
        if records[key].start + records[key].size > size:
            raise ValueError(f"its storage {brief(key)} is cut")
        file.seek(records[key].size, os.SEEK_CUR)
    return content, records


def _unpickled(file: BinaryIO, size: int, source: str) -> Any:
    return read_pickle(file, size, source, admit=admit, persistent=read_identifier)


def _check_records(
    source: str, tensors: Mapping[str, StoredTensor], records: Mapping[str, Record]
) -> None:
    """Check that every storage has all its bytes in the file."""
    for name, tensor in tensors.items():
        storage = tensor.storage
        record = records.get(storage.key) if storage else None
        if storage and (record is None or record.size != storage.nbytes):
            have = "none" if record is None else f"{record.size:,}"
            raise broken_file(
                source, COMPLETE, f"{brief(name)} needs {storage.nbytes:,} bytes, and has {have}"
            )


def _entry(source: str, name: str, tensor: StoredTensor, size: int) -> TensorEntry:
    """Describe a tensor; one that has no values of its own in the file is refused."""
    if tensor.storage is None:
        raise WeightFileError(
            f"{source}: {brief(name)} is not an ordinary tensor", context=tensor.sort
        )
    entry = make_entry(source, name, tensor.shape, tensor.dtype)
    if entry.nbytes > size:
        raise WeightFileError(
            f"{source}: {brief(name)} is {entry}, {entry.nbytes} bytes, and the file has {size}",
            hint="save it with .contiguous()",
        )
    return entry


def _tied(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Return names that share their values with an earlier name, with that name."""
    first: dict[StoredTensor, str] = {}
    tied = {}
    for name, tensor in tensors.items():
        target = first.setdefault(tensor, name) if 0 not in tensor.shape else name
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
        OSError: The file cannot be written.
    """
    written: dict[str, torch.Tensor] = {}
    for done, row in enumerate(tensors, start=1):
        written[row.name] = written[row.alias_of] if row.alias_of is not None else _to_tensor(row)
        progress(row.name, done, len(tensors))
    watched = _Watched(file)
    try:
        torch.save(written, watched)
    except RuntimeError:  # torch's own error says nothing of the disk
        if watched.error is None:
            raise
        raise watched.error from None


class _Watched:
    """A file that remembers why it could not be written: torch's writer forgets it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None
        self.seek, self.tell, self.flush = file.seek, file.tell, file.flush

    def write(self, data: Any) -> int:
        """Write bytes."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise


def _to_tensor(row: NamedWeight) -> torch.Tensor:
    tensor = torch.empty(row.shape, dtype=getattr(torch, row.dtype))
    tensor.reshape(-1).view(torch.uint8).numpy()[:] = values_of(row).reshape(-1).view(np.uint8)
    return tensor
