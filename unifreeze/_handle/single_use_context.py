"""Context managers for one block: a second `with` on the same object is refused with a message."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ContextDecorator
from types import TracebackType

from unifreeze.errors import PlanError


class SingleUseBlock(ContextDecorator, AbstractContextManager[None]):
    """A context manager for one block; as a decorator it begins a new block for each call."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]], again: str) -> None:
        """Prepare a block.

        Args:
            make: Makes the context manager that begins and ends the block.
            again: How users write a new block, for the message.
        """
        self._make, self._again = make, again
        self._block: AbstractContextManager[None] | None = None

    def _recreate_cm(self) -> SingleUseBlock:
        return SingleUseBlock(self._make, self._again)

    def __enter__(self) -> None:
        if self._block is not None:
            raise PlanError(
                "this block has been used already, and each works once",
                hint=f"make a new one each time: {self._again}",
            )
        self._block = self._make()
        self._block.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        return self._block.__exit__(kind, error, traceback)
