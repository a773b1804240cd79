"""Settings in which two ports of a network differ, and what each difference would do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isclose
from typing import Any, NamedTuple

from unifreeze._numerics.projections import LIMIT
from unifreeze._protocol import Backend, Sketch
from unifreeze._protocol.live import Model
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
    "drop path": "another share of branches is skipped while training; random, so off in this "
    "check",
    "dropout mode": "values are scaled by 1-p in inference, or by 1/(1-p) in training: both "
    "outputs differ by that factor",
    "padding_idx": "that row gets no gradient on one side",
    "padding row": "the row of padding_idx is read as it is, or as zeros whatever it holds: "
    "outputs differ unless it is zero",
    "max_norm": "a lookup rescales rows that are longer",
    "ceil_mode": "the last, incomplete window is kept or dropped: shapes or border values differ",
    "padded cells": "averages at the border divide by another number of cells",
    "padding_mode": "borders are filled with other values",
    "activation": "another function: outputs and gradients differ everywhere",
    "slope": "the same function with another negative slope",
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
"""What a difference in a setting does."""

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
"""Settings whose difference shows on some batches only, in inference as well."""


class LayerRow(NamedTuple):
    """One layer's settings.

    Attributes:
        path: Native path.
        settings: Neutral names and values; `layer` is the kind of layer. `ran` is False for one
            that did not run on the batch.
    """

    path: str
    settings: dict[str, str | int | float | bool | None]

    @property
    def ran(self) -> bool:
        """Whether the layer ran on the batch."""
        return bool(self.settings.get("ran", True))


class SettingDifference(NamedTuple):
    """One setting that differs in the same way in some layers.

    Attributes:
        setting: Its neutral name.
        one: Its value in the first model.
        other: Its value in the second model.
        layers: The layers' native paths in both.
        effect: What the difference does.
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


def layer_rows(backend: Backend, model: Model, calls: Sequence[str]) -> tuple[LayerRow, ...]:
    """Return a model's layers with settings, in order of execution; layers that never ran are last.

    Args:
        backend: The model's backend.
        model: The live model.
        calls: Native paths in order of first use.
    """
    settings = backend.layer_settings(model)
    order = {path: number for number, path in enumerate(calls)}
    paths = sorted(settings, key=lambda path: order.get(path, len(order)))
    idle = {"ran": False}
    return tuple(LayerRow(path, settings[path] | ({} if path in order else idle)) for path in paths)


def default_rows(backend: Backend) -> tuple[LayerRow, ...]:
    """Return the default settings of a framework's optimizers."""
    return tuple(LayerRow(*row) for row in backend.optimizer_defaults().items())


def compare_settings(
    one: Sequence[LayerRow], other: Sequence[LayerRow], pairs: Iterable[tuple[str, str]]
) -> tuple[SettingDifference, ...]:
    """Return the settings in which paired layers differ.

    Args:
        one: The first model's layers.
        other: The second model's layers.
        pairs: Native paths of paired layers.
    """
    differences: dict[tuple[str, Any, Any], dict[tuple[str, str], None]] = defaultdict(dict)
    rows = [{row.path: row for row in side} for side in (one, other)]
    partners = defaultdict(list)
    for path, partner in dict.fromkeys(pairs):
        partners[path].append(partner)
    known = ((a, rows[1][path]) for a in one for path in partners[a.path] if path in rows[1])
    for a, b in known:
        for setting, value in a.settings.items():
            if setting in EFFECTS and setting in b.settings:
                there = b.settings[setting]
                if not same_setting(value, there):
                    differences[setting, value, there][a.path, b.path] = None
    return tuple(
        SettingDifference(setting, value, there, tuple(layers), EFFECTS[setting])
        for (setting, value, there), layers in differences.items()
    )


Results = Callable[[str], Sketch | None]
"""Returns a layer's output on shared values, by its native path; None where it did not run."""


def layers_alike(
    one: tuple[Sequence[LayerRow], Results], other: tuple[Sequence[LayerRow], Results]
) -> Iterator[tuple[str, str]]:
    """Yield pairs of layers of one kind that return the same on shared values.

    No tensor says which dropout is which, and neither does a count, because one port may have
    dropouts that the other lacks. If the numbers of equal layers differ, dropouts with rate 0 are
    left out; if they still differ, the layers are not paired.
    """
    left, right = _by_kind(*one), _by_kind(*other)
    for kind, layers in left.items():
        done: set[str] = set()
        for row, sketch in layers:
            if row.path in done:
                continue
            ones = [a for a, result in layers if a.path not in done and result.gap(sketch) <= LIMIT]
            others = [b for b, result in right.get(kind, ()) if result.gap(sketch) <= LIMIT]
            done.update(a.path for a in ones)
            yield from _in_one_place(ones, others)


def _in_one_place(ones: list[LayerRow], others: list[LayerRow]) -> Iterator[tuple[str, str]]:
    """Pair layers that return the same, first those with equal settings."""
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


def _by_kind(
    rows: Sequence[LayerRow], results: Results
) -> dict[Any, list[tuple[LayerRow, Sketch]]]:
    kinds: dict[Any, list[tuple[LayerRow, Sketch]]] = defaultdict(list)
    for row in rows:
        sketch = results(row.path)
        if sketch is not None:
            kinds[row.settings.get("layer")].append((row, sketch))
    return kinds


def _is_idle(row: LayerRow) -> bool:
    """Return whether a layer returns its input unchanged, in training and in inference."""
    return any(row.settings.get(rate) == 0 for rate in ("dropout", "drop path"))


def same_setting(a: Any, b: Any) -> bool:
    """Return whether two values of a setting are equal, but for a number's last digits."""
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    return isclose(a, b, rel_tol=1e-9) if numbers else bool(a == b)
