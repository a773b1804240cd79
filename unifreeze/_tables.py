"""Numbers and tables as plain text: what `str()` of a result shows to people."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from itertools import chain, zip_longest
from operator import itemgetter

from unifreeze.errors import cut

_BREAKS = ("", "./", "./_")
"""Sets of signs after which words may be broken; the first set that is enough is used."""
_WITHOUT_WIDTH = {"Mn", "Me", "Cf", "Cc"}
"""Unicode categories of characters that fill no column: combining, formatting and control ones."""


def plain_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int | Collection[int] = 1,
    width: int | None = None,
) -> str:
    """Lay out a table for a terminal.

    Args:
        header: Name of each column.
        rows: Their cells.
        left: The numbers of the columns that are aligned left, or how many are; the others are
            aligned right.
        width: Columns of the terminal; None for no limit.

    >>> print(plain_table(("plan", "values"), [("head", "50"), ("everything", "1,000")]))
    plan        values
    head            50
    everything   1,000
    """
    return "\n".join(chain.from_iterable(table_lines(header, rows, left=left, width=width)))


def table_lines(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int | Collection[int] = 1,
    width: int | None = None,
) -> list[list[str]]:
    """Lay out a table as the lines of its header and of each row, for `plain_table`.

    If the table is too wide, words are wrapped, and paths are broken at their dots. If that is not
    enough, each cell of a row gets a line.
    """
    words = range(left) if isinstance(left, int) else left
    for breaks in _BREAKS:
        widths = _fitted([header, *rows], words, width, breaks)
        if widths is not None:
            return [_row_lines(row, widths, words, breaks) for row in (header, *rows)]
    return [_stacked(header, row, words, width or 0) for row in rows]


def _fitted(
    lines: Sequence[Sequence[str]], words: Collection[int], width: int | None, breaks: str
) -> list[int] | None:
    """Return the width of each column; None if they do not fit side by side."""
    columns = list(zip(*lines, strict=True))
    widths = [max(map(columns_of, column)) for column in columns]
    if width is None:
        return widths
    least = [
        max(map(columns_of, _pieces(" ".join(column), width, breaks)), default=0)
        if number in words
        else widths[number]
        for number, column in enumerate(columns)
    ]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    for _ in range(max(excess, 0)):
        spare = [(widths[n] - least[n], widths[n], n) for n in words if widths[n] > least[n]]
        if not spare:
            return None
        widths[max(spare, key=itemgetter(1))[2]] -= 1
    return widths


def _row_lines(
    cells: Sequence[str], widths: Sequence[int], words: Collection[int], breaks: str
) -> list[str]:
    wrapped = [
        wrap(cell, widths[n], indent=0, breaks=breaks) if n in words else [cell]
        for n, cell in enumerate(cells)
    ]
    return [_line(line, widths, words) for line in zip_longest(*wrapped, fillvalue="")]


def _line(cells: Sequence[str], widths: Sequence[int], words: Collection[int]) -> str:
    padded = []
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - columns_of(cell))
        padded.append(cell + space if number in words else space + cell)
    return "  ".join(padded).rstrip()


def _stacked(
    header: Sequence[str], row: Sequence[str], words: Collection[int], width: int
) -> list[str]:
    """Write a row as lines: the first cell, below it the others with their columns' names."""
    lines = wrap(row[0], width)
    numbers: list[str] = []
    for column in range(1, len(row)):
        said = f"{header[column]}: {row[column]}" if header[column] else row[column]
        if column in words and row[column]:
            lines += wrap(f"  {said}", width)
        elif row[column]:
            numbers.append(said)
    return [*lines, *wrap(f"  {', '.join(numbers)}", width)] if numbers else lines


def wrap(line: str, width: int, *, indent: int = 2, breaks: str = "./") -> list[str]:
    """Break a line at spaces; break a word that is longer than a line, as a path, at its dots.

    Args:
        line: A text without line breaks; each of the new lines keeps its indentation.
        width: Characters of a line, wide ones counting twice.
        indent: How much further the lines after the first begin.
        breaks: Signs after which a word that is longer than a line may be broken.

    >>> wrap("  rule 1 takes encoder.layers.0.norm", 20)
    ['  rule 1 takes', '    encoder.layers.', '    0.norm']
    """
    if columns_of(line) <= width:
        return [line]
    indentation = len(line) - len(line.lstrip(" "))
    begin = " " * min(indentation, width // 2)
    more = " " * min(indentation + indent, width // 2)
    lines = [begin]
    for space, word in re.findall(r"( *)([^ ]+)", line.lstrip(" ")):
        room = width - len(more)
        pieces = [word] if columns_of(word) <= room else _pieces(word, room, breaks)
        if pieces[1:] and lines[-1].strip():
            lines.append(more)
        for number, piece in enumerate(pieces):
            gap = space if lines[-1].strip() and not number else ""
            if lines[-1].strip() and columns_of(lines[-1] + gap + piece) > width:
                lines.append(more)
                gap = ""
            lines[-1] += gap + piece
    return lines


def _pieces(text: str, room: int, breaks: str) -> list[str]:
    """Split words after some signs; split pieces that are still too long anywhere."""
    pieces: list[str] = []
    signs = rf"[^{breaks} ]*[{breaks}]+|[^{breaks} ]+" if breaks else "[^ ]+"
    for part in re.findall(signs, text):
        while columns_of(part) > max(room, 2):
            head = _beginning(part, max(room, 2))
            pieces.append(head)
            part = part[len(head) :]
        pieces.append(part)
    return pieces


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text fills.

    Chinese, Japanese and Korean characters fill two, combining characters none.

    >>> columns_of("head"), columns_of("分类头"), columns_of("e\u0301")
    (4, 6, 1)
    """
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(map(_columns_of_character, text))


def _columns_of_character(character: str) -> int:
    category = unicodedata.category(character)
    if category in _WITHOUT_WIDTH:
        return 0
    if category == "Cn":  # unassigned: Python calls these wide
        return 1
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _beginning(text: str, columns: int) -> str:
    """Return as much of a text as fits into some columns.

    >>> _beginning("分类头", 5)
    '分类'
    """
    filled = 0
    for place, character in enumerate(text):
        filled += _columns_of_character(character)
        if filled > columns:
            return text[:place]
    return text


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
