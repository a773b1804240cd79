"""PaddlePaddle: plans on models that were traced already: refused, or taken as traced.

Rules G and M are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import paddle
import pytest

import unifreeze as uf
from tests.support.kits.paddle_layers import bits
from tests.support.kits.paddle_nets import Stack, loss_of, moved, train
from tests.support.paddle_descriptions import flags
from unifreeze import FreezePlan
from unifreeze.errors import UnsupportedPlanError


class Decorated(Stack):
    @paddle.jit.to_static(full_graph=True)
    def forward(self, x):
        return super().forward(x)


def traced_whole():
    return paddle.jit.to_static(Stack(), full_graph=True)


@pytest.mark.parametrize("make", [traced_whole, Decorated])
def test_a_model_already_traced_whole_is_refused_with_the_cure(make):
    """M: a plan would have no effect on it, silently."""
    model = make()
    before = flags(model)
    FreezePlan().freeze("blocks[0]").apply(model).remove()
    loss_of(model)
    with pytest.raises(UnsupportedPlanError, match=r"already traced(.|\n)*then call to_static"):
        FreezePlan().freeze("blocks[0]").apply(model)
    assert flags(model) == before


def test_flags_are_not_changed_behind_a_whole_trace():
    """M: neither by removal nor for a while, for the program would not notice."""
    model = Stack()
    found = flags(model)
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    paddle.jit.to_static(model, full_graph=True)
    loss_of(model)
    before = flags(model)
    with pytest.raises(UnsupportedPlanError, match=r"cannot remove the plan(.|\n)*rollback"):
        handle.remove()
    with pytest.raises(UnsupportedPlanError, match="for a while"), uf.frozen(model):
        pass
    assert flags(model) == before
    model.forward.rollback()
    handle.remove()
    assert flags(model) == found


def test_a_part_already_traced_whole_is_named():
    """M"""
    model = Stack()
    paddle.jit.to_static(model.blocks[1], full_graph=True)
    loss_of(model)
    with pytest.raises(UnsupportedPlanError, match=r"blocks\.1: to_static"):
        FreezePlan().freeze("blocks[0]").apply(model)


def test_a_model_traced_whole_is_refused_even_if_only_statistics_would_hold():
    """G, M: every flag is as the plan says, but what the norms do is traced, too."""
    model = Stack()
    for parameter in model.blocks[0].parameters():
        parameter.stop_gradient = True
    paddle.jit.to_static(model, full_graph=True)
    loss_of(model)
    with pytest.raises(UnsupportedPlanError, match="already traced"):
        FreezePlan().freeze("blocks[0]").apply(model)


def test_a_traced_model_takes_the_plan_it_was_traced_under():
    """M: nothing would change."""
    model = Stack()
    plan = FreezePlan().freeze("blocks[0]")
    plan.apply(model)
    paddle.jit.to_static(model, full_graph=True)
    loss_of(model)
    plan.apply(model).verify()


def test_rolling_a_trace_back_lets_the_plan_be_applied():
    """M: the cure."""
    model = traced_whole()
    loss_of(model)
    model.forward.rollback()
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    traced = paddle.jit.to_static(model, full_graph=True)
    before = bits(model)
    train(traced, handle.optimizer(paddle.optimizer.SGD, lr=0.1))
    handle.verify()
    assert {"blocks.1.first.weight", "blocks.1.norm._mean"} <= moved(model, before)


def test_what_a_plan_thaws_trains_in_a_model_traced_by_default():
    """M: there a trace looks at the flags again."""
    model = Stack()
    traced = paddle.jit.to_static(model)
    traced.train()
    for plan, frozen in ((FreezePlan().freeze("blocks"), 12), (FreezePlan().train("all"), 0)):
        handle = plan.apply(model)
        for parameter in model.parameters():
            parameter.clear_gradient(False)
        loss_of(traced).backward()
        assert handle.check_gradients() == ()
        assert sum(parameter.grad is not None for parameter in model.parameters()) == 16 - frozen
