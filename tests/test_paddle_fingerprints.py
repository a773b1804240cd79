"""PaddlePaddle: every change of a tensor's bits is seen, and nothing else."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn
from paddle.base.framework import EagerParamBase

from tests.support.kits.paddle_layers import floats
from tests.support.paddle_descriptions import BACKEND
from unifreeze import FreezePlan
from unifreeze._modules.digests import digest

DTYPES = [
    "float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int8", "uint8", "int16", "int32", "int64", "bool", "complex64", "complex128",
]  # fmt: skip


def holder(values, dtype):
    """A layer with one parameter of a dtype."""
    layer = nn.Layer()
    tensor = paddle.to_tensor(values, dtype="float32").astype(dtype)
    layer.tensor = EagerParamBase.from_tensor(tensor, trainable=False)
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_every_dtype_are_read_where_they_are(dtype):
    """No copy, and the very bytes."""
    tensor = holder([[0, 1, 0], [1, 1, 1]], dtype).tensor
    payload = BACKEND.payload(tensor)
    assert payload.dtype == dtype
    assert payload.shape == (2, 3)
    assert payload.data.size == 6 * tensor.element_size()
    assert payload.data.__array_interface__["data"][0] == tensor.data_ptr()
    assert payload.data.tobytes() == tensor.numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_changed_value_of_any_dtype_changes_the_fingerprint(dtype):
    layer, same = (holder([[0, 1, 0], [1, 1, 1]], dtype) for _ in range(2))
    other = holder([[0, 1, 0], [1, 0, 1]], dtype)
    digests = [BACKEND.fingerprint(each, ["tensor"])["tensor"] for each in (layer, same, other)]
    assert digests[0].bits == digests[1].bits != digests[2].bits
    assert {digest.dtype for digest in digests} == {dtype}


def test_a_tensor_that_is_not_contiguous_is_read_in_order():
    values = paddle.to_tensor(floats(3, 2))
    strided = paddle.as_strided(values, [2, 3], [1, 2])
    assert not strided.is_contiguous()
    plain = digest(BACKEND.payload(paddle.to_tensor(values.numpy().T.copy())))
    assert digest(BACKEND.payload(strided)).bits == plain.bits


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_scalars_and_empty_parameters_have_fingerprints(shape):
    layer = nn.LayerDict({"odd": nn.Layer(), "head": nn.Linear(2, 2)})
    layer["odd"].tensor = layer["odd"].create_parameter(
        list(shape), default_initializer=nn.initializer.Constant(1.0)
    )
    handle = FreezePlan().freeze("odd").apply(layer)
    assert handle.verify().parameters == 1
