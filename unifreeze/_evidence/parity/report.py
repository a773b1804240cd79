"""What parity found: clause by clause, each by name, with the parameters that break it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._protocol import Finding
from unifreeze._tables import one_line
from unifreeze.errors import ParityError

CLAUSES = {
    "parameters": "both sides have the same parameters, and no statistic among them",
    "decisions": "every parameter gets the same decision, by the same rule",
    "order": "counting by execution would decide the same",
    "flags": "every flag reads as decided",
    "outputs": "both sides return floating outputs of the same shapes (values are not compared)",
    "gradients": "gradients reach exactly the trainable parameters",
    "frozen": "frozen parameters keep every bit through the training steps",
    "state": "held statistics keep every bit, others move alike, dropout is off where it should be",
    "trained": "every trainable parameter moves",
}
"""What parity checks, in order."""


@dataclass(frozen=True)
class Clause:
    """One promise, and what was found against it.

    Attributes:
        name: One of `CLAUSES`.
        findings: Errors break the clause; notes do not.
    """

    name: str
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        """Tell whether nothing breaks it."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def title(self) -> str:
        """What the clause promises."""
        return CLAUSES[self.name]


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


@checked_methods
@dataclass(frozen=True)
class Report:
    """What parity found.

    Attributes:
        clauses: All clauses, in order.
        sides: The two runs.
        steps: Training steps per optimizer.
        optimizers: Their names.
    """

    clauses: tuple[Clause, ...]
    sides: tuple[Side, ...]
    steps: int
    optimizers: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Tell whether every clause holds."""
        return all(clause.holds for clause in self.clauses)

    def raise_if_broken(self) -> None:
        """Raise if a clause does not hold.

        Raises:
            ParityError: Naming the clauses and the parameters that break them.
        """
        if not self.holds:
            broken = [clause.name for clause in self.clauses if not clause.holds]
            raise ParityError(f"parity does not hold: {', '.join(broken)}", context=str(self))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "holds": self.holds,
            "clauses": [
                {
                    "name": clause.name,
                    "holds": clause.holds,
                    "findings": [finding.__dict__ for finding in clause.findings],
                }
                for clause in self.clauses
            ],
            "sides": [side.__dict__ for side in self.sides],
            "steps": self.steps,
            "optimizers": list(self.optimizers),
        }

    def __repr__(self) -> str:
        verdict = "holds" if self.holds else "does not hold"
        return one_line(self, f"parity {verdict}, {len(self.clauses)} clauses")

    def __str__(self) -> str:
        lines = [
            f"{side.framework} on {side.device}: {side.parameters} parameters, "
            f"{side.values:,} values, {side.frozen} frozen, {side.trainable} trainable"
            for side in self.sides
        ]
        for clause in self.clauses:
            lines.append(f"{'holds ' if clause.holds else 'BROKEN'}  {clause.name}: {clause.title}")
            lines += [f"          {_finding(finding)}" for finding in clause.findings[:10]]
            if len(clause.findings) > 10:
                lines.append(f"          … and {len(clause.findings) - 10} more")
        return "\n".join(lines)


def _finding(finding: Finding) -> str:
    return ("note: " if finding.severity == "note" else "") + str(finding)
