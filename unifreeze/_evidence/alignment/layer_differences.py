"""Compare what paired layers return, in the models' own precision, in order of execution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from unifreeze._evidence.alignment.lines import Line, measured_line, unchecked
from unifreeze._evidence.gaps import NOISES
from unifreeze._evidence.step_clauses import OUTPUTS
from unifreeze._numerics.projections import LIMIT
from unifreeze._ports.pairing import Pairing
from unifreeze._protocol import Array, Backend, Batch, Sketch, SketchConfig, SketchRun

LARGE = 16
"""How many times larger inputs are made."""
Results = dict[str, tuple[int, Sketch]]
"""For each module, how many values it returns, and their sketch."""


class LayerGap(NamedTuple):
    """How far the results of two paired layers differ.

    Attributes:
        one: Native path in the first model.
        other: Native path in the second.
        size: The relative difference.
        noise: The larger of the two models' own rounding noise.
    """

    one: str
    other: str
    size: float
    noise: float


def layer_lines(
    models: tuple[Any, Any],
    backends: tuple[Backend, Backend],
    batches: tuple[Batch, Batch],
    values: Mapping[str, Any],
    pairing: Pairing,
) -> list[Line]:
    """Run both models forward, plainly and with moved inputs; compare layer by layer."""
    given: tuple[Callable[..., Any], ...] = (lambda *_: None, lambda path, _: values.get(path))
    plain, moved = (
        [
            backend.sketch(model, SketchConfig(batch, read, double=False, nudge=nudge))
            for backend, model, batch, read in zip(backends, models, batches, given, strict=True)
        ]
        for nudge in (False, True)
    )
    gaps = list(_gaps(plain, moved, _paired(models, backends, pairing)))
    if not gaps:
        return [unchecked("layers", "no layers")]
    one, other = (run.dtype for run in plain)
    facts: dict[str, str | int | float] = {"one": one, "other": other}
    lines = [Line(section="layers", key="precisions", verdict="note", facts=facts)]
    floor = OUTPUTS.single * (256 if one in ("bfloat16", "float16") else 1)
    limits = {gap: max(floor, NOISES * gap.noise) for gap in gaps}
    first = next((gap for gap in gaps if gap.size > limits[gap]), None)
    worst = first or max(gaps, key=lambda gap: gap.size / limits[gap])
    beyond = [gap for gap in gaps if gap.size > limits[gap]]
    details = [
        f"{gap.one} and {gap.other}: {gap.size:.1e}, and {limits[gap]:.1e} is allowed"
        for gap in beyond[:5]
    ]
    if len(beyond) > 5:
        details.append(f"… and {len(beyond) - 5} more")
    return [
        *(lines if one != other else ()),
        measured_line(
            "layers",
            "first layer" if first else "layers",
            worst.size,
            limits[worst],
            "noise",
            *details,
            count=len(gaps),
            one=worst.one,
            other=worst.other,
            dtype=one,
        ),
    ]


def large_input_lines(
    models: tuple[Any, Any],
    backends: tuple[Backend, Backend],
    batches: tuple[Batch, Batch],
    values: Mapping[str, Any],
    pairing: Pairing,
) -> list[Line]:
    """Compare outputs on larger inputs, which reach the bounds of clipped activations."""
    if not any(a.dtype.kind == "f" for a in (*batches[0].args, *batches[0].kwargs.values())):
        return []
    given: tuple[Callable[..., Any], ...] = (lambda *_: None, lambda path, _: values.get(path))
    first, second = (
        backend.sketch(model, SketchConfig(_enlarged(batch), read)).outputs
        for backend, model, batch, read in zip(backends, models, batches, given, strict=True)
    )
    far = float("inf")
    gaps = {}
    for name, key in pairing.outputs:
        one, other = first[name].sketch, second[key].sketch
        gaps[name] = one.gap(other) if one and other else far
    worst = max(gaps, key=lambda name: gaps[name])
    # The same limit as a certificate's: values this large have lost some digits.
    facts: dict[str, str | int | float] = {"times": LARGE, "subject": worst}
    return [measured_line("outputs", "large inputs", gaps[worst], LIMIT, "certificate", **facts)]


def _enlarged(batch: Batch) -> Batch:
    def larger(array: Array) -> Array:
        return array * np.asarray(LARGE, array.dtype) if array.dtype.kind == "f" else array

    named = {name: larger(array) for name, array in batch.kwargs.items()}
    return Batch(tuple(map(larger, batch.args)), named)


def _paired(
    models: tuple[Any, Any], backends: tuple[Backend, Backend], pairing: Pairing
) -> list[tuple[str, str]]:
    """Return the layers that paired tensors belong to, and those paired by their results."""
    owners = []
    for backend, model in zip(backends, models, strict=True):
        spec = backend.describe(model)
        known = {p.path: p.owner for p in spec.parameters}
        owners.append(known | {s.path: spec.tree.paths[s.owner] for s in spec.states})
    here, there = owners
    rows = [(row.one_tensor, row.other_tensor) for row in pairing.pairs]
    pairs = [(here[a], there[b]) for a, b in rows if a in here and b in there]
    return list(dict.fromkeys([*pairs, *pairing.layers]))


def _gaps(
    plain: list[SketchRun], moved: list[SketchRun], pairs: list[tuple[str, str]]
) -> Iterator[LayerGap]:
    """Yield the differences of paired layers that return as many values, as the first runs them."""
    results = [_results(run) for run in (*plain, *moved)]
    order = {path: number for number, path in enumerate(results[0])}
    for one, other in sorted(pairs, key=lambda pair: order.get(pair[0], len(order))):
        if one not in results[0] or other not in results[1]:
            continue
        (count, first), (there, second) = results[0][one], results[1][other]
        if count != there:
            continue
        noises = [
            sketch.gap(run[path][1])
            for sketch, run, path in ((first, results[2], one), (second, results[3], other))
            if path in run
        ]
        yield LayerGap(one, other, first.gap(second), max(noises, default=0.0))


def _results(run: SketchRun) -> Results:
    return {path: (prod(shape), sketch) for path, shape, sketch in run.layers}
