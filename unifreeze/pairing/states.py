"""What no gradient tells of: state, and what a port cuts off. Does it matter what it holds?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from unifreeze.backend import SketchRun
from unifreeze.backend.projections import Array, sketch
from unifreeze.errors import TargetError
from unifreeze.pairing.given import Rows, Values
from unifreeze.pairing.record import TensorRow

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

    That is found out by changing it.

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
        silent = [row for row in silent if not _is_told(row, results)]

    def matter(paths: Iterable[str]) -> bool:
        changed = {path: _changed(path, rows[path].shape, values, current) for path in paths}

        def other(path: str, shape: tuple[int, ...]) -> Array | None:
            return changed[path] if path in changed else values(path, shape)

        try:
            there = run(other).outputs
        except TargetError:
            return True
        return not all(seen.is_alike(there[key]) for key, seen in shared.outputs.items())

    paths = [row.path for row in silent]
    if not paths or not matter(paths):
        return rows
    shown = {path for path in paths if matter([path])}
    return {
        path: row.model_copy(update={"shown": True}) if path in shown else row
        for path, row in rows.items()
    }


def _with_held(row: TensorRow, values: Values, current: Callable[[str], Array]) -> TensorRow:
    """Say what state holds that is given no values."""
    if not row.kept or values(row.path, row.shape) is not None:
        return row
    return row.model_copy(update={"held": sketch(current(row.path))})


def _is_told(row: TensorRow, results: Collection[str]) -> bool:
    """Tell whether what a layer returns tells of a parameter."""
    return row.kind in TELLING and row.owner in results


def _changed(
    path: str, shape: tuple[int, ...], values: Values, current: Callable[[str], Array]
) -> Array:
    held = values(path, shape)
    return (current(path) if held is None else held) * 1.5 + 0.5
