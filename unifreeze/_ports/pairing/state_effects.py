"""Whether outputs depend on tensors without a gradient: state, and parameters that are cut off."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial as bound
from math import isfinite, prod
from typing import NamedTuple

import numpy as np

from unifreeze._numerics.projections import LIMIT, Array, numbers, sketch
from unifreeze._ports.pairing.model_sketch import TensorRow, TensorRows, is_floating
from unifreeze._ports.pairing.probe_values import Values
from unifreeze._protocol import Sketch, SketchRun
from unifreeze.errors import TargetError

TELLING = ("conv", "linear", "norm", "embedding")
"""Kinds of layers whose output depends on each of their parameters."""

MOST_CHANGED = 64
"""If more tensors have no gradient, those that show in their layers' outputs are left out."""


def with_shown(
    rows: TensorRows,
    values: Values,
    shared: SketchRun,
    run: Callable[[Values], SketchRun],
    current: Callable[[str], Array],
) -> TensorRows:
    """Return the rows with `held`, `shown` and `effect` set.

    Whether outputs depend on a tensor without a gradient is found out by changing its values. The
    changed outputs also tell states apart that hold the same values.

    Args:
        rows: The model's tensors.
        values: Returns the values of each tensor on shared values.
        shared: The run on those.
        run: Runs the model on other values.
        current: Returns the values that a tensor holds now.
    """
    rows = {path: _with_held(row, values, current) for path, row in rows.items()}
    paths = [row.path for row in _silent(rows, shared)]
    changes = _Changes(rows, values, shared, run, current)
    if not paths or not changes.are_seen_in(changes.outputs(paths)):
        return rows
    effects = {path: changes.outputs([path]) for path in paths}
    shown = {path: seen or {} for path, seen in effects.items() if changes.are_seen_in(seen)}
    return {
        path: row.model_copy(update={"shown": True, "effect": shown[path]})
        if path in shown
        else row
        for path, row in rows.items()
    }


def _silent(rows: TensorRows, shared: SketchRun) -> list[TensorRow]:
    """Return the tensors that ran without a gradient; if there are many, only the unclear ones."""
    silent = [row for row in rows.values() if row.reached and row.path not in shared.gradients]
    silent = [row for row in silent if row.kept or not row.state]
    if len(silent) <= MOST_CHANGED:
        return silent
    results = {path for path, _, _ in shared.layers}
    return [row for row in silent if not _shows_in_result(row, results) or _has_twin(row, silent)]


Change = Callable[[Callable[[str], Array], TensorRow, Array | None], Array]


class _Changes(NamedTuple):
    """Runs of a model with other values in some tensors; see `with_shown`."""

    rows: TensorRows
    values: Values
    shared: SketchRun
    run: Callable[[Values], SketchRun]
    current: Callable[[str], Array]

    def outputs(self, paths: Collection[str]) -> dict[str, Sketch] | None:
        """Return the outputs with other values in some tensors; None if these break the model."""
        for change in (_changed, _changed_a_little, _changed_to_smaller):
            try:
                run = self.run(bound(self._with_others, change, {*paths}))
            except TargetError:
                continue
            outputs = {name: run.outputs[key].sketch for key, name in self.shared.chosen.items()}
            known = {name: sketch for name, sketch in outputs.items() if sketch is not None}
            if all(isfinite(sketch.norm) for sketch in known.values()):
                return known
        return None

    def _with_others(
        self, change: Change, paths: set[str], path: str, shape: tuple[int, ...]
    ) -> Array | None:
        """Return a tensor's values, changed for some tensors."""
        array = self.values(path, shape)
        return change(self.current, self.rows[path], array) if path in paths else array

    def are_seen_in(self, outputs: dict[str, Sketch] | None) -> bool:
        """Return whether outputs differ from those of the shared run, or the model broke."""
        if outputs is None:
            return True
        before = {name: self.shared.outputs[key].sketch for key, name in self.shared.chosen.items()}
        pairs = ((before.get(name), sketch) for name, sketch in outputs.items())
        return any(old is not None and old.gap(new) > LIMIT for old, new in pairs)


def _with_held(row: TensorRow, values: Values, current: Callable[[str], Array]) -> TensorRow:
    """Return the row with `held` set, for kept state that is given no values."""
    if not row.kept or values(row.path, row.shape) is not None:
        return row
    array = current(row.path)
    plain = array if is_floating(row.dtype) else array.astype(np.float64)
    return row.model_copy(update={"held": sketch(plain)})


def _shows_in_result(row: TensorRow, results: Collection[str]) -> bool:
    """Return whether a layer's output is known and depends on a parameter."""
    return row.kind in TELLING and row.owner in results


def _has_twin(row: TensorRow, others: Iterable[TensorRow]) -> bool:
    """Return whether the same layer has another state with the same values."""
    return row.held is not None and any(
        other.path != row.path
        and (other.owner, other.shape) == (row.owner, row.shape)
        and other.held is not None
        and other.held.gap(row.held) <= LIMIT
        for other in others
    )


def _changed(current: Callable[[str], Array], row: TensorRow, values: Array | None) -> Array:
    """Return other values; without given values, each element changes by another amount."""
    if values is not None:
        return values * 1.5 + 0.5
    array, drawn = current(row.path), numbers(prod(row.shape), 21).reshape(row.shape)
    if array.dtype == np.bool_:
        return array ^ _some(drawn)
    if not is_floating(row.dtype):
        return _in_another_order(array)
    return np.asarray(array * 1.5 + 0.5 + 0.25 * drawn)


def _changed_a_little(
    current: Callable[[str], Array], row: TensorRow, values: Array | None
) -> Array:
    """Return other values of the same sign; zeros and infinities stay as they are."""
    array = current(row.path) if values is None else values
    drawn = numbers(prod(row.shape), 22).reshape(row.shape)
    if array.dtype == np.bool_:
        return array | _some(drawn)
    if values is None and not is_floating(row.dtype):
        return _in_another_order(array)
    return np.asarray(array * (1.25 + 0.1 * drawn))


def _changed_to_smaller(
    current: Callable[[str], Array], row: TensorRow, values: Array | None
) -> Array:
    """Return smaller values of the same sign; a mask gets fewer true elements."""
    array = current(row.path) if values is None else values
    if array.dtype == np.bool_:
        return array & ~_some(numbers(prod(row.shape), 23).reshape(row.shape))
    return _changed_a_little(current, row, values) if array.dtype.kind in "iu" else array * 0.75


def _some(drawn: Array) -> Array:
    """Choose about half of the elements, and the first."""
    chosen = drawn > 0
    chosen.reshape(-1)[:1] = True
    return np.asarray(chosen)


def _in_another_order(array: Array) -> Array:
    """Return integers that are valid as indices: shuffled, or one less if all are equal."""
    order = np.argsort(numbers(array.size, 24))
    shuffled = array.reshape(-1)[order].reshape(array.shape)
    return shuffled if np.any(shuffled != array) else array - (array > 0).astype(array.dtype)
