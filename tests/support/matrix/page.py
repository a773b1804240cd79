"""The page of the matrix: written from what the cells said, and read again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.matrix.cells import COLUMNS, Row

PAGE = Path(__file__).resolve().parents[3] / "docs" / "en" / "wrappers.md"
HEAD = """\
# What a plan does under what people wrap a model in

Made by `make wrappers`, which runs every cell. A cell says:

- **works**: in each step exactly what the plan trains has moved, everything frozen kept its bits,
  and all processes are equal to the bit;
- **refused**: the first lines of the error; it comes before training, or with the second step at
  the latest where only a step can show the reason;
- **not run here**: why.

The columns:

- *plan before*: a plan, then the wrapper. *Plan after*: the wrapper, then a plan on it, then
  another plan on the bare model;
- *phase change*: head, last block, head again, all;
- *resume*: saved in the third phase; ends with the bits of an unbroken run. *Resume, other
  processes*: saved in two and resumed in one, and the other way round; the same bits, except where
  a trainer divides the data among processes, or tensor parallelism adds up in another order;
- *remove*: flags are as before the plan, and everything trains;
- *verify*: no alarm after training; a frozen parameter that was changed is named.

How engines are used in several processes is in [several processes](several-processes.md).
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
            said = [word.replace("&lt;", "<").replace("\\|", "|") for word in words[2:]]
            seen[framework, words[0]] = dict(zip(COLUMNS, said, strict=True))
    return seen


def _plain(text: str) -> str:
    """Return a cell's text in one line of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
