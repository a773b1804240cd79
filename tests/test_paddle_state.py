"""PaddlePaddle: other state that training moves, and parameters that cannot be trained.

Rule A is that of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn.quant.lsq import FakeQuantActLSQPlus
from paddle.quantization import QAT, QuantConfig
from paddle.quantization.base_quanter import BaseQuanter
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver

from tests.support.kits.paddle_layers import bits
from tests.support.kits.paddle_nets import moved, rows, train
from tests.support.paddle_descriptions import BACKEND
from unifreeze import FreezePlan
from unifreeze.errors import FixedParameterError, UnsupportedPlanError

# Other state -------------------------------------------------------------------------------------


def with_spectral_norm():
    paddle.seed(0)
    body = nn.utils.spectral_norm(nn.Linear(6, 6))
    return nn.LayerDict({"body": body, "head": nn.Linear(6, 3)})


def test_the_vectors_of_spectral_norm_hold_still_when_the_layer_is_frozen():
    model = with_spectral_norm()
    x = rows()
    handle = FreezePlan().freeze("body").apply(model)
    model.train()
    first = model["body"](x).numpy()
    np.testing.assert_array_equal(model["body"](x).numpy(), first)
    assert handle.verify().states == 2
    handle.remove()
    model["body"](x)
    assert not np.array_equal(model["body"](x).numpy(), first)


def test_the_vectors_of_spectral_norm_move_while_any_parameter_trains():
    model = with_spectral_norm()
    handle = FreezePlan().freeze("body & bias").apply(model)
    model.train()
    before = bits(model)
    model["body"](rows())
    assert {"body.weight_u", "body.weight_v"} <= moved(model, before)
    handle.verify()


def test_the_spectral_norm_layer_has_state_and_no_parameters():
    """A: its vectors are parameters to Paddle."""
    model = nn.LayerDict({"body": nn.SpectralNorm([3, 4]), "head": nn.Linear(2, 2)})
    handle = FreezePlan().train("all").apply(model)
    assert handle.resolution.counts() == (6, 6)
    assert model["body"].weight_u.stop_gradient
    assert {state.path for state in BACKEND.describe(model).states} == {
        "body.weight_u",
        "body.weight_v",
    }


def test_a_frozen_layer_under_weight_norm_keeps_both_of_its_tensors():
    paddle.seed(0)
    body = nn.utils.weight_norm(nn.Linear(6, 6))
    model = nn.Sequential(body, nn.Linear(6, 3))
    handle = FreezePlan().freeze("path:'0'").apply(model)
    assert set(handle.resolution.frozen_paths) == {"0.weight_g", "0.weight_v", "0.bias"}
    before = bits(model)
    train(model, paddle.optimizer.AdamW(0.1, parameters=model.parameters(), weight_decay=0.1))
    assert moved(model, before) == {"1.weight", "1.bias"}
    handle.verify()


# Quantisers --------------------------------------------------------------------------------------


def quantised():
    paddle.seed(0)
    quanter = FakeQuanterWithAbsMaxObserver(moving_rate=0.9)
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1D(6), nn.Linear(6, 3))
    return QAT(QuantConfig(activation=quanter, weight=quanter)).quantize(model)


def warmed():
    """A quantised model that has seen a batch; ranges that have seen nothing are refused."""
    model = quantised()
    model.train()
    model(rows())
    return model


def scales(model):
    return {name for name, _ in model.named_parameters() if "_scale" in name}


def test_the_scales_of_a_quantiser_are_state_and_never_thawed():
    """A: they are parameters to Paddle."""
    model = quantised()
    before = {name: p.stop_gradient for name, p in model.named_parameters() if "quanter" in name}
    handle = FreezePlan().train("all").apply(model)
    assert handle.resolution.counts() == (75, 75)
    spec = BACKEND.describe(model)
    assert {state.path for state in spec.states} >= scales(model)
    assert not any("_scale" in p.path for p in spec.parameters)
    after = {name: p.stop_gradient for name, p in model.named_parameters() if "quanter" in name}
    assert after == before


def test_the_scales_of_a_frozen_layer_hold_still_and_others_move():
    model = warmed()
    handle = FreezePlan().freeze("path:'0'").apply(model)
    before = bits(model)
    train(model, paddle.optimizer.SGD(0.1, parameters=model.parameters()))
    handle.verify()
    changed = moved(model, before)
    assert not {name for name in changed if name.startswith("0.")}
    assert "2.weight_quanter._scale" in changed


def test_a_copy_of_a_trained_quantised_model_has_the_same_parameters():
    """A: training sets the flags of scales, and a plan those of weights; neither says what is."""
    model = warmed()
    FreezePlan().freeze("path:'0'").apply(model)
    train(model, paddle.optimizer.SGD(0.1, parameters=model.parameters()))
    found = [p.path for p in BACKEND.describe(copy.deepcopy(model)).parameters]
    assert found == [p.path for p in BACKEND.describe(quantised()).parameters]
    assert "0.weight" in found


def test_a_quantised_linear_layer_is_a_linear_layer():
    names = [p.name for p in BACKEND.describe(quantised()).parameters]
    assert names == [
        "net/linear.0/weight", "net/linear.0/bias", "net/norm.0/weight", "net/norm.0/bias",
        "head/linear.0/weight", "head/linear.0/bias",
    ]  # fmt: skip


def test_a_quantiser_of_a_users_own_has_state_too():
    class Own(BaseQuanter):
        def __init__(self):
            super().__init__()
            self._scale = self.create_parameter([1])
            self._scale.stop_gradient = True

        def forward(self, x):
            return x

        def scales(self):
            return self._scale

        def zero_points(self):
            return None

        def quant_axis(self):
            return None

        def bit_length(self):
            return 8

    model = nn.LayerDict({"quanter": Own(), "head": nn.Linear(2, 2)})
    assert [p.path for p in BACKEND.describe(model).parameters] == ["head.weight", "head.bias"]


def test_a_scale_that_is_learned_is_a_parameter():
    quanter = FakeQuantActLSQPlus(8, batch_init=1)
    model = nn.LayerDict({"quanter": quanter, "head": nn.Linear(2, 2)})
    quanter(rows())  # until it has measured its range it is refused
    FreezePlan().freeze("quanter").apply(model)
    for each in (model, copy.deepcopy(model)):
        assert [p.path for p in BACKEND.describe(each).parameters] == [
            "quanter.s", "quanter.beta", "head.weight", "head.bias",
        ] or [p.path for p in BACKEND.describe(each).parameters] == [
            "quanter.s", "head.weight", "head.bias",
        ]  # fmt: skip


# What cannot be trained --------------------------------------------------------------------------


class WithIntegers(nn.Layer):
    """Paddle lets an integer parameter be trainable, and its optimizers fail on one."""

    def __init__(self):
        super().__init__()
        zero = nn.initializer.Constant(0)
        self.codes = self.create_parameter([3], dtype="int32", default_initializer=zero)
        self.codes.stop_gradient = True
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(x)


def test_training_everything_leaves_integers_alone_and_says_so():
    model = WithIntegers()
    handle = FreezePlan().train("all").apply(model)
    assert model.codes.stop_gradient
    assert not model.head.weight.stop_gradient
    assert any(
        "leaves codes as found (a int32 tensor has no gradient)" in notice
        for notice in handle.resolution.notices
    )
    train(model, handle.optimizer(paddle.optimizer.AdamW, lr=0.1))


def test_training_an_integer_by_name_is_an_error():
    with pytest.raises(FixedParameterError, match="codes: a int32 tensor has no gradient"):
        FreezePlan().train("path:'codes'").apply(WithIntegers())


def test_an_integer_found_trainable_can_be_frozen():
    model = WithIntegers()
    model.codes.stop_gradient = False
    handle = FreezePlan().freeze("path:'codes' | path:'head.bias'").apply(model)
    assert model.codes.stop_gradient
    handle.verify()


# Tables that rewrite themselves ------------------------------------------------------------------


def table():
    paddle.seed(0)
    return nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Linear(3, 2))


def test_a_frozen_table_with_a_largest_norm_is_refused():
    model = table()
    with pytest.raises(UnsupportedPlanError, match=r"0: max_norm rewrites(.|\n)*_max_norm = None"):
        FreezePlan().only('path:"1"').apply(model)
    assert not model[0].weight.stop_gradient
    model[0]._max_norm = None
    FreezePlan().only('path:"1"').apply(model)
    before = model[0].weight.numpy()
    model(paddle.to_tensor([[0, 1, 2]]))
    np.testing.assert_array_equal(model[0].weight.numpy(), before)


def test_a_table_with_a_largest_norm_may_train_and_a_dry_run_leaves_its_rows():
    model = table()
    before = model[0].weight.numpy()
    FreezePlan().only("head").resolve(model, batch=np.asarray([[0, 1, 2]]))
    np.testing.assert_array_equal(model[0].weight.numpy(), before)
    assert model[0]._max_norm == 0.5
    FreezePlan().freeze('path:"1"').apply(model)
