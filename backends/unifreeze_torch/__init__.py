"""The PyTorch backend of unifreeze. PyTorch itself is imported when the backend is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unifreeze_torch._weight_formats import WEIGHT_FORMATS

if TYPE_CHECKING:
    from unifreeze_torch._backend import TorchBackend

    backend: TorchBackend

__all__ = ["WEIGHT_FORMATS", "TorchBackend", "backend"]


def __getattr__(name: str) -> Any:
    """Import the backend: who reads weight files alone need not have PyTorch."""
    if name not in ("TorchBackend", "backend"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unifreeze_torch._backend import TorchBackend

    globals().update(TorchBackend=TorchBackend, backend=TorchBackend())
    return globals()[name]
