"""Comparing what two models' training steps showed: pure, with neither framework installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import isfinite, pi, sqrt
from statistics import median
from typing import NamedTuple

import numpy as np

from unifreeze._evidence.step.moments import Moments, corrected
from unifreeze._evidence.step.report import CLAUSES, StepClause, StepReport
from unifreeze._evidence.step.side import RunRow, StepSide
from unifreeze._numerics.projections import Array
from unifreeze._plan import FreezePlan
from unifreeze._ports.pairing import Pairing, PairRow
from unifreeze._ports.pairing.layer_settings import compare_settings, random_layers
from unifreeze._protocol import Finding, Sketch
from unifreeze.errors import RecordError, counted

LIMITS = {
    "outputs": (1e-9, 1e-5),
    "step gradients": (1e-9, 1e-5),
    "updates (sgd)": (1e-8, 1e-4),
    "updates (adamw)": (1e-6, 1e-3),
    "statistics": (1e-6, 1e-5),
}
"""Relative difference up to which two are equal, in double and in single precision.

Measured on ports of one network: in double precision outputs differ by 1e-15 to 2e-11, gradients by
2e-15 to 4e-11, SGD's updates by 7e-11, AdamW's by 2e-8 at most. Statistics are looser because
momentum is a single-precision number in Paddle. In single precision transformers stay below these;
networks with batch norm do not, and are held to their own noise."""

SINGLE_PART = 1e-6
"""What a part of the code that computes in single precision makes of double precision."""

NOISES = 5
"""How many times its own rounding noise a quantity may differ between frameworks."""

WEAK = 1e-6
"""A gradient below this share of the largest is rounding, and so is AdamW's step along it."""

_SINGLE = 2.0**-23
_TENSORS = "tensors"


class Gap(NamedTuple):
    """How far one quantity differs.

    Attributes:
        subject: What it is of.
        size: The relative difference.
        noise: The larger of the two frameworks' own noise.
        floor: What is allowed whatever the noise.
    """

    subject: str
    size: float
    noise: float
    floor: float


def compare_sides(
    one: StepSide, other: StepSide, pairing: Pairing, *, plan: FreezePlan | None = None
) -> StepReport:
    """Compare two models' training steps, clause by clause.

    Args:
        one: The first model's side.
        other: The second's.
        pairing: Of the two, in this order.
        plan: The plan that both should be of.

    Raises:
        RecordError: They are of different plans, precisions, seeds or optimizers, or of others than
            the plan or the pairing.
    """
    _check_comparable(one, other)
    _check_about(one, other, pairing, plan)
    comparison = _Comparison(one, other, pairing)
    clauses = {
        "decisions": comparison.decisions,
        "outputs": comparison.outputs,
        "step gradients": comparison.gradients,
        "updates (sgd)": lambda: comparison.updates("sgd"),
        "updates (adamw)": lambda: comparison.updates("adamw"),
        "statistics": comparison.statistics,
        "frozen": comparison.frozen,
    }
    sides = tuple(f"{s.model} in {s.framework} on {s.device}" for s in (one, other))
    layers = _layer_pairs(one, other, pairing)
    return StepReport(
        tuple(clauses[name]() for name in CLAUSES),
        compare_settings(one.layers, other.layers, layers),
        sides,
        one.run.dtype,
        one.steps,
        compare_settings(one.defaults, other.defaults, ((r.path, r.path) for r in one.defaults)),
        tuple(_alone(one, other, layers)),
    )


def _alone(one: StepSide, other: StepSide, layers: list[tuple[str, str]]) -> Iterator[str]:
    """Say which layers that draw random numbers have no partner to be compared with."""
    for number, (side, there) in enumerate(((one, other), (other, one))):
        for setting, value, path in random_layers(side.layers, {pair[number] for pair in layers}):
            yield (
                f"{setting} {value} in {path} of {_name(side)}: no layer of {_name(there)} is in "
                "its place"
            )


def _check_comparable(one: StepSide, other: StepSide) -> None:
    for what in ("plan_digest", "double", "seed", "steps", "optimizers"):
        values = getattr(one, what), getattr(other, what)
        if values[0] != values[1]:
            raise RecordError(
                f"the two sides are not of the same step: {what.replace('_', ' ')} differs",
                context="\n".join(
                    f"{side.framework}: {value}"
                    for side, value in zip((one, other), values, strict=True)
                ),
                hint="run both with the same plan and the same options",
            )


