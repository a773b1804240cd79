"""Verifying at the very end of a trainer's run, after all its other callbacks.

Some callbacks write to weights when training ends: they copy an average of weights into the model.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from unifreeze._handle.handle import Handle
from unifreeze.errors import FrozenDriftError, UnifreezeWarning


class LastLook:
    """Verifies a run twice: when training ends, and again after all other callbacks.

    An adapter appends a callback that calls `take` to the trainer's list when a run begins.
    """

    def __init__(self) -> None:
        self._due: Handle | None = None

    def expect(self, handle: Handle, *, verify: bool) -> None:
        """Look for the first time, when training ends.

        Args:
            handle: The plan in force.
            verify: Verify; False if other values were loaded on purpose, and are the ones to hold.
        """
        if verify:
            _warn_unchecked(handle)
        else:
            handle.rebase()
        self._due = handle

    def take(self) -> None:
        """Verify for the last time; does nothing if training has not ended, or the plan is gone."""
        handle, self._due = self._due, None
        if handle is None or not handle._in_force.lasts:
            return
        try:
            handle.verify()
        except FrozenDriftError as error:
            raise _after_the_end(error) from None


def take_out(callbacks: list[Any], last: object) -> None:
    """Take the last callback out of a list that a trainer goes through just now.

    Callbacks of the same kind go too: runs that failed have left them. Such a callback may stand
    before others; when its turn comes, it must not take anything out.
    """
    if callbacks and callbacks[-1] is last:
        callbacks[:] = [callback for callback in callbacks if type(callback) is not type(last)]


def calling_list(callback: object) -> list[Any]:
    """Return the list of callbacks that a trainer goes through just now; it contains this one.

    Trainers do not give this list to callbacks, so it is looked for in the frames of the callers.
    Without such a list, an empty list is returned, which no trainer uses.
    """
    frame = sys._getframe(1)
    while frame is not None:
        callbacks = getattr(frame.f_locals.get("self"), "callbacks", None)
        if isinstance(callbacks, list) and any(row is callback for row in callbacks):
            return callbacks
        frame = frame.f_back  # type: ignore[assignment]
    return []


def _warn_unchecked(handle: Handle) -> None:
    verified = handle.verify()
    if verified.unchecked:
        warnings.warn(f"at the end of training: {verified}", UnifreezeWarning, stacklevel=2)


def _after_the_end(error: FrozenDriftError) -> FrozenDriftError:
    later = "it was unchanged when training ended: a callback that was called later wrote to it"
    later_error = FrozenDriftError(error.fact, context=f"{error.context}\n{later}", hint=error.hint)
    later_error.drifts = error.drifts
    return later_error
