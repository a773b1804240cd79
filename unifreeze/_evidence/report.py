"""Report how a comparison of two runs came out: each clause with its findings, as text or data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from unifreeze._arguments import checked_methods
from unifreeze._evidence.gaps import Nearest
from unifreeze._pictures import html_of
from unifreeze._ports.pairing.layer_settings import SettingDifference
from unifreeze._protocol import Finding
from unifreeze._tables import one_line
from unifreeze.errors import ParityError, counted

_SHOWN = 10
_INDENT = " " * 10


@dataclass(frozen=True)
class ClauseResult:
    """What was found against one clause.

    Attributes:
        name: The clause's name, as in `clauses.py`.
        title: What the clause promises.
        findings: Errors break the clause; notes do not.
        measured: What was compared and how far it differs; "" where nothing is measured.
        decided: False where rounding noise hides whether the clause holds.
        nearest: The measured difference that is nearest to its limit, if something is measured.
    """

    name: str
    title: str
    findings: tuple[Finding, ...]
    measured: str = ""
    decided: bool = True
    nearest: Nearest | None = None

    @property
    def holds(self) -> bool:
        """Return whether no finding breaks the clause."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One word: holds, BROKEN, or open where the clause could not be decided."""
        if not self.holds:
            return "BROKEN"
        return "holds" if self.decided else "open"

    def __str__(self) -> str:
        details = [self.measured] if self.measured else []
        for finding in self.findings[:_SHOWN]:
            details.append(("note: " if finding.severity == "note" else "") + str(finding))
        if len(self.findings) > _SHOWN:
            details.append(f"… and {len(self.findings) - _SHOWN} more")
        return "\n".join([f"{self.verdict:<6}  {self.name}: {self.title}", *_indented(details)])


@checked_methods
@dataclass(frozen=True)
class ClauseReport:
    """How a comparison of two runs came out, clause by clause.

    Attributes:
        clauses: All clauses, in order.
        verdicts: The words for a comparison that holds, and for one that does not.
    """

    clauses: tuple[ClauseResult, ...]
    verdicts: ClassVar[tuple[str, str]]

    @property
    def holds(self) -> bool:
        """Return whether every clause holds."""
        return all(clause.holds for clause in self.clauses)

    @property
    def decided(self) -> bool:
        """Return whether every clause could be decided in this precision."""
        return all(clause.decided for clause in self.clauses)

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the broken clauses."""
        return tuple(clause.name for clause in self.clauses if not clause.holds)

    @property
    def verdict(self) -> str:
        """Whether the comparison holds, in a few words."""
        return self.verdicts[0] if self.holds else self.verdicts[1]

    @property
    def summary(self) -> str:
        """The last line that a command prints."""
        return self.verdict

    def raise_if_broken(self) -> None:
        """Raise if a clause does not hold.

        Raises:
            ParityError: Naming the clauses, and the parameters that break them.

        >>> check_parity(plan, torch_model, paddle_model, batch=batch).raise_if_broken()
        """
        if not self.holds:
            raise ParityError(f"{self.verdict}: {', '.join(self.broken)}", context=str(self))

    _repr_html_ = html_of

    def __repr__(self) -> str:
        return one_line(self, f"{self.verdict}, {counted(len(self.clauses), 'clause')}")

    def __str__(self) -> str:
        return "\n".join([*self._heading(), *map(str, self.clauses), *self._appendix()])

    def _heading(self) -> list[str]:
        """Return the lines above the clauses."""
        return []

    def _appendix(self) -> list[str]:
        """Return the lines below the clauses."""
        return []


@dataclass(frozen=True)
class Side:
    """One of the two runs, in numbers.

    Attributes:
        framework: Its framework.
        device: Where it ran.
        parameters: Number of parameters.
        values: Number of values in them.
        frozen: Number of frozen parameters.
        trainable: Number of trainable parameters.
    """

    framework: str
    device: str
    parameters: int
    values: int
    frozen: int
    trainable: int

    def __str__(self) -> str:
        return (
            f"{self.framework} on {self.device}: {counted(self.parameters, 'parameter')}, "
            f"{self.values:,} values, {self.frozen} frozen, {self.trainable} trainable"
        )


@checked_methods
@dataclass(frozen=True, repr=False)
class Report(ClauseReport):
    """Whether two models have parity under a plan.

    Attributes:
        sides: The two runs.
        steps: Training steps per optimizer.
        optimizers: Their names.

    >>> check_parity(plan, torch_model, paddle_model, batch=batch)
    <unifreeze.Report: parity holds, 9 clauses>
    """

    sides: tuple[Side, ...]
    steps: int
    optimizers: tuple[str, ...]
    verdicts = ("parity holds", "parity does not hold")

    @property
    def summary(self) -> str:
        """The last line that a command prints."""
        return (
            f"{self.verdict} ({counted(self.steps, 'step')} each of {', '.join(self.optimizers)})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data.

        >>> check_parity(plan, torch_model, paddle_model, batch=batch).to_json()["holds"]
        True
        """
        return {
            "holds": self.holds,
            "clauses": _clauses_as_data(self.clauses, "name", "holds"),
            "sides": [side.__dict__ for side in self.sides],
            "steps": self.steps,
            "optimizers": list(self.optimizers),
        }

    def _heading(self) -> list[str]:
        return list(map(str, self.sides))


