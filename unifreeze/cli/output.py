"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from unifreeze.errors import TargetError

HOLDS, BROKEN, UNUSABLE, BUG = 0, 1, 2, 3
"""Exit codes: it holds, it does not hold, unusable input, and a mistake in unifreeze itself."""

JsonOption = Annotated[
    str, typer.Option("--json", metavar="FILE", help="Write the result as JSON; - for stdout.")
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="package.module:factory or package.module:factory(key=literal, …)"
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
SeedOption = Annotated[int, typer.Option(min=0, max=2**31, help="Seed of everything random.")]
BackendOption = Annotated[
    list[str],
    typer.Option(
        "--backend",
        metavar="NAME=MODULE:ATTRIBUTE",
        help="Try out a backend in place of the installed one.",
    ),
]


def console() -> Console:
    """Return the console for results; wide enough for tables when the output is piped."""
    width = None if sys.stdout.isatty() else 140
    return Console(width=width, highlight=False, soft_wrap=False)


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
