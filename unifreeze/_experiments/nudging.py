"""Move a model's inputs by one unit in the last place, to measure its own rounding noise."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from unifreeze._experiments.experiment_operations import ExperimentOperations
from unifreeze._numerics.projections import numbers
from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.live import Model
from unifreeze._structure import ModelSpec, Tensor

_UNITS = {"float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_SINGLE = 2.0**-23


def nudge(
    backend: ExperimentOperations,
    model: Model,
    spec: ModelSpec,
    batch: Batch,
    *,
    double: bool,
    step: int = 0,
) -> Batch:
    """Move lookup tables by about one unit in the last place, either way; return a moved batch.

    Args:
        backend: The model's backend.
        model: The live model; its tables are written.
        spec: Its description.
        batch: Inputs; whole numbers stay.
        double: The unit is that of double precision, not that of the model's own.
        step: Each step of a training moves them in other directions.
    """
    unit = _UNITS["float64"] if double else _unit(spec.tensors)
    seed = 11 + step
    moved = [_nudged(array, unit, seed) for array in batch.args]
    named = {name: _nudged(array, unit, seed) for name, array in batch.kwargs.items()}
    floats = any(array.dtype.kind == "f" for array in (*moved, *named.values()))
    tables = [p.path for p in spec.parameters if p.kind == "embedding"]
    if not tables and not floats:
        tables = [spec.parameters[int(spec.canonical_order[0])].path]
    for path in tables:
        backend.assign(model, path, _nudged(backend.tensor(model, path), unit, seed))
    return Batch(tuple(moved), named)


def _nudged(array: Array, unit: float, seed: int) -> Array:
    if array.dtype.kind != "f":
        return array
    signs = np.where(numbers(array.size, seed) > 0, 1.0, -1.0).reshape(array.shape)
    return np.asarray(array.astype(np.float64) * (1 + unit * signs))


def _unit(tensors: Iterable[Tensor]) -> float:
    """Return the unit of the coarsest floating dtype among a model's parameters."""
    return max((_UNITS.get(tensor.dtype, _SINGLE) for tensor in tensors), default=_SINGLE)


def unit_of(dtype: str) -> float:
    """Return the distance from 1 to the next number of a floating dtype.

    >>> unit_of("float32") == 2.0**-23
    True
    """
    return _UNITS.get(dtype, _SINGLE)
