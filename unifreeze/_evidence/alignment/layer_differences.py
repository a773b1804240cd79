"""Compare what paired layers return, in the models' own precision, in order of execution."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from unifreeze._evidence.alignment.alignment_side import AlignmentSide, LayerRun
from unifreeze._evidence.alignment.lines import Line, measured_line, unchecked
from unifreeze._evidence.alignment.measuring import LARGE
from unifreeze._evidence.gaps import NOISES
from unifreeze._evidence.step_clauses import OUTPUTS
from unifreeze._numerics.projections import LIMIT
from unifreeze._ports.pairing import Pairing
from unifreeze._protocol import Sketch

Results = dict[str, tuple[int, Sketch]]
"""For each module, how many values it returns, and their sketch."""
COARSE = ("bfloat16", "float16")
"""Dtypes with so few digits that the least limit is 256 times as large."""


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


def layer_lines(first: AlignmentSide, second: AlignmentSide, pairing: Pairing) -> list[Line]:
    """Compare two forward passes layer by layer, each with its own rounding noise."""
    gaps = list(_gaps(first, second, _paired(first, second, pairing)))
    if not gaps or first.plain is None or second.plain is None:
        return [unchecked("layers", "no layers")]
    one, other = first.plain.dtype, second.plain.dtype
    facts: dict[str, str | int | float] = {"one": one, "other": other}
    lines = [Line(section="layers", key="precisions", verdict="note", facts=facts)]
    floor = OUTPUTS.single * (256 if one in COARSE or other in COARSE else 1)
    limits = {gap: max(floor, NOISES * gap.noise) for gap in gaps}
    beyond = [gap for gap in gaps if gap.size > limits[gap]]
    worst = beyond[0] if beyond else max(gaps, key=lambda gap: gap.size / limits[gap])
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
            "first layer" if beyond else "layers",
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


def large_input_lines(first: AlignmentSide, second: AlignmentSide, pairing: Pairing) -> list[Line]:
    """Compare outputs on larger inputs, which reach the bounds of clipped activations."""
    if first.large is None or second.large is None:
        return []
    gaps = {}
    for name, key in pairing.outputs:
        one, other = first.large[name].sketch, second.large[key].sketch
        gaps[name] = one.gap(other) if one and other else float("inf")
    worst = max(gaps, key=lambda name: gaps[name])
    # The same limit as a certificate's: values this large have lost some digits.
    facts: dict[str, str | int | float] = {"times": LARGE, "subject": worst}
    return [measured_line("outputs", "large inputs", gaps[worst], LIMIT, "certificate", **facts)]


def _paired(first: AlignmentSide, second: AlignmentSide, pairing: Pairing) -> list[tuple[str, str]]:
    """Return the layers that paired tensors belong to, and those paired by their results."""
    here, there = first.owners, second.owners
    rows = [(row.one_tensor, row.other_tensor) for row in pairing.pairs]
    pairs = [(here[a], there[b]) for a, b in rows if a in here and b in there]
    return list(dict.fromkeys([*pairs, *pairing.layers]))


def _gaps(
    first: AlignmentSide, second: AlignmentSide, pairs: list[tuple[str, str]]
) -> Iterator[LayerGap]:
    """Yield the differences of paired layers that return as many values, as the first runs them."""
    results = [_results(run) for run in (first.plain, second.plain, first.moved, second.moved)]
    order = {path: number for number, path in enumerate(results[0])}
    for one, other in sorted(pairs, key=lambda pair: order.get(pair[0], len(order))):
        if one not in results[0] or other not in results[1]:
            continue
        (count, sketch), (there, partner) = results[0][one], results[1][other]
        if count != there:
            continue
        noises = [
            plain.gap(moved[path][1])
            for plain, moved, path in ((sketch, results[2], one), (partner, results[3], other))
            if path in moved
        ]
        yield LayerGap(one, other, sketch.gap(partner), max(noises, default=0.0))


def _results(run: LayerRun | None) -> Results:
    return {row.path: (prod(row.shape), row.sketch) for row in run.layers} if run else {}
