"""Compare two sides of an acceptance report; neither framework is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from unifreeze._evidence.alignment.alignment_report import ALIGNMENT_FORMAT, AlignmentReport
from unifreeze._evidence.alignment.alignment_side import AlignmentSide
from unifreeze._evidence.alignment.layer_differences import COARSE, large_input_lines, layer_lines
from unifreeze._evidence.alignment.likeliest_tokens import token_lines
from unifreeze._evidence.alignment.lines import (
    Line,
    clause_line,
    failed_line,
    version_line,
)
from unifreeze._evidence.alignment.loss_curves import curves_of, loss_lines
from unifreeze._evidence.alignment.pairing_lines import pairing_lines, refused_line
from unifreeze._evidence.alignment.parity_lines import parity_line
from unifreeze._evidence.alignment.setting_lines import setting_lines
from unifreeze._evidence.gaps import NOTHING
from unifreeze._evidence.parity import compare_records
from unifreeze._evidence.record import refuse_different
from unifreeze._evidence.report import ClauseResult, StepReport
from unifreeze._evidence.step import compare_sides
from unifreeze._files import told_of_files
from unifreeze._ports.pairing import Pairing
from unifreeze.errors import RecordError, UnifreezeError

CHANCE = 4
"""How many times its limit in own precision a difference may be that float64 does not show."""


@told_of_files
def compare_alignment_sides(
    first: AlignmentSide, second: AlignmentSide, pairing: Pairing, *, refusal: str = ""
) -> AlignmentReport:
    """Compare what was measured on two models, and return the acceptance report.

    Args:
        first: The side of the model that was ported.
        second: The side of its port, which held the first model's weights.
        pairing: Of the two models, in this order.
        refusal: Why they could not be paired by what they compute; "" where they were.

    Raises:
        RecordError: The sides were not measured for one report, or not by this pairing.
    """
    _check_comparable(first, second, pairing)
    return AlignmentReport(
        unifreeze_alignment=ALIGNMENT_FORMAT,
        frameworks=(first.framework, second.framework),
        models=(first.model, second.model),
        plan=first.plan,
        steps=first.steps,
        seed=first.seed,
        weights=first.weights,
        inputs=first.inputs,
        lines=tuple(_lines(first, second, pairing, refusal)),
        curves=curves_of(first, second),
    )


def _check_comparable(first: AlignmentSide, second: AlignmentSide, pairing: Pairing) -> None:
    """Refuse sides that are not the two halves of one report.

    Raises:
        RecordError: Saying what differs.
    """
    if first.like or not second.like:
        kinds = ["on its own weights", "on another model's weights"]
        rows = [f"{side.model} was measured {kinds[bool(side.like)]}" for side in (first, second)]
        raise RecordError(
            "these two sides are not those of a model and of its port, in this order",
            context="\n".join(rows),
            hint="first the side of the model that was ported, then the one made with --like",
        )
    if second.like != first.digest or second.values_digest != first.values_digest:
        raise RecordError(
            f"{second.model} was not measured like this side of {first.model}",
            hint="measure it again: unifreeze align MODEL --like FIRST.json -p … -o OTHER.json",
        )
    for field in ("plan", "seed", "steps"):
        fact = f"the two sides are not of one report: {field} differs"
        values = [(side.framework, getattr(side, field)) for side in (first, second)]
        refuse_different(fact, *values, hint="measure both with the same options")
    if _kinds(first) == _kinds(second) and first.inputs_digest != second.inputs_digest:
        raise RecordError(
            "the two sides are not of one report: they saw other inputs",
            context=f"both saw {', '.join(first.inputs)}, with other values",
            hint="measure both with the same --batch and --seed",
        )
    for row in pairing.pairs:
        for side, path in ((first, row.one_tensor), (second, row.other_tensor)):
            if path not in side.owners:
                raise RecordError(
                    f"the pairing is of other models: {side.model} has no {path}",
                    hint="give the pairing that both sides were measured with",
                )


def _kinds(side: AlignmentSide) -> list[str]:
    """Return dtype and shape of each input, without names and order."""
    return sorted(text.rpartition(": ")[2] for text in side.inputs)


def _lines(
    first: AlignmentSide, second: AlignmentSide, pairing: Pairing, refusal: str
) -> Iterator[Line]:
    """Yield the lines of all sections, in order."""
    both = first, second
    known = [refused_line(refusal)] if refusal else pairing_lines(pairing, first.filled_rows)
    yield from known
    yield from second.held
    yield from _checked("layers", "layers", both, lambda: layer_lines(*both, pairing))
    own, double = (_step(both, check, pairing) for check in ("own", "double"))
    yield from _clauses(own, double, "outputs", ("outputs",))
    yield from _checked("outputs", "large", both, lambda: large_input_lines(*both, pairing))
    yield from _checked("tokens", "tokens", both, lambda: token_lines(*both))
    yield from _clauses(own, double, "gradients", ("step gradients",))
    rest = "updates (sgd)", "updates (adamw)", "statistics", "decisions", "frozen"
    yield from _clauses(own, double, "updates", rest)
    yield from _checked("training", "losses", both, lambda: loss_lines(*both))
    if isinstance(double, StepReport):
        frameworks = first.framework, second.framework
        judged = ("padding row",) if pairing.zeros else ()
        yield from setting_lines(double, frameworks, judged=judged)
    yield from _checked("parity", "record", both, lambda: _parity_lines(both, pairing))
    for number, side in enumerate(both):
        yield version_line(number + 1, side.model, side.framework, side.device, side.versions)


def _checked(
    section: str,
    check: str,
    sides: tuple[AlignmentSide, AlignmentSide],
    compare: Callable[[], list[Line]],
) -> list[Line]:
    """Compare what a check measured; what kept it from running is a line, too."""
    for side in sides:
        if failure := side.failures.get(check):
            return [failed_line(section, failure)]
    try:
        return compare()
    except UnifreezeError as error:
        return [failed_line(section, tuple(str(error).splitlines()))]


def _step(
    sides: tuple[AlignmentSide, AlignmentSide], check: str, pairing: Pairing
) -> StepReport | tuple[str, ...]:
    """Compare training steps; if they could not be run, return the error's message."""
    for side in sides:
        if failure := side.failures.get(check):
            return failure
    first, second = (side.own if check == "own" else side.double for side in sides)
    assert first is not None
    assert second is not None
    try:
        return compare_sides(first, second, pairing)
    except UnifreezeError as error:
        return tuple(str(error).splitlines())


