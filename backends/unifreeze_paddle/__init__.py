"""The PaddlePaddle backend of unifreeze. Paddle itself is imported when the backend is first used.

Its weight files need no framework, so `unifreeze` reads them itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unifreeze_paddle._backend import PaddleBackend

    backend: PaddleBackend

__all__ = ["PaddleBackend", "backend"]


def __getattr__(name: str) -> Any:
    """Import the backend: the package is also asked for the weight files that it declares."""
    if name not in ("PaddleBackend", "backend"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unifreeze_paddle._backend import PaddleBackend

    globals().update(PaddleBackend=PaddleBackend, backend=PaddleBackend())
    return globals()[name]
