"""Reading and writing `.safetensors` files: a checked header, then one tensor at a time.

The format is at https://huggingface.co/docs/safetensors/index#format. Its rules are checked here
and not by the reference library, so that a message can name the rule that a file breaks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unifreeze._numerics.projections import Array
from unifreeze._ports.weights.contents import (
    DTYPES,
    Named,
    TensorEntry,
    TensorProgress,
    WeightFile,
    broken_file,
    make_entry,
    open_with,
    unique_keys,
    values_of,
)
from unifreeze.errors import WeightFileError, listing

MOST_HEADER = 100_000_000
"""The reference library's own limit, in bytes."""
ALIASES = "unifreeze.aliases"
METADATA = "__metadata__"
CODES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
NAMES = {name: code for code, name in CODES.items()}


@dataclass(frozen=True)
class _Row:
    entry: TensorEntry
    begin: int
    end: int


def open_safetensors(path: Path) -> WeightFile:
    """Open a safetensors file; only its header is read.

    Raises:
        WeightFileError: The file breaks a rule of the format.
        OSError: It cannot be opened.
    """
    return open_with(path, _open)


def _open(file: BufferedReader, source: str) -> WeightFile:
    size = os.fstat(file.fileno()).st_size
    header, start = _read_header(file, size, source)
    metadata = _metadata(header.pop(METADATA, {}), source)
    rows = _rows(header, size - start, source)
    tied = _aliases(metadata.pop(ALIASES, "{}"), rows, source)
    for name, target in tied.items():
        rows.setdefault(name, rows[target])

    def load(name: str) -> Array:
        row = rows[name]
        file.seek(start + row.begin)
        array = np.empty(row.entry.shape, DTYPES[row.entry.dtype])
        if file.readinto(array.reshape(-1).view(np.uint8).data) != row.entry.nbytes:
            raise WeightFileError(f"{source} was cut short while it was being read")
        return array

    entries = {name: row.entry for name, row in rows.items()}
    return WeightFile(source, entries, load, metadata=metadata, tied=tied, close=file.close)


def _read_header(file: BinaryIO, size: int, source: str) -> tuple[dict[str, Any], int]:
    """Return the header and where the tensors start."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MOST_HEADER):
        raise _broken(source, f"its header claims {length} bytes, the file has {size}")
    raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise _broken(source, f"its header cannot be read: {error}") from None
    if not isinstance(header, dict):
        raise _broken(source, "its header is not a JSON object")
    return header, 8 + length


def _metadata(texts: object, source: str) -> dict[str, str]:
    if isinstance(texts, dict) and all(isinstance(value, str) for value in texts.values()):
        return texts
    raise _broken(source, "its metadata is not a mapping from text to text")


def _rows(header: Mapping[str, Any], room: int, source: str) -> dict[str, _Row]:
    """Return the rows of the header in order of their bytes, which must fill the file exactly."""
    rows = {name: _row(name, described, source) for name, described in header.items()}
    rows = dict(sorted(rows.items(), key=lambda item: (item[1].begin, item[1].end)))
    reached = 0
    for name, row in rows.items():
        if row.begin != reached:
            what = "overlaps the tensor before it" if row.begin < reached else "leaves a hole"
            raise _broken(source, f"{name!r} {what}: it starts at {row.begin}, not at {reached}")
        reached = row.end
    if reached != room:
        raise _broken(source, f"its tensors take {reached} bytes, and {room} are there")
    return rows


def _row(name: str, described: object, source: str) -> _Row:
    if not isinstance(described, dict) or described.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(source, f"{name!r} lacks dtype, shape or data_offsets, or has more")
    shape, offsets, code = (described[key] for key in ("shape", "data_offsets", "dtype"))
    whole = isinstance(offsets, list) and [type(at) for at in offsets] == [int, int]
    if not (isinstance(shape, list) and isinstance(code, str) and whole):
        raise _broken(source, f"{name!r} is described with values of the wrong type")
    entry = make_entry(source, name, shape, CODES.get(code, code))
    begin, end = offsets
    if begin < 0 or end - begin != entry.nbytes:
        raise _broken(source, f"{name!r} is {entry}, which does not fill bytes {begin} to {end}")
    return _Row(entry, begin, end)


def _aliases(text: str, rows: Mapping[str, _Row], source: str) -> dict[str, str]:
    try:
        tied = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):
        tied = None
    if not isinstance(tied, dict):
        raise _broken(source, f"{ALIASES} in its metadata is not a JSON object")
    for name, target in tied.items():
        known = isinstance(target, str) and target in rows and target not in tied
        if not known or rows.get(name, rows[target]).entry != rows[target].entry:
            raise _broken(source, f"{name!r} cannot be tied to {target!r}")
    return tied


def _broken(source: str, reason: str) -> WeightFileError:
    return broken_file(source, "a valid safetensors file", reason)


def write_safetensors(
    file: BinaryIO, tensors: Sequence[Named], metadata: Mapping[str, str], progress: TensorProgress
) -> None:
    """Write tensors as safetensors, one in memory at a time.

    The format does not allow two names for the same bytes, and the frameworks' own
    `load_state_dict` needs every name. So a tied tensor is written under each of its names, and
    the metadata (`unifreeze.aliases`) says which names are one tensor.

    Raises:
        WeightFileError: The format cannot hold a name or a dtype.
    """
    # Larger elements come first, as in the reference library, so that each tensor is aligned.
    ordered = sorted(tensors, key=lambda tensor: -np.dtype(DTYPES[tensor.dtype]).itemsize)
    header = _header(ordered, metadata)
    file.write(len(header).to_bytes(8, "little") + header)
    for done, tensor in enumerate(ordered, start=1):
        file.write(values_of(tensor).reshape(-1).view(np.uint8).data)
        progress(tensor.name, done, len(ordered))


def _header(tensors: Sequence[Named], metadata: Mapping[str, str]) -> bytes:
    tied = {tensor.name: tensor.alias_of for tensor in tensors if tensor.alias_of is not None}
    texts = {**metadata, ALIASES: json.dumps(tied)} if tied else dict(metadata)
    rows: dict[str, Any] = {METADATA: texts} if texts else {}
    begin = 0
    for tensor in tensors:
        if tensor.dtype not in NAMES or tensor.name == METADATA:
            raise WeightFileError(
                f"safetensors cannot hold {tensor.name!r} as {tensor.dtype}",
                context=f"dtypes: {listing(NAMES, limit=len(NAMES))}",
            )
        end = begin + tensor.entry.nbytes
        code, shape = NAMES[tensor.dtype], list(tensor.shape)
        rows[tensor.name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    raw = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return raw + b" " * (-len(raw) % 8)
