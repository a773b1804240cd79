"""PaddlePaddle: held statistics that are written, dropout under tracers, synchronised norms.

Rules B, G, M and O are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from paddle import nn

from tests.support.kits.paddle_layers import bits, floats, gradients
from tests.support.kits.paddle_nets import Stack, loss_of, moved, rows, statistics, train
from tests.support.rounding import check_same
from unifreeze import FreezePlan
from unifreeze.errors import FrozenDriftError

# The choices -------------------------------------------------------------------------------------


def test_a_held_statistic_that_is_written_is_seen():
    model = Stack()
    handle = FreezePlan().freeze("blocks").apply(model, keep_values=True)
    mean = model.blocks[0].norm._mean
    mean.set_value(mean + 0.5)
    with pytest.raises(FrozenDriftError, match=r"blocks\.0\.norm\._mean: moved \(by at most 0\.5"):
        handle.verify()


def test_dropout_off_reaches_dropout_that_is_no_layer():
    """Attention drops inside its own forward; in a frozen block that is off, too."""
    paddle.seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.5)
    model = nn.LayerDict({"body": layer, "head": nn.Linear(4, 2)})
    x = paddle.to_tensor(floats(2, 3, 4))
    layer.eval()
    expected = layer(x).numpy()
    handle = FreezePlan().freeze("body").with_dropout("off").apply(model)
    model.train()
    np.testing.assert_array_equal(layer(x).numpy(), expected)
    assert all(each.training for each in model.sublayers(include_self=True))
    handle.remove()
    assert not np.array_equal(layer(x).numpy(), expected)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("full_graph", [None, True])
def test_dropout_is_off_under_to_static(full_graph):
    """M"""
    model = Stack(dropout=0.5)
    expected = copy.deepcopy(model)
    expected.eval()
    FreezePlan().freeze("blocks").with_dropout("off").apply(model)
    traced = paddle.jit.to_static(model, full_graph=full_graph)
    traced.train()
    for _ in range(2):
        check_same(traced(rows()), expected(rows()))


@pytest.mark.usefixtures("double")
def test_a_model_with_dropout_off_can_be_exported(tmp_path):
    model = Stack(dropout=0.5)
    FreezePlan().freeze("blocks").with_dropout("off").apply(model)
    model.eval()
    spec = [paddle.static.InputSpec([8, 6], "float64")]
    paddle.jit.save(model, str(tmp_path / "model"), input_spec=spec)
    check_same(paddle.jit.load(str(tmp_path / "model"))(rows()), model(rows()))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_quiet_layer_keeps_the_mode_that_was_asked_for(mode):
    model = Stack(dropout=0.5)
    handle = FreezePlan().freeze("blocks").with_dropout("off").apply(model)
    getattr(model, mode)()
    model(rows())
    asked = mode == "train"
    assert {each.training for each in model.sublayers(include_self=True)} == {asked}
    handle.remove()
    assert {each.training for each in model.sublayers(include_self=True)} == {asked}


def test_a_quiet_layer_has_its_mode_back_when_forward_raises():
    model = Stack(dropout=0.5)
    FreezePlan().freeze("blocks").with_dropout("off").apply(model)
    model.train()
    with pytest.raises(ValueError, match=r"."):
        model.blocks[0](paddle.ones([2, 5]))
    assert model.blocks[0].first.training
    assert model.blocks[0].training


# The synchronised norm ---------------------------------------------------------------------------


class Synchronised(nn.SyncBatchNorm):
    """Has no CPU kernel, so this one computes as the plain norm does, by its own mode alone."""

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self._mean, self._variance, self.weight, self.bias, training=self.training
        )


def test_a_synchronised_norm_is_held_by_its_mode():
    """G: it ignores `use_global_stats`."""
    model = Stack(norm=Synchronised)
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    assert model.blocks[0].norm._use_global_stats is None
    before = bits(model)
    train(model, handle.optimizer(paddle.optimizer.SGD, lr=0.1))
    handle.verify()
    assert {"blocks.1.norm._mean", "blocks.1.norm._variance"} <= moved(model, before)
    assert model.blocks[0].norm.training
    handle.remove()
    before = statistics(model, "blocks.0")
    loss_of(model)
    assert statistics(model, "blocks.0") != before


@pytest.mark.usefixtures("double")
def test_a_half_frozen_synchronised_norm_trains_its_other_half():
    """B"""
    model = Stack(norm=Synchronised)
    expected = gradients(copy.deepcopy(model), rows())
    FreezePlan().freeze("norm & weight").apply(model)
    found = gradients(model, rows())
    for n in (0, 1):
        check_same(found[f"blocks.{n}.norm.bias"], expected[f"blocks.{n}.norm.bias"])


def test_a_model_converted_to_synchronised_norms_is_seen_to_have_lost_its_hold():
    """O: converting makes new layers, and only their parameters are the old ones."""
    model = Stack()
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    handle.reapply()
    assert model.blocks[0].norm._forward_pre_hooks
    assert type(model.blocks[0].norm) is nn.SyncBatchNorm
    assert not model.blocks[1].norm._forward_pre_hooks
