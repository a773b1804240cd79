"""Progress bars on standard error, shown on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from unifreeze._cli.waiting import hidden


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows progress: what is done, how much of it, and how much there is.

    Each text gets a bar of its own; all bars are removed at the end.
    """
    errors = Console(stderr=True)
    bars = Progress(console=errors, transient=True, disable=not errors.is_terminal)
    with hidden(), bars:
        tasks = {}

        def show(text: str, done: int, total: int) -> None:
            if text not in tasks:
                tasks[text] = bars.add_task(text, total=total)
            bars.update(tasks[text], completed=done, total=total)

        yield show
