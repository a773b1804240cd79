"""How commands print: text and tables as wide as the terminal, plan files, JSON for programs."""

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
from unifreeze._tables import table_lines, wrap
from unifreeze.errors import TargetError

HOLDS, BROKEN, UNUSABLE, BUG = 0, 1, 2, 3
"""Exit codes: it holds, it does not hold, unusable input, and a mistake in unifreeze itself."""

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
BatchOption = Annotated[
    list[str],
    typer.Option(
        "--batch",
        metavar="SPEC",
        help='"float32[2,3,64,64]", "ids=int64[2,16]<1:1000>" or a .npz file; repeatable.',
    ),
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
    """Return how wide a line may be: as COLUMNS says, or the terminal is; None in a pipe."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    return shutil.get_terminal_size().columns if stream.isatty() else None


class _Pipe(Console):
    """A console that leaves it to the program what to do when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Go on as any program would; rich would end with 1, which has a meaning here."""
        raise BrokenPipeError


def console() -> Console:
    """Return the console for results."""
    width = width_of(sys.stdout) or 10_000
    return _Pipe(width=width, highlight=False, markup=False, emoji=False)


def say(text: str, style: str = "") -> None:
    """Print text for people; long lines are wrapped, but not in a pipe."""
    width, out = width_of(sys.stdout), console()
    for line in as_printed(text, sys.stdout).split("\n"):
        for piece in [line] if width is None else wrap(line, width):
            out.print(piece, style=style or None, soft_wrap=True)


def complain(text: str) -> None:
    """Write text to standard error; long lines are wrapped on a terminal."""
    width = width_of(sys.stderr) if sys.stderr.isatty() else None
    lines = as_printed(text, sys.stderr).split("\n")
    wrapped = lines if width is None else [piece for line in lines for piece in wrap(line, width)]
    sys.stderr.write("\n".join(wrapped) + "\n")


def say_as_it_is(text: str) -> None:
    """Print text that is not to be wrapped: it fits already, or is to be copied."""
    console().print(text, soft_wrap=True)


def say_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[int],
    styles: Sequence[str] = (),
) -> None:
    """Print a table that follows the width of the terminal.

    Args:
        header: Name of each column.
        rows: Their cells.
        left: Which columns hold words.
        styles: A style for each row.
    """
    out = console()
    printed = [[as_printed(cell, sys.stdout) for cell in row] for row in rows]
    made = table_lines(header, printed, left=left, width=width_of(sys.stdout))
    looks = ["bold"] * (len(made) - len(rows)) + list(styles or [""] * len(rows))
    for lines, style in zip(made, looks, strict=True):
        for line in lines:
            out.print(line, style=style or None, soft_wrap=True)


def say_plan(text: str) -> None:
    """Print a plan file so that it can be redirected into one: that must be UTF-8, and ASCII is."""
    encoding = codecs.lookup(sys.stdout.encoding or "utf-8").name
    if encoding != "utf-8" and not sys.stdout.isatty():
        text = in_ascii(text)
    sys.stdout.write(f"{text.rstrip()}\n")


def write_json(data: Any, where: str) -> None:
    """Write data as JSON to a file, or to standard output for "-".

    Raises:
        TargetError: The file cannot be written.
    """
    text = json.dumps(data, indent=2, allow_nan=False, default=str)
    if where == "-":
        sys.stdout.write(text + "\n")
        return
    try:
        Path(where).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise TargetError(f"cannot write {where}: {error.strerror or error}") from None
