"""What comparing two training steps found, clause by clause, with how much it allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._ports.pairing.layer_settings import SettingDifference
from unifreeze._protocol import Finding
from unifreeze._tables import one_line
from unifreeze.errors import ParityError

CLAUSES = {
    "decisions": "the plan decides the same for both tensors of every pair",
    "outputs": "outputs agree",
    "step gradients": "gradients agree",
    "updates (sgd)": "what SGD adds to each parameter agrees",
    "updates (adamw)": "what AdamW adds to each parameter agrees, in norm",
    "statistics": "running means agree, and running variances but for n/(n-1)",
    "frozen": "frozen parameters and held statistics keep every bit",
}
"""What a same step is, in order."""


@dataclass(frozen=True)
class StepClause:
    """One promise, what was measured, and what was found against it.

    Attributes:
        name: One of `CLAUSES`.
        findings: Errors break the clause; notes do not.
        measured: What was compared and how far it differs.
        decided: False where rounding noise is so large that nothing could be told.
    """

    name: str
    findings: tuple[Finding, ...]
    measured: str = ""
    decided: bool = True

    @property
    def holds(self) -> bool:
        """Tell whether nothing breaks it."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def title(self) -> str:
        """What the clause promises."""
        return CLAUSES[self.name]

    @property
    def verdict(self) -> str:
        """In a word: holds, BROKEN, or open where it could not be decided."""
        if not self.holds:
            return "BROKEN"
        return "holds" if self.decided else "open"


@checked_methods
@dataclass(frozen=True)
class StepReport:
    """What comparing two training steps found.

    Attributes:
        clauses: All clauses, in order.
        differences: Settings in which paired layers differ, whether or not this step shows it.
        sides: Framework, device and model of each.
        precision: What was computed in.
        steps: Steps per optimizer.
        defaults: What the two frameworks' optimizers do differently if nobody says otherwise; the
            steps compared here say all of it.
        alone: Layers that draw random numbers and have no counterpart, in sentences; the other port
            may have a function in their place.
    """

    clauses: tuple[StepClause, ...]
    differences: tuple[SettingDifference, ...]
    sides: tuple[str, ...]
    precision: str
    steps: int
    defaults: tuple[SettingDifference, ...] = ()
    alone: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Tell whether no clause is broken."""
        return all(clause.holds for clause in self.clauses)

    @property
    def decided(self) -> bool:
        """Tell whether every clause could be decided in this precision."""
        return all(clause.decided for clause in self.clauses)

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the broken clauses."""
        return tuple(clause.name for clause in self.clauses if not clause.holds)

    def raise_if_broken(self) -> None:
        """Raise if a clause does not hold.

        Raises:
            ParityError: Naming the clauses and the tensors that break them.
        """
        if not self.holds:
            broken = ", ".join(self.broken)
            raise ParityError(f"the step is not the same: {broken}", context=str(self))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "holds": self.holds,
            "decided": self.decided,
            "clauses": [
                {
                    "name": clause.name,
                    "verdict": clause.verdict,
                    "measured": clause.measured,
                    "findings": [finding.__dict__ for finding in clause.findings],
                }
                for clause in self.clauses
            ],
            "differences": [difference._asdict() for difference in self.differences],
            "defaults": [difference._asdict() for difference in self.defaults],
            "alone": list(self.alone),
            "sides": list(self.sides),
            "precision": self.precision,
            "steps": self.steps,
        }

    def __repr__(self) -> str:
        verdict = "the same" if self.holds else "not the same"
        return one_line(self, f"the step is {verdict}, {len(self.clauses)} clauses")

    def __str__(self) -> str:
        steps = "one step" if self.steps == 1 else f"{self.steps} steps"
        lines = [f"{' and '.join(self.sides)}: {steps} of each optimizer in {self.precision}"]
        for clause in self.clauses:
            lines.append(f"{clause.verdict:<6}  {clause.name}: {clause.title}")
            lines += [f"          {clause.measured}"] if clause.measured else []
            lines += [f"          {_shown(finding)}" for finding in clause.findings[:10]]
            if len(clause.findings) > 10:
                lines.append(f"          … and {len(clause.findings) - 10} more")
        lists: tuple[tuple[str, tuple[object, ...]], ...] = (
            ("settings that differ:", self.differences),
            ("not compared, because nothing shows that the other port has them:", self.alone),
            ("optimizers whose defaults differ:", self.defaults),
        )
        for what, found in lists:
            lines += [what, *(f"          {one}" for one in found)] if found else []
        return "\n".join(lines)


def _shown(finding: Finding) -> str:
    return ("note: " if finding.severity == "note" else "") + str(finding)
