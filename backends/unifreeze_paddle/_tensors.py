"""Values of Paddle's tensors: copied out, copied in, and as bits."""

from __future__ import annotations

from typing import Any

import paddle

from unifreeze.backend import LiveTensor, TensorOperations
from unifreeze_paddle import _tensor_values as bits
from unifreeze_paddle._layers import is_floating


class PaddleTensors(TensorOperations):
    """What a tensor holds."""

    payload = staticmethod(bits.payload)
    has_values = staticmethod(bits.has_values)
    is_floating = staticmethod(is_floating)
    to_array = staticmethod(bits.to_array)
    from_array = staticmethod(bits.from_array)
    copy_into = staticmethod(bits.copy_into)

    def is_tensor(self, value: Any) -> bool:
        """Return whether a value is a Paddle tensor."""
        return isinstance(value, paddle.Tensor)

    def norm(self, tensor: LiveTensor) -> float:
        """Return the norm of a tensor's values, where it is: only a number leaves the device."""
        if tensor.place.is_cpu_place() or tensor.is_selected_rows():
            return super().norm(tensor)
        return float(paddle.linalg.norm(tensor.detach().astype("float64").reshape([-1])))

    def clone(self, tensor: LiveTensor) -> LiveTensor:
        """Copy a tensor, bits and all, outside the gradient."""
        return tensor.detach().clone()
