"""Settings in which two ports of a network differ, and what each difference would do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from math import isclose
from typing import Any, NamedTuple

from unifreeze._numerics.projections import LIMIT
from unifreeze._protocol import Backend, Sketch
from unifreeze.errors import listing

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
    "lower bound": "the same function, cut off at another value",
    "upper bound": "the same function, cut off at another value",
    "default learning rate": "steps of another size where none is given",
    "default momentum": "momentum on one side only where none is given",
    "default smoothing": "squared gradients are averaged over another time where nothing is given",
    "default epsilon": "small gradients take steps of another size where nothing is given",
    "default weight decay": "weights shrink on one side only where nothing is given",
    "update rule": "small gradients take steps of another size, even with one epsilon",
}
"""What a difference in a setting would do."""

UNSEEN = (
    "padding_idx",
    "padding row",
    "max_norm",
    "ceil_mode",
    "padded cells",
    "threshold",
    "lower bound",
    "upper bound",
)
"""Settings whose difference one batch may not show though another does, in inference as well."""


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

    def turned(self) -> SettingDifference:
        """Return the same seen from the second model."""
        layers = tuple((other, one) for one, other in self.layers)
        return self._replace(one=self.other, other=self.one, layers=layers)

    def __str__(self) -> str:
        shown = listing((one for one, _ in self.layers), limit=3)
        return f"{self.setting}: {self.one} and {self.other} in {shown}: {self.effect}"


def layer_rows(backend: Backend, model: Any, calls: Sequence[str]) -> tuple[LayerRow, ...]:
    """Return a model's layers that have settings in order of execution; what never ran last.

    Args:
        backend: The model's backend.
        model: The live model.
        calls: Native paths in order of first use.
    """
    found = backend.layer_settings(model)
    order = {path: number for number, path in enumerate(calls)}
    paths = sorted(found, key=lambda path: order.get(path, len(order)))
    return tuple(LayerRow(path, found[path]) for path in paths)


def default_rows(backend: Backend) -> tuple[LayerRow, ...]:
    """Return what a framework's optimizers do if nobody says otherwise."""
    return tuple(LayerRow(*row) for row in backend.optimizer_defaults().items())


def compare_settings(
    one: Sequence[LayerRow], other: Sequence[LayerRow], pairs: Iterable[tuple[str, str]]
) -> tuple[SettingDifference, ...]:
    """List the settings in which paired layers differ.

    Args:
        one: The first model's layers.
        other: The second's.
        pairs: Native paths of paired layers.
    """
    found: dict[tuple[str, Any, Any], dict[tuple[str, str], None]] = defaultdict(dict)
    rows = [{row.path: row for row in side} for side in (one, other)]
    partners = defaultdict(list)
    for path, partner in dict.fromkeys(pairs):
        partners[path].append(partner)
    known = ((a, rows[1][path]) for a in one for path in partners[a.path] if path in rows[1])
    for a, b in known:
        for setting, value in a.settings.items():
            if setting in EFFECTS and setting in b.settings:
                theirs = b.settings[setting]
                if not _same(value, theirs):
                    found[setting, value, theirs][a.path, b.path] = None
    return tuple(
        SettingDifference(setting, value, theirs, tuple(layers), EFFECTS[setting])
        for (setting, value, theirs), layers in found.items()
    )


def random_layers(
    rows: Iterable[LayerRow], paired: Collection[str]
) -> Iterator[tuple[str, Any, str]]:
    """Give the layers that draw random numbers and have no partner: setting, value, native path.

    Args:
        rows: A model's layers.
        paired: Native paths of those with partners.
    """
    for row in rows:
        for setting in ("dropout", "attention dropout"):
            if row.settings.get(setting) and row.path not in paired:
                yield setting, row.settings[setting], row.path


Results = Callable[[str], Sketch | None]
"""What a layer returned on shared values, by its native path; None where it did not run."""


def layers_alike(
    one: tuple[Sequence[LayerRow], Results], other: tuple[Sequence[LayerRow], Results]
) -> Iterator[tuple[str, str]]:
    """Give pairs of layers of one sort that return the same on the values that both models share.

    Which dropout is which is not told by any tensor, nor by how many there are before it: one port
    may have some that the other does not have. Of several in one place those that do nothing are
    left out where the numbers differ; what then is still unclear is not paired.
    """
    left, right = _by_sort(*one), _by_sort(*other)
    for sort, found in left.items():
        done: set[str] = set()
        for row, sketch in found:
            if row.path in done:
                continue
            ones = [a for a, other in found if a.path not in done and other.gap(sketch) <= LIMIT]
            others = [b for b, other in right.get(sort, ()) if other.gap(sketch) <= LIMIT]
            done.update(a.path for a in ones)
            yield from _in_one_place(ones, others)


def _in_one_place(ones: list[LayerRow], others: list[LayerRow]) -> Iterator[tuple[str, str]]:
    """Pair layers that return the same: those that are set alike first."""
    rest = list(others)
    left = []
    for row in ones:
        same = next((b for b in rest if b.settings == row.settings), None)
        if same is None:
            left.append(row)
        else:
            rest.remove(same)
            yield row.path, same.path
    if len(left) != len(rest):
        left, rest = ([r for r in rows if not _is_idle(r)] for rows in (left, rest))
    if len(left) == len(rest):
        yield from ((a.path, b.path) for a, b in zip(left, rest, strict=True))


def _by_sort(
    rows: Sequence[LayerRow], results: Results
) -> dict[Any, list[tuple[LayerRow, Sketch]]]:
    sorts: dict[Any, list[tuple[LayerRow, Sketch]]] = defaultdict(list)
    for row in rows:
        sketch = results(row.path)
        if sketch is not None:
            sorts[row.settings.get("layer")].append((row, sketch))
    return sorts


def _is_idle(row: LayerRow) -> bool:
    """Tell whether a layer passes on what it gets, in training as in inference."""
    return row.settings.get("dropout") == 0


def _same(a: Any, b: Any) -> bool:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    return isclose(a, b, rel_tol=1e-9) if numbers else bool(a == b)
