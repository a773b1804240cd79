"""Check each clause of parity on two records; `clauses.py` lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import isfinite

from unifreeze._evidence.record import ParameterRow, Record, RunRow, matched_outputs
from unifreeze._protocol import Finding

NEGLIGIBLE = 1e-6
"""A gradient norm below this share of the largest is practically zero: rounding, not learning."""


class RecordPair:
    """Two records, and which parameter of the first is which of the second.

    Attributes:
        records: Both records.
        parameters: Both rows of every parameter that both records know by one name.
    """

    def __init__(self, first: Record, second: Record) -> None:
        self.records = (first, second)
        rows = [_unique_names(record) for record in self.records]
        self.parameters = [(row, rows[1][name]) for name, row in rows[0].items() if name in rows[1]]

    @property
    def runs(self) -> Iterator[tuple[Record, RunRow]]:
        """Every run of either record."""
        return ((record, run) for record in self.records for run in record.runs)


def parameters(pair: RecordPair) -> Iterator[Finding]:
    """Find parameters without a partner, of another shape, or whose name is not certain."""
    for record, partner in (pair.records, pair.records[::-1]):
        names = {row.name for row in partner.parameters}
        for row in record.parameters:
            if row.name not in names:
                where = f"{row.path} {list(row.neutral_shape)} of {record.side}"
                yield Finding(row.name, f"{where} has no partner in {partner.side}")
        yield from _repeated_names(record)
        yield from _ambiguous_names(record)
    for first, second in pair.parameters:
        if not _shapes_fit(first, second):
            yield Finding(
                first.name,
                f"has shape {list(first.neutral_shape)} as {first.path} "
                f"and {list(second.neutral_shape)} as {second.path}",
            )


def decisions(pair: RecordPair) -> Iterator[Finding]:
    """Find parameters that are decided in two ways, and norms that only one side holds."""
    sides = [record.side for record in pair.records]
    for first, second in pair.parameters:
        for verb, values in (
            ("is", (decision(first.trainable), decision(second.trainable))),
            ("is decided by", (_rule(first), _rule(second))),
            ("trains", (_rows(first), _rows(second))),
            ("has learning-rate factor", (first.lr_scale, second.lr_scale)),
            ("has weight decay", (first.weight_decay, second.weight_decay)),
        ):
            if values[0] != values[1]:
                left, right = (f"{v} in {side}" for v, side in zip(values, sides, strict=True))
                yield Finding(first.name, f"{verb} {left} ({first.path}), {right}")
                break
    held = [
        {state.name.rpartition("/")[0] for state in record.states if state.statistic and state.held}
        for record in pair.records
    ]
    for layer in sorted(held[0] ^ held[1]):
        side = sides[0] if layer in held[0] else sides[1]
        yield Finding(layer, f"holds its statistics in {side} only")


def order(pair: RecordPair) -> Iterator[Finding]:
    """Find parameters that would be decided otherwise if positions counted by execution."""
    if pair.records[0].order != pair.records[1].order:
        yield Finding("positions", "one side counted by registration, the other by execution")
    for record in pair.records:
        for row in record.parameters:
            if row.trainable != row.by_execution:
                yield Finding(
                    row.path,
                    f"is {decision(row.trainable)} in {record.side} by order of {record.order}, "
                    f"{decision(row.by_execution)} by order of execution",
                    "apply with batch=, and compare with order='execution'",
                )


def flags(pair: RecordPair) -> Iterator[Finding]:
    """Find flags that do not read as decided."""
    for record, run in pair.runs:
        for row in record.parameters:
            flag = run.flags.get(row.path)
            if flag is not row.trainable:
                read = "is not reported" if flag is None else f"reads {decision(flag)}"
                text = f"is decided {decision(row.trainable)}, {read}"
                yield Finding(row.path, text + _where(record))


def outputs(pair: RecordPair) -> Iterator[Finding]:
    """Find outputs that one side lacks, and those of two shapes."""
    first, second = pair.records
    names = matched_outputs(first, second).names
    for record, matched in ((first, {*names.values()}), (second, {*names})):
        for output, shape in record.outputs.items():
            if output not in matched:
                yield Finding(output, f"{list(shape)} is an output of {record.side} only")
    for there, here in names.items():
        shapes = first.outputs[here], second.outputs[there]
        if shapes[0] != shapes[1]:
            text = f"is {list(shapes[0])} in {first.side}, and {list(shapes[1])} in {second.side}"
            yield Finding(here, text)


def gradients(pair: RecordPair) -> Iterator[Finding]:
    """Find gradients of frozen parameters, gradients that are missing, and those not finite."""
    idle = {first.name for first, second in pair.parameters if not first.reached | second.reached}
    for record, run in pair.runs:
        for row in record.parameters:
            norm = run.gradients.get(row.path)
            if norm is not None and not row.trainable:
                yield Finding(row.path, f"is frozen and has a gradient{_where(record, run)}")
            elif norm is not None and not isfinite(norm):
                yield Finding(row.path, f"has a gradient of {norm}{_where(record, run)}")
            elif norm is None and row.trainable and row.name in idle:
                yield Finding(row.path, _UNREACHED, severity="note")
            elif norm is None and row.trainable:
                yield Finding(row.path, f"is trainable and has no gradient{_where(record, run)}")


def frozen(pair: RecordPair) -> Iterator[Finding]:
    """Find frozen parameters that did not keep every bit."""
    for record, run in pair.runs:
        for row in record.parameters:
            if not row.trainable and not _kept(run, row.path):
                by = f" by up to {run.updates[row.path]:.3g}" if row.path in run.updates else ""
                text = f"moved{by}" if _moved(run, row.path) else "was not looked at"
                yield Finding(row.path, f"is frozen and {text}{_where(record, run)}")


def state(pair: RecordPair) -> Iterator[Finding]:
    """Find held state that moved, dropout that stayed on, and statistics that moved on one side."""
    for record, run in pair.runs:
        for row in record.states:
            if row.held and not _kept(run, row.path):
                text = "moved" if _moved(run, row.path) else "was not looked at"
                yield Finding(row.path, f"should hold and {text}{_where(record, run)}")
        for path in run.live:
            yield Finding(path, f"should be off, and ran in training mode{_where(record, run)}")
    moved = [
        {
            row.name: any(_moved(run, row.path) for run in record.runs)
            for row in record.states
            if row.statistic and not row.held
        }
        for record in pair.records
    ]
    for name in sorted(moved[0].keys() & moved[1].keys()):
        if moved[0][name] != moved[1][name]:
            moving, still = pair.records if moved[0][name] else pair.records[::-1]
            yield Finding(name, f"moves in {moving.side} and holds still in {still.side}")


def trained(pair: RecordPair) -> Iterator[Finding]:
    """Find trainable parameters that moved in no run."""
    for record in pair.records:
        norms = [norm for run in record.runs for norm in run.gradients.values()]
        largest = max((n for n in norms if n is not None and isfinite(n)), default=0.0)
        trainable = [row for row in record.parameters if row.trainable]
        still = [row for row in trainable if not any(_moved(r, row.path) for r in record.runs)]
        for row in still:
            yield _why_still(record, row, largest)
        if record.steps and trainable and len(still) == len(trainable):
            yield Finding("the model", f"no trainable parameter moved{_where(record)}")


def _unique_names(record: Record) -> dict[str, ParameterRow]:
    counts = Counter(row.name for row in record.parameters)
    return {row.name: row for row in record.parameters if counts[row.name] == 1}


def _repeated_names(record: Record) -> Iterator[Finding]:
    for name, count in Counter(row.name for row in record.parameters).items():
        if count > 1:
            paths = [row.path for row in record.parameters if row.name == name]
            yield Finding(name, f"stands for {count} parameters of {record.side}: {paths}")


def _ambiguous_names(record: Record) -> Iterator[Finding]:
    """Find parameters whose number depends on the order that is counted by."""
    rows = [row for row in record.parameters if row.ambiguous]
    decided_alike = len({row.trainable for row in rows}) <= 1
    for row in rows:
        yield Finding(
            row.name,
            f"is ambiguous in {record.side}: registration and execution number {row.path} "
            "differently",
            severity="note" if decided_alike else "error",
        )


def _shapes_fit(first: ParameterRow, second: ParameterRow) -> bool:
    """Return whether two shapes agree; a matrix of unknown layout may be stored transposed."""
    if first.neutral_shape == second.neutral_shape:
        return True
    layout_known = first.oriented and second.oriented
    return not layout_known and first.neutral_shape == second.neutral_shape[::-1]


_UNREACHED = "unreached: its module never ran on this batch"


def _why_still(record: Record, row: ParameterRow, largest: float) -> Finding:
    """Say why a trainable parameter did not move."""
    norms = [run.gradients.get(row.path) for run in record.runs]
    if not row.reached:
        return Finding(row.path, _UNREACHED + _where(record), severity="note")
    if all(norm is not None and norm <= NEGLIGIBLE * largest for norm in norms):
        text = f"not exercised: its gradient is practically zero ({norms[0]:.2g})"
        return Finding(row.path, text + _where(record), severity="note")
    return Finding(row.path, f"is trainable and did not move{_where(record)}")


def _kept(run: RunRow, path: str) -> bool:
    """Return whether a tensor was looked at and kept every bit."""
    return bool(run.before.get(path)) and run.before[path] == run.after.get(path)


def _moved(run: RunRow, path: str) -> bool:
    """Return whether a tensor was looked at and changed."""
    return bool(run.before.get(path)) and run.before[path] != run.after.get(path)


def decision(trainable: bool) -> str:
    """Return how a decision reads in a sentence."""
    return "trainable" if trainable else "frozen"


def _rows(row: ParameterRow) -> str:
    if row.trained_rows is None:
        return "whole"
    start, stop = row.trained_rows
    return f"rows {start} to {stop - 1} alone"


def _rule(row: ParameterRow) -> str:
    return f"rule {row.rule + 1}" if row.rule >= 0 else "no rule"


def _where(record: Record, run: RunRow | None = None) -> str:
    return f" ({record.side}{f', {run.optimizer}' if run else ''})"
