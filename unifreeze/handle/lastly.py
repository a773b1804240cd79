"""Verifying at the very end of a trainer's run, when its other callbacks have had their turn.

Some of them write to weights as training ends: an average of weights is copied into the model.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from unifreeze.errors import FrozenDriftError, UnifreezeWarning
from unifreeze.handle.handle import Handle


class LastLook:
    """Verifies a run twice: when training has ended, and when all callbacks have heard of that.

    Adapters have a callback that calls `take`, and append it to the trainer's as a run begins.
    """

    def __init__(self) -> None:
        self._due: Handle | None = None

    def expect(self, handle: Handle, *, verify: bool) -> None:
        """Look a first time, now that training has ended, and be ready for the last time.

        Args:
            handle: The plan in force.
            verify: Verify; else other values have been loaded, which are the ones to hold.
        """
        if verify:
            _warn_unchecked(handle)
        else:
            handle.rebase()
        self._due = handle

    def take(self) -> None:
        """Verify for the last time, if the training before it has ended."""
        handle, self._due = self._due, None
        if handle is None:
            return
        try:
            handle.verify()
        except FrozenDriftError as error:
            raise _after_the_end(error) from None


def take_out(callbacks: list[Any], last: object) -> None:
    """Take a callback that is the last out of a list that is being gone through.

    So are others of its kind, which earlier runs have left that did not come to their end; one of
    those is called among the others, and takes nothing out.
    """
    if callbacks and callbacks[-1] is last:
        callbacks[:] = [one for one in callbacks if type(one) is not type(last)]


def calling_list(callback: object) -> list[Any]:
    """Return the list of callbacks with this one in it that a trainer goes through just now.

    Trainers do not show callbacks the list that they are in, so it is looked for among our callers.
    If it is not found, this is a list that nobody goes through.
    """
    frame = sys._getframe(1)
    while frame is not None:
        found = getattr(frame.f_locals.get("self"), "callbacks", None)
        if isinstance(found, list) and any(one is callback for one in found):
            return found
        frame = frame.f_back  # type: ignore[assignment]
    return []


def _warn_unchecked(handle: Handle) -> None:
    verified = handle.verify()
    if verified.unchecked:
        warnings.warn(f"at the end of training: {verified}", UnifreezeWarning, stacklevel=2)


def _after_the_end(error: FrozenDriftError) -> FrozenDriftError:
    later = "this came after the training: a callback or hook has written to them as it ended"
    made = FrozenDriftError(error.fact, context=f"{error.context}\n{later}", hint=error.hint)
    made.drifts = error.drifts
    return made
