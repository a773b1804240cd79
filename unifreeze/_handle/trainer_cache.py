"""The cached block of a trainer's run: entered when training begins, left when it ends or fails."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import CodeType
from typing import Any, TypeAlias

from unifreeze._cache.cached_run import CachedRun
from unifreeze._handle.handle import Handle
from unifreeze._handle.verify_last import calling_list
from unifreeze.errors import ArgumentError

CacheSettings: TypeAlias = str | Path | Mapping[str, Any]
"""A folder for `Handle.cached`, or its arguments by name."""


class TrainerCache:
    """The cached block of one run; does nothing if no cache was asked for.

    Attributes:
        run: The block, also after it was left; None before training begins.
    """

    def __init__(self, settings: CacheSettings | None) -> None:
        """Prepare.

        Args:
            settings: A folder, or the arguments of `Handle.cached`; None for no cache.

        Raises:
            ArgumentError: An argument has no text as its name.
        """
        self.run: CachedRun | None = None
        if isinstance(settings, str | Path):
            settings = {"folder": settings}
        if settings is not None and not all(isinstance(name, str) for name in settings):
            raise ArgumentError(
                "cache has arguments without names", hint='cache={"folder": "rows"}'
            )
        self._settings = None if settings is None else dict(settings)
        self._leave: Callable[[], Any] = _nothing

    def enter(self, handle: Handle, callback: object = None) -> None:
        """Begin the block; one that a run before has left open ends.

        Args:
            handle: The plan in force.
            callback: The callback that the trainer is just calling from its loop, if the trainer
                does not tell callbacks of errors: the block also ends once that loop is gone.

        Raises:
            CacheError: The model cannot be cached.
        """
        self.leave()
        if self._settings is None:
            return
        run = handle.cached(**self._settings)
        if (code := loop_around(callback)[1]) is not None:
            run.lasts = lambda: _is_running(code)
        run.__enter__()
        self.run = run
        # Also when the callback is thrown away, or Python ends: rows are written then.
        self._leave = weakref.finalize(self, run.__exit__, None, None, None)

    def leave(self, *_: object) -> None:
        """End the block, if it has not ended."""
        leave, self._leave = self._leave, _nothing
        leave()

    def leave_if_fails(self, callback: object, name: str) -> None:
        """Let the block end if a method of the trainer fails.

        Args:
            callback: The callback that the trainer is just calling.
            name: The method, which the trainer looks up on itself after this call.
        """
        trainer = loop_around(callback)[0]
        method = getattr(trainer, name, None)
        if self._settings is None or method is None or hasattr(method, "leaves_cache_of"):
            return
        own = weakref.ref(self)

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except BaseException:
                if (cache := own()) is not None:
                    cache.leave()
                raise

        call.leaves_cache_of = own  # type: ignore[attr-defined]
        setattr(trainer, name, call)


def _nothing() -> None:
    pass


def loop_around(callback: object) -> tuple[Any, CodeType | None]:
    """Return the trainer whose list of callbacks calls this one, and the code that it runs."""
    callbacks = calling_list(callback)
    frame = sys._getframe(1)
    inside = False
    while frame is not None:
        own = frame.f_locals.get("self")
        in_list = callbacks is getattr(own, "callbacks", None)
        if inside and not in_list:
            return own, frame.f_code
        inside = inside or in_list
        frame = frame.f_back  # type: ignore[assignment]
    return None, None


def _is_running(code: CodeType) -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