def _clauses(
    own: StepReport | tuple[str, ...],
    double: StepReport | tuple[str, ...],
    section: str,
    names: tuple[str, ...],
) -> Iterator[Line]:
    """Yield clauses of the step, in the models' own precision and in double precision."""
    for name in names:
        for report, is_own in ((own, True), (double, False)):
            if not isinstance(report, StepReport):
                yield failed_line(section, report)
                continue
            clause = next(row for row in report.clauses if row.name == name)
            if clause.nearest is None and _says_nothing(clause, own=is_own):
                continue
            key = f"{name} in own precision" if is_own else name
            line = clause_line(section, key, clause, own=is_own)
            yield hidden_by_noise(line, double, name) if is_own else line


def _says_nothing(clause: ClauseResult, *, own: bool) -> bool:
    """Return whether a clause is the same in any precision and stands there already, or is empty.

    One that could measure nothing because nothing was finite is broken, and is not empty.
    """
    return clause.holds if clause.measured == NOTHING else own


def hidden_by_noise(line: Line, double: StepReport | tuple[str, ...], name: str) -> Line:
    """Return a line as open if it is broken by little, and the same holds in double precision.

    Noise is measured once, so it may be small by chance.
    """
    if line.verdict != "BROKEN" or not isinstance(double, StepReport):
        return line
    holds = all(row.holds for row in double.clauses if row.name == name)
    measured, limit = line.measured, line.limit
    near = measured is not None and limit is not None and measured <= CHANCE * limit
    return line.model_copy(update={"verdict": "open"}) if holds and near else line


def _parity_lines(sides: tuple[AlignmentSide, AlignmentSide], pairing: Pairing) -> list[Line]:
    first, second = (side.record for side in sides)
    assert first is not None
    assert second is not None
    report = compare_records(first, second)
    rows = (*first.parameters, *second.parameters)
    coarse = {row.path for row in rows if row.dtype in COARSE}
    return [parity_line(clause, pairing, coarse) for clause in report.clauses]
