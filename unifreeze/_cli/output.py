"""Print text, tables, plan files and JSON; and the options that commands share."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from unifreeze._cli.encodings import as_printed, in_ascii
from unifreeze._cli.waiting import hide
from unifreeze._files import save_text
from unifreeze._tables import table_lines, wrap
from unifreeze.errors import TargetError

HOLDS, BROKEN, UNUSABLE, BUG = 0, 1, 2, 3
"""Exit codes: it holds, it does not hold, unusable input, a bug in unifreeze."""


def output_file(text: str) -> Any:
    """Return the option -o, which names the file that a command writes."""
    return typer.Option("-o", "--output", metavar="FILE", help=text)


JsonOption = Annotated[
    str, typer.Option("--json", metavar="FILE", help="Write the result as JSON; - for stdout.")
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="package.module:factory or ./file.py:factory; arguments in brackets: net(key=literal)",
    ),
]
PlanArgument = Annotated[
    Path, typer.Argument(metavar="PLAN", help="A plan file.", show_default=False)
]
StructureOption = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="PLAN",
        help="Place stem, blocks and head as this plan's structure says.",
    ),
]
BatchOption = Annotated[
    list[str],
    typer.Option(
        "--batch",
        metavar="SPEC",
        help='"float32[2,3,64,64]", "ids=int64[2,16]<1:1000>" or a .npz file; repeatable.',
    ),
]
PairingOption = Annotated[
    Path | None,
    typer.Option(
        "-p", "--pairing", metavar="FILE", help="The pairing that `unifreeze pair -o` wrote."
    ),
]
OutputsOption = Annotated[
    str, typer.Option(metavar="KEYS", help="Outputs the loss may use; all by default.")
]
OtherPythonOption = Annotated[
    str, typer.Option(metavar="PATH", help="Interpreter of the second model's environment.")
]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**31, metavar="N", help="Seed of everything random.")
]
BackendOption = Annotated[
    list[str],
    typer.Option(
        "--backend",
        metavar="SPEC",
        help="Try out a backend in place of the installed one: torch=package.module:attribute.",
    ),
]


def width_of(stream: TextIO) -> int | None:
    """Return the width of a line, from COLUMNS or the terminal; None in a pipe."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns)
    return shutil.get_terminal_size().columns if stream.isatty() else None


class _Pipe(Console):
    """A console that lets the program handle a closed pipe."""

    def on_broken_pipe(self) -> None:
        """Raise as any program does; rich would exit with 1, which has a meaning here."""
        raise BrokenPipeError


def console() -> Console:
    """Return the console for results."""
    hide()
    width = width_of(sys.stdout) or 10_000
    return _Pipe(width=width, highlight=False, markup=False, emoji=False)


def say(text: str, style: str = "") -> None:
    """Print text for people; long lines are wrapped, but not in a pipe."""
    out = console()
    for line in _wrapped(text, sys.stdout, width_of(sys.stdout)):
        out.print(line, style=style or None, soft_wrap=True)


def complain(text: str) -> None:
    """Write text to standard error; long lines are wrapped on a terminal."""
    hide()
    width = width_of(sys.stderr) if sys.stderr.isatty() else None
    sys.stderr.write("\n".join(_wrapped(text, sys.stderr, width)) + "\n")


def _wrapped(text: str, stream: TextIO, width: int | None) -> list[str]:
    lines = as_printed(text, stream).split("\n")
    return lines if width is None else [piece for line in lines for piece in wrap(line, width)]


def say_as_it_is(text: str) -> None:
    """Print text without wrapping: it fits already, or it is to be copied."""
    console().print(text, soft_wrap=True)


def say_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[int],
    styles: Sequence[str] = (),
) -> None:
    """Print a table that fits the width of the terminal.

    Args:
        header: Name of each column.
        rows: Their cells.
        left: Which columns hold words, and are aligned left.
        styles: A style for each row.
    """
    out = console()
    printed = [[as_printed(cell, sys.stdout) for cell in row] for row in rows]
    table = table_lines(header, printed, left=left, width=width_of(sys.stdout))
    all_styles = ["bold"] * (len(table) - len(rows)) + list(styles or [""] * len(rows))
    for lines, style in zip(table, all_styles, strict=True):
        for line in lines:
            out.print(line, style=style or None, soft_wrap=True)


def say_plan(text: str) -> None:
    """Print a plan file. Redirected output is ASCII unless it is UTF-8, as plan files must be."""
    encoding = codecs.lookup(sys.stdout.encoding or "utf-8").name
    if encoding != "utf-8" and not sys.stdout.isatty():
        text = in_ascii(text)
    hide()
    sys.stdout.write(f"{text.rstrip()}\n")


def write_json(data: Any, where: str) -> None:
    """Write data as JSON to a file, or to standard output for "-".

    Raises:
        TargetError: The file cannot be written.
    """
    text = json.dumps(data, indent=2, allow_nan=False, default=str)
    if where == "-":
        hide()
        sys.stdout.write(text + "\n")
        return
    save_text(where, text + "\n", error_class=TargetError)
