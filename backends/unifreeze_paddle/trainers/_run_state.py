"""The file beside a trainer's checkpoint that says how far its run has come."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from unifreeze.backend import BEST_FOLDER, Format, Saved
from unifreeze.errors import ScheduleError, brief


class RunState(Saved):
    """How far a run has come.

    Attributes:
        unifreeze_run: Version of the format.
        handle: The handle's own state.
        epoch: The epoch that begins next, or that is under way.
        step: The step of the optimizer that begins next.
        reports: What was measured and the plan has not been told yet.
        waiting: The evaluation after an epoch that has ended may still be to come.
        best: The folder with the best values, in a file relative to its own folder; "" for none.
    """

    format: ClassVar[Format] = Format(
        "unifreeze state of a run", "unifreeze_run", 1, ScheduleError, "resume an earlier one"
    )

    unifreeze_run: Literal[1] = 1
    handle: dict[str, Any]
    epoch: int
    step: int
    reports: dict[str, float]
    waiting: bool
    best: str = ""

    def save_beside(self, file: Path) -> None:
        """Write the file; its paths are relative, so the folder of a whole run can be moved."""
        best = os.path.relpath(self.best, file.parent) if self.best else ""
        self.model_copy(update={"best": best}).save(file)

    @classmethod
    def load_from(cls, file: Path) -> Self:
        """Read what `save_beside` wrote; raises as `load` does."""
        state = cls.load(file)
        if state.best and Path(state.best).name != BEST_FOLDER:  # files are written in it
            raise ScheduleError(
                f"{file} names a folder of best values that no run has made: {brief(state.best)}",
                context=f"every one is called {BEST_FOLDER}",
                hint=cls.format.hint,
            )
        best = os.path.normpath(file.parent / state.best) if state.best else ""
        return state.model_copy(update={"best": best})
