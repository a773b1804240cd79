"""`pair`: which tensor of one live model is which of the other, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from unifreeze._arguments import checked
from unifreeze._ports.pairing.fused_tensors import may_be_fused
from unifreeze._ports.pairing.layout import Part
from unifreeze._ports.pairing.layout_attempts import one_function
from unifreeze._ports.pairing.live_sketch import make_sketch
from unifreeze._ports.pairing.model_sketch import ModelSketch, is_floating
from unifreeze._ports.pairing.one_sided_ties import may_be_tied
from unifreeze._ports.pairing.pairing import Pairing
from unifreeze._ports.pairing.sketch_pairing import pair_sketches
from unifreeze._protocol import Batch, backend_for
from unifreeze._protocol.live import Model


@checked
def pair(
    one: Model,
    other: Model,
    *,
    batch: Any,
    hints: Mapping[str, str] | None = None,
    shipped: bool = False,
    seed: int = 0,
) -> Pairing:
    """Find out which tensor of one model is which of the other, without any table of names.

    Both are run on values that depend on a tensor's shape alone, so that two ports of one network
    compute the same function before anything is paired; equal gradients then mean equal tensors. A
    second run on values that are different for every tensor, carried over by the pairing, certifies
    it. The models get their own values back, bit for bit.

    Args:
        one: A live model, of any framework.
        other: Another port of the same network.
        batch: One batch of inputs for both: an array, a sequence, or a mapping by name; or, where
            the two call their inputs differently, one for each by its framework's name:
            `{"torch": {"input_ids": ids}, "paddle": {"tokens": ids}}`.
        hints: Native paths of the first model, with those of the second, from a table that you
            have. It need not be right: the certificate checks it.
        shipped: Ask the table of names that the second model's own library ships (PaddleNLP and
            PaddleFormers have some) where nothing else decides.
        seed: Seed of everything random.

    Raises:
        PairingError: They compute different functions (the message says where they begin to
            differ), or the pairing does not hold.
        TargetError: A model does not run on the batch.

    >>> print(pair(torch_model, paddle_model, batch=batch))
    14 parameters and 4 statistics of torch paired with paddle
    decided by gradient 14
    certificate: float64: outputs differ by ..., 14 gradients by ... at most (...)
    """
    backends = backend_for(one), backend_for(other)
    inputs = Batch.for_sides(batch, (backends[0].name, backends[1].name), seed=seed)

    def sketch(like: ModelSketch | None, request: SketchRequest, *, second: bool) -> ModelSketch:
        model = other if second else one
        return make_sketch(
            model,
            backends[second],
            inputs[second],
            name=type(model).__name__,
            like=like,
            hints=hints if second else {there: here for here, there in (hints or {}).items()},
            shipped=shipped,
            outputs=request.outputs,
            states=request.states,
            parts=request.parts,
            seed=seed,
        )

    return pair_by(sketch)


class SketchRequest(NamedTuple):
    """How a model is to be sketched.

    Attributes:
        outputs: Keys of the outputs the loss may use; None for all.
        states: Give values to state that is not a statistic as well.
        parts: The known parts of its fused tensors.
    """

    outputs: tuple[str, ...] | None = None
    states: bool = False
    parts: tuple[Part, ...] = ()


class Sketcher(Protocol):
    """Sketches the first or the second model; with `like`, on the values of that sketch."""

    def __call__(
        self, like: ModelSketch | None, request: SketchRequest, *, second: bool
    ) -> ModelSketch: ...


def pair_by(sketch: Sketcher) -> Pairing:
    """Pair two models by a function that sketches them, in this process or elsewhere.

    The second model is sketched on the first model's values; or the first on the second's, where it
    holds in one tensor what the second holds in several. If the two are not one function while each
    keeps its own state, both are given values for state as well.

    Raises:
        PairingError: As `pair` does.
    """
    both = _sketch_both(sketch, SketchRequest())
    if not both.are_one and _have_state(both.source) and _have_state(both.partner):
        with_states = _sketch_both(sketch, SketchRequest(states=True))
        both = with_states if with_states.are_one else both
    shared = tuple(both.partner.shared.chosen.values())
    if shared and len(shared) < len(both.source.shared.chosen):
        request = SketchRequest(shared, both.source.states, parts_of(both.source))
        source = sketch(None, request, second=both.turned)
        partner = sketch(
            source, SketchRequest(parts=parts_of(both.partner)), second=not both.turned
        )
        both = _Both(source, partner, both.turned)
    pairing = pair_sketches(both.source, both.partner)
    return pairing.turned() if both.turned else pairing


class _Both(NamedTuple):
    """Two sketches.

    Attributes:
        source: The sketch on its model's own values.
        partner: The sketch on the source's values.
        turned: The source is the second model.
    """

    source: ModelSketch
    partner: ModelSketch
    turned: bool

    @property
    def are_one(self) -> bool:
        """Whether the two are one function."""
        return one_function(self.source, self.partner.shared)


MOST_TURNS = 4
"""Each model is sketched twice if both hold in one tensor what the other holds in several."""


def _sketch_both(sketch: Sketcher, request: SketchRequest) -> _Both:
    """Sketch both models, the second on the first model's values; or the other way round."""
    first: _Both | None = None
    parts: list[tuple[Part, ...]] = [(), ()]
    for turn in range(MOST_TURNS):
        turned = bool(turn % 2)
        source = sketch(None, request._replace(parts=parts[turned]), second=turned)
        partner = sketch(source, SketchRequest(parts=parts[not turned]), second=not turned)
        both = _Both(source, partner, turned)
        first = first or both
        if both.are_one:
            return both
        known = parts_of(partner)
        more = len(known) > len(parts[not turned])
        parts[not turned] = known
        if not (more or may_be_fused(partner, source) or may_be_tied(source, partner)):
            break
    assert first is not None
    return first


def parts_of(sketch: ModelSketch) -> tuple[Part, ...]:
    """Return the parts of fused tensors that a sketch has found."""
    return tuple(row.part for row in sketch.tensors if row.part is not None)


def _have_state(sketch: ModelSketch) -> bool:
    return any(row.kept and is_floating(row.dtype) for row in sketch.tensors)
