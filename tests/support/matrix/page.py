"""The page of the matrix: written from what the cells said, and read again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.matrix.cells import COLUMNS, Row

PAGE = Path(__file__).resolve().parents[3] / "docs" / "en" / "wrappers.md"
HEAD = """\
# What a plan does under what people wrap a model in

Made by `python -m tests.support.matrix`, which runs every cell. A cell says:

- **works**: exactly what the plan trains has moved in each step, everything frozen kept its bits, and all
  processes are equal to the bit; of a resume, too, that it ends with the bits of an unbroken run;
- **refused**: the first lines of the error that says so, before anything is trained;
- **not run here**: why.

*Plan before* and *plan after* are before and after wrapping; after it, a plan is given to the wrapper first,
and another one to the bare model then. *Resume, other processes* saves in two processes and goes on in one,
and the other way round. *Verify* must raise no alarm after training, and name a frozen parameter that was
changed. How engines are used in several processes is in [several processes](several-processes.md).
"""
CELL = re.compile(r"(?<!\\)\|")


def text_of(rows: Sequence[Row], seen: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    """Return the page for what the cells said."""
    lines = [HEAD]
    parts = dict.fromkeys((row.framework, row.part) for row in rows)
    for framework, part in parts:
        lines += [f"## {framework}: {part}", ""]
        lines.append("| | processes | " + " | ".join(COLUMNS) + " |")
        lines.append("|---" * (len(COLUMNS) + 2) + "|")
        for row in rows:
            if (row.framework, row.part) == (framework, part):
                said = [_plain(seen[framework, row.name][column]) for column in COLUMNS]
                lines.append(f"| {row.name} | {row.processes} | " + " | ".join(said) + " |")
        lines.append("")
    return "\n".join(lines)


def cells_on_page(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return what the page says, by framework and name of each row."""
    seen: dict[tuple[str, str], dict[str, str]] = {}
    framework = ""
    for line in text.splitlines():
        if line.startswith("## "):
            framework = line.removeprefix("## ").partition(":")[0]
        words = [word.strip() for word in CELL.split(line)[1:-1]]
        if framework and len(words) == len(COLUMNS) + 2 and words[0] and words[1].isdigit():
            seen[framework, words[0]] = dict(zip(COLUMNS, words[2:], strict=True))
    return seen


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def as_shown(text: str) -> str:
    """Return a cell's text as the page has it."""
    return _plain(text).strip()
