"""Values of Paddle's tensors: copied out, copied in, and as bits."""

from __future__ import annotations

from typing import Any

import paddle

from unifreeze.backend import Array, LiveTensor, TensorOperations
from unifreeze_paddle import _tensor_values as bits
from unifreeze_paddle._layers import is_floating


class PaddleTensors(TensorOperations):
    """What a tensor holds."""

    payload = staticmethod(bits.payload)

    def is_tensor(self, value: Any) -> bool:
        """Return whether a value is a Paddle tensor."""
        return isinstance(value, paddle.Tensor)

    def is_floating(self, tensor: LiveTensor) -> bool:
        """Return whether a tensor holds floating-point values."""
        return is_floating(tensor)

    def has_values(self, tensor: LiveTensor) -> bool:
        """Return whether a tensor has been initialised."""
        return bits.has_values(tensor)

    def to_array(self, tensor: LiveTensor) -> Array:
        """Copy a tensor's values out."""
        return bits.to_array(tensor)

    def norm(self, tensor: LiveTensor) -> float:
        """Return the norm of a tensor's values, where it is: only a number leaves the device."""
        if tensor.place.is_cpu_place() or tensor.is_selected_rows():
            return super().norm(tensor)
        return float(paddle.linalg.norm(tensor.detach().astype("float64").reshape([-1])))

    def from_array(self, array: Array, like: LiveTensor) -> LiveTensor:
        """Make a tensor on the device of another; floating values take its dtype."""
        return bits.from_array(array, like)

    def clone(self, tensor: LiveTensor) -> LiveTensor:
        """Copy a tensor, bits and all, outside the gradient."""
        return tensor.detach().clone()

    def copy_into(self, tensor: LiveTensor, source: LiveTensor) -> None:
        """Write a clone's bits back into a tensor in place."""
        bits.copy_into(tensor, source)
