"""Write an acceptance report as plain text, and as Markdown in either language."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from unifreeze._evidence.alignment.finding_words import closed_up, in_chinese
from unifreeze._evidence.alignment.lines import Line
from unifreeze._evidence.alignment.setting_words import TERMS
from unifreeze._evidence.alignment.words import (
    LINES,
    SECTION_TITLES,
    SOURCES,
    VERDICTS,
    WORDS,
    filled,
)

if TYPE_CHECKING:
    from unifreeze._evidence.alignment.alignment_report import AlignmentReport

_INDENT = " " * 14
FEW, SHOWN = 4, 3
"""How many findings of one kind are all shown, and how many of a longer list."""
MOST_STEPS = 25
"""How many losses are all shown."""


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
            lines += [f"{_INDENT}{detail}" for detail in folded(line.details)]
    return "\n".join(lines)


def sentence(line: Line, language: str) -> str:
    """Say what a line promises, or what it found."""
    if language == "zh":
        known = {name: TERMS.get(str(value), value) for name, value in line.facts.items()}
        return closed_up(filled(LINES[line.key][1], known))
    return filled(LINES[line.key][0], line.facts)


def folded(findings: Iterable[str]) -> Iterator[str]:
    """Yield findings; of many that differ in numbers only, the first few, and how many more."""
    for _, alike in groupby(findings, key=lambda text: re.sub(r"\d+", "0", text)):
        members = list(alike)
        if len(members) <= FEW:
            yield from members
        else:
            yield from members[:SHOWN]
            yield f"… and {len(members) - SHOWN} more of the same kind"


def markdown(report: AlignmentReport, language: str, picture: str) -> str:
    """Return the report as Markdown."""
    words = {key: pair[language == "zh"] for key, pair in WORDS.items()}
    colon, comma = ("：", "、") if language == "zh" else (": ", ", ")
    one, other = (
        f"{model} ({framework})"
        for model, framework in zip(report.models, report.frameworks, strict=True)
    )
    verdict = words["holds" if report.holds else "broken"]
    head = [
        f"# {words['title']}",
        "",
        f"**{verdict}** {filled(words['counts'], _counts(report))}",
        "",
        f"- {words['first']}{colon}{one}",
        f"- {words['second']}{colon}{other}",
        f"- {words['weights']}{colon}{report.weights or words['unknown weights']}",
        f"- {words['inputs']}{colon}{comma.join(f'`{text}`' for text in report.inputs)}",
        f"- {words['seed']}{colon}{report.seed}",
        f"- {words['plan']}{colon}{comma.join(_rules(report.plan))}",
        "",
        words["how"],
    ]
    body: list[str] = []
    numbered = enumerate(report.lines, 1)
    for section, members in groupby(numbered, key=lambda row: row[1].section):
        body += ["", f"## {SECTION_TITLES[section][language == 'zh']}", ""]
        body += _table(list(members), language, words)
        if section == "training" and report.curves is not None:
            body += ["", *_curves(report, language, words, picture)]
    return "\n".join([*head, *body, ""])


def _counts(report: AlignmentReport) -> dict[str, int]:
    """Count the lines by verdict."""
    counts = Counter[str](line.verdict for line in report.lines)
    named = {name: counts[name] for name in ("holds", "BROKEN", "open", "note")}
    return {"all": len(report.lines), "unchecked": counts["not checked"], **named}


def _rules(plan: Mapping[str, Any]) -> Iterator[str]:
    """Yield a plan's rules as code."""
    for rule in plan.get("rules", ()):
        yield from (f"`{verb}: {selector}`" for verb, selector in rule.items())


def _table(lines: Sequence[tuple[int, Line]], language: str, words: dict[str, str]) -> list[str]:
    """Return a section's numbered lines as a table, and their findings below it."""
    columns = [
        "#",
        *(words[name] for name in ("verdict", "check", "measured", "threshold", "from")),
    ]
    measured = any(line.limit is not None or line.source for _, line in lines)
    columns = columns if measured else columns[:3]
    rows: list[tuple[str, ...]] = [
        (
            str(number),
            VERDICTS[line.verdict][language == "zh"],
            sentence(line, language),
            _number(line.measured) if line.limit is not None else "",
            _number(line.limit) if line.limit is not None else "",
            SOURCES[line.source][language == "zh"],
        )
        for number, line in lines
    ]
    shown = (row[: len(columns)] for row in rows)
    table = [_row(columns), _row("---" for _ in columns), *map(_row, shown)]
    findings: dict[tuple[str, ...], list[str]] = {}
    for number, line in lines:
        if line.details:
            findings.setdefault(line.details, []).append(str(number))
    for details, numbers in findings.items():
        title = words["lines" if len(numbers) > 1 else "line"]
        table += ["", title.format(number=words["and"].join(numbers)), ""]
        known = folded(details)
        table += [f"- {text}" for text in (map(in_chinese, known) if language == "zh" else known)]
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
    pairs = list(zip(curves.one, curves.other, strict=True))
    shown = _shown_steps([abs(one - other) for one, other in pairs])
    if len(shown) < len(pairs):
        lines += [words["some steps"].format(shown=len(shown), all=len(pairs)), ""]
    lines += [_row((words["step"], *report.frameworks, words["apart"])), _row(["---"] * 4)]
    for number in shown:
        one, other = pairs[number]
        cells = str(number), f"{one:.6f}", f"{other:.6f}", f"{abs(one - other):.1e}"
        lines.append(_row(cells))
    return lines


def _shown_steps(gaps: Sequence[float]) -> list[int]:
    """Return which losses are shown: all, or some at equal distances, the worst and the last."""
    last = len(gaps) - 1
    if last < MOST_STEPS:
        return list(range(len(gaps)))
    every = -(-last // (MOST_STEPS - 5))
    worst = max(range(len(gaps)), key=lambda n: gaps[n] if gaps[n] == gaps[n] else float("inf"))
    return sorted({*range(0, len(gaps), every), worst, last})


def _measured(line: Line, language: str) -> str:
    source = SOURCES[line.source][language == "zh"]
    return f"{_number(line.measured)} of {_number(line.limit)} allowed; {source}"


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.1e}"
