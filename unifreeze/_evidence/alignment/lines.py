"""A line of an acceptance report: what was measured, the threshold, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from unifreeze._evidence.alignment.words import LINES, SOURCES, filled
from unifreeze._evidence.report import ClauseResult
from unifreeze._files import Row
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Finding
from unifreeze.errors import UnifreezeError, brief

Verdict = Literal["holds", "BROKEN", "open", "note", "not checked"]
SECTIONS = (
    "pairing",
    "weights",
    "layers",
    "outputs",
    "tokens",
    "gradients",
    "updates",
    "training",
    "settings",
    "parity",
    "versions",
)
"""The sections of the report, in order."""


def _is_plan(document: dict[str, Any]) -> dict[str, Any]:
    try:
        FreezePlan.from_document(document)
    except UnifreezeError as error:
        raise ValueError(f"the plan is not one: {error.fact}") from None
    return document


PlanDocument = Annotated[dict[str, Any], AfterValidator(_is_plan)]
"""A plan as plain data, which is read once, so that a file holds no other data in its place."""
MOST_DETAILS = 10
"""How many findings a line shows; it says how many more there are."""


class Line(Row):
    """One line of an acceptance report.

    Attributes:
        section: One of `SECTIONS`.
        key: Which sentence of `words.py` says what it promises.
        verdict: "note" and "not checked" neither hold nor break the report.
        facts: Numbers and names for that sentence.
        measured: The measured difference; None where nothing is measured.
        limit: How large it may be.
        source: Which sentence of `words.py` says where the limit comes from.
        details: Findings, with native paths, in English.
    """

    section: str
    key: str
    verdict: Verdict
    facts: dict[str, str | int | float] = Field(default_factory=dict)
    measured: float | None = None
    limit: float | None = None
    source: str = ""
    details: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_a_sentence(self) -> Line:
        if self.section not in SECTIONS:
            raise ValueError(f"there is no section {brief(self.section)}")
        if self.key not in LINES or self.source not in SOURCES:
            raise ValueError(f"there is no sentence for {brief(self.key)} or {brief(self.source)}")
        try:
            for text in LINES[self.key]:
                filled(text, self.facts)
        except (KeyError, ValueError):
            raise ValueError(f"the facts of {self.key!r} do not fit its sentence") from None
        return self


def measured_line(
    section: str,
    key: str,
    size: float,
    limit: float,
    source: str,
    *details: str,
    **facts: str | int | float,
) -> Line:
    """Return a line that holds where a difference is within its limit."""
    holds = size <= limit
    return Line(
        section=section,
        key=key,
        verdict="holds" if holds and limit < 1 else "open" if holds else "BROKEN",
        facts=facts,
        measured=size if isfinite(size) else None,
        limit=limit,
        source=source,
        details=details,
    )


def clause_line(section: str, key: str, clause: ClauseResult, *, own: bool = False) -> Line:
    """Return a clause of a step or of parity as a line.

    Args:
        section: The section.
        key: The sentence.
        clause: How the clause came out.
        own: It was measured in the models' own precision.
    """
    near = clause.nearest
    source = ("noise" if own else "double") if near else ""
    facts: dict[str, str | int | float] = {"subject": near.subject if near else "—"}
    return Line(
        section=section,
        key=key,
        verdict="BROKEN" if not clause.holds else "holds" if clause.decided else "open",
        facts=facts,
        measured=near.size if near and isfinite(near.size) else None,
        limit=near.limit if near else None,
        source=source,
        details=shown(clause.findings),
    )


def shown(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """Return findings as sentences, the first few of them."""
    lines = [
        ("note: " if finding.severity == "note" else "") + str(finding)
        for finding in findings[:MOST_DETAILS]
    ]
    more = len(findings) - MOST_DETAILS
    return tuple([*lines, f"… and {more} more"] if more > 0 else lines)


def failed_line(section: str, details: tuple[str, ...]) -> Line:
    """Return the line of a section whose check could not be run, with its error's message."""
    return Line(section=section, key="failed", verdict="BROKEN", details=details)


def unchecked(section: str, key: str, **facts: str | int | float) -> Line:
    """Return the line of a check that does not apply; the sentence says why."""
    return Line(section=section, key=key, verdict="not checked", facts=facts)


def version_line(
    number: int, model: str, framework: str, device: str, versions: Mapping[str, str]
) -> Line:
    """Return the line that says what ran a model, and where."""
    facts: dict[str, str | int | float] = {
        "number": number,
        "model": model,
        "framework": framework,
        "device": device,
        "versions": ", ".join(f"{name} {text}" for name, text in versions.items()),
    }
    return Line(section="versions", key="versions", verdict="note", facts=facts)
