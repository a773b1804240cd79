"""Compare the tokens by which both models continue their inputs."""

from __future__ import annotations

from unifreeze._evidence.alignment.alignment_side import AlignmentSide
from unifreeze._evidence.alignment.lines import Line, Verdict, unchecked

TIED = 1e-4
"""A token that leads the next by less than this share of the largest score may turn by rounding."""


def token_lines(first: AlignmentSide, second: AlignmentSide) -> list[Line]:
    """Return the line of greedy tokens, or why there are none."""
    one, other = first.tokens, second.tokens
    if one is None or other is None:
        return [unchecked("tokens", "no words")]
    verdict: Verdict = "holds"
    agreed = 0
    for here, there, leads in zip(one.tokens, other.tokens, one.leads, strict=False):
        wrong = [lead for a, b, lead in zip(here, there, leads, strict=True) if a != b]
        if wrong:
            verdict = "BROKEN" if max(wrong) > TIED else "open"
            break
        agreed += 1
    details = [
        f"{side.framework}: {' '.join(str(row[0]) for row in run.tokens)}"
        for side, run in ((first, one), (second, other))
    ]
    if stopped := one.stopped or other.stopped:
        details.append(f"stopped early: {stopped}")
    line = Line(
        section="tokens",
        key="tokens" if first.weights else "tokens of random weights",
        verdict=verdict,
        facts={
            "agreed": agreed,
            "count": min(len(one.tokens), len(other.tokens)),
            "weights": first.weights,
        },
        source="tokens",
        details=tuple(details),
    )
    return [line]
