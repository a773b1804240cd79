"""Copies of a model under a plan: held as the model is, until somebody frees them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import paddle
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import unifreeze as uf
from tests.support.plan_machine.nets import ROWS, Paddle, Torch

SIDES = {"torch": Torch, "paddle": Paddle}


@pytest.fixture
def side(framework):
    return SIDES[framework]


def held_model(side):
    """Two parts, whose norms have seen something; the lower part is frozen."""
    model = side.whole()
    side.forward(model)
    uf.freeze(model, 'path:"low"')
    return model


def moves(side, model):
    """Which of the two norms a forward pass in training mode moves."""
    before = [side.statistics(part.norm) for part in (model.low, model.high)]
    side.forward(model)
    after = [side.statistics(part.norm) for part in (model.low, model.high)]
    return [a != b for a, b in zip(before, after, strict=True)]


def thaw(side, model):
    for module in side.modules(model).values():
        for tensor in side.own(module).values():
            side.put(tensor, True)


def test_a_copy_holds_what_the_model_holds(side):
    for model in (held_model(side), *side.copies(held_model(side))):
        assert moves(side, model) == [False, True]


def test_a_copy_that_is_thawed_updates_and_the_model_does_not(side):
    model = held_model(side)
    for other in side.copies(model):
        thaw(side, other)
        assert moves(side, other) == [True, True]
    assert moves(side, model) == [False, True]


def test_a_copy_of_a_copy_is_freed_alike(side):
    (other, *_) = side.copies(side.copies(held_model(side))[0])
    assert moves(side, other) == [False, True]
    thaw(side, other)
    assert moves(side, other) == [True, True]


def test_half_of_a_norm_thawed_frees_it(side):
    (other, *_) = side.copies(held_model(side))
    side.put(other.low.norm.bias, True)
    assert moves(side, other) == [True, True]


def test_unpin_frees_a_copy_and_leaves_its_flags(side):
    model = held_model(side)
    (other, *_) = side.copies(model)
    uf.unpin(other)
    assert moves(side, other) == [True, True]
    assert not any(side.get(tensor) for tensor in side.own(other.low.first).values())
    assert moves(side, model) == [False, True]
    uf.unpin(other)


def test_unpin_of_a_model_under_a_plan_is_refused(side):
    model = held_model(side)
    for target in (model, model.low):
        with pytest.raises(uf.UnifreezeError, match=r"under a plan(.|\n)*handle\.remove\(\)"):
            uf.unpin(target)
    assert moves(side, model) == [False, True]


def test_a_plan_on_a_copy_decides_there_and_leaves_it_as_it_was(side):
    (other, *_) = side.copies(held_model(side))
    handle = uf.FreezePlan().train("all").apply(other)
    assert moves(side, other) == [True, True]
    handle.remove()
    assert moves(side, other) == [False, True]
    thaw(side, other)
    assert moves(side, other) == [True, True]


def test_resetting_a_copys_statistics_frees_it():
    for other in Torch.copies(held_model(Torch)):
        other.low.norm.reset_running_stats()
        assert moves(Torch, other) == [True, True]
    for by_hand in ("reset_running_stats", "values"):
        (other, *_) = Torch.copies(held_model(Torch))
        if by_hand == "values":
            other.low.norm.running_mean.zero_()
            other.low.norm.running_var.fill_(1)
        else:
            getattr(other.low.norm, by_hand)()
        assert moves(Torch, other) == [True, True]


def test_resetting_a_copys_statistics_frees_it_in_paddle():
    (other, *_) = Paddle.copies(held_model(Paddle))
    other.low.norm._mean.set_value(paddle.zeros([4]))
    other.low.norm._variance.set_value(paddle.ones([4]))
    assert moves(Paddle, other) == [True, True]


def test_resetting_the_models_own_statistics_does_not_free_it():
    model = held_model(Torch)
    model.low.norm.reset_running_stats()
    assert moves(Torch, model) == [False, True]


@pytest.mark.parametrize("seen", [True, False], ids=["after data", "never trained"])
def test_update_bn_measures_an_average_as_without_a_plan(seen):
    """Stochastic weight averaging: a deep copy, whose norms are reset and measured anew."""
    torch.manual_seed(0)
    model = Torch.whole()
    if seen:
        Torch.forward(model)
    by_hand = copy.deepcopy(model)
    for tensor in by_hand.low.parameters():
        tensor.requires_grad = False
    handle = uf.freeze(model, 'path:"low"')
    data = [torch.tensor(ROWS) + n for n in range(3)]
    averages = [AveragedModel(model), AveragedModel(by_hand)]
    for average in averages:
        update_bn(data, average)
    for one, other in zip(*(average.buffers() for average in averages), strict=True):
        assert torch.equal(one, other)
    assert not np.allclose(averages[0].module.low.norm.running_mean, 0)
    handle.verify()


def test_a_teacher_that_follows_its_student_keeps_its_norms_held():
    """Mean teacher: a copy whose values are averaged, and which may run in training mode."""
    torch.manual_seed(0)
    student = held_model(Torch)
    teacher = copy.deepcopy(student)
    for _ in range(3):
        with torch.no_grad():
            for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(theirs, 0.5)
            for mine, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
                mine.copy_(theirs)
        assert moves(Torch, teacher) == [False, True]


def test_quiet_dropout_in_a_copy_comes_back_with_what_it_stands_in():
    block = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.LSTM(4, 4, 2, dropout=0.5))
    model = nn.ModuleDict({"block": block, "head": nn.Linear(4, 2)})
    uf.FreezePlan().freeze("block").with_dropout("off").apply(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other.train().block[1].training
        assert other.block[2].dropout == 0
        other.requires_grad_(True).train()
        assert other.block[1].training
        assert other.block[2].dropout == 0.5
    assert not model.train().block[1].training


def test_quiet_dropout_in_a_copy_comes_back_in_paddle():
    layers = paddle.nn
    block = layers.Sequential(layers.Linear(4, 4), layers.Dropout(0.5))
    model = layers.Sequential(block, layers.Linear(4, 2))
    uf.FreezePlan().freeze('path:"0"').with_dropout("off").apply(model)
    other = copy.deepcopy(model)
    rows = paddle.to_tensor(ROWS)

    def random(net):
        net.train()
        return not np.array_equal(net(rows).numpy(), net(rows).numpy())

    assert not random(other)
    thaw(Paddle, other)
    assert random(other)
    assert not random(model)
