"""The PyTorch backend of unifreeze: one framework described in neutral terms."""

from unifreeze_torch._backend import TorchBackend

backend = TorchBackend()

__all__ = ["TorchBackend", "backend"]
