"""`load_weights`: a weight file into a live model of the port that wrote the file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial as bound
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unifreeze._handle.trained_values import write_all
from unifreeze._numerics.projections import Array
from unifreeze._ports.pairing.model_sketch import TensorRow, tensor_rows
from unifreeze._ports.weights import WeightFile, files_of, neutral_dtype, open_weights
from unifreeze._protocol import Backend
from unifreeze._protocol.live import Model
from unifreeze.errors import PortError, counted, listing

_PIECE = 2**22
"""Bytes of a file that are hashed at a time."""


class Loaded(NamedTuple):
    """Report of the weights that a model was given from a file.

    Attributes:
        file: Its name.
        digest: SHA-256 of its bytes, the first 16 digits.
        tensors: Number of tensors that were written.
        passed_over: Names in the file that the model does not have.
    """

    file: str
    digest: str
    tensors: int
    passed_over: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file} (sha256 {self.digest}…)"


def load_weights(model: Model, backend: Backend, path: Path) -> Loaded:
    """Write a file's tensors into the model that has their names; all of them, or nothing.

    Args:
        model: The live model.
        backend: Its backend.
        path: A weight file, or a folder or index of several.

    Raises:
        WeightFileError: The file cannot be read.
        PortError: A parameter or running statistic of the model is not in it, or has another shape.
    """
    rows = tensor_rows(backend.describe(model))
    with open_weights(path) as weights:
        names = {row.path: name for row in rows.values() if (name := _name_in(weights, row))}
        _check_fit(weights, rows.values(), names)
        write_all(backend, model, names, bound(_values, weights, backend.name, names))
        known = {name for row in rows.values() for name in (row.path, *row.aliases)}
        passed_over = tuple(name for name in weights.names if name not in known)
    return Loaded(path.name, _digest(path), len(names), passed_over)


def _name_in(weights: WeightFile, row: TensorRow) -> str | None:
    return next((name for name in (row.path, *row.aliases) if name in weights), None)


def _check_fit(weights: WeightFile, rows: Iterable[TensorRow], names: dict[str, str]) -> None:
    """Refuse a file that leaves a parameter or statistic as it was, or does not fit.

    Raises:
        PortError: Listing all of them.
    """
    wrong = []
    for row in rows:
        if row.path not in names:
            needed = not row.state or bool(row.statistic)
            wrong += [f"{row.path}: not in the file"] if needed else []
            continue
        shape = weights.entry(names[row.path]).shape
        if shape != row.shape:
            wrong.append(f"{row.path}: {list(shape)} in the file, {list(row.shape)} in the model")
    if wrong:
        raise PortError(
            f"{weights.source} does not fit the model in {counted(len(wrong), 'place')}",
            context="\n".join([*wrong, f"names in the file: {listing(weights.names, limit=3)}"]),
            hint="give a file of this very model, as its own library saves it",
        )


def _values(weights: WeightFile, framework: str, names: dict[str, str], path: str) -> Array:
    """Return a tensor's values as backends take them: bfloat16 as float32."""
    name = names[path]
    array = weights.read(name)
    if neutral_dtype(framework, weights.entry(name).dtype) != "bfloat16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _digest(path: Path) -> str:
    known = hashlib.sha256()
    for file in files_of(path):
        with Path(file).open("rb") as opened:
            while piece := opened.read(_PIECE):
                known.update(piece)
    return known.hexdigest()[:16]
