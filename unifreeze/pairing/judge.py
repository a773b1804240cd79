"""Judging two sketches: are they of one function, which tensor is which, and was that right."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from unifreeze.backend import Sketch
from unifreeze.errors import PairingError, listing
from unifreeze.pairing.fused import may_be_fused
from unifreeze.pairing.match import (
    GRADIENT_LIMIT,
    LIMIT,
    NEGLIGIBLE,
    Matching,
    is_paired,
    tied_on_one_side,
)
from unifreeze.pairing.pairing import (
    PAIRING_FORMAT,
    Certificate,
    LeftRow,
    Pairing,
    PairRow,
    SideRow,
)
from unifreeze.pairing.record import ModelSketch, Pair, RunRow, TensorRow
from unifreeze.structure.words import FUSED_KV, FUSED_QKV, words_in

WEAK = 1e-6
"""Gradients below this share of the largest are compared against that share, not themselves."""


def pair_sketches(one: ModelSketch, other: ModelSketch) -> Pairing:
    """Pair two models by their sketches; needs neither framework.

    Raises:
        PairingError: They compute different functions, or the certificate does not hold.
    """
    _check_one_function(one, other)
    matching = Matching(one, other)
    matching.take(other.carried if other.like else ())
    pairs = matching.run()
    left = tuple(_left(matching))
    certificate = None
    if other.like:
        if other.like != one.digest:
            raise PairingError(
                f"{other.model} was sketched on the values of another model than {one.model}",
                hint="sketch it again with --like the first model's sketch",
            )
        certificate = _certify(matching, pairs, left)
    return Pairing(
        unifreeze_pairing=PAIRING_FORMAT,
        one=_side_row(one),
        other=_side_row(other),
        pairs=tuple(_pair_row(matching, pair) for pair in pairs),
        left=left,
        certificate=certificate,
    )


def _side_row(sketch: ModelSketch) -> SideRow:
    own = tuple(row.path for row in sketch.tensors if not is_paired(row))
    return SideRow(framework=sketch.framework, model=sketch.model, own_state=own)


def _pair_row(matching: Matching, pair: Pair) -> PairRow:
    one, other = matching.rows[0][pair.one], matching.rows[1][pair.other]
    return PairRow(
        one=pair.one,
        other=pair.other,
        one_shape=one.shape,
        other_shape=other.shape,
        transposed=pair.transposed,
        by=pair.by,
        state=one.state,
        one_aliases=one.aliases,
        other_aliases=other.aliases,
        one_part=one.part,
        other_part=other.part,
    )


def common_ids(one: RunRow, other: RunRow) -> tuple[str, ...]:
    """Return the ids of the outputs that both runs gave."""
    return tuple(i for i in one.outputs if i in other.outputs)


def _check_one_function(one: ModelSketch, other: ModelSketch) -> None:
    """Refuse to pair models that do not compute the same on shared values."""
    used = one.used or tuple(one.shared.outputs)
    theirs = other.used or tuple(other.shared.outputs)
    if set(used) != set(theirs):
        raise PairingError(
            "the two models do not return the same",
            context=f"{one.framework}: {listing(used)}\n{other.framework}: {listing(theirs)}",
            hint="their shapes (and so their classes, labels or vocabularies) must agree",
        )
    if not any(sketch.norm for sketch in one.shared.gradients.values()):
        raise PairingError(
            "this batch shows nothing: every gradient is zero",
            hint="use a batch on which the model's output depends on its parameters",
        )
    gaps = {i: _gap(one.shared.outputs.get(i), other.shared.outputs.get(i)) for i in used}
    worst = max(gaps, key=lambda i: gaps[i])
    if not gaps[worst] <= LIMIT:
        raise PairingError(
            f"the two models compute different functions: output {worst} differs by "
            f"{gaps[worst]:.1e} on the same values",
            context="\n".join(filter(None, (first_divergence(one, other), _fused(one, other)))),
            hint=_cure(one, other),
        )


def _cure(one: ModelSketch, other: ModelSketch) -> str:
    if may_be_fused(other, one):
        return (
            f"{one.model} may hold in one tensor what {other.model} holds apart: sketch the second "
            "first, and the first with --like"
        )
    return "make them the same network first: its settings, not its weights, differ"


def _gap(a: Sketch | None, b: Sketch | None) -> float:
    return float("inf") if a is None or b is None else a.gap(b)


def _fused(one: ModelSketch, other: ModelSketch) -> str:
    """Say which side holds projections in one tensor that the other holds apart, if one does."""
    found = [
        [r.path for r in side.tensors if _is_fused(r.path) and r.part is None]
        for side in (one, other)
    ]
    if bool(found[0]) == bool(found[1]):
        return ""
    fused, apart = (one, other) if found[0] else (other, one)
    return (
        f"{fused.framework} holds queries, keys and values in one tensor "
        f"({listing(found[0] or found[1], limit=2)}) and {apart.framework} does not"
    )


def _is_fused(path: str) -> bool:
    return any(words_in(piece) & (FUSED_QKV | FUSED_KV) for piece in path.split("."))


def first_divergence(one: ModelSketch, other: ModelSketch) -> str:
    """Say where two models part: the first layer of one whose result is nowhere in the other."""
    agreed = "the inputs"
    for layer in one.layers:
        alike = [row for row in other.layers if row.shape == layer.shape]
        match = next((row for row in alike if layer.sketch.gap(row.sketch) <= LIMIT), None)
        if match is None:
            return (
                f"first divergence: {layer.path or 'the model'} of {one.framework} returns "
                f"{list(layer.shape)} and nothing in {other.framework} returns the same\n"
                f"last agreement: {agreed}"
            )
        agreed = f"{layer.path} of {one.framework} and {match.path} of {other.framework}"
    return f"every layer of {one.framework} has its equal; {other.framework} does more after that"


def _left(matching: Matching) -> list[LeftRow]:
    ties = {(side, path): two for side, path, two in tied_on_one_side(matching)}
    halves = {(1 - side, half): path for (side, path), two in ties.items() for half in two}
    rows = []
    for side in (0, 1):
        for row in matching.left(side):
            if (side, row.path) in ties:
                reason = "held once here, and twice there: " + " and ".join(ties[side, row.path])
            elif (side, row.path) in halves:
                reason = f"tied there, as {halves[side, row.path]}"
            else:
                reason = _reason(row, matching.sides[side])
            rows.append(LeftRow(side=side, path=row.path, reason=reason))
    return rows


def _reason(row: TensorRow, side: ModelSketch) -> str:
    gradient = side.shared.gradients.get(row.path)
    if not row.reached:
        return "its module never ran on this batch"
    if row.state:
        return "its layer has no partner"
    if gradient is None or not gradient.norm:
        return "no gradient on this batch tells it from others"
    return "nothing there has an equal gradient"


def _certify(matching: Matching, pairs: list[Pair], left: Sequence[LeftRow]) -> Certificate:
    """Compare the runs on carried-over values.

    Raises:
        PairingError: They differ.
    """
    one, other = (side.own for side in matching.sides)
    used = matching.sides[0].used or tuple(one.outputs)
    outputs = max(_gap(one.outputs.get(i), other.outputs.get(i)) for i in used)
    norms = [one.gradients[pair.one].norm for pair in pairs if pair.one in one.gradients]
    largest = max(filter(isfinite, norms), default=0.0)
    gaps: dict[str, float] = {}
    unproven = []
    for pair in pairs:
        a, b = one.gradients.get(pair.one), other.gradients.get(pair.other)
        strength = max((sketch.norm for sketch in (a, b) if sketch), default=0.0)
        if strength <= NEGLIGIBLE * largest:
            if not matching.rows[0][pair.one].state:
                unproven.append(pair.one)
        elif a is None or b is None:
            gaps[pair.one] = float("inf")
        else:
            gaps[pair.one] = _gradient_gap(a, b, WEAK * largest, transposed=pair.transposed)
    worst = max(gaps, key=lambda path: gaps[path], default="")
    if not (outputs <= LIMIT and gaps.get(worst, 0.0) <= GRADIENT_LIMIT):
        wrong = [path for path, gap in gaps.items() if not gap <= GRADIENT_LIMIT]
        raise PairingError(
            "the pairing does not hold: on values carried over by it the two models differ",
            context="\n".join(
                [
                    f"outputs by {outputs:.1e}; gradients of {listing(wrong) or 'none'}",
                    *(f"without partner: {row.path}: {row.reason}" for row in left[:6]),
                ]
            ),
            hint="these tensors' partners are wrong, or a statistic or state is not paired",
        )
    return Certificate(
        dtype=one.dtype,
        outputs=outputs,
        gradients=gaps.get(worst, 0.0),
        worst=worst,
        compared=len(gaps),
        unproven=tuple(unproven),
    )


def _gradient_gap(a: Sketch, b: Sketch, floor: float, *, transposed: bool) -> float:
    there = b.across if transposed and b.across else b.along
    pairs = [(a.norm, b.norm), *zip(a.along, there, strict=True)]
    gap = max(abs(x - y) for x, y in pairs) / max(a.norm, b.norm, floor)
    return gap if isfinite(gap) else float("inf")
