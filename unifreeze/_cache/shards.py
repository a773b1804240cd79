"""One file of kept rows: written whole or not at all, and checked before its rows are used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash

from unifreeze._cache.output_rows import Row
from unifreeze._ports.weights.contents import DTYPES, Named
from unifreeze._ports.weights.safetensors_format import open_safetensors, write_safetensors
from unifreeze._protocol.batches import Array
from unifreeze._whole_files import whole_file
from unifreeze.errors import CacheError, UnifreezeError

_GROUP, _KEYS, _DIGEST = "unifreeze.group", "unifreeze.rows", "unifreeze.digest"
Kept = tuple[Row, ...]


class Shard:
    """A file of rows on the disk; its values are read when they are asked for.

    Attributes:
        path: The file.
        keys: The keys of its rows, in order.
        nbytes: How many bytes its rows take.
    """

    def __init__(self, path: Path, group: str) -> None:
        """Read the header.

        Raises:
            CacheError: The file is cut short or damaged, or its rows are of another model.
        """
        self.path = path
        try:
            with open_safetensors(path) as file:
                texts, entries = (
                    dict(file.metadata),
                    {name: file.entry(name) for name in file.names},
                )
            keys = json.loads(texts.get(_KEYS, ""))
        except (UnifreezeError, OSError, ValueError) as error:
            raise _damaged(path, str(error).splitlines()[0]) from None
        if texts.get(_GROUP) != group:
            raise CacheError(
                f"{path} holds rows of another model, or of other frozen weights",
                context=f"its group is {texts.get(_GROUP)}, and the folder's is {group}",
                hint="take the file out of this folder",
            )
        self.keys: list[str] = list(keys)
        self._digest = texts.get(_DIGEST, "")
        self._shapes = {name: (entry.shape, entry.dtype) for name, entry in entries.items()}
        self.nbytes = sum(entry.nbytes for entry in entries.values())
        self._arrays: dict[str, Array] | None = None

    def row(self, number: int) -> Kept:
        """Return a row.

        Raises:
            CacheError: The file is damaged.
        """
        arrays = self._read() if self._arrays is None else self._arrays
        calls: dict[int, dict[int, Array]] = {}
        for name, array in arrays.items():
            call, slot = map(int, name.split("."))
            calls.setdefault(call, {})[slot] = array[number]
        return tuple(tuple(row[slot] for slot in sorted(row)) for _, row in sorted(calls.items()))

    def _read(self) -> dict[str, Array]:
        """Map the file into memory, and compare its digest."""
        try:
            raw = np.memmap(self.path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise _damaged(self.path, str(error)) from None
        length = int.from_bytes(raw[:8].tobytes(), "little")
        values = raw[8 + length :]
        if xxhash.xxh3_128(values.data).hexdigest() != self._digest:
            raise _damaged(self.path, "its values are not those that were written")
        header = json.loads(raw[8 : 8 + length].tobytes())
        arrays = {}
        for name, (shape, dtype) in self._shapes.items():
            begin, end = header[name]["data_offsets"]
            arrays[name] = values[begin:end].view(DTYPES[dtype]).reshape(shape)
        self._arrays = arrays
        return arrays


def write_shard(path: Path, group: str, rows: Mapping[str, Kept], *, bfloat16: bool) -> None:
    """Write rows of the same shapes as one safetensors file.

    Args:
        path: The file.
        group: What the rows depend on.
        rows: The rows by their keys.
        bfloat16: True if 16-bit whole numbers stand for bfloat16 values.

    Raises:
        OSError: It cannot be written.
    """
    kept = list(rows.values())
    tensors: list[tuple[str, Array]] = []
    for call in range(len(kept[0])):
        for slot in range(len(kept[0][call])):
            tensors.append((f"{call}.{slot}", np.stack([row[call][slot] for row in kept])))
    # In the order in which they are written: larger elements first.
    tensors.sort(key=lambda tensor: -tensor[1].dtype.itemsize)
    hasher = xxhash.xxh3_128()
    for _, array in tensors:
        hasher.update(array.reshape(-1).view(np.uint8).data)
    texts = {_GROUP: group, _KEYS: json.dumps(list(rows)), _DIGEST: hasher.hexdigest()}
    named = [_named(name, array, bfloat16=bfloat16) for name, array in tensors]
    with whole_file(path) as file:
        write_safetensors(file, named, texts, lambda *_: None)


def _named(name: str, array: Array, *, bfloat16: bool) -> Named:
    dtype = "bfloat16" if bfloat16 and array.dtype == np.uint16 else str(array.dtype)
    return Named(name, array.shape, dtype, lambda: array)


def shapes_of(kept: Kept) -> Sequence[tuple[tuple[int, ...], str]]:
    """Return shape and type of each piece of a row; rows of one file have the same."""
    return tuple((piece.shape, str(piece.dtype)) for call in kept for piece in call)


def _damaged(path: Path, reason: str) -> CacheError:
    return CacheError(
        f"{path} is damaged: {reason}",
        context="the rows in it cannot be used",
        hint="delete the file; its rows are then computed again",
    )
