"""Reading and writing the values of PyTorch tensors: as bits and as NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from unifreeze.backend import Array, Payload, Slot


def has_values(tensor: torch.Tensor) -> bool:
    """Return True if a tensor has values in this process.

    There are none on the meta device, before a lazy layer's first call, after the memory was freed,
    and while DeepSpeed has divided the tensor among processes.
    """
    if tensor.is_meta or isinstance(tensor, UninitializedTensorMixin):
        return False
    if not tensor.numel():
        return not hasattr(tensor, "ds_shape")
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    plain = plain and tensor.layout is torch.strided and tensor.device.type in ("cpu", "cuda")
    return not plain or bool(tensor.data_ptr())


def payload(tensor: torch.Tensor) -> Payload | None:
    """Return a tensor's bits; None if it has no values."""
    if not has_values(tensor):
        return None
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Payload(dtype, tuple(tensor.shape), _bytes(tensor.detach()))


def _bytes(tensor: torch.Tensor) -> Array:
    """Return a tensor's bytes in C order; without a copy for contiguous tensors in memory."""
    tensor = local(tensor)
    inner = getattr(tensor, "__tensor_flatten__", None)
    if inner is not None and type(tensor) is not torch.Tensor:
        parts = [getattr(tensor, name) for name in inner()[0]]
        return np.concatenate([_bytes(part) for part in parts])
    # Not by `numpy()`: after it PyTorch refuses to resize the tensor, and observers resize theirs.
    flat: Array = np.from_dlpack(_plain(tensor).contiguous().reshape(-1).view(torch.uint8))
    return flat


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a sharded tensor that this process holds; other tensors as they are."""
    to_local = getattr(tensor, "to_local", None)
    return to_local() if to_local else tensor


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a sharded tensor; other tensors as they are. Every process must call."""
    full_tensor = getattr(tensor, "full_tensor", None)
    return full_tensor() if full_tensor else tensor


def divided(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor, if the other one is divided; nothing is sent."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return an ordinary tensor in memory: dense, its conjugation and sign written out."""
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.resolve_conj().resolve_neg().cpu()


def to_array(tensor: torch.Tensor) -> Array:
    """Copy a tensor's values out; formats NumPy lacks (bfloat16, float8) come as float32."""
    plain = _plain(gathered(tensor.detach()))
    if plain.dtype is torch.bfloat16 or str(plain.dtype).startswith("torch.float8"):
        plain = plain.float()
    array: Array = plain.clone().numpy()
    return array


def from_array(array: Array, like: torch.Tensor) -> torch.Tensor:
    """Make a tensor as another: on its device, of its floating dtype, divided as it is."""
    return divided(from_input(array, like), like)


def from_input(array: Array, like: torch.Tensor) -> torch.Tensor:
    """Make a tensor on the device of another; floating values take its floating dtype.

    Values that were bfloat16 become the same bits again; PyTorch's cast makes all NaNs alike.
    """
    tensor = torch.from_numpy(np.array(array))
    if like.dtype is torch.bfloat16 and array.dtype == np.float32:
        words = np.ascontiguousarray(array).view(np.uint32).reshape(array.shape)
        if not (words & 0xFFFF).any():
            halves = np.asarray(words >> 16, np.uint16).view(np.int16)
            tensor = torch.from_numpy(halves).view(torch.bfloat16)
    if tensor.is_floating_point() and like.is_floating_point():
        tensor = tensor.to(like.dtype)
    return tensor.to(like.device)


@contextmanager
def in_double(tensors: Iterable[torch.Tensor], slots: Iterable[Slot]) -> Iterator[None]:
    """Cast floating tensors to double precision in a `with`; then they get their memory back."""
    states = [(slot, slot.holder.get(slot.leaf)) for slot in slots]
    beside = [state for _, state in states if isinstance(state, nn.Parameter)]
    floating = [tensor for tensor in (*tensors, *beside) if tensor.is_floating_point()]
    kept = [(tensor, tensor.data) for tensor in floating]
    buffers = [(slot, state) for slot, state in states if not isinstance(state, nn.Parameter)]
    try:
        for tensor, data in kept:
            tensor.data = data.double()
        for slot, buffer in buffers:
            if buffer is not None and buffer.is_floating_point():
                slot.holder[slot.leaf] = buffer.double()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data
        for slot, buffer in buffers:
            slot.holder[slot.leaf] = buffer


def copy_into(tensor: torch.Tensor, source: torch.Tensor) -> None:
    """Write values into a tensor in place, whether it requires a gradient or not."""
    with torch.no_grad():
        tensor.copy_(source)
