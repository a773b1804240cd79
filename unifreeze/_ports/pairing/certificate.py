"""The certificate: two runs on values that no two tensors share, carried over by the pairing."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

from unifreeze._numerics.outputs import Seen
from unifreeze._numerics.projections import LIMIT
from unifreeze._ports.pairing.matching import GRADIENT_LIMIT, NEGLIGIBLE, Matching
from unifreeze._ports.pairing.model_sketch import Pair
from unifreeze._ports.pairing.pairing import Certificate, LeftRow
from unifreeze._ports.pairing.state_effects import TELLING
from unifreeze._ports.pairing.tensor_likeness import EFFECT_LIMIT, effect_gap
from unifreeze._protocol import Sketch
from unifreeze.errors import PairingError, counted, listing

WEAK = 1e-6
"""Gradients below this share of the largest are compared against that share, not themselves."""

UNLAID = "it is square, and nothing tells which way round its partner is stored"


class _Compared(NamedTuple):
    """What the two runs show of the pairs.

    Attributes:
        gaps: How far gradients differ, by the first model's native path.
        unproven: Pairs of which nothing tells.
        results: Pairs without a gradient on one side or both, with how far their layers' results
            differ.
        cut: Those of them that have one on one side only: which side cuts it off.
    """

    gaps: dict[str, float]
    unproven: list[str]
    results: dict[str, float]
    cut: dict[str, int]


def certify(matching: Matching, pairs: list[Pair], left: Sequence[LeftRow]) -> Certificate:
    """Compare the runs on carried-over values.

    Raises:
        PairingError: They differ.
    """
    one, other = (side.own for side in matching.sides)
    outputs = max(output_gap(seen, other.by_name.get(n)) for n, seen in one.by_name.items())
    found = _compare(matching, pairs, outputs)
    worst = max(found.gaps, key=lambda path: found.gaps[path], default="")
    largest = found.gaps.get(worst, 0.0)
    wrong = [path for path, gap in found.gaps.items() if not gap <= GRADIENT_LIMIT]
    layers = [path for path, gap in found.results.items() if not gap <= LIMIT]
    if not (outputs <= LIMIT and not wrong and not layers):
        raise _refused(matching, outputs, [*wrong, *layers], left)
    return Certificate(
        dtype=one.dtype,
        outputs=outputs,
        gradients=largest,
        worst=worst,
        compared=len(found.gaps),
        unproven=tuple(found.unproven),
        by_results=tuple(path for path in found.results if path not in found.cut),
        cut=tuple(found.cut.items()),
    )


def output_gap(one: Seen | None, other: Seen | None) -> float:
    """Return how far two outputs differ; infinitely where one is missing."""
    if one is None or other is None or one.sketch is None or other.sketch is None:
        return float("inf")
    return one.sketch.gap(other.sketch)


def _compare(matching: Matching, pairs: list[Pair], outputs: float) -> _Compared:
    one, other = (side.own for side in matching.sides)
    norms = [one.gradients[pair.one].norm for pair in pairs if pair.one in one.gradients]
    largest = max(filter(isfinite, norms), default=0.0)
    found = _Compared({}, [], {}, {})
    for pair in pairs:
        a, b = one.gradients.get(pair.one), other.gradients.get(pair.other)
        strength = max((sketch.norm for sketch in (a, b) if sketch), default=0.0)
        is_strong, result = strength > NEGLIGIBLE * largest, _result_gap(matching, pair, outputs)
        if a is not None and b is not None and is_strong:
            found.gaps[pair.one] = _gradient_gap(a, b, WEAK * largest, transposed=pair.transposed)
        elif (a is None or b is None) and result is not None:
            found.results[pair.one] = result
            if is_strong:
                found.cut[pair.one] = int(a is not None)
        elif is_strong:
            found.gaps[pair.one] = float("inf")
        elif not matching.rows[0][pair.one].statistic:
            found.unproven.append(pair.one)
    return found


def _result_gap(matching: Matching, pair: Pair, outputs: float) -> float | None:
    """Return how far what shows a parameter differs; None where nothing does.

    That is what its layer returns, or the model, if that was seen to depend on it.
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
    """Return the tensors that had not run when partners were looked for, and ran for this."""
    idle = [row for row in left if not matching.rows[row.side][row.path].reached]
    owners = [matching.rows[row.side][row.path].owner for row in idle]
    own = [matching.sides[row.side].own for row in idle]
    found = zip(idle, owners, own, strict=True)
    paths = [row.path for row, owner, run in found if run.result_of(owner) is not None]
    return list(dict.fromkeys(paths))


def _refused(
    matching: Matching, outputs: float, wrong: list[str], left: Sequence[LeftRow]
) -> PairingError:
    """Say what does not hold, and what is likely behind it."""
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
    elif {row.side for row in ran if row.reason == UNLAID} == {0, 1}:
        unlaid = [row.path for row in ran if row.reason == UNLAID and not row.side]
        fact = f"nothing tells which way round both ports store {listing(unlaid)}"
        hint = (
            "let a gradient reach them (no detach, no_grad or stop_gradient before the loss), or "
            "use the frameworks' own layers, whose storage is known"
        )
    elif woken := _woken(matching, left):
        fact = f"{len(woken)} tensors run on some values and not on others ({listing(woken)})"
        hint = "use a batch of more rows, on which all of them run: every expert, for one"
    elif {row.side for row in ran} == {0, 1}:
        fact = f"{len(ran)} tensors that ran have no certain partner, and outputs depend on them"
        hint = "give their partners as hints, which are checked (hints=, --map)"
    else:
        fact = "on values carried over by it the two models differ"
        hint = "these tensors' partners are wrong, or a statistic or state is not paired"
    tied = {tie.path for tie in matching.ties}
    told = sorted(left, key=lambda row: row.path not in tied)  # a tie first
    return PairingError(
        f"the pairing does not hold: {fact}",
        context="\n".join(
            [
                f"outputs by {outputs:.1e}; gradients of {listing(wrong) or 'none'}",
                *(f"without partner in {names[r.side]}: {r.path}: {r.reason}" for r in told[:6]),
            ]
        ),
        hint=hint,
    )
