"""What a row of the matrix is, and what its cells say after they have run."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import unifreeze as uf

COLUMNS = (
    "plan before",
    "plan after",
    "phase change",
    "resume",
    "resume, other processes",
    "remove",
    "verify",
)
"""The columns, as the page names them."""
ELSEWHERE = "resume, other processes"
"""The column whose cell saves in some processes, and goes on in another number of them."""
WORKS = "works"

Check = Callable[[Path], None]
"""Tries something; raises what went wrong. The folder is the row's own, the same for all ranks."""


class NotRunHereError(Exception):
    """This cannot be tried on this machine; the message says why."""


@dataclass(frozen=True)
class Moved:
    """A run that is saved in some processes, and goes on in another number of them.

    Attributes:
        save: Trains, and saves into a folder.
        go_on: Goes on from that folder.
    """

    save: Check
    go_on: Check


Cell = Check | Moved | str
"""A string says why it is not tried here."""


@dataclass(frozen=True)
class Row:
    """One row of the matrix.

    Attributes:
        name: How the page names it.
        part: The part of the page that it stands in.
        framework: "PyTorch" or "Paddle".
        cells: What is tried, for each column.
        processes: In how many processes it runs; the column of other processes takes 1 for 2, and
            2 for 1.
        fast: Whether the fast tests run it, too.
        group: Rows of one group run in the same processes.
    """

    name: str
    part: str
    framework: str
    cells: Mapping[str, Cell]
    processes: int = 1
    fast: bool = True
    group: str = ""

    def __post_init__(self) -> None:
        missing = [column for column in COLUMNS if column not in self.cells]
        if missing or len(self.cells) != len(COLUMNS):
            raise ValueError(f"row {self.name!r} lacks {missing}, or has a column too much")


def outcome(check: Check | str, folder: Path) -> str:
    """Try a cell; return what the page says of it.

    Raises:
        AssertionError: It neither works nor is refused: a fault.
    """
    if isinstance(check, str):
        return f"not run here: {check}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(folder)
    except NotRunHereError as reason:
        return f"not run here: {reason}"
    except uf.errors.FrozenDriftError:
        raise
    except uf.UnifreezeError as error:
        return f"refused: {_one_line(error)}"
    return WORKS


def _one_line(error: Exception) -> str:
    """Return a refusal without its context, but with its first reason and its cure."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    context = [line for line in lines[1:] if not line.startswith("hint: ")][:1]
    hints = [line.removeprefix("hint: ") for line in lines[1:] if line.startswith("hint: ")][:1]
    return "; ".join([lines[0], *context, *hints])


def fill(rows: Sequence[Row], stage: str, folder: Path) -> dict[str, dict[str, str]]:
    """Run the cells of some rows in this process, which may be one of several.

    Args:
        rows: The rows.
        stage: "all" for everything but `Moved.go_on`; "go on" for that alone; "save" for
            `Moved.save` alone.
        folder: A folder for all of them, the same for all ranks.

    Returns:
        For each row what its cells say; what starts with "fault: " is an error with its traceback.
    """
    seen: dict[str, dict[str, str]] = {}
    for row in rows:
        place = folder / "".join(letter if letter.isalnum() else "-" for letter in row.name)
        place.mkdir(exist_ok=True)
        seen[row.name] = {}
        for column, cell in row.cells.items():
            check: Check | str
            if isinstance(cell, Moved):
                check = cell.go_on if stage == "go on" else cell.save
            elif stage == "all":
                check = cell
            else:
                continue
            try:
                seen[row.name][column] = outcome(check, place)
            except KeyboardInterrupt:
                raise
            except BaseException:  # what PyTorch raises for a checkpoint derives from nothing else
                seen[row.name][column] = f"fault: {traceback.format_exc()}"
    return seen
