"""`pair_sketches`: are two sketches of one function, which tensor is which, and was that right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import numpy as np

from unifreeze._files import told_of_files
from unifreeze._numerics.outputs import BARE, is_cache
from unifreeze._numerics.projections import LIMIT, squeezed
from unifreeze._numerics.projections import sketch as sketch_of
from unifreeze._ports.pairing.certificate import UNKNOWN_ORIENTATION, certify, output_gap
from unifreeze._ports.pairing.divergence import first_divergence
from unifreeze._ports.pairing.fused_tensors import may_be_fused
from unifreeze._ports.pairing.layer_settings import layers_alike
from unifreeze._ports.pairing.matching import Matching
from unifreeze._ports.pairing.model_sketch import (
    ModelSketch,
    Pair,
    TensorRow,
    is_floating,
    outputs_of,
)
from unifreeze._ports.pairing.one_sided_ties import may_be_tied
from unifreeze._ports.pairing.pairing import (
    PAIRING_FORMAT,
    LeftRow,
    Pairing,
    PairRow,
    SideRow,
)
from unifreeze._ports.pairing.port_differences import (
    differing_settings,
    read_as_zeros,
    zeros_in_batch,
)
from unifreeze._structure.words_in_names import FUSED_KV, FUSED_QKV, words_in
from unifreeze.errors import PairingError, listing


@told_of_files
def pair_sketches(one: ModelSketch, other: ModelSketch) -> Pairing:
    """Pair two models by their sketches; needs neither framework.

    Raises:
        PairingError: They compute different functions, or the certificate does not hold.
    """
    if not other.like:
        outputs = outputs_of(one, other.shared.outputs).names
        chosen = other.shared.model_copy(update={"chosen": outputs})
        tensors = tuple(_renamed(row, outputs) for row in other.tensors)
        other = other.model_copy(update={"shared": chosen, "tensors": tensors})
    _check_one_function(one, other)
    matching = Matching(one, other)
    matching.take(other.carried)
    pairs = matching.run()
    if other.like:  # the second run used exactly these pairs
        pairs = list(other.carried)
        matching.take(pairs)
    left = tuple(_left_rows(matching))
    certificate = None
    if other.like:
        if other.like != one.digest:
            raise PairingError(
                f"{other.model} was sketched on the values of another model than {one.model}",
                hint="sketch it again with --like the first model's sketch",
            )
        _check_outputs(one, other)
        certificate = certify(matching, pairs, left)
    rows = tuple(_pair_row(matching, pair) for pair in pairs)
    layers = tuple(_layers(matching, pairs))
    return Pairing(
        unifreeze_pairing=PAIRING_FORMAT,
        one=_side_row(matching, 0, left),
        other=_side_row(matching, 1, left),
        pairs=rows,
        left=left,
        outputs=tuple((name, key) for key, name in other.shared.chosen.items()),
        left_out=tuple(_left_out(one, other)),
        layers=layers,
        differences=differing_settings(one, other, (*_owners(matching, pairs), *layers)),
        zeros=tuple(read_as_zeros(one, other, rows)),
        certificate=certificate,
    )


def _left_out(one: ModelSketch, other: ModelSketch) -> Iterator[tuple[int, str]]:
    """Yield the caches that are not compared: of several tensors, or in one model only."""
    chosen = set(other.shared.chosen.values()), set(other.shared.chosen)
    for side, sketch in enumerate((one, other)):
        alone = [key for key in sketch.shared.outputs if key not in chosen[side] and is_cache(key)]
        yield from ((side, key) for key in (*sketch.shared.caches, *alone))


def _renamed(row: TensorRow, names: Mapping[str, str]) -> TensorRow:
    """Rename the outputs that a tensor changes to the first model's names."""
    effect = {names[key]: sketch for key, sketch in row.effect.items() if key in names}
    return row.model_copy(update={"effect": effect}) if row.effect else row


def _side_row(matching: Matching, side: int, left: tuple[LeftRow, ...]) -> SideRow:
    sketch = matching.sides[side]
    known = {row.path for row in left if row.side == side}
    known |= {pair.other if side else pair.one for pair in matching.pairs.values()}
    unpaired = tuple(row.path for row in sketch.tensors if row.path not in known)
    return SideRow(framework=sketch.framework, model=sketch.model, own_state=unpaired)


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


def _owners(matching: Matching, pairs: list[Pair]) -> list[tuple[str, str]]:
    rows = [(matching.rows[0][pair.one], matching.rows[1][pair.other]) for pair in pairs]
    return [(one.owner, other.owner) for one, other in rows]


def _layers(matching: Matching, pairs: list[Pair]) -> list[tuple[str, str]]:
    """Pair the layers without paired tensors by their outputs."""
    known = _owners(matching, pairs)
    paired = {one for one, _ in known}, {other for _, other in known}
    loose = [
        ([row for row in side.settings if row.path not in paths], side.shared.result_of)
        for side, paths in zip(matching.sides, paired, strict=True)
    ]
    return list(layers_alike(*loose))


