"""Reading and writing `.safetensors` files, one tensor at a time.

The package `safetensors` reads them: it checks every rule of the format but one, and reads without
mapping the file into memory, so that a file which is cut meanwhile is an error. Done here is what
it cannot do: it accepts a name that stands twice; NumPy has no dtype for bfloat16 and float8, so
their bits are read by their place; and it writes only tensors that are all in memory at once.
The format is at https://huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from unifreeze._files import unique_keys
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
    values_of,
)
from unifreeze.errors import WeightFileError, brief, listing

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


BITS = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
"""Dtypes that NumPy lacks: their arrays are bit patterns."""


def open_safetensors(path: Path) -> WeightFile:
    """Open a safetensors file; only its header is read.

    Raises:
        WeightFileError: The file breaks a rule of the format.
        OSError: It cannot be opened.
    """
    return open_with(path, lambda file, source: _open(path, file, source))


def _open(path: Path, file: BufferedReader, source: str) -> WeightFile:
    try:
        archive: Any = safe_open(path, framework="np", backend="pread")
    except SafetensorError as error:
        raise _broken(
            source, str(error).removeprefix("Error while deserializing header: ")
        ) from None
    start = _check_names(file, source)
    entries, places = _entries(archive, start, source)
    metadata = dict(archive.metadata() or {})
    tied = _aliases(metadata.pop(ALIASES, "{}"), entries, source)

    def load(name: str) -> Array:
        name = name if name in places else tied[name]
        entry = entries[name]
        if entry.dtype in BITS:
            return _read_bits(file, places[name], entry, source)
        try:
            return np.require(archive.get_tensor(name), requirements="W")
        except SafetensorError as error:
            raise WeightFileError(
                f"{source} was cut while it was read", context=str(error)
            ) from None

    for name, target in tied.items():
        entries.setdefault(name, entries[target])
    return WeightFile(source, entries, load, metadata=metadata, tied=tied, close=file.close)


def _check_names(file: BinaryIO, source: str) -> int:
    """Refuse a name that stands twice; return where the tensors start."""
    length = int.from_bytes(file.read(8), "little")
    try:
        json.loads(file.read(length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(source, f"its header cannot be read: {error}") from None
    return 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> None:
    """Check the names of a JSON object, and keep nothing of it."""
    unique_keys(pairs)


def _entries(
    archive: Any, start: int, source: str
) -> tuple[dict[str, TensorEntry], dict[str, int]]:
    """Return shape and dtype of each tensor, in order of their bytes, and where these begin."""
    entries: dict[str, TensorEntry] = {}
    places: dict[str, int] = {}
    for name in archive.offset_keys():
        described = archive.get_slice(name)
        code = described.get_dtype()
        entries[name] = make_entry(source, name, described.get_shape(), CODES.get(code, code))
        places[name] = start
        start += entries[name].nbytes  # tensors stand without holes
    return entries, places


def _read_bits(file: BinaryIO, place: int, entry: TensorEntry, source: str) -> Array:
    file.seek(place)
    array = np.empty(entry.shape, DTYPES[entry.dtype])
    if file.readinto(array.reshape(-1).view(np.uint8).data) != entry.nbytes:  # type: ignore[attr-defined]
        raise WeightFileError(f"{source} was cut while it was read")
    return array


def _aliases(text: str, rows: Mapping[str, TensorEntry], source: str) -> dict[str, str]:
    try:
        tied = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):
        tied = None
    if not isinstance(tied, dict):
        raise _broken(source, f"{ALIASES} in its metadata is not a JSON object")
    for name, target in tied.items():
        known = isinstance(target, str) and target in rows and target not in tied
        if not known or rows.get(name, rows[target]) != rows[target]:
            raise _broken(source, f"{brief(name)} cannot be tied to {brief(target)}")
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
