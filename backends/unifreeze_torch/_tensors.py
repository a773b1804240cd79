"""Values of PyTorch's tensors: copied out, copied in, and as bits."""

from __future__ import annotations

from typing import Any

import torch

from unifreeze.backend import LiveTensor, TensorOperations
from unifreeze_torch import _tensor_values as bits


class TorchTensors(TensorOperations):
    """What a tensor holds."""

    payload = staticmethod(bits.payload)
    has_values = staticmethod(bits.has_values)
    to_array = staticmethod(bits.to_array)
    from_array = staticmethod(bits.from_array)
    copy_into = staticmethod(bits.copy_into)

    def is_tensor(self, value: Any) -> bool:
        """Return whether a value is a torch tensor."""
        return isinstance(value, torch.Tensor)

    def is_floating(self, tensor: LiveTensor) -> bool:
        """Return whether a tensor holds floating-point values."""
        return bool(tensor.is_floating_point())

    def norm(self, tensor: LiveTensor) -> float:
        """Return the norm of a tensor's values, where it is: only a number leaves the device."""
        if tensor.device.type in ("cpu", "meta") or tensor.layout is not torch.strided:
            return super().norm(tensor)
        return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64))

    def clone(self, tensor: LiveTensor) -> LiveTensor:
        """Copy a tensor, bits and all, outside the gradient."""
        return tensor.detach().clone()