def _check_about(one: StepSide, other: StepSide, pairing: Pairing, plan: FreezePlan | None) -> None:
    if plan is not None and plan.digest != one.plan_digest:
        raise RecordError("the two sides are of another plan", hint="run both with this one")
    for pair in pairing.pairs:
        if pair.state:
            continue
        for side, path in zip((one, other), _paths(pair), strict=True):
            if path not in side.run.weights:
                raise RecordError(
                    f"the pairing is of other models: {side.model} has no {path}",
                    hint="give the sides in the pairing's order",
                )


class _Comparison:
    """Two sides, and which tensor of one is which of the other."""

    def __init__(self, one: StepSide, other: StepSide, pairing: Pairing) -> None:
        self.sides = (one, other)
        self.parameters = [{row.path: row for row in side.parameters} for side in self.sides]
        self.pairs = [
            pair
            for pair in pairing.pairs
            if pair.one_tensor in self.parameters[0] and pair.other_tensor in self.parameters[1]
        ]
        self.states = [pair for pair in pairing.pairs if pair.state]
        self.unit = max(row.unit for row in one.parameters)
        self.weak = self._weak()

    def decisions(self) -> StepClause:
        """The plan decides the same for both."""
        findings = []
        for pair in self.pairs:
            a = self.parameters[0][pair.one_tensor]
            b = self.parameters[1][pair.other_tensor]
            if a.trainable != b.trainable:
                said = "trainable" if a.trainable else "frozen", _name(self.sides[1])
                other = "trainable" if b.trainable else "frozen"
                findings.append(Finding(pair.one, f"is {said[0]}, and {other} in {said[1]}"))
        return StepClause(
            "decisions", tuple(findings), f"{counted(len(self.pairs), 'parameter')} compared"
        )

    def outputs(self) -> StepClause:
        """Outputs agree; those of one side only are left out, and said so."""
        runs, moved = self._runs()
        found = [run.by_name for run in runs]
        extra = [
            Finding(key, f"is an output of {_name(side)} only", severity="note")
            for side, run in zip(self.sides, runs, strict=True)
            for key in run.outputs
            if key not in run.chosen
        ]
        gaps = [
            Gap(
                output,
                _distance(sketch, found[1].get(output)),
                max(
                    _distance(run[output], near.by_name.get(output))
                    for run, near in zip(found, moved, strict=True)
                    if output in run
                ),
                self._limit("outputs"),
            )
            for output, sketch in found[0].items()
        ]
        return self._clause("outputs", gaps, extra)

    def gradients(self) -> StepClause:
        """Gradients agree, but for those that are rounding."""
        findings: list[Finding] = []
        pairs = []
        for pair in self.pairs:
            got = self._reached(pair)
            if all(got):
                pairs.append(pair)
            elif any(got):
                side = _name(self.sides[got.index(True)])
                findings.append(Finding(pair.one, f"gets a gradient in {side} only"))
        limit = self._limit("step gradients")
        gaps = [
            self._gap(pair, lambda run: run.gradients, limit)
            for pair in pairs
            if pair.one not in self.weak
        ]
        weak = [pair.one for pair in pairs if pair.one in self.weak]
        return self._clause("step gradients", gaps, [*findings, *_skipped(weak)])

    def updates(self, optimizer: str) -> StepClause:
        """What an optimizer adds to each parameter agrees.

        The floor is what rounding the new weight can make of a step so much smaller than it.
        """
        name = f"updates ({optimizer})"
        gaps, weak, unequal = [], [], []
        for pair in self.pairs:
            if not any(self._reached(pair)):
                continue
            if pair.one in self.weak:
                weak.append(pair.one)
            elif pair.cropped:
                unequal.append(pair.one)
            else:
                explained = self._turned(pair) if optimizer == "adamw" else 0.0
                floor = max(self._limit(name), self._rounding(pair, optimizer), explained)
                gaps.append(self._gap(pair, lambda run: run.updates[optimizer], floor))
        notes = [
            Finding(path, "is of another length there; weight decay differs", severity="note")
            for path in unequal
        ]
        return self._clause(name, gaps, [*_skipped(weak), *notes])

    def statistics(self) -> StepClause:
        """Running means and variances agree, once n/(n-1) is taken out, and so does other state."""
        moments = [Moments(side, side.run) for side in self.sides]
        near = [Moments(side, side.moved or side.run) for side in self.sides]
        findings, gaps = [], []
        for pair in self.states:
            if not all(path in m.rows for m, path in zip(moments, _paths(pair), strict=True)):
                gaps += self._state_gap(pair)
                continue
            found = [corrected(m, path) for m, path in zip(moments, _paths(pair), strict=True)]
            reasons = [value for value in found if isinstance(value, str)]
            if reasons:
                findings.append(Finding(pair.one, f"not compared: {reasons[0]}", severity="note"))
                continue
            scale = moments[0].scale(pair.one)
            noises = [
                _difference(value, corrected(m, path), scale)
                for value, m, path in zip(found, near, _paths(pair), strict=True)
            ]
            size = _difference(found[0], found[1], scale)
            gaps.append(Gap(pair.one, size, max(noises), self._limit("statistics")))
        return self._clause("statistics", gaps, findings)

    def frozen(self) -> StepClause:
        """Frozen parameters and held statistics keep every bit, on each side."""
        findings = [
            Finding(path, f"is frozen and moved ({_name(side)}, {optimizer})")
            for side in self.sides
            for path, optimizer in side.run.changed
        ]
        counts = [f"{_still(side)} tensors in {_name(side)}" for side in self.sides]
        return StepClause("frozen", tuple(findings), ", ".join(counts))

    def _runs(self) -> tuple[tuple[RunRow, RunRow], tuple[RunRow, RunRow]]:
        """Return both runs, and both with moved inputs (the same ones where none were made)."""
        one, other = self.sides
        return (one.run, other.run), (one.moved or one.run, other.moved or other.run)

    def _gap(self, pair: PairRow, of: Callable[[RunRow], dict[str, Sketch]], floor: float) -> Gap:
        runs, moved = self._runs()
        paths = _paths(pair)
        a, b = (of(run)[path] for run, path in zip(runs, paths, strict=True))
        near = (of(run).get(path) for run, path in zip(moved, paths, strict=True))
        noises = [_distance(x, y) for x, y in zip((a, b), near, strict=True)]
        return Gap(pair.one, _distance(a, b, transposed=pair.transposed), max(noises), floor)

    def _state_gap(self, pair: PairRow) -> list[Gap]:
        """Compare state that is not a statistic; [] where a side was recorded without it."""
        runs = [run for both in self._runs() for run in both]
        if not all(path in run.states for path, run in zip(_paths(pair) * 2, runs, strict=True)):
            return []
        return [self._gap(pair, lambda run: run.states, self._limit("statistics"))]

    def _reached(self, pair: PairRow) -> list[bool]:
        """Tell of both sides whether a parameter got a gradient."""
        runs = self._runs()[0]
        return [path in run.gradients for path, run in zip(_paths(pair), runs, strict=True)]

    def _weak(self) -> set[str]:
        """Return the parameters whose gradient is rounding on both sides."""
        found = []
        for index, run in enumerate(self._runs()[0]):
            norms = {path: sketch.norm for path, sketch in run.gradients.items()}
            largest = max((n for n in norms.values() if isfinite(n)), default=0.0)
            names = {_paths(pair)[index]: pair.one for pair in self.pairs}
            found.append({names[p] for p, n in norms.items() if p in names and n <= WEAK * largest})
        return found[0] & found[1]

    def _limit(self, name: str) -> float:
        """Return a clause's limit in the precision that was computed in."""
        double, single = LIMITS[name]
        return double if self.sides[0].double else single * max(1.0, self.unit / _SINGLE)

    def _rounding(self, pair: PairRow, optimizer: str) -> float:
        row, run = self.parameters[0][pair.one_tensor], self.sides[0].run
        update = run.updates[optimizer][pair.one].norm
        return 2 * row.unit * run.weights[pair.one] / update if update else 0.0

    def _turned(self, pair: PairRow) -> float:
        """Return what AdamW makes of a gradient's rounding: its first step is the gradient's sign.

        Of normally distributed gradients with a relative difference d a share d/pi turn round, each
        by twice the step, so that steps differ by 2 sqrt(d/pi). Twice that share is allowed. In
        double precision none is near enough to zero to turn, unless a part of the code computes in
        single precision.
        """
        if not all(self._reached(pair)):
            return 0.0
        gap = self._gap(pair, lambda run: run.gradients, 0.0).size
        if self.sides[0].double and not self._limit("step gradients") < gap <= SINGLE_PART:
            return 0.0
        return 2 * sqrt(2 * gap / pi)

    def _clause(self, name: str, gaps: list[Gap], findings: Iterable[Finding]) -> StepClause:
        """Judge a clause's quantities, each by the larger of its floor and its noise."""
        endless = [gap for gap in gaps if not isfinite(gap.size)]
        findings = [
            *findings,
            *(Finding(gap.subject, "is not finite, or not there, on one side") for gap in endless),
        ]
        gaps = [gap for gap in gaps if isfinite(gap.size)]
        usual = median(gap.noise for gap in gaps) if gaps else 0.0
        judged = [(gap, max(gap.floor, NOISES * max(gap.noise, usual))) for gap in gaps]
        told = [(gap, allowed) for gap, allowed in judged if allowed < 1]
        found = [*findings, *_too_noisy([gap for gap, allowed in judged if not allowed < 1])]
        band = SINGLE_PART if self.sides[0].double else 0.0
        beyond = [(gap, allowed) for gap, allowed in told if not gap.size <= allowed]
        wrong = [(gap, allowed) for gap, allowed in beyond if not gap.size <= band]
        found += [
            Finding(gap.subject, f"differs by {gap.size:.1e}, and {allowed:.1e} is allowed")
            for gap, allowed in wrong
        ]
        if beyond and not wrong:
            worst = max(gap for gap, _ in beyond)
            text = f"differ by up to {worst.size:.1e}: as if a part computed in single precision"
            found.append(Finding(f"{len(beyond)} {_TENSORS}", text, severity="note"))
        used = [(g, a if wrong or g.size <= a else max(a, band)) for g, a in told]
        decided = bool(told) or not gaps or bool(endless)
        return StepClause(name, tuple(found), _measured(used, usual, self.sides[0]), decided)


