"""Numbers and tables as plain text: what `str()` of a result shows to people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from unifreeze.errors import cut


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Lay out a table for a terminal.

    Args:
        header: Name of each column.
        rows: Their cells.
        left: How many columns hold words, and begin at the left; the others end at the right.

    >>> print(plain_table(("plan", "values"), [("head", "50"), ("everything", "1,000")]))
    plan        values
    head            50
    everything   1,000
    """
    lines = [header, *rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_line(line, widths, left) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    padded = []
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - cell_len(cell))
        padded.append(cell + space if number < left else space + cell)
    return "  ".join(padded).rstrip()


def one_line(value: object, gist: str) -> str:
    r"""Write an object as notebooks and debuggers show it: its class and the gist, in one line.

    >>> one_line([], "3 plans\nof 4")
    '<unifreeze.list: 3 plans of 4>'
    """
    return cut(f"<unifreeze.{type(value).__name__}: {' '.join(gist.split())}>", 160)


def number(value: float | None, form: str = ".4g") -> str:
    """Write a measured number; nothing for None.

    >>> number(0.123456), number(None)
    ('0.1235', '')
    """
    return "" if value is None else format(value, form)


def human_bytes(count: float) -> str:
    """Write a number of bytes for people.

    >>> human_bytes(102_228_128)
    '97.5 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
