"""Comparing two records: pure, with neither framework installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from math import isfinite

from unifreeze._evidence.parity.record import ParameterRow, Record, RunRow, matched_outputs
from unifreeze._evidence.parity.report import CLAUSES, Clause, Report, Side
from unifreeze._protocol import Finding
from unifreeze.errors import RecordError

NEGLIGIBLE = 1e-6
"""A gradient norm below this share of the largest is practically zero: rounding, not learning."""

Pairs = list[tuple[ParameterRow, ParameterRow]]


def compare_records(one: Record, other: Record) -> Report:
    """Compare two runs of one plan, clause by clause.

    Raises:
        RecordError: The records are of different plans or of different probes.
    """
    _check_comparable(one, other)
    comparison = _Comparison(one, other)
    clauses = tuple(Clause(name, tuple(_CHECKS[name](comparison))) for name in CLAUSES)
    optimizers = tuple(run.optimizer for run in one.runs)
    return Report(clauses, (_side(one), _side(other)), one.steps, optimizers)


def _check_comparable(one: Record, other: Record) -> None:
    if one.plan_digest != other.plan_digest:
        raise RecordError(
            "the records are of different plans",
            context=f"{one.side}: {one.plan_digest}\n{other.side}: {other.plan_digest}",
            hint="record both sides with the same plan file",
        )
    probes = [(r.steps, r.seed, tuple(run.optimizer for run in r.runs)) for r in (one, other)]
    if probes[0] != probes[1]:
        raise RecordError(
            "the records are of different probes",
            context="\n".join(f"steps, seed, optimizers: {probe}" for probe in probes),
            hint="record both sides with the same --steps and --seed",
        )


def _side(record: Record) -> Side:
    trainable = sum(row.trainable for row in record.parameters)
    return Side(
        record.framework,
        record.device,
        len(record.parameters),
        sum(row.values for row in record.parameters),
        len(record.parameters) - trainable,
        trainable,
    )


class _Comparison:
    """Two records, and which parameter of one is which of the other."""

    def __init__(self, one: Record, other: Record) -> None:
        self.records = (one, other)
        rows = [_by_name(record) for record in self.records]
        self.pairs: Pairs = [(rows[0][name], rows[1][name]) for name in rows[0] if name in rows[1]]

    def parameters(self) -> Iterator[Finding]:
        """Same names, same neutral shapes, nothing twice, nothing ambiguous."""
        for record, missing_from in (self.records, self.records[::-1]):
            there = {row.name for row in missing_from.parameters}
            for row in record.parameters:
                if row.name not in there:
                    where = f"{row.path} {list(row.neutral_shape)} of {record.side}"
                    yield Finding(row.name, f"{where} has no partner in {missing_from.side}")
            yield from _doubles(record)
            yield from _ambiguous(record)
        for one, other in self.pairs:
            if not _alike(one, other):
                yield Finding(
                    one.name,
                    f"has shape {list(one.neutral_shape)} as {one.path} "
                    f"and {list(other.neutral_shape)} as {other.path}",
                )

    def decisions(self) -> Iterator[Finding]:
        """Same decision, rule, settings; same norms held."""
        left, right = (record.side for record in self.records)
        for one, other in self.pairs:
            for what, a, b in (
                ("is", _decision(one), _decision(other)),
                ("is decided by", _rule(one), _rule(other)),
                ("has learning-rate factor", one.lr_scale, other.lr_scale),
                ("has weight decay", one.weight_decay, other.weight_decay),
            ):
                if a != b:
                    yield Finding(one.name, f"{what} {a} in {left} ({one.path}), {b} in {right}")
                    break
        held = [{s.name for s in r.states if s.statistic and s.held} for r in self.records]
        layers = [{name.rpartition("/")[0] for name in names} for names in held]
        for name in sorted(layers[0] ^ layers[1]):
            side = left if name in layers[0] else right
            yield Finding(name, f"holds its statistics in {side} only")

    def order(self) -> Iterator[Finding]:
        """Counting by execution would decide the same."""
        if self.records[0].order != self.records[1].order:
            yield Finding("positions", "one side counted by registration, the other by execution")
        for record in self.records:
            for row in record.parameters:
                if row.trainable != row.by_execution:
                    other = "trainable" if row.by_execution else "frozen"
                    yield Finding(
                        row.path,
                        f"is {_decision(row)} in {record.side} by order of {record.order}, "
                        f"{other} by order of execution",
                        "apply with batch=, and compare with order='execution'",
                    )

    def flags(self) -> Iterator[Finding]:
        """Every flag reads as decided."""
        for record, run in self._runs():
            for row in record.parameters:
                flag = run.flags.get(row.path)
                if flag is not row.trainable:
                    read = "is not reported" if flag is None else f"reads {_flag(flag)}"
                    yield Finding(row.path, f"is decided {_decision(row)}, {read}{_where(record)}")

    def outputs(self) -> Iterator[Finding]:
        """Floating outputs of the same shapes, by name where both sides name them."""
        names = matched_outputs(*self.records).names
        known = {*names.values()}, {*names}
        for record, paired in zip(self.records, known, strict=True):
            for output, shape in record.outputs.items():
                if output not in paired:
                    yield Finding(output, f"{list(shape)} is an output of {record.side} only")
        for output, partner in names.items():
            shapes = self.records[0].outputs[partner], self.records[1].outputs[output]
            if shapes[0] != shapes[1]:
                left, right = (record.side for record in self.records)
                said = f"is {list(shapes[0])} in {left}, and {list(shapes[1])} in {right}"
                yield Finding(partner, said)

    def gradients(self) -> Iterator[Finding]:
        """Gradients reach exactly the trainable parameters."""
        unreached = self._unreached()
        for record, run in self._runs():
            for row in record.parameters:
                norm = run.gradients.get(row.path)
                if norm is not None and not row.trainable:
                    yield Finding(row.path, f"is frozen and has a gradient{_where(record, run)}")
                elif norm is not None and not isfinite(norm):
                    yield Finding(row.path, f"has a gradient of {norm}{_where(record, run)}")
                elif norm is None and row.trainable:
                    idle = row.name in unreached
                    yield Finding(
                        row.path,
                        "unreached: its module never ran on this batch"
                        if idle
                        else f"is trainable and has no gradient{_where(record, run)}",
                        severity="note" if idle else "error",
                    )

    def frozen(self) -> Iterator[Finding]:
        """Frozen parameters keep every bit."""
        for record, run in self._runs():
            for row in record.parameters:
                if not row.trainable and not _kept(run, row.path):
                    by = f" by up to {run.updates[row.path]:.3g}" if row.path in run.updates else ""
                    what = f"moved{by}" if _moved(run, row.path) else "was not looked at"
                    yield Finding(row.path, f"is frozen and {what}{_where(record, run)}")

    def state(self) -> Iterator[Finding]:
        """Held statistics and other state keep every bit, others move alike; quiet layers are."""
        for record, run in self._runs():
            for row in record.states:
                if row.held and not _kept(run, row.path):
                    what = "moved" if _moved(run, row.path) else "was not looked at"
                    yield Finding(row.path, f"should hold and {what}{_where(record, run)}")
            for path in run.live:
                text = "should be off, and ran in training mode"
                yield Finding(path, text + _where(record, run))
        yield from self._statistics_differing()

    def _statistics_differing(self) -> Iterator[Finding]:
        """Statistics that both sides let go on, and that move on one side only."""
        moved = [
            {
                row.name: any(_moved(run, row.path) for run in record.runs)
                for row in record.states
                if row.statistic and not row.held
            }
            for record in self.records
        ]
        for name in sorted(moved[0].keys() & moved[1].keys()):
            if moved[0][name] != moved[1][name]:
                side, still = self.records if moved[0][name] else self.records[::-1]
                yield Finding(name, f"moves in {side.side} and holds still in {still.side}")

    def trained(self) -> Iterator[Finding]:
        """Every trainable parameter moves in at least one run."""
        for record in self.records:
            moved = 0
            largest = max((_largest(run) for run in record.runs), default=0.0)
            for row in record.parameters:
                if not row.trainable:
                    continue
                if any(_moved(run, row.path) for run in record.runs):
                    moved += 1
                    continue
                yield _still(record, row, largest)
            trainable = any(row.trainable for row in record.parameters)
            if record.steps and trainable and not moved:
                yield Finding("the model", f"no trainable parameter moved{_where(record)}")

    def _runs(self) -> Iterator[tuple[Record, RunRow]]:
        return ((record, run) for record in self.records for run in record.runs)

    def _unreached(self) -> set[str]:
        """Names of parameters whose module ran on neither side."""
        return {one.name for one, other in self.pairs if not (one.reached or other.reached)}


_CHECKS: dict[str, Callable[[_Comparison], Iterator[Finding]]] = {
    name: getattr(_Comparison, name) for name in CLAUSES
}


def _alike(one: ParameterRow, other: ParameterRow) -> bool:
    """Compare shapes; a matrix of which nothing tells the layout may be stored either way round."""
    if one.neutral_shape == other.neutral_shape:
        return True
    known = one.oriented and other.oriented
    return not known and one.neutral_shape == other.neutral_shape[::-1]


def _by_name(record: Record) -> dict[str, ParameterRow]:
    counts = Counter(row.name for row in record.parameters)
    return {row.name: row for row in record.parameters if counts[row.name] == 1}


def _doubles(record: Record) -> Iterator[Finding]:
    for name, count in Counter(row.name for row in record.parameters).items():
        if count > 1:
            paths = [row.path for row in record.parameters if row.name == name]
            yield Finding(name, f"stands for {count} parameters of {record.side}: {paths}")


def _ambiguous(record: Record) -> Iterator[Finding]:
    """Name parameters that the two orders number differently, with nothing to settle it."""
    rows = [row for row in record.parameters if row.ambiguous]
    alike = len({row.trainable for row in rows}) <= 1
    for row in rows:
        yield Finding(
            row.name,
            f"is ambiguous in {record.side}: registration and execution number {row.path} "
            "differently",
            severity="note" if alike else "error",
        )


def _still(record: Record, row: ParameterRow, largest: float) -> Finding:
    """Say why a trainable parameter did not move."""
    norms = [run.gradients.get(row.path) for run in record.runs]
    if not row.reached:
        text = "unreached: its module never ran on this batch"
        return Finding(row.path, text + _where(record), severity="note")
    if all(norm is not None and norm <= NEGLIGIBLE * largest for norm in norms):
        text = f"not exercised: its gradient is practically zero ({norms[0]:.2g})"
        return Finding(row.path, text + _where(record), severity="note")
    return Finding(row.path, f"is trainable and did not move{_where(record)}")


def _kept(run: RunRow, path: str) -> bool:
    """Tell whether a tensor was looked at and kept every bit."""
    return bool(run.before.get(path)) and run.before[path] == run.after.get(path)


def _moved(run: RunRow, path: str) -> bool:
    """Tell whether a tensor was looked at and changed."""
    return bool(run.before.get(path)) and run.before[path] != run.after.get(path)


def _largest(run: RunRow) -> float:
    return max((n for n in run.gradients.values() if n is not None and isfinite(n)), default=0.0)


def _decision(row: ParameterRow) -> str:
    return _flag(row.trainable)


def _flag(trainable: bool) -> str:
    return "trainable" if trainable else "frozen"


def _rule(row: ParameterRow) -> str:
    return f"rule {row.rule + 1}" if row.rule >= 0 else "no rule"


def _where(record: Record, run: RunRow | None = None) -> str:
    return f" ({record.side}{f', {run.optimizer}' if run else ''})"