def _measured(told: list[tuple[Gap, float]], usual: float, side: StepSide) -> str:
    if not told:
        return "nothing compared"
    gap, allowed = max(told, key=lambda pair: pair[0].size / pair[1])
    text = f"{len(told)} compared; nearest to its limit: {gap.subject}, differs by {gap.size:.1e}"
    text += f" of {allowed:.1e} allowed"
    if not side.double:
        noise = max(gap.noise, usual)
        text += f" (own noise {noise:.1e}, times {NOISES}, or {gap.floor:.0e} if that is more)"
    return text


def _too_noisy(gaps: list[Gap]) -> Iterator[Finding]:
    if gaps:
        noise = max(gap.noise for gap in gaps)
        text = f"not decidable in this precision: rounding alone changes it by up to {noise:.1e}"
        subject = gaps[0].subject if len(gaps) == 1 else f"{len(gaps)} {_TENSORS}"
        yield Finding(subject, text, "compare in float64", severity="note")


def _skipped(weak: list[str]) -> Iterator[Finding]:
    if weak:
        names = ", ".join(weak[:3]) + (", …" if len(weak) > 3 else "")
        text = f"left out: gradient below {WEAK:.0e} of the largest ({names})"
        yield Finding(f"{len(weak)} {_TENSORS}", text, severity="note")


