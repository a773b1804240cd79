"""Operations of frameworks without a tape, whose tensors hold no gradients."""

from __future__ import annotations

from unifreeze._modules.tensor_operations import TensorOperations
from unifreeze._protocol.live import LiveTensor


class Tapeless(TensorOperations):
    """Operations of a framework that computes gradients by transforming a function.

    That function returns gradients by path, so writing a plan drops none. A backend that also runs
    experiments writes `forward_and_backward` itself.
    """

    def get_gradient(self, tensor: LiveTensor) -> LiveTensor | None:
        """Return None: a tensor holds no gradient."""
        return None

    def set_gradient(self, tensor: LiveTensor, gradient: LiveTensor | None) -> None:
        """Do nothing: a tensor holds no gradient."""
