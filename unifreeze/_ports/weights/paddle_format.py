"""Reading `.pdparams` files, as `paddle.save` writes them, without Paddle.

`paddle/framework/io.py` writes a pickle of names and arrays, where bfloat16 is uint16, parameters
beyond 1 GiB may be cut into slices, and a table gives the tensors' own names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unifreeze._numerics.projections import Array
from unifreeze._ports.weights.allowed_in_pickles import StoredArray, put
from unifreeze._ports.weights.checkpoint_parts import find_state
from unifreeze._ports.weights.contents import (
    DTYPES,
    TensorEntry,
    WeightFile,
    broken_file,
    is_possible,
    open_with,
)
from unifreeze._ports.weights.safe_unpickling import read_pickle
from unifreeze.errors import brief

SLICES = "UnpackBigParamInfor@@"
OWN_NAMES = "StructuredToParameterName@@"
COMPLETE = "a complete pickle of weights"


class StoredTensor:
    """One tensor of a pickle: an array, or the slices of a large one.

    Attributes:
        entry: Shape and dtype; Paddle's uint16 means bfloat16.
        parts: Its arrays, in order.
    """

    def __init__(self, parts: Sequence[StoredArray], shape: tuple[int, ...] | None = None) -> None:
        entries = [part.entry for part in parts if part.entry is not None]
        if len(entries) != len(parts) or len({entry.dtype for entry in entries}) != 1:
            raise ValueError("a tensor of incomplete or unlike arrays")
        dtype = entries[0].dtype
        shape = entries[0].shape if shape is None else shape
        if (
            not isinstance(shape, tuple)
            or not is_possible(shape, dtype)
            or prod(shape) != sum(prod(e.shape) for e in entries)
        ):
            raise ValueError(f"slices that do not make up the shape {brief(shape)}")
        self.entry = TensorEntry(shape, "bfloat16" if dtype == "uint16" else dtype)
        self.parts = tuple(parts)

    def read(self, file: BinaryIO) -> Array:
        """Read it into a new array."""
        if len(self.parts) == 1:
            return self.parts[0].read(file).reshape(self.entry.shape)
        array = np.empty(prod(self.entry.shape), DTYPES[self.entry.dtype])
        at = 0
        for part in self.parts:
            values = part.read(file).reshape(-1)
            array[at : at + len(values)] = values
            at += len(values)
        return array.reshape(self.entry.shape)


def open_pdparams(path: Path, key: str | None = None) -> WeightFile:
    """Open a pickle as `paddle.save` writes it; nothing that it names is run.

    Args:
        path: The file.
        key: Which part of a nested checkpoint to take.

    Raises:
        WeightFileError: It holds more than weights, or is cut short.
        OSError: It cannot be opened.
    """
    return open_with(path, lambda file, source: _open(file, source, key))


def _open(file: BinaryIO, source: str, key: str | None) -> WeightFile:
    content = read_pickle(file, os.fstat(file.fileno()).st_size, source)
    try:
        own_names = content.pop(OWN_NAMES, {}) if isinstance(content, dict) else {}
        content = _with_tensors(content)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise broken_file(source, COMPLETE, error) from None
    tensors, ignored = find_state(source, content, StoredTensor, key)

    def load(name: str) -> Array:
        try:
            return tensors[name].read(file)
        except ValueError as error:
            raise broken_file(source, COMPLETE, error) from None

    entries = {name: tensor.entry for name, tensor in tensors.items()}
    tied = _tied(tensors)
    if isinstance(own_names, dict):
        tied |= _tied_by_name(own_names, entries, load)
    return WeightFile(source, entries, load, tied=tied, ignored=ignored, close=file.close)


def _with_tensors(content: Any) -> Any:
    """Replace arrays by tensors in a dictionary and its dictionaries; slices become one tensor."""
    if not isinstance(content, dict):
        return content
    content = _joined(content)
    tensors: dict[int, StoredTensor] = {}

    def replaced(value: object) -> object:
        array = _array(value)
        return value if array is None else tensors.setdefault(id(array), StoredTensor([array]))

    return {
        name: {key: replaced(part) for key, part in value.items()}
        if isinstance(value, dict)
        else replaced(value)
        for name, value in content.items()
    }


def _array(value: object) -> StoredArray | None:
    """Return the array of a pickled tensor: the value itself, or a pair of name and array."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    return value if isinstance(value, StoredArray) else None


def _joined(content: dict[Any, Any]) -> dict[Any, Any]:
    """Join slices into tensors; a tensor takes the place of its first slice."""
    plan: Mapping[str, Mapping[str, Any]] = content.pop(SLICES, {})
    if not all(isinstance(part, str) for rows in plan.values() for part in rows["slices"]):
        raise ValueError("slices with names that are not text")
    firsts = {rows["slices"][0]: name for name, rows in plan.items()}
    rest = {part for rows in plan.values() for part in rows["slices"]}
    joined: dict[Any, Any] = {}
    for key, value in content.items():
        if key in firsts:
            rows = plan[firsts[key]]
            parts = [content[part] for part in rows["slices"]]
            shape = rows["OriginShape"]
            put(joined, firsts[key], StoredTensor(parts, tuple(shape) if shape else ()))
        elif key not in rest:
            joined[key] = value
    return joined


def _tied(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Find names of one and the same array."""
    first: dict[int, str] = {}
    firsts = {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}
    return {name: target for name, target in firsts.items() if name != target}


def _tied_by_name(
    own_names: Mapping[Any, Any], entries: Mapping[str, TensorEntry], load: Any
) -> dict[str, str]:
    """Find tensors that have one own name and equal values.

    The name alone shows nothing: a tensor that was loaded twice has its name twice.
    """
    first: dict[tuple[object, TensorEntry], str] = {}
    tied = {}
    for name, entry in entries.items():
        own_name = own_names.get(name)
        if not isinstance(own_name, str):
            continue
        target = first.setdefault((own_name, entry), name)
        if target != name and load(name).tobytes() == load(target).tobytes():
            tied[name] = target
    return tied
