"""Settings in which two ports of a network differ, and what each difference would do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import isclose
from typing import Any, NamedTuple

from unifreeze.backend import Backend
from unifreeze.errors import listing
from unifreeze.pairing import Pairing
from unifreeze.structure import ModelSpec

EFFECTS = {
    "epsilon": "changes every normalised value, most where the variance is small",
    "affine": "a scale and shift train on one side only",
    "norms": "norms stand before a layer's sublayers in one, after them in the other",
    "statistics": "inference normalises by running statistics on one side only",
    "statistics momentum": "running statistics follow the batches at another rate: training "
    "agrees, inference drifts apart",
    "running variance": "running variances differ by n/(n-1) for n values per channel; corrected "
    "for in this check",
    "dropout": "another share of values is dropped while training; random, so off in this check",
    "attention dropout": "another share of attention is dropped while training; random, so off in "
    "this check",
    "dropout mode": "values are scaled by 1-p in inference, or by 1/(1-p) in training: both "
    "outputs differ by that factor",
    "padding_idx": "that row gets no gradient on one side",
    "padding row": "the row of padding_idx is read as it is, or as zeros whatever it holds: "
    "outputs differ unless it is zero",
    "max_norm": "looking up rewrites rows longer than that",
    "ceil_mode": "the last, incomplete window is kept or dropped: shapes or border values differ",
    "padded cells": "averages at the border divide by another number of cells",
    "padding_mode": "borders are filled with other values",
    "activation": "another function: outputs and gradients differ everywhere",
    "slope": "the same function with another slope: differs from its slope's digits on",
    "alpha": "the same function with another constant",
    "beta": "the same function with another constant",
    "threshold": "the same function, linear from another value on",
    "default learning rate": "steps of another size where none is given",
    "default momentum": "momentum on one side only where none is given",
    "default smoothing": "squared gradients are averaged over another time where nothing is given",
    "default epsilon": "small gradients take steps of another size where nothing is given",
    "default weight decay": "weights shrink on one side only where nothing is given",
}
"""What a difference in a setting would do."""


class LayerRow(NamedTuple):
    """One layer's settings.

    Attributes:
        path: Native path.
        settings: In neutral terms; `layer` says what it is.
    """

    path: str
    settings: dict[str, str | int | float | bool | None]


class SettingDifference(NamedTuple):
    """One setting that differs, in the same way, in some layers.

    Attributes:
        setting: Its neutral name.
        one: Its value in the first model.
        other: In the second.
        layers: The layers' native paths in both.
        effect: What it would do.
    """

    setting: str
    one: Any
    other: Any
    layers: tuple[tuple[str, str], ...]
    effect: str

    def __str__(self) -> str:
        shown = listing((one for one, _ in self.layers), limit=3)
        return f"{self.setting}: {self.one} and {self.other} in {shown}: {self.effect}"


def layer_settings(backend: Backend, model: Any) -> dict[str, dict[str, Any]]:
    """Return the settings of a model's layers in neutral terms, by native path."""
    return backend.layer_settings(model)


def layer_rows(backend: Backend, model: Any, traced: ModelSpec) -> tuple[LayerRow, ...]:
    """Return a model's layers that have settings in order of execution; what never ran last."""
    found = layer_settings(backend, model)
    calls = traced.trace.calls if traced.trace else ()
    order = {path: number for number, path in enumerate(calls)}
    paths = sorted(found, key=lambda path: order.get(path, len(order)))
    return tuple(LayerRow(path, found[path]) for path in paths)


def default_rows(backend: Backend) -> tuple[LayerRow, ...]:
    """Return what a framework's optimizers do if nobody says otherwise."""
    return tuple(LayerRow(*row) for row in backend.optimizer_defaults().items())


def compare_settings(
    one: Sequence[LayerRow], other: Sequence[LayerRow], owners: Iterable[tuple[str, str]]
) -> tuple[SettingDifference, ...]:
    """List the settings in which paired layers differ.

    Layers with tensors are paired as those are; layers without, such as dropout, in order of
    execution, where both models have as many of a sort.

    Args:
        one: The first model's layers.
        other: The second's.
        owners: Native paths of paired layers.
    """
    found: dict[tuple[str, Any, Any], dict[tuple[str, str], None]] = defaultdict(dict)
    for a, b in _paired_layers(one, other, list(dict.fromkeys(owners))):
        for setting, value in a.settings.items():
            if setting in EFFECTS and setting in b.settings:
                theirs = b.settings[setting]
                if not _same(value, theirs):
                    found[setting, value, theirs][a.path, b.path] = None
    return tuple(
        SettingDifference(setting, value, theirs, tuple(layers), EFFECTS[setting])
        for (setting, value, theirs), layers in found.items()
    )


def owners_of(pairing: Pairing, one: dict[str, str], other: dict[str, str]) -> set[tuple[str, str]]:
    """Return the layers that paired tensors belong to, each once.

    Args:
        pairing: Which tensor is which.
        one: The layer of each tensor of the first model.
        other: Of the second.
    """
    paths = [(pair.one_tensor, pair.other_tensor) for pair in pairing.pairs]
    return {(one[a], other[b]) for a, b in paths if a in one and b in other}


def _paired_layers(
    one: Sequence[LayerRow], other: Sequence[LayerRow], owners: list[tuple[str, str]]
) -> Iterator[tuple[LayerRow, LayerRow]]:
    rows = [{row.path: row for row in side} for side in (one, other)]
    partner = dict(owners)
    for row in one:
        if partner.get(row.path) in rows[1]:
            yield row, rows[1][partner[row.path]]
    loose = (_by_sort(one, set(partner)), _by_sort(other, set(partner.values())))
    for sort, alike in loose[0].items():
        if len(alike) == len(loose[1].get(sort, ())):
            yield from zip(alike, loose[1][sort], strict=True)


def _by_sort(rows: Sequence[LayerRow], paired: set[str]) -> dict[Any, list[LayerRow]]:
    sorts: dict[Any, list[LayerRow]] = defaultdict(list)
    for row in rows:
        if row.path not in paired:
            sorts[row.settings.get("layer")].append(row)
    return sorts


def _same(a: Any, b: Any) -> bool:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    return isclose(a, b, rel_tol=1e-9) if numbers else bool(a == b)
