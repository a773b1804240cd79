"""What no gradient tells of: state, and what a port cuts off. Does it matter what it holds?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial as bound
from math import isfinite, prod

import numpy as np

from unifreeze._numerics.projections import LIMIT, Array, numbers, sketch
from unifreeze._ports.pairing.model_sketch import TensorRow, is_floating
from unifreeze._ports.pairing.probe_values import Rows, Values
from unifreeze._protocol import Sketch, SketchRun
from unifreeze.errors import TargetError

TELLING = ("conv", "linear", "norm", "embedding")
"""Kinds of layers whose result depends on each of their parameters."""

MOST_LOOKED_AT = 64
"""Of more tensors than that, those are left out of which their layers' results tell."""


def with_shown(
    rows: Rows,
    values: Values,
    shared: SketchRun,
    run: Callable[[Values], SketchRun],
    current: Callable[[str], Array],
) -> Rows:
    """Say what state holds, and whether outputs depend on what no gradient tells of.

    That is found out by changing it, which also tells one state from another that holds the same.

    Args:
        rows: The model's tensors.
        values: What gives each its values.
        shared: The run on those.
        run: Runs on other values.
        current: Returns what a tensor holds.
    """
    rows = {path: _with_held(row, values, current) for path, row in rows.items()}
    results = {path for path, _, _ in shared.layers}
    silent = [row for row in rows.values() if row.reached and row.path not in shared.gradients]
    silent = [row for row in silent if row.kept or not row.state]
    if len(silent) > MOST_LOOKED_AT:
        silent = [row for row in silent if not _is_told(row, results) or _has_twin(row, silent)]

    def effect(paths: Iterable[str]) -> dict[str, Sketch] | None:
        """Return the outputs with other values in some tensors; None if these break the model."""
        for change in (_changed, _changed_a_little, _changed_otherwise):
            given = bound(_with_others, rows, set(paths), values, bound(change, current))
            try:
                there = run(given)
            except TargetError:
                continue
            sketches = {name: there.outputs[key].sketch for key, name in shared.chosen.items()}
            found = {name: seen for name, seen in sketches.items() if seen is not None}
            if all(isfinite(seen.norm) for seen in found.values()):
                return found
        return None

    usual = {name: shared.outputs[key].sketch for key, name in shared.chosen.items()}

    def seen_in(found: dict[str, Sketch] | None) -> bool:
        if found is None:
            return True
        known = [(usual.get(name), seen) for name, seen in found.items()]
        return any(seen is not None and seen.gap(there) > LIMIT for seen, there in known)

    paths = [row.path for row in silent]
    if not paths or not seen_in(effect(paths)):
        return rows
    found = {path: effect([path]) for path in paths}
    shown = {path: seen or {} for path, seen in found.items() if seen_in(seen)}
    return {
        path: row.model_copy(update={"shown": True, "effect": shown[path]})
        if path in shown
        else row
        for path, row in rows.items()
    }


def _with_held(row: TensorRow, values: Values, current: Callable[[str], Array]) -> TensorRow:
    """Say what state holds that is given no values."""
    if not row.kept or values(row.path, row.shape) is not None:
        return row
    array = current(row.path)
    plain = array if is_floating(row.dtype) else array.astype(np.float64)
    return row.model_copy(update={"held": sketch(plain)})


def _is_told(row: TensorRow, results: Collection[str]) -> bool:
    """Tell whether what a layer returns tells of a parameter."""
    return row.kind in TELLING and row.owner in results


def _has_twin(row: TensorRow, others: Iterable[TensorRow]) -> bool:
    """Tell whether the same layer keeps another state that holds the same."""
    return row.held is not None and any(
        other.path != row.path
        and (other.owner, other.shape) == (row.owner, row.shape)
        and other.held is not None
        and other.held.gap(row.held) <= LIMIT
        for other in others
    )


def _with_others(
    rows: Rows,
    paths: Collection[str],
    values: Values,
    change: Callable[[TensorRow, Array | None], Array],
    path: str,
    shape: tuple[int, ...],
) -> Array | None:
    """Return a tensor's values, other ones for some."""
    array = values(path, shape)
    return change(rows[path], array) if path in paths else array


def _changed(current: Callable[[str], Array], row: TensorRow, given: Array | None) -> Array:
    """Return other values; where none are given, of each element another one than of the next."""
    if given is not None:
        return given * 1.5 + 0.5
    array, drawn = current(row.path), numbers(prod(row.shape), 21).reshape(row.shape)
    if array.dtype == np.bool_:
        return array ^ _some(drawn)
    if not is_floating(row.dtype):
        return _in_another_order(array)
    return np.asarray(array * 1.5 + 0.5 + 0.25 * drawn)


def _changed_a_little(
    current: Callable[[str], Array], row: TensorRow, given: Array | None
) -> Array:
    """Return other values, of the same sign; zeros, and what is infinite, stay as they are."""
    array = current(row.path) if given is None else given
    drawn = numbers(prod(row.shape), 22).reshape(row.shape)
    if array.dtype == np.bool_:
        return array | _some(drawn)
    if given is None and not is_floating(row.dtype):
        return _in_another_order(array)
    return np.asarray(array * (1.25 + 0.1 * drawn))


def _changed_otherwise(
    current: Callable[[str], Array], row: TensorRow, given: Array | None
) -> Array:
    """Return smaller values of the same sign; of a mask, fewer that are true."""
    array = current(row.path) if given is None else given
    if array.dtype == np.bool_:
        return array & ~_some(numbers(prod(row.shape), 23).reshape(row.shape))
    return _changed_a_little(current, row, given) if array.dtype.kind in "iu" else array * 0.75


def _some(drawn: Array) -> Array:
    """Choose some elements, the first among them."""
    chosen = drawn > 0
    chosen.reshape(-1)[:1] = True
    return np.asarray(chosen)


def _in_another_order(array: Array) -> Array:
    """Return integers that index what the old ones did: shuffled, or one less if all are equal."""
    order = np.argsort(numbers(array.size, 24))
    shuffled = array.reshape(-1)[order].reshape(array.shape)
    return shuffled if np.any(shuffled != array) else array - (array > 0).astype(array.dtype)
