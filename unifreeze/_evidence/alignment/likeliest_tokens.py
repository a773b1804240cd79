"""Compare the tokens by which both models continue their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unifreeze._evidence.alignment.lines import Line, Verdict, unchecked
from unifreeze._experiments.greedy_tokens import token_ids
from unifreeze._ports.pairing import Pairing
from unifreeze._protocol import Backend, Batch, TokenConfig

TOKENS = 10
"""How many tokens the field compares."""
TIED = 1e-4
"""A token that leads the next by less than this share of the largest score may turn by rounding."""


def token_lines(
    models: tuple[Any, Any],
    backends: tuple[Backend, Backend],
    batches: tuple[Batch, Batch],
    values: Mapping[str, Any],
    pairing: Pairing,
    shapes: Mapping[str, tuple[int, ...]],
    weights: str,
) -> list[Line]:
    """Return the line of greedy tokens, or why there are none."""
    output = _scores(backends[0], models[0], batches[0], shapes)
    key = dict(pairing.outputs).get(output, "")
    if not key or token_ids(batches[1]) is None:
        return [unchecked("tokens", "no words")]
    runs = [
        backend.greedy_tokens(model, TokenConfig(batch, name, given, TOKENS))
        for backend, model, batch, name, given in zip(
            backends, models, batches, (output, key), ({}, values), strict=True
        )
    ]
    first, second = runs
    pairs = zip(first.tokens, second.tokens, first.leads, strict=False)
    verdict: Verdict = "holds"
    agreed = 0
    for one, other, leads in pairs:
        wrong = [lead for a, b, lead in zip(one, other, leads, strict=True) if a != b]
        if wrong:
            verdict = "BROKEN" if max(wrong) > TIED else "open"
            break
        agreed += 1
    details = [
        f"{backend.name}: {' '.join(str(row[0]) for row in run.tokens)}"
        for backend, run in zip(backends, runs, strict=True)
    ]
    stopped = first.stopped or second.stopped
    if stopped:
        details.append(f"stopped early: {stopped}")
    line = Line(
        section="tokens",
        key="tokens" if weights else "tokens of random weights",
        verdict=verdict,
        facts={"agreed": agreed, "count": min(len(run.tokens) for run in runs), "weights": weights},
        source="tokens",
        details=tuple(details),
    )
    return [line]


def _scores(
    backend: Backend, model: Any, batch: Batch, shapes: Mapping[str, tuple[int, ...]]
) -> str:
    """Return the output that is as wide as a table of words; "" if none is."""
    ids = token_ids(batch)
    if ids is None:
        return ""
    tables = {p.shape[0] for p in backend.describe(model).parameters if p.kind == "embedding"}
    fitting = (
        key
        for key, shape in shapes.items()
        if len(shape) == 3 and shape[:2] == ids.shape and shape[2] in tables
    )
    return next(fitting, "")