@checked_methods
@dataclass(frozen=True, repr=False)
class StepReport(ClauseReport):
    """Whether two models take the same training step.

    Attributes:
        differences: Settings in which paired layers differ, whether or not this step shows it.
        sides: Framework, device and model of each.
        precision: The dtype that was computed in.
        steps: Steps per optimizer.
        defaults: Where the defaults of the two frameworks' optimizers differ; the compared steps
            give every setting, so they do not depend on defaults.
        alone: Layers that draw random numbers and have no counterpart, in sentences; the other port
            may have a function in their place.
    """

    differences: tuple[SettingDifference, ...]
    sides: tuple[str, ...]
    precision: str
    steps: int
    defaults: tuple[SettingDifference, ...] = ()
    alone: tuple[str, ...] = ()
    verdicts = ("the step is the same", "the step is not the same")

    @property
    def summary(self) -> str:
        """The last line that a command prints."""
        if self.holds and not self.decided:
            return "no clause is broken, but some could not be decided"
        return self.verdict

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "holds": self.holds,
            "decided": self.decided,
            "clauses": _clauses_as_data(self.clauses, "name", "verdict", "measured"),
            "differences": [difference._asdict() for difference in self.differences],
            "defaults": [difference._asdict() for difference in self.defaults],
            "alone": list(self.alone),
            "sides": list(self.sides),
            "precision": self.precision,
            "steps": self.steps,
        }

    def _heading(self) -> list[str]:
        steps = "one step" if self.steps == 1 else f"{self.steps} steps"
        return [f"{' and '.join(self.sides)}: {steps} of each optimizer in {self.precision}"]

    def _appendix(self) -> list[str]:
        lists: tuple[tuple[str, Iterable[object]], ...] = (
            ("settings that differ:", self.differences),
            ("not compared, because nothing shows that the other port has them:", self.alone),
            ("optimizers whose defaults differ:", self.defaults),
        )
        return [line for title, rows in lists if rows for line in (title, *_indented(rows))]


def _clauses_as_data(clauses: Iterable[ClauseResult], *attributes: str) -> list[dict[str, Any]]:
    return [
        {name: getattr(clause, name) for name in attributes}
        | {"findings": [finding.__dict__ for finding in clause.findings]}
        for clause in clauses
    ]


def _indented(lines: Iterable[object]) -> list[str]:
    return [f"{_INDENT}{line}" for line in lines]
