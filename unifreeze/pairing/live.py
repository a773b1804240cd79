"""Pairing two live models in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unifreeze.backend import Batch, backend_for
from unifreeze.pairing.pairing import Pairing, common_ids, pair_sketches
from unifreeze.pairing.sketching import make_sketch


def pair(
    one: Any,
    other: Any,
    *,
    batch: Any,
    hints: Mapping[str, str] | None = None,
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
        seed: Seed of everything random.

    Raises:
        PairingError: They compute different functions (it says where they part), or the pairing
            does not hold.
        TargetError: A model does not run on the batch.
    """
    inputs = Batch.of(batch)
    sides = [(model, backend_for(model), type(model).__name__) for model in (one, other)]
    (a, first, a_name), (b, second, b_name) = sides
    sketch = make_sketch(a, first, inputs, name=a_name, seed=seed)
    partner = make_sketch(b, second, inputs, name=b_name, like=sketch, hints=hints or ())
    shared = common_ids(sketch.shared, partner.shared)
    if shared and not (len(shared) == len(sketch.shared.outputs) == len(partner.shared.outputs)):
        sketch = make_sketch(a, first, inputs, name=a_name, outputs=shared, seed=seed)
        partner = make_sketch(b, second, inputs, name=b_name, like=sketch, hints=hints or ())
    return pair_sketches(sketch, partner)
