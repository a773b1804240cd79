"""Reading and writing the values of PaddlePaddle tensors: as bits and as NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import nn

from unifreeze.backend import Array, Payload
from unifreeze_paddle._layers import dtype_name, is_floating

_VIEWED_AS = {"bfloat16": "int16", "float8_e4m3fn": "int8", "float8_e5m2": "int8"}


def has_values(tensor: paddle.Tensor) -> bool:
    """Return True if a tensor has values; a lazily built one has none until it is initialised."""
    return bool(tensor._is_initialized() or 0 in tensor.shape)  # an empty one is never initialised


def payload(tensor: paddle.Tensor) -> Payload | None:
    """Return a tensor's bits; None if it has no values."""
    if not has_values(tensor):
        return None
    dtype = dtype_name(tensor)
    shape = tuple(int(n) for n in tensor.shape)
    if 0 in shape:
        return Payload(dtype, shape, np.zeros(0, np.uint8))
    plain = tensor.detach()
    if not plain.place.is_cpu_place():
        plain = plain.cpu()
    if dtype in _VIEWED_AS:
        plain = plain.view(_VIEWED_AS[dtype])
    # DLPack shares memory where `numpy()` copies.
    flat = np.from_dlpack(plain.contiguous()).reshape(-1)
    return Payload(dtype, shape, flat.view(np.uint8))


def to_array(tensor: paddle.Tensor) -> Array:
    """Copy a tensor's values out; formats NumPy lacks (bfloat16, float8) come as float32."""
    if dtype_name(tensor) in _VIEWED_AS:
        tensor = tensor.detach().astype("float32")
    array: Array = tensor.detach().numpy()
    return array


def from_array(array: Array, like: paddle.Tensor) -> paddle.Tensor:
    """Make a tensor on the device of another; floating values take its floating dtype."""
    values = np.asarray(array)
    cast = np.issubdtype(values.dtype, np.floating) and is_floating(like)
    # With a type, the one that it has already too, it takes twice as long.
    dtype = like.dtype if cast and dtype_name(like) != str(values.dtype) else None
    return paddle.to_tensor(values, dtype=dtype, place=like.place)


@contextmanager
def in_double(root: nn.Layer, tensors: Iterable[paddle.Tensor | None]) -> Iterator[None]:
    """Cast a model to double precision in a `with`; then its tensors get their memory back."""
    layers = [(layer, layer._dtype) for layer in root.sublayers(include_self=True)]
    present = [tensor for tensor in tensors if tensor is not None and tensor._is_initialized()]
    kept = [(tensor, tensor.detach()) for tensor in present]
    try:
        root._to_impl(dtype="float64", floating_only=True)
        for layer, _ in layers:
            layer._dtype = "float64"
        yield
    finally:
        for tensor, original in kept:
            memory = original.value().get_tensor()
            tensor.value().get_tensor()._share_data_nocheck_with(memory)
        for layer, dtype in layers:
            layer._dtype = dtype


def copy_gradient(tensor: paddle.Tensor) -> paddle.Tensor:
    """Copy a tensor's gradient; that of a sparse embedding becomes a whole table."""
    gradient = tensor.grad
    if not gradient.is_selected_rows():
        return gradient.detach().clone()
    whole = np.zeros([int(n) for n in tensor.shape], np.float32)
    np.add.at(whole, gradient.rows(), gradient.numpy())
    return from_array(whole, tensor)


def set_gradient(tensor: paddle.Tensor, gradient: paddle.Tensor) -> None:
    """Set a tensor's gradient, also of a sparse embedding."""
    try:
        tensor.grad = gradient
    except ValueError:  # the last gradient was sparse
        tensor._set_grad_type(paddle.base.core.VarDesc.VarType.DENSE_TENSOR)
        tensor.grad = gradient


def copy_into(tensor: paddle.Tensor, source: paddle.Tensor) -> None:
    """Write values into a tensor in place, whether it is trainable or not."""
    with paddle.no_grad():
        paddle.assign(source, tensor)
