"""What a framework adds for its tensors: flags, gradients, bits and values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from unifreeze._modules.digests import Payload
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor

_PIECE = 2**15


class TensorOperations(ABC):
    """One framework's operations on tensors.

    Attributes:
        name: Import root of the framework.
        skips_frozen: Its optimizers pass over frozen parameters that still have a gradient.
    """

    name: str
    skips_frozen = False

    @abstractmethod
    def is_tensor(self, value: Any) -> bool:
        """Return whether a value is one of the framework's tensors."""

    @abstractmethod
    def is_floating(self, tensor: LiveTensor) -> bool:
        """Return whether a tensor holds floating-point values."""

    @abstractmethod
    def get_flag(self, tensor: LiveTensor) -> bool:
        """Return whether a parameter is trainable."""

    def get_flags(self, tensors: Sequence[LiveTensor]) -> list[bool]:
        """Return for many parameters whether they are trainable."""
        return list(map(self.get_flag, tensors))

    @abstractmethod
    def set_flag(self, tensor: LiveTensor, trainable: bool) -> None:
        """Make a parameter trainable or frozen."""

    @abstractmethod
    def get_gradient(self, tensor: LiveTensor) -> LiveTensor | None:
        """Return the gradient that a parameter holds, None where it holds none."""

    @abstractmethod
    def set_gradient(self, tensor: LiveTensor, gradient: LiveTensor | None) -> None:
        """Set a parameter's gradient; None drops it."""

    def kept_gradient(self, tensor: LiveTensor) -> LiveTensor | None:
        """Return a parameter's gradient so that it can be put back after it was dropped."""
        return self.get_gradient(tensor)

    @abstractmethod
    def payload(self, tensor: LiveTensor) -> Payload | None:
        """Return a tensor's bits, None where it has no values."""

    def has_values(self, tensor: LiveTensor) -> bool:
        """Return whether a tensor has values; one that waits to be initialised has none."""
        return True

    @abstractmethod
    def to_array(self, tensor: LiveTensor) -> Array:
        """Copy a tensor's values out; half-precision formats NumPy lacks come as float32."""

    @abstractmethod
    def from_array(self, array: Array, like: LiveTensor) -> LiveTensor:
        """Make a tensor on the device of another; floating values take its dtype."""

    def from_input(self, array: Array, like: LiveTensor) -> LiveTensor:
        """Make an input tensor of an array."""
        return self.from_array(array, like)

    def norm(self, tensor: LiveTensor) -> float:
        """Return the norm of a tensor's values, summed in double precision."""
        values = self.to_array(tensor).reshape(-1)
        if np.iscomplexobj(values):
            values = np.abs(values)
        # Widened piece by piece, which stays in the processor's cache.
        pieces = (values[n : n + _PIECE].astype(np.float64) for n in range(0, len(values), _PIECE))
        return float(np.sqrt(sum(float(np.square(piece).sum()) for piece in pieces)))

    def norms(self, tensors: Sequence[LiveTensor]) -> list[float]:
        """Return the norms of some tensors, of all of each where processes have divided it."""
        return list(map(self.norm, tensors))

    def gathered(self, tensor: LiveTensor) -> LiveTensor:
        """Return all of a tensor that processes have divided; then every process must call."""
        return tensor

    @abstractmethod
    def clone(self, tensor: LiveTensor) -> LiveTensor:
        """Copy a tensor, bits and all, outside the gradient."""

    @abstractmethod
    def copy_into(self, tensor: LiveTensor, source: LiveTensor) -> None:
        """Write a clone's bits back into a tensor in place."""
