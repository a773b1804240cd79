"""Write an acceptance report as plain text, and as Markdown in either language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from unifreeze._evidence.alignment.finding_words import TERMS, in_chinese
from unifreeze._evidence.alignment.lines import Line
from unifreeze._evidence.alignment.words import (
    LINES,
    SECTION_TITLES,
    SOURCES,
    VERDICTS,
    WORDS,
)

if TYPE_CHECKING:
    from unifreeze._evidence.alignment.alignment_report import AlignmentReport

_INDENT = " " * 14
_COUNTED = "holds", "BROKEN", "open"


def plain_text(report: AlignmentReport) -> str:
    """Return the report as text for a terminal, in English."""
    one, other = report.models
    lines = [f"{one} in {report.frameworks[0]} and {other} in {report.frameworks[1]}"]
    for section, members in groupby(report.lines, key=lambda line: line.section):
        lines.append(f"{SECTION_TITLES[section][0]}:")
        for line in members:
            lines.append(f"  {line.verdict:<12}{sentence(line, 'en')}")
            if line.limit is not None:
                lines.append(f"{_INDENT}{_measured(line, 'en')}")
            lines += [f"{_INDENT}{detail}" for detail in line.details]
    return "\n".join(lines)


def sentence(line: Line, language: str) -> str:
    """Say what a line promises, or what it found."""
    if language == "zh":
        known = {name: TERMS.get(str(value), value) for name, value in line.facts.items()}
        return LINES[line.key][1].format(**known)
    return LINES[line.key][0].format(**line.facts)


def markdown(report: AlignmentReport, language: str, picture: str) -> str:
    """Return the report as Markdown."""
    words = {key: pair[language == "zh"] for key, pair in WORDS.items()}
    one, other = (
        f"{model} ({framework})"
        for model, framework in zip(report.models, report.frameworks, strict=True)
    )
    verdict = words["holds" if report.holds else "broken"]
    head = [
        f"# {words['title']}",
        "",
        f"**{verdict}** {words['counts'].format(**_counts(report))}",
        "",
        f"- {words['first']}: {one}",
        f"- {words['second']}: {other}",
        f"- {words['weights']}: {report.weights or words['unknown weights']}",
        f"- {words['inputs']}: {', '.join(report.inputs)}",
        f"- {words['seed']}: {report.seed}",
        f"- {words['plan']}: {_rules(report.plan)}",
        "",
        words["how"],
    ]
    body: list[str] = []
    for section, members in groupby(report.lines, key=lambda line: line.section):
        body += ["", f"## {SECTION_TITLES[section][language == 'zh']}", ""]
        body += _table(list(members), language, words)
        if section == "training" and report.curves is not None:
            body += ["", *_curves(report, language, words, picture)]
    return "\n".join([*head, *body, ""])


def _counts(report: AlignmentReport) -> dict[str, int]:
    """Count the lines by verdict."""
    counts = Counter[str](line.verdict for line in report.lines)
    return {"all": len(report.lines), **{name: counts[name] for name in _COUNTED}}


def _rules(plan: Mapping[str, Any]) -> str:
    """Return a plan's rules as code."""
    rules = (
        f"{verb}: {selector}" for rule in plan.get("rules", ()) for verb, selector in rule.items()
    )
    return ", ".join(f"`{rule}`" for rule in rules)


def _table(lines: list[Line], language: str, words: dict[str, str]) -> list[str]:
    """Return a section's lines as a table, and their findings below it."""
    columns = [words[name] for name in ("verdict", "check", "measured", "threshold", "from")]
    measured = any(line.limit is not None or line.source for line in lines)
    columns = columns if measured else columns[:2]
    rows: list[tuple[str, ...]] = [
        (
            VERDICTS[line.verdict][language == "zh"],
            sentence(line, language),
            _number(line.measured) if line.limit is not None else "",
            _number(line.limit) if line.limit is not None else "",
            SOURCES[line.source][language == "zh"],
        )
        for line in lines
    ]
    shown = (row[: len(columns)] for row in rows)
    table = [_row(columns), _row("---" for _ in columns), *map(_row, shown)]
    details = [line for line in lines if line.details]
    for line in details:
        table += ["", f"{sentence(line, language)}:", ""]
        findings = map(in_chinese, line.details) if language == "zh" else line.details
        table += [f"- {finding}" for finding in findings]
    return table


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _curves(
    report: AlignmentReport, language: str, words: dict[str, str], picture: str
) -> list[str]:
    """Return the losses as a table, and the picture of them."""
    curves = report.curves
    assert curves is not None
    lines = [f"![{words['curves']}]({picture})", ""] if picture else []
    kind = WORDS[curves.kind][language == "zh"]
    lines += [words["loss of"].format(kind=kind, output=curves.output), ""]
    lines += [_row((words["step"], *report.frameworks, words["apart"])), _row(["---"] * 4)]
    for number, (one, other) in enumerate(zip(curves.one, curves.other, strict=True)):
        cells = str(number), f"{one:.6f}", f"{other:.6f}", f"{abs(one - other):.1e}"
        lines.append(_row(cells))
    return lines


def _measured(line: Line, language: str) -> str:
    source = SOURCES[line.source][language == "zh"]
    return f"{_number(line.measured)} of {_number(line.limit)} allowed; {source}"


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.1e}"