def _check_one_function(one: ModelSketch, other: ModelSketch) -> None:
    """Refuse to pair models that do not compute the same on shared values."""
    outputs, others = one.shared.by_name, other.shared.by_name
    if set(outputs) != set(others):
        raise PairingError(
            "the two models do not return the same",
            context=f"{one.framework}: {_returned(one)}\n{other.framework}: {_returned(other)}",
            hint="their shapes (and so their classes, labels or vocabularies) must agree",
        )
    if not outputs:
        raise PairingError(
            "the two models return no floating tensor that could be compared",
            hint="of complex outputs return the real and imaginary parts (view_as_real, as_real)",
        )
    if not any(sketch.norm for sketch in one.shared.gradients.values()):
        raise PairingError(
            "this batch shows nothing: every gradient is zero",
            hint="use a batch on which the model's output depends on its parameters",
        )
    gaps = {name: output_gap(seen, others[name]) for name, seen in outputs.items()}
    worst = max(gaps, key=lambda name: gaps[name])
    if not gaps[worst] <= LIMIT:
        context = first_divergence(one, other), _fused(one, other), zeros_in_batch(one, other)
        raise PairingError(
            f"the two models compute different functions: {_named(worst)} "
            f"{list(outputs[worst].shape)} differs by {gaps[worst]:.1e} on the same values",
            context="\n".join(filter(None, context)),
            hint=_cure(one, other),
        )


def _named(output: str) -> str:
    return "the output" if output == BARE else f"output {output}"


def _returned(sketch: ModelSketch) -> str:
    outputs = sketch.shared.outputs.items()
    return listing(f"{key} {list(seen.shape)}" for key, seen in outputs)


def _cure(one: ModelSketch, other: ModelSketch) -> str:
    if may_be_fused(other, one):
        return (
            f"{one.model} may hold in one tensor what {other.model} holds apart: sketch the second "
            "first, and the first with --like"
        )
    if may_be_tied(one, other):
        return (
            f"{other.model} may use a table twice where {one.model} has a matrix besides: sketch "
            "the second first, and the first with --like, to see"
        )
    return "make them the same network first: its settings, not its weights, differ"


def _fused(one: ModelSketch, other: ModelSketch) -> str:
    """Say which model holds queries, keys and values in one tensor, if one does; else ""."""
    paths = [
        [r.path for r in side.tensors if _is_fused(r.path) and r.part is None]
        for side in (one, other)
    ]
    if bool(paths[0]) == bool(paths[1]):
        return ""
    fused, apart = (one, other) if paths[0] else (other, one)
    return (
        f"{fused.framework} holds queries, keys and values in one tensor "
        f"({listing(paths[0] or paths[1], limit=2)}) and {apart.framework} does not"
    )


def _is_fused(path: str) -> bool:
    return any(words_in(piece) & (FUSED_QKV | FUSED_KV) for piece in path.split("."))


def _check_outputs(one: ModelSketch, other: ModelSketch) -> None:
    """Refuse outputs that could be swapped: of one shape, equal values, and different names."""
    for ones, others in outputs_of(one, other.shared.outputs).unsure:
        if _all_equal(one, ones) and _all_equal(other, others):
            continue
        raise PairingError(
            f"it is not certain which output is which: {listing(ones)} of {one.framework} and "
            f"{listing(others)} of {other.framework} are alike in shape",
            context="on the values that both models share, they are equal, and nothing else tells",
            hint="let both models return them under the same keys, in a dictionary",
        )


def _all_equal(sketch: ModelSketch, keys: tuple[str, ...]) -> bool:
    """Return whether some outputs are one tensor, returned several times."""
    outputs = [sketch.own.outputs[key] for key in keys]
    return all(output.is_alike(outputs[0]) for output in outputs)


def _left_rows(matching: Matching) -> list[LeftRow]:
    ties = {(side, path): halves for side, path, halves in matching.ties}
    whole = {(1 - side, half): path for (side, path), halves in ties.items() for half in halves}
    rows = []
    for side in (0, 1):
        for row in matching.left(side):
            if (side, row.path) in ties:
                reason = "held once here, and twice there: " + " and ".join(ties[side, row.path])
            elif (side, row.path) in whole:
                reason = f"tied there, as {whole[side, row.path]}"
            else:
                reason = _reason(matching, side, row)
            if reason:
                rows.append(LeftRow(side=side, path=row.path, reason=reason))
    return rows


def _reason(matching: Matching, side: int, row: TensorRow) -> str:
    """Return why a tensor has no partner; "" if it needs none."""
    gradient = matching.sides[side].shared.gradients.get(row.path)
    alike = matching.alike[side].get(row.path, ())
    alike = [path for path in alike if matching.is_left(1 - side, path)]
    if row.path in matching.twins[side]:
        return "others here hold the same, outputs depend on each, and nothing tells them apart"
    if row.kept:
        needs_none = not row.shown or _counts_positions(matching, side, row)
        return "" if needs_none else "outputs depend on it, and nothing there is the same"
    if matching.has_unknown_orientation(side, row):
        return (
            UNKNOWN_ORIENTATION
            if len(squeezed(row.shape)) == 2
            else "its layer is normed along another axis"
        )
    if not row.reached:
        return "its module never ran on this batch"
    if row.state:
        return "its layer has no partner"
    if len(alike) == 1:
        return UNKNOWN_ORIENTATION
    if alike:
        return f"{len(alike)} there have an equal gradient, interchangeable here: {listing(alike)}"
    if gradient is None or not gradient.norm:
        return "no gradient on this batch tells it from others"
    return "nothing there has an equal gradient"


def _counts_positions(matching: Matching, side: int, row: TensorRow) -> bool:
    """Return whether state is a range from 0, 1 or 2, which the other port makes in its code."""
    if row.held is None or is_floating(row.dtype):
        return False
    rivals = [r for r in matching.left(1 - side) if r.kept and not is_floating(r.dtype)]
    if any(squeezed(rival.shape) == squeezed(row.shape) for rival in rivals):
        return False
    counted = np.arange(prod(row.shape)).reshape(row.shape)
    return any(sketch_of(counted + first).gap(row.held) <= LIMIT for first in (0, 1, 2))
