"""The certificate of a pairing: two runs on values that are different for every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

from unifreeze._numerics.outputs import Seen
from unifreeze._numerics.projections import LIMIT
from unifreeze._ports.pairing.matching import Matching
from unifreeze._ports.pairing.model_sketch import Pair
from unifreeze._ports.pairing.pair_evidence import NEGLIGIBLE
from unifreeze._ports.pairing.pairing import Certificate, LeftRow
from unifreeze._ports.pairing.state_effects import TELLING
from unifreeze._ports.pairing.tensor_likeness import EFFECT_LIMIT, effect_gap
from unifreeze._protocol import Sketch
from unifreeze.errors import PairingError, counted, listing

GRADIENT_LIMIT = 1e-5
"""Relative difference of gradients up to which two runs are of one function.

Larger than `LIMIT`: small gradients through a part in single precision differ by some 1e-6."""

WEAK = 1e-6
"""Gradients below this share of the largest are compared relative to that share."""

UNKNOWN_ORIENTATION = "it is square, and nothing tells which way round its partner is stored"


class _Compared(NamedTuple):
    """What the two runs show about the pairs.

    Attributes:
        gaps: Differences of gradients, by the first model's native path.
        unproven: Pairs that nothing was compared of.
        results: Pairs without a gradient in one model or both: gaps of their layers' outputs.
        cut: Pairs with a gradient in one model only: the side that cuts it off.
    """

    gaps: dict[str, float]
    unproven: list[str]
    results: dict[str, float]
    cut: dict[str, int]


def certify(matching: Matching, pairs: list[Pair], left: Sequence[LeftRow]) -> Certificate:
    """Compare the runs on carried-over values.

    Raises:
        PairingError: The runs differ.
    """
    one, other = (side.own for side in matching.sides)
    outputs = max(output_gap(seen, other.by_name.get(n)) for n, seen in one.by_name.items())
    compared = _compare(matching, pairs, outputs)
    worst = max(compared.gaps, key=lambda path: compared.gaps[path], default="")
    wrong = [path for path, gap in compared.gaps.items() if not gap <= GRADIENT_LIMIT]
    layers = [path for path, gap in compared.results.items() if not gap <= LIMIT]
    if not (outputs <= LIMIT and not wrong and not layers):
        raise _refused(matching, outputs, [*wrong, *layers], left)
    return Certificate(
        dtype=one.dtype,
        outputs=outputs,
        gradients=compared.gaps.get(worst, 0.0),
        worst=worst,
        compared=len(compared.gaps),
        unproven=tuple(compared.unproven),
        by_results=tuple(path for path in compared.results if path not in compared.cut),
        cut=tuple(compared.cut.items()),
    )


def output_gap(one: Seen | None, other: Seen | None) -> float:
    """Return the difference of two outputs; infinity if one is missing."""
    if one is None or other is None or one.sketch is None or other.sketch is None:
        return float("inf")
    return one.sketch.gap(other.sketch)


def _compare(matching: Matching, pairs: list[Pair], outputs: float) -> _Compared:
    one, other = (side.own for side in matching.sides)
    norms = [one.gradients[pair.one].norm for pair in pairs if pair.one in one.gradients]
    largest = max(filter(isfinite, norms), default=0.0)
    compared = _Compared({}, [], {}, {})
    for pair in pairs:
        a, b = one.gradients.get(pair.one), other.gradients.get(pair.other)
        strength = max((sketch.norm for sketch in (a, b) if sketch), default=0.0)
        is_strong, result = strength > NEGLIGIBLE * largest, _result_gap(matching, pair, outputs)
        if a is not None and b is not None and is_strong:
            compared.gaps[pair.one] = _gradient_gap(
                a, b, WEAK * largest, transposed=pair.transposed
            )
        elif (a is None or b is None) and result is not None:
            compared.results[pair.one] = result
            if is_strong:
                compared.cut[pair.one] = int(a is not None)
        elif is_strong:
            compared.gaps[pair.one] = float("inf")
        elif not matching.rows[0][pair.one].statistic:
            compared.unproven.append(pair.one)
    return compared


def _result_gap(matching: Matching, pair: Pair, outputs: float) -> float | None:
    """Return the difference of the outputs that depend on a tensor; None if none is known to.

    These are the outputs of its layer, or of the model if they were seen to depend on it.
    """
    rows = matching.rows[0][pair.one], matching.rows[1][pair.other]
    if rows[0].held is None and (rows[0].shown or rows[1].shown):
        return outputs
    if rows[0].state and (gap := effect_gap(*rows)) is not None:
        return 0.0 if gap <= EFFECT_LIMIT else gap
    if rows[0].state or rows[0].kind != rows[1].kind or rows[0].kind not in TELLING:
        return None
    sides = zip(matching.sides, rows, strict=True)
    one, other = (side.own.result_of(row.owner) for side, row in sides)
    return None if one is None or other is None else one.gap(other)


def _gradient_gap(a: Sketch, b: Sketch, floor: float, *, transposed: bool) -> float:
    there = b.across if transposed and b.across else b.along
    pairs = [(a.norm, b.norm), *zip(a.along, there, strict=True)]
    gap = max(abs(x - y) for x, y in pairs) / max(a.norm, b.norm, floor)
    return gap if isfinite(gap) else float("inf")


def _woken(matching: Matching, left: Sequence[LeftRow]) -> list[str]:
    """Return the tensors that did not run on shared values, and ran on carried-over values."""
    idle = [row for row in left if not matching.rows[row.side][row.path].reached]
    owners = [matching.rows[row.side][row.path].owner for row in idle]
    runs = [matching.sides[row.side].own for row in idle]
    rows = zip(idle, owners, runs, strict=True)
    paths = [row.path for row, owner, run in rows if run.result_of(owner) is not None]
    return list(dict.fromkeys(paths))


def _refused(
    matching: Matching, outputs: float, wrong: list[str], left: Sequence[LeftRow]
) -> PairingError:
    """Return the error: what does not hold, and the likely cause."""
    ran = [row for row in left if matching.rows[row.side][row.path].reached]
    names = [side.framework for side in matching.sides]
    if matching.ties:
        side = matching.ties[0].side
        fact = f"{names[side]} ties what {names[1 - side]} holds in two tensors"
        hint = "tie them in both ports, or in neither: in training they are not one network"
    elif outputs <= LIMIT:
        fact = f"outputs agree, and gradients of {counted(len(wrong), 'tensor')} do not"
        hint = (
            "one port cuts gradients (detach, no_grad, stop_gradient) where the other does not, or "
            "tensors that no output shows are swapped"
        )
    elif {row.side for row in ran if row.reason == UNKNOWN_ORIENTATION} == {0, 1}:
        square = [row.path for row in ran if row.reason == UNKNOWN_ORIENTATION and not row.side]
        fact = f"nothing tells which way round both ports store {listing(square)}"
        hint = (
            "let a gradient reach them (no detach, no_grad or stop_gradient before the loss), or "
            "use the frameworks' own layers, whose storage is known"
        )
    elif woken := _woken(matching, left):
        run = counted(len(woken), "tensor runs", "tensors run")
        fact = f"{run} on some values and not on others ({listing(woken)})"
        hint = "use a batch of more rows, on which all of them run: every expert, for one"
    elif {row.side for row in ran} == {0, 1}:
        fact = f"{len(ran)} tensors that ran have no certain partner, and outputs depend on them"
        hint = "give their partners as hints, which are checked (hints=, --map)"
    else:
        fact = "on values carried over by it the two models differ"
        hint = "these tensors' partners are wrong, or a statistic or state is not paired"
    tied = {tie.path for tie in matching.ties}
    ties_first = sorted(left, key=lambda row: row.path not in tied)
    return PairingError(
        f"the pairing does not hold: {fact}",
        context="\n".join(
            [
                f"outputs by {outputs:.1e}; gradients of {listing(wrong) or 'none'}",
                *(
                    f"without partner in {names[r.side]}: {r.path}: {r.reason}"
                    for r in ties_first[:6]
                ),
            ]
        ),
        hint=hint,
    )
