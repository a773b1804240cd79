"""Where a flag is written in PyTorch: `requires_grad`, and no stale `.grad`."""

from __future__ import annotations

from operator import attrgetter

import torch

from unifreeze.backend import LiveTensor, TensorOperations
from unifreeze_torch._layers import made_in_inference_mode


class TorchFlags(TensorOperations):
    """Reads and writes a parameter's flag and gradient."""

    # These are called for every tensor of large models, so they avoid a Python call frame.
    get_flag = staticmethod(attrgetter("requires_grad"))  # type: ignore[assignment]
    get_gradient = staticmethod(attrgetter("grad"))  # type: ignore[assignment]

    def set_flag(self, tensor: LiveTensor, trainable: bool) -> None:
        """Make a parameter trainable or frozen."""
        if trainable and made_in_inference_mode(tensor):
            with torch.inference_mode():  # elsewhere it cannot be given back the flag it had
                tensor.requires_grad = trainable
        else:
            tensor.requires_grad = trainable

    def set_gradient(self, tensor: LiveTensor, gradient: LiveTensor | None) -> None:
        """Set a parameter's gradient; None drops it."""
        tensor.grad = gradient
