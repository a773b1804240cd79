"""Check each clause of the same step on two sides; `clauses.py` lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite, pi, sqrt

from unifreeze._evidence.gaps import (
    SINGLE_PART,
    Gap,
    Judgement,
    Limit,
    judge,
    sketch_distance,
    value_distance,
)
from unifreeze._evidence.moments import Moments, corrected
from unifreeze._evidence.parity_clauses import decision
from unifreeze._evidence.step_side import StepRunRow, StepSide
from unifreeze._ports.pairing import Pairing, PairRow
from unifreeze._protocol import Finding, Sketch
from unifreeze.errors import counted

# Measured on ports of one network: in double precision outputs differ by 1e-15 to 2e-11, gradients
# by 2e-15 to 4e-11, SGD's updates by 7e-11, AdamW's by 2e-8 at most. Statistics are looser because
# momentum is a single-precision number in Paddle. In single precision transformers stay below these
# limits; networks with batch norm do not, and are held to their own noise.
OUTPUTS = Limit(1e-9, 1e-5)
GRADIENTS = Limit(1e-9, 1e-5)
SGD = Limit(1e-8, 1e-4)
ADAMW = Limit(1e-6, 1e-3)
STATISTICS = Limit(1e-6, 1e-5)

WEAK = 1e-6
"""A gradient below this share of the largest is rounding, and so is AdamW's step along it."""

_SINGLE = 2.0**-23


class StepPair:
    """Two sides of a step, and which tensor of the first is which of the second.

    Attributes:
        sides: Both sides.
        rows: Each side's rows of parameters, by native path.
        parameters: Paired parameters; a fused tensor is paired by its parts.
        states: Paired statistics and other state that is saved.
        unit: The unit of rounding of the first side's least exact dtype.
        weak: Native paths in the first model of parameters whose gradient is rounding on both.
    """

    def __init__(self, first: StepSide, second: StepSide, pairing: Pairing) -> None:
        self.sides = (first, second)
        self.rows = [{row.path: row for row in side.parameters} for side in self.sides]
        self.parameters = [
            row
            for row in pairing.pairs
            if row.one_tensor in self.rows[0] and row.other_tensor in self.rows[1]
        ]
        self.states = [row for row in pairing.pairs if row.state]
        self.unit = max(row.unit for row in first.parameters)
        self.weak = self._weak(0) & self._weak(1)

    @property
    def runs(self) -> tuple[StepRunRow, StepRunRow]:
        """The results of the steps of both sides."""
        return self.sides[0].run, self.sides[1].run

    @property
    def moved(self) -> tuple[StepRunRow, StepRunRow]:
        """The same with moved inputs; in double precision, the same runs again."""
        first, second = self.sides
        return first.moved or first.run, second.moved or second.run

    def limit(self, limit: Limit) -> float:
        """Return a limit in the precision that was computed in."""
        if self.sides[0].double:
            return limit.double
        return limit.single * max(1.0, self.unit / _SINGLE)

    def gap(
        self, row: PairRow, sketches: Callable[[StepRunRow], dict[str, Sketch]], floor: float
    ) -> Gap:
        """Return how far two paired tensors differ in what `sketches` reads from a run."""
        paths = row.one, row.other
        first, second = (sketches(run)[path] for run, path in zip(self.runs, paths, strict=True))
        noise = max(
            sketch_distance(sketch, sketches(run).get(path))
            for sketch, run, path in zip((first, second), self.moved, paths, strict=True)
        )
        size = sketch_distance(first, second, transposed=row.transposed)
        return Gap(row.one, size, noise, floor)

    def has_gradients(self, row: PairRow) -> tuple[bool, bool]:
        """Return for each side whether the parameter got a gradient."""
        return row.one in self.runs[0].gradients, row.other in self.runs[1].gradients

    def _weak(self, side: int) -> set[str]:
        """Return the pairs, by first path, whose gradient on one side is below `WEAK`."""
        norms = {path: sketch.norm for path, sketch in self.runs[side].gradients.items()}
        largest = max((norm for norm in norms.values() if isfinite(norm)), default=0.0)
        names = {(row.one, row.other)[side]: row.one for row in self.parameters}
        return {n for path, n in names.items() if path in norms and norms[path] <= WEAK * largest}


def decisions(pair: StepPair) -> Judgement:
    """Find parameters that are frozen on one side and trainable on the other."""
    findings = []
    for row in pair.parameters:
        first = pair.rows[0][row.one_tensor].trainable
        second = pair.rows[1][row.other_tensor].trainable
        if first != second:
            text = f"is {decision(first)}, and {decision(second)} in {pair.sides[1].framework}"
            findings.append(Finding(row.one, text))
    return Judgement(tuple(findings), f"{counted(len(pair.parameters), 'parameter')} compared")


def outputs(pair: StepPair) -> Judgement:
    """Compare the outputs that both sides have; the others become notes."""
    notes = [
        Finding(key, f"is an output of {side.framework} only", severity="note")
        for side in pair.sides
        for key in side.run.outputs
        if key not in side.run.chosen
    ]
    first, second = (run.by_name for run in pair.runs)
    moved = [run.by_name for run in pair.moved]
    gaps = []
    for name, sketch in first.items():
        noise = max(
            sketch_distance(sketches[name], nudged.get(name))
            for sketches, nudged in zip((first, second), moved, strict=True)
            if name in sketches
        )
        size = sketch_distance(sketch, second.get(name))
        gaps.append(Gap(name, size, noise, pair.limit(OUTPUTS)))
    return _judge(pair, gaps, notes)


