"""All rows of the matrix, and how they run: each in as many processes as it asks for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from tests.support import paddle_processes, processes
from tests.support.matrix.cells import ELSEWHERE, WORKS, Moved, Row, fill

TABLES = {
    "PyTorch": "tests.support.matrix.torch_rows",
    "Paddle": "tests.support.matrix.paddle_rows",
}
"""The module with the rows of each framework: `ROWS`, and `join()`, which makes a group."""
Seen = dict[tuple[str, str], dict[str, str]]


def rows(framework: str | None = None) -> list[Row]:
    """Return all rows, or those of a framework."""
    wanted = [framework] if framework else list(TABLES)
    return [row for name in wanted for row in import_module(TABLES[name]).ROWS]


def fill_all(chosen: Sequence[Row]) -> Seen:
    """Fill the cells of some rows.

    A row of several processes runs in those; then, for the column of other processes, what it has
    saved is taken up in one, and what one has saved in two.
    """
    seen: Seen = {}
    with tempfile.TemporaryDirectory() as folder:
        kinds = dict.fromkeys((row.framework, row.processes, row.group) for row in chosen)
        for number, kind in enumerate(kinds):
            some = [row for row in chosen if (row.framework, row.processes, row.group) == kind]
            place = Path(folder) / str(number)
            place.mkdir()
            for name, cells in _fill(some, *kind[:2], place).items():
                seen[kind[0], name] = cells
    return seen


def _fill(
    some: Sequence[Row], framework: str, count: int, folder: Path
) -> dict[str, dict[str, str]]:
    names = [row.name for row in some]
    seen = _launch(framework, names, "all", count, folder)
    moving = [
        row.name
        for row in some
        if isinstance(row.cells[ELSEWHERE], Moved) and seen[row.name][ELSEWHERE] == WORKS
    ]
    if moving:
        back = folder / "back"
        back.mkdir()
        stages = [
            _launch(framework, moving, "go on", 1, folder),
            _launch(framework, moving, "save", 1, back),
            _launch(framework, moving, "go on", count, back),
        ]
        for stage in stages:
            for name, cells in stage.items():
                for column, text in cells.items():
                    if seen[name][column] == WORKS:
                        seen[name][column] = text
    return seen


def _launch(
    framework: str, names: Sequence[str], stage: str, count: int, folder: Path
) -> dict[str, dict[str, str]]:
    """Run some rows in some processes; each cell must say the same in all of them."""
    launchers: dict[str, Callable[..., list[dict[str, dict[str, str]]]]] = {
        "PyTorch": _in_torch_processes,
        "Paddle": _in_paddle_processes,
    }
    ranks = launchers[framework](names, stage, count, folder)
    seen = ranks[0]
    for rank in ranks[1:]:
        for name, cells in rank.items():
            for column, text in cells.items():
                if seen[name][column] != text:
                    said = f"{seen[name][column]}\nand in another process: {text}"
                    seen[name][column] = f"fault: {said.removeprefix('fault: ')}"
    return seen


def _in_torch_processes(
    names: Sequence[str], stage: str, count: int, folder: Path
) -> list[dict[str, dict[str, str]]]:
    arguments = ("PyTorch", list(names), stage, str(folder))
    return processes.in_processes(run_in_torch, count, *arguments, timeout=1200)


def _in_paddle_processes(
    names: Sequence[str], stage: str, count: int, folder: Path
) -> list[dict[str, dict[str, str]]]:
    return paddle_processes.in_processes(
        f"{__name__}:run",
        count,
        timeout=1200,
        framework="Paddle",
        names=list(names),
        stage=stage,
        folder=str(folder),
    )


def run_in_torch(
    rank: int, count: int, framework: str, names: list[str], stage: str, folder: str
) -> dict[str, dict[str, str]]:
    """Run some rows as one of several PyTorch processes."""
    import_module(TABLES[framework]).join(rank, count)
    return run(framework, names, stage, folder)


def run(framework: str, names: list[str], stage: str, folder: str) -> dict[str, dict[str, str]]:
    """Run some rows in this process."""
    known = {row.name: row for row in rows(framework)}
    return fill([known[name] for name in names], stage, Path(folder))
