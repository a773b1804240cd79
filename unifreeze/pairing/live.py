"""Pairing two live models in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from unifreeze.arguments import checked
from unifreeze.backend import Batch, backend_for
from unifreeze.pairing.fused import may_be_fused, one_function
from unifreeze.pairing.judge import common_ids, pair_sketches
from unifreeze.pairing.pairing import Pairing
from unifreeze.pairing.record import ModelSketch
from unifreeze.pairing.sketching import make_sketch

Outputs = tuple[str, ...] | None
"""Ids of the outputs the loss may use; None for all."""


@checked
def pair(
    one: Any,
    other: Any,
    *,
    batch: Any,
    hints: Mapping[str, str] | None = None,
    shipped: bool = False,
    seed: int = 0,
) -> Pairing:
    """Find out which tensor of one model is which of the other, without any table of names.

    Both are run on values that depend on a tensor's shape alone, so that two ports of one network
    compute the same function before anything is paired; equal gradients then mean equal tensors. A
    second run, on values that no two tensors share, carried over by the pairing, certifies it. The
    models' own values come back bit for bit.

    Args:
        one: A live model, of any framework.
        other: Another port of the same network.
        batch: One batch of inputs for both: an array, a sequence, or a mapping by name.
        hints: Native paths of the first model with those of the second, from a table that you
            have. It is never believed: the certificate says whether it was right.
        shipped: Ask the table of names that the second model's own library ships (PaddleNLP and
            PaddleFormers have some) for what nothing else tells.
        seed: Seed of everything random.

    Raises:
        PairingError: They compute different functions (it says where they part), or the pairing
            does not hold.
        TargetError: A model does not run on the batch.
    """
    inputs = Batch.of(batch)
    backends = backend_for(one), backend_for(other)

    def sketch(like: ModelSketch | None, outputs: Outputs, *, second: bool) -> ModelSketch:
        model, backend = ((one, backends[0]), (other, backends[1]))[second]
        return make_sketch(
            model,
            backend,
            inputs,
            name=type(model).__name__,
            like=like,
            hints=hints if second else {there: here for here, there in (hints or {}).items()},
            shipped=shipped,
            outputs=outputs,
            seed=seed,
        )

    return pair_by(sketch)


class Sketcher(Protocol):
    """Sketches the first or the second model, perhaps on the values of the other's sketch."""

    def __call__(self, like: ModelSketch | None, outputs: Outputs, *, second: bool) -> ModelSketch:  # noqa: D102 - the class says it
        ...


def pair_by(sketch: Sketcher) -> Pairing:
    """Pair two models that something sketches, in this process or elsewhere.

    The second is sketched on the first one's values; or the first on the second one's, where it
    holds in one tensor what the second holds apart.

    Raises:
        PairingError: As `pair` does.
    """

    def sketch_both(outputs: Outputs = None) -> tuple[ModelSketch, ModelSketch]:
        source = sketch(None, outputs, second=turned)
        return source, sketch(source, outputs, second=not turned)

    turned = False
    source, partner = sketch_both()
    if not one_function(source, partner.shared) and may_be_fused(partner, source):
        turned = True
        source, partner = sketch_both()
    shared = common_ids(source.shared, partner.shared)
    if shared and not (len(shared) == len(source.shared.outputs) == len(partner.shared.outputs)):
        source, partner = sketch_both(shared)
    pairing = pair_sketches(source, partner)
    return pairing.turned() if turned else pairing
