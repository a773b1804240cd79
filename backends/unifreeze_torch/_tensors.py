"""Values of PyTorch's tensors: copied out, copied in, and as bits."""

from __future__ import annotations

from collections.abc import Sequence
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
    from_input = staticmethod(bits.from_input)
    copy_into = staticmethod(bits.copy_into)
    gathered = staticmethod(bits.gathered)

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

    def norms(self, tensors: Sequence[LiveTensor]) -> list[float]:
        """Return the norms of whole tensors: those of parts are combined over the processes."""
        norms = list(map(self.norm, map(bits.local, tensors)))
        meshes = {id(mesh): mesh for t in tensors if (mesh := getattr(t, "device_mesh", None))}
        for key, mesh in meshes.items():
            inside = [
                n for n, t in enumerate(tensors) if id(getattr(t, "device_mesh", None)) == key
            ]
            for number, norm in zip(inside, _combined(norms, inside, tensors, mesh), strict=True):
                norms[number] = norm
        return norms

    def clone(self, tensor: LiveTensor) -> LiveTensor:
        """Copy a tensor, bits and all, outside the gradient."""
        return tensor.detach().clone()


def _combined(
    norms: Sequence[float], inside: Sequence[int], tensors: Sequence[Any], mesh: Any
) -> list[float]:
    """Return the norms of tensors that a mesh of processes has divided, from those of the parts."""
    squares = torch.tensor([norms[n] ** 2 for n in inside], dtype=torch.float64)
    for dimension in range(mesh.ndim):
        shards = [tensors[n].placements[dimension].is_shard() for n in inside]
        copies = torch.where(torch.tensor(shards), 1.0, 1.0 / mesh.size(dimension))
        squares = (squares * copies).to(mesh.device_type)
        torch.distributed.all_reduce(squares, group=mesh.get_group(dimension))
        squares = squares.cpu()
    return [float(square) for square in squares.sqrt()]