def gradients(pair: StepPair) -> Judgement:
    """Compare gradients, except those that are only rounding."""
    findings, rows = [], []
    for row in pair.parameters:
        reached = pair.has_gradients(row)
        if all(reached):
            rows.append(row)
        elif any(reached):
            side = pair.sides[reached.index(True)]
            findings.append(Finding(row.one, f"gets a gradient in {side.framework} only"))
    floor = pair.limit(GRADIENTS)
    gaps = [
        pair.gap(row, lambda run: run.gradients, floor) for row in rows if row.one not in pair.weak
    ]
    weak = [row.one for row in rows if row.one in pair.weak]
    return _judge(pair, gaps, [*findings, *_left_out(weak)])


def updates(pair: StepPair, *, optimizer: str, limit: Limit) -> Judgement:
    """Compare what an optimizer's steps add to each parameter."""
    gaps, weak, notes = [], [], []
    for row in pair.parameters:
        if not any(pair.has_gradients(row)):
            continue
        if row.one in pair.weak:
            weak.append(row.one)
        elif row.cropped:
            text = "is of another length there; weight decay differs"
            notes.append(Finding(row.one, text, severity="note"))
        else:
            turned = _turned_signs(pair, row) if optimizer == "adamw" else 0.0
            floor = max(pair.limit(limit), _rounding_of_weight(pair, row, optimizer), turned)
            gaps.append(pair.gap(row, lambda run: run.updates[optimizer], floor))
    return _judge(pair, gaps, [*_left_out(weak), *notes])


def statistics(pair: StepPair) -> Judgement:
    """Compare running means and variances once n/(n-1) is taken out, and other saved state."""
    moments = [Moments(side, side.run) for side in pair.sides]
    moved = [Moments(side, run) for side, run in zip(pair.sides, pair.moved, strict=True)]
    notes, gaps = [], []
    for row in pair.states:
        paths = row.one, row.other
        if not all(path in m.rows for m, path in zip(moments, paths, strict=True)):
            gaps += _gap_of_other_state(pair, row)
            continue
        values = [corrected(m, path) for m, path in zip(moments, paths, strict=True)]
        if reasons := [value for value in values if isinstance(value, str)]:
            notes.append(Finding(row.one, f"not compared: {reasons[0]}", severity="note"))
            continue
        scale = moments[0].scale(row.one)
        noise = max(
            value_distance(value, corrected(m, path), scale)
            for value, m, path in zip(values, moved, paths, strict=True)
        )
        size = value_distance(values[0], values[1], scale)
        gaps.append(Gap(row.one, size, noise, pair.limit(STATISTICS)))
    return _judge(pair, gaps, notes)


def frozen(pair: StepPair) -> Judgement:
    """Find frozen parameters and held statistics that did not keep every bit."""
    findings = [
        Finding(path, f"is frozen and moved ({side.framework}, {optimizer})")
        for side in pair.sides
        for path, optimizer in side.run.changed
    ]
    counts = [f"{counted(_frozen(side), 'tensor')} in {side.framework}" for side in pair.sides]
    return Judgement(tuple(findings), ", ".join(counts))


def _judge(pair: StepPair, gaps: list[Gap], findings: list[Finding]) -> Judgement:
    return judge(gaps, findings, double=pair.sides[0].double)


def _left_out(weak: list[str]) -> Iterator[Finding]:
    """Say which parameters were not compared because their gradient is rounding."""
    if weak:
        names = ", ".join(weak[:3]) + (", …" if len(weak) > 3 else "")
        text = f"left out: gradient below {WEAK:.0e} of the largest ({names})"
        yield Finding(counted(len(weak), "tensor"), text, severity="note")


def _rounding_of_weight(pair: StepPair, row: PairRow, optimizer: str) -> float:
    """Return the error that rounding the new weight leaves in a step that is smaller than it."""
    run = pair.runs[0]
    update = run.updates[optimizer][row.one].norm
    unit = pair.rows[0][row.one_tensor].unit
    return 2 * unit * run.weights[row.one] / update if update else 0.0


def _turned_signs(pair: StepPair, row: PairRow) -> float:
    """Return how far AdamW's steps may differ because rounding changes signs of gradients.

    AdamW's first step is the gradient's sign. Of normally distributed gradients with a relative
    difference d, a share d/pi changes its sign. Each of these steps then differs by twice the step,
    and all of them together by 2 sqrt(d/pi). Twice that share is allowed. In double precision no
    gradient is close enough to zero, unless a part of the code computes in single precision.
    """
    if not all(pair.has_gradients(row)):
        return 0.0
    gap = pair.gap(row, lambda run: run.gradients, 0.0).size
    if pair.sides[0].double and not pair.limit(GRADIENTS) < gap <= SINGLE_PART:
        return 0.0
    return 2 * sqrt(2 * gap / pi)


def _gap_of_other_state(pair: StepPair, row: PairRow) -> list[Gap]:
    """Compare state that is not a statistic; [] where a side was recorded without it."""
    for runs in (pair.runs, pair.moved):
        if row.one not in runs[0].states or row.other not in runs[1].states:
            return []
    return [pair.gap(row, lambda run: run.states, pair.limit(STATISTICS))]


def _frozen(side: StepSide) -> int:
    """Return the number of frozen parameters and held statistics."""
    parameters = sum(not row.trainable for row in side.parameters)
    return parameters + sum(row.held for row in side.statistics)
