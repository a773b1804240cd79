"""Judge measured differences: how large each may be, and whether rounding noise hides it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite
from statistics import median
from typing import NamedTuple

import numpy as np

from unifreeze._numerics.projections import Array
from unifreeze._protocol import Finding, Sketch
from unifreeze.errors import counted

SINGLE_PART = 1e-6
"""Error left when some of a model's code computes in float32 inside a float64 run."""

NOISES = 5
"""How many times its own rounding noise a quantity may differ between frameworks."""

NOTHING = "nothing compared"
"""What a clause says that has nothing to measure."""


class Limit(NamedTuple):
    """Relative difference up to which two values count as equal.

    Attributes:
        double: In double precision.
        single: In single precision.
    """

    double: float
    single: float


class Gap(NamedTuple):
    """How far one quantity differs.

    Attributes:
        subject: The tensor or output.
        size: The relative difference.
        noise: The larger of the two frameworks' own rounding noise.
        floor: The difference that is allowed even without noise.
    """

    subject: str
    size: float
    noise: float
    floor: float


class Nearest(NamedTuple):
    """The measured difference that is nearest to its limit.

    Attributes:
        subject: The tensor or output.
        size: The relative difference.
        limit: How large it may be.
        noise: The rounding noise that the limit allows for; 0 in double precision.
    """

    subject: str
    size: float
    limit: float
    noise: float


class Judgement(NamedTuple):
    """The outcome of one clause that measures.

    Attributes:
        findings: Errors break the clause; notes do not.
        measured: What was compared and how far it differs.
        decided: False where rounding noise hides whether the clause holds.
        nearest: The difference that is nearest to its limit; None where nothing is compared.
    """

    findings: tuple[Finding, ...]
    measured: str
    decided: bool = True
    nearest: Nearest | None = None


def judge(gaps: Iterable[Gap], findings: Iterable[Finding], *, double: bool) -> Judgement:
    """Judge measured differences, each by the larger of its floor and its noise.

    Args:
        gaps: The differences.
        findings: Further findings of the clause.
        double: The differences were computed in double precision.
    """
    gaps = list(gaps)
    finite = [gap for gap in gaps if isfinite(gap.size)]
    infinite = [gap for gap in gaps if not isfinite(gap.size)]
    # Noise is measured once, so one quantity's may be small by chance: the median counts, too.
    usual = median(gap.noise for gap in finite) if finite else 0.0
    limits = [(gap, max(gap.floor, NOISES * max(gap.noise, usual))) for gap in finite]
    decidable = [(gap, limit) for gap, limit in limits if limit < 1]
    band = SINGLE_PART if double else 0.0
    beyond = [(gap, limit) for gap, limit in decidable if gap.size > limit]
    wrong = [(gap, limit) for gap, limit in beyond if gap.size > band]
    all_findings = [
        *findings,
        *(Finding(gap.subject, "is not finite, or not there, on one side") for gap in infinite),
        *_too_noisy([gap for gap, limit in limits if not limit < 1]),
        *(
            Finding(gap.subject, f"differs by {gap.size:.1e}, and {limit:.1e} is allowed")
            for gap, limit in wrong
        ),
    ]
    if beyond and not wrong:
        worst = max(gap.size for gap, _ in beyond)
        text = f"off by up to {worst:.1e}: as if a part computed in single precision"
        all_findings.append(Finding(counted(len(beyond), "tensor"), text, severity="note"))
    applied = [
        (g, limit if wrong or g.size <= limit else max(limit, band)) for g, limit in decidable
    ]
    decided = bool(decidable) or not gaps or bool(infinite)
    measured = _measured(applied, usual, double=double)
    nearest = _nearest(applied, usual, double=double)
    return Judgement(tuple(all_findings), measured, decided, nearest)


def _nearest(limits: list[tuple[Gap, float]], usual: float, *, double: bool) -> Nearest | None:
    if not limits:
        return None
    gap, limit = max(limits, key=lambda pair: pair[0].size / pair[1])
    return Nearest(gap.subject, gap.size, limit, 0.0 if double else max(gap.noise, usual))


def _too_noisy(gaps: list[Gap]) -> Iterator[Finding]:
    if gaps:
        noise = max(gap.noise for gap in gaps)
        text = f"not decidable in this precision: rounding alone changes it by up to {noise:.1e}"
        subject = gaps[0].subject if len(gaps) == 1 else counted(len(gaps), "tensor")
        yield Finding(subject, text, "compare in float64", severity="note")


def _measured(limits: list[tuple[Gap, float]], usual: float, *, double: bool) -> str:
    """Say how much was compared, and which difference is nearest to its limit."""
    if not limits:
        return NOTHING
    gap, limit = max(limits, key=lambda pair: pair[0].size / pair[1])
    text = f"{len(limits)} compared; nearest to its limit: {gap.subject}, differs by {gap.size:.1e}"
    text += f" of {limit:.1e} allowed"
    if not double:
        noise = max(gap.noise, usual)
        text += f" (own noise {noise:.1e}, times {NOISES}, or {gap.floor:.0e} if that is more)"
    return text


def sketch_distance(first: Sketch, second: Sketch | None, *, transposed: bool = False) -> float:
    """Return the relative difference of two tensors; infinite where the second is missing."""
    if second is None:
        return float("inf")
    return first.gap(second, transposed=transposed and bool(second.across))


def value_distance(first: Array | str, second: Array | str, scale: float) -> float:
    """Return the difference of two arrays relative to a scale; infinite where one is a reason."""
    if isinstance(first, str) or isinstance(second, str):
        return float("inf")
    gap = float(np.linalg.norm(first - second)) / scale if scale else 0.0
    return gap if isfinite(gap) else float("inf")
