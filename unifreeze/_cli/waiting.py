"""A line on the terminal that says what a command is doing, once that takes longer than 2 seconds.

It is written to standard error if that is a terminal, and is gone before anything else is written.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Lock, Thread
from typing import TextIO

SECONDS, EVERY = 2.0, 0.5
"""When the line appears, and how often it is written again."""
_ERASE = "\r\x1b[K"


class WaitingLine:
    """The line of one command.

    Args:
        stream: Where it is written.
        command: The name of the command.
        width: Columns of the terminal; longer lines are cut, as a line that wraps stays.
    """

    def __init__(self, stream: TextIO, command: str, width: int) -> None:
        self._stream, self._command, self._width = stream, command, width
        self._doing, self._begin = "", time.monotonic()
        self._shown = self._hidden = False
        self._end, self._lock = Event(), Lock()
        self._thread = Thread(target=self._write, daemon=True)

    def start(self) -> None:
        """Begin to count."""
        self._thread.start()

    def now(self, doing: str) -> None:
        """Say what is being done from here on."""
        self._doing = doing

    def hide(self) -> None:
        """Erase the line: something else is written now."""
        with self._lock:
            self._hidden = True
            self._erase()

    def show_again(self) -> None:
        """Go on writing the line after `hide`."""
        self._hidden = False

    def stop(self) -> None:
        """Erase the line for good."""
        self.hide()
        self._end.set()
        self._thread.join()

    def _write(self) -> None:
        wait = SECONDS
        while not self._end.wait(wait):
            wait = EVERY
            seconds = time.monotonic() - self._begin
            doing = f", {self._doing}" if self._doing else ""
            line = f"unifreeze {self._command}: {seconds:.0f} s{doing}"
            with self._lock:
                if not self._hidden:
                    self._stream.write(f"{_ERASE}{line[: self._width - 1]}")
                    self._stream.flush()
                    self._shown = True

    def _erase(self) -> None:
        if self._shown:
            self._stream.write(_ERASE)
            self._stream.flush()
            self._shown = False


_LINE: ContextVar[WaitingLine | None] = ContextVar(
    "the line of the command that runs", default=None
)


@contextmanager
def waiting_line(command: str, width: int | None) -> Iterator[None]:
    """Show the line while a command runs, if standard error is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    line = WaitingLine(sys.stderr, command, width or 80)
    token = _LINE.set(line)
    line.start()
    try:
        yield
    finally:
        line.stop()
        _LINE.reset(token)


def now(doing: str) -> None:
    """Say in the line what is being done from here on; "" for nothing in particular."""
    if (line := _LINE.get()) is not None:
        line.now(doing)


def hide() -> None:
    """Erase the line for good, as something is written."""
    if (line := _LINE.get()) is not None:
        line.hide()


@contextmanager
def hidden() -> Iterator[None]:
    """Keep the line away for a while, as bars take its place."""
    hide()
    try:
        yield
    finally:
        if (line := _LINE.get()) is not None:
            line.show_again()
