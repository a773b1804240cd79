"""Run one side of a check in a process of its own, perhaps in another environment."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import typer

from unifreeze._cli.output import BUG
from unifreeze._cli.waiting import now
from unifreeze.errors import TargetError, UnifreezeError


class SideCommand(NamedTuple):
    """A command of unifreeze, to be run by an interpreter.

    Attributes:
        python: The interpreter.
        model: Name of the model in error messages.
        arguments: Arguments of the command line.
    """

    python: str
    model: str
    arguments: tuple[str, ...]

    def start(self) -> subprocess.Popen[str]:
        """Start the process."""
        try:
            return subprocess.Popen(
                [self.python, "-m", "unifreeze", *self.arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise TargetError(f"cannot run {self.python}: {error.strerror or error}") from None

    def finish(self, process: subprocess.Popen[str]) -> None:
        """Wait until the process ends.

        Raises:
            UnifreezeError: It failed; the message holds its own error.
        """
        _, errors = process.communicate()
        if process.returncode == BUG:
            sys.stderr.write(errors)
            raise typer.Exit(BUG)
        if process.returncode != 0:
            error = re.split("^Error: ", errors, flags=re.MULTILINE)[-1].strip()
            raise UnifreezeError(
                f"{self.model} did not run to its end (exit code {process.returncode})",
                context="\n".join(error.splitlines()[-12:]),
            )


def run_sides(sides: Sequence[SideCommand]) -> None:
    """Run several sides at once; if a side fails, the others are stopped.

    Raises:
        UnifreezeError: A side failed.
    """
    processes: list[subprocess.Popen[str]] = []
    try:
        for side in sides:
            processes.append(side.start())
        for side, process in zip(sides, processes, strict=True):
            now(f"running {side.model}")
            side.finish(process)
        now("")
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
