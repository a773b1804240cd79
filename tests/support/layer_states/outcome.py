"""What becomes of a layer's state and output when it is frozen, alone and inside a flat encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import unifreeze as uf
from tests.support.layer_states.found import Found
from unifreeze.errors import FrozenDriftError, UnmatchedSelectorError, UnsupportedPlanError

HELD, ALONE, REFUSED, WRONG = "held", "left alone", "refused", "WRONG"
NOTHING = "nothing to freeze"
_ORDER = (NOTHING, HELD, ALONE, REFUSED, WRONG)


@dataclass(frozen=True)
class Outcome:
    """One row of the table.

    Attributes:
        verdict: `held`, `left alone`, `refused`, or what no layer may be: `WRONG`.
        why: The reason, where there is one.
    """

    verdict: str
    why: str = ""


def outcomes(side: Any, found: Found) -> tuple[Outcome, Outcome]:
    """Freeze a layer by itself, and a flat encoder around it without its head.

    Both as it is built and after it has seen something; what is refused, or wrong, in either case
    counts.
    """
    everything, encoder = uf.FreezePlan().freeze("all"), uf.FreezePlan().only('path:"3"')
    alone, inside = [], []
    for build in (found.build, lambda: _seen(side, found)):
        layer = build()
        if side.is_lazy(layer):
            continue
        alone.append(_outcome(side, layer, layer, everything, found))
        layer = build()
        inside.append(_outcome(side, side.encoder(layer), layer, encoder, found))
    return _worse(alone), _worse(inside)


def _worse(found: list[Outcome]) -> Outcome:
    """Return the worse of two outcomes; both where a layer is refused until it has seen data."""
    worst = max(found, key=lambda one: _ORDER.index(one.verdict))
    if [one.verdict for one in found] == [REFUSED, HELD]:
        return Outcome(f"{REFUSED} before it has seen data, then {HELD}", worst.why)
    return worst


def _seen(side: Any, found: Found) -> Any:
    """Build a layer that has gathered something."""
    layer = found.build()
    side.train(layer)
    side.run(layer, found.rows)
    return layer


def _outcome(side: Any, net: Any, layer: Any, plan: Any, found: Found) -> Outcome:
    rows = side.other(found.rows)
    trained, inferred = side.copy(net), side.copy(net)
    side.infer(inferred)
    expected = side.run(inferred, rows)
    side.train(trained)
    as_it_was = side.run(trained, rows)
    try:
        handle = plan.apply(net)
    except UnmatchedSelectorError:
        return Outcome(NOTHING, "it has no parameters")
    except UnsupportedPlanError as error:
        return Outcome(REFUSED, error.context.splitlines()[0].partition(": ")[2])
    notices = [text for text in handle.resolution.notices if text.startswith(ALONE)]
    before = side.state(layer)
    side.train(net)
    outputs = [side.run(net, rows)]
    moved = side.state(layer) != before
    try:
        handle.verify()
    except FrozenDriftError as error:
        return Outcome(WRONG, str(error).splitlines()[0])
    if notices:
        same = _same(outputs[0], as_it_was)
        why = notices[0].partition(", ")[2].partition(";")[0]
        return Outcome(ALONE if same else WRONG, why if same else "its output changed")
    outputs.append(side.run(net, rows))
    if moved:
        return Outcome(WRONG, "its state moved, and verify() did not say so")
    if not all(_same(output, expected) for output in outputs):
        return Outcome(WRONG, "it does not compute what its inference mode computes")
    return Outcome(HELD)


def _same(one: Any, other: Any) -> bool:
    """Equal but for the order of sums, which differs between kernels."""
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    scale = np.abs(other).max(initial=0.0) or 1.0
    noise = 64 * np.finfo(one.dtype).eps * scale
    return bool(np.abs(one - other).max(initial=0.0) <= noise)
