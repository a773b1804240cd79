"""One file of kept rows: written whole or not at all, and checked before its rows are used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from unifreeze._cache.output_rows import Row
from unifreeze._files import Row as Plain
from unifreeze._files import read_json
from unifreeze._ports.weights.contents import DTYPES, Named, TensorEntry, WeightFile
from unifreeze._ports.weights.safetensors_format import open_safetensors, write_safetensors
from unifreeze._protocol.batches import Array
from unifreeze._whole_files import whole_file
from unifreeze.errors import CacheError, UnifreezeError, brief, cut

_GROUP, _ROWS, _DIGEST = "unifreeze.group", "unifreeze.rows", "unifreeze.digest"
_NAME = re.compile(r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")
"""The name of a piece: the number of the call, and its place in the call."""
_READ_AT_ONCE = 16 * 2**20
Kept = tuple[Row, ...]


class Header(Plain):
    """What a file says of its rows, beside their shapes.

    Attributes:
        group: What the rows depend on.
        rows: Their keys, in order.
        digest: Of all their values, as they stand in the file.
    """

    group: str
    rows: tuple[str, ...]
    digest: str

    def texts(self) -> dict[str, str]:
        """Return it as the metadata of a safetensors file, which are texts."""
        return {_GROUP: self.group, _ROWS: json.dumps(self.rows), _DIGEST: self.digest}

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> Header:
        """Read what `texts` returned.

        Raises:
            ValueError: It is something else; pydantic's `ValidationError` is one.
            RecursionError: It is nested too deeply.
        """
        rows = read_json(texts.get(_ROWS, ""))
        return cls(group=texts.get(_GROUP, ""), rows=rows, digest=texts.get(_DIGEST, ""))


class _Piece(NamedTuple):
    """One piece of every row: the rows' pieces stand one after the other."""

    call: int
    slot: int
    place: int
    entry: TensorEntry


class Shard:
    """A file of rows on the disk; its values are read when they are asked for.

    It is read and not mapped into memory, so that a file which is cut meanwhile is an error.

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
            with open_safetensors(path) as file, path.open("rb") as raw:
                header = Header.read(file.metadata)
                self._start = 8 + int.from_bytes(raw.read(8), "little")
                self._pieces = _pieces(file, self._start, len(header.rows))
        except (UnifreezeError, OSError, ValueError, RecursionError) as error:
            raise _damaged(path, cut(str(error).splitlines()[0], 200)) from None
        if header.group != group:
            raise CacheError(
                f"{path} holds rows of another model, or of other frozen weights",
                context=f"its group is {cut(header.group, 60)}, and the folder's is {group}",
                hint="take the file out of this folder",
            )
        self.keys = list(header.rows)
        self._digest = header.digest
        self.nbytes = sum(piece.entry.nbytes for piece in self._pieces)
        self._checked = False

    def row(self, number: int) -> Kept:
        """Return a row.

        Raises:
            CacheError: The file is damaged.
        """
        self.check()
        calls: dict[int, dict[int, Array]] = {}
        try:
            with self.path.open("rb", buffering=0) as file:
                for call, slot, place, entry in self._pieces:
                    array = np.empty(entry.shape[1:], DTYPES[entry.dtype])
                    file.seek(place + number * array.nbytes)
                    if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                        raise _damaged(self.path, "it was cut while it was read")
                    calls.setdefault(call, {})[slot] = array
        except OSError as error:
            raise _damaged(self.path, str(error)) from None
        return tuple(tuple(row[slot] for slot in sorted(row)) for _, row in sorted(calls.items()))

    def check(self) -> None:
        """Compare the digest of all values with what was written, once.

        Raises:
            CacheError: They differ, or cannot be read.
        """
        if self._checked:
            return
        hasher = xxhash.xxh3_128()
        try:
            with self.path.open("rb") as file:
                file.seek(self._start)
                while part := file.read(_READ_AT_ONCE):
                    hasher.update(part)
        except OSError as error:
            raise _damaged(self.path, str(error)) from None
        if hasher.hexdigest() != self._digest:
            raise _damaged(self.path, "its values are not those that were written")
        self._checked = True


def _pieces(file: WeightFile, start: int, rows: int) -> list[_Piece]:
    """Return where the pieces of the rows stand.

    Raises:
        ValueError: Some tensor is not a piece of every row.
    """
    pieces = []
    for name in file.names:  # in order of their bytes, which have no holes
        entry, match = file.entry(name), _NAME.fullmatch(name)
        if match is None or not entry.shape or entry.shape[0] != rows or name in file.aliases:
            raise ValueError(f"{brief(name)} is not a piece of its {rows} rows")
        pieces.append(_Piece(int(match[1]), int(match[2]), start, entry))
        start += entry.nbytes
    return pieces


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
    header = Header(group=group, rows=tuple(rows), digest=hasher.hexdigest())
    named = [_named(name, array, bfloat16=bfloat16) for name, array in tensors]
    with whole_file(path) as file:
        write_safetensors(file, named, header.texts(), lambda *_: None)


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