def _still(side: StepSide) -> int:
    parameters = sum(not row.trainable for row in side.parameters)
    return parameters + sum(row.held for row in side.statistics)


def _layer_pairs(one: StepSide, other: StepSide, pairing: Pairing) -> list[tuple[str, str]]:
    """Return the layers that paired tensors belong to, and those that return the same."""
    here, there = _owners(one), _owners(other)
    tensors = [(pair.one_tensor, pair.other_tensor) for pair in pairing.pairs]
    owners = [(here[a], there[b]) for a, b in tensors if a in here and b in there]
    return [*owners, *pairing.layers]


def _owners(side: StepSide) -> dict[str, str]:
    """Return the layer of each parameter and statistic."""
    owners = {row.path: row.owner for row in side.parameters}
    return owners | {row.path: row.owner for row in side.statistics}


def _paths(pair: PairRow) -> tuple[str, str]:
    return pair.one, pair.other


def _name(side: StepSide) -> str:
    return side.framework


def _distance(a: Sketch, b: Sketch | None, *, transposed: bool = False) -> float:
    """Return the relative difference of two tensors, by their norms and projections."""
    if b is None:
        return float("inf")
    if not a.norm and not b.norm:
        return 0.0
    gap = a.distance(b, transposed=transposed and bool(b.across))
    return gap if isfinite(gap) and isfinite(b.norm) and isfinite(a.norm) else float("inf")


def _difference(a: Array | str, b: Array | str, scale: float) -> float:
    if isinstance(a, str) or isinstance(b, str):
        return float("inf")
    gap = float(np.linalg.norm(a - b)) / scale if scale else 0.0
    return gap if isfinite(gap) else float("inf")
