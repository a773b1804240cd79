"""PaddlePaddle: a plan applied, failed, removed, or in force for a while, leaves nothing behind.

Rules B, C and D are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

import unifreeze as uf
from tests.support.kits.paddle_layers import Above, floats, gradients, weighted
from tests.support.kits.paddle_nets import Stack, loss_of
from tests.support.paddle_descriptions import BACKEND, flags
from tests.support.rounding import check_same
from unifreeze import FreezePlan
from unifreeze.errors import (
    OptimizerError,
    TrivialPlanError,
    UndecidedRuleError,
    UnifreezeError,
    UnmatchedSelectorError,
    WriteError,
)


def inside(model):
    """Everything that hangs on each layer, with the identity of each value that has one.

    Paddle itself notes in `_built` that a layer with hooks has run. What stands in for a forward
    pass may be made anew, and counts by its sort.
    """
    found = {}
    for name, layer in model.named_sublayers(include_self=True):
        for key, value in vars(layer).items():
            if key == "_built":
                continue
            held = list(value.items()) if isinstance(value, dict) else [("", value)]
            found[name, key] = [
                (k, v if isinstance(v, bool | int | None) else getattr(v, "guard", named(key, v)))
                for k, v in held
            ]
    return found


def named(key, value):
    return type(value) if key == "forward" else id(value)


# remove ------------------------------------------------------------------------------------------


def recurrent():
    """A model that has run before: a norm notes the layout of its first input."""
    paddle.seed(0)
    model = nn.LayerDict({"body": Above(nn.LSTM(3, 4)), "norm": nn.LayerNorm(4), "head": Stack()})
    with paddle.no_grad():
        loss_of(model["head"])
    return model


@pytest.mark.parametrize(
    "plan",
    [
        FreezePlan().only('path:"head"'),
        FreezePlan().freeze("norm & weight").with_norm_stats("hold_all"),
        FreezePlan().freeze("body | **.blocks").with_dropout("off"),
        FreezePlan().freeze("body.layer.weight_ih_l0").with_group("bias", lr_scale=2.0),
    ],
    ids=lambda plan: str(plan.rules[0]),
)
def test_removing_a_plan_leaves_every_layer_as_it_was(plan):
    model = recurrent()
    model["body"].below[0].stop_gradient = True
    model["head"].eval()
    before = inside(model), flags(model)
    handle = plan.apply(model)
    assert (inside(model), flags(model)) != before
    assert "set_state_dict" in vars(model)
    handle.optimizer(paddle.optimizer.SGD, lr=0.1)
    weighted(model["body"](paddle.to_tensor(floats(2, 5, 3)))).backward()
    loss_of(model["head"]).backward()
    handle.remove()
    assert (inside(model), flags(model)) == before
    assert "set_state_dict" not in vars(model)


def test_removing_the_last_of_several_plans_goes_back_to_before_the_first():
    model = recurrent()
    before = inside(model), flags(model)
    FreezePlan().freeze("body").apply(model)
    FreezePlan().freeze("norm & weight").apply(model)
    FreezePlan().freeze("all").with_dropout("off").apply(model).remove()
    assert (inside(model), flags(model)) == before


def test_a_handle_whose_plan_is_gone_says_so():
    model = Stack()
    first = FreezePlan().only("head").apply(model)
    FreezePlan().freeze("head").apply(model).remove()
    with pytest.raises(UnifreezeError, match="no longer in force"):
        first.verify()


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        (FreezePlan().freeze("bakbone"), UnmatchedSelectorError),
        (FreezePlan().freeze("head").train("head"), UndecidedRuleError),
    ],
)
def test_a_plan_that_does_not_fit_leaves_the_model_as_it_was(plan, error):
    model = Stack()
    loss_of(model).backward()
    before = inside(model), flags(model), model.stem.weight.grad.numpy().tobytes()
    with pytest.raises(error):
        plan.apply(model)
    assert (inside(model), flags(model), model.stem.weight.grad.numpy().tobytes()) == before


@pytest.mark.parametrize("step", ["set_flag", "set_guards", "set_gradient"])
def test_an_apply_that_fails_half_way_leaves_the_model_as_it_was(monkeypatch, step):
    model = recurrent()
    loss_of(model["head"]).backward()
    stem = model["head"].stem.weight
    before = inside(model), flags(model), stem.grad.numpy().tobytes()
    done = getattr(BACKEND, step)
    calls = []

    def fails(*args, **kwargs):
        done(*args, **kwargs)
        calls.append(args)
        if len(calls) == (1 if step == "set_guards" else 3):
            raise RuntimeError("in the middle")

    monkeypatch.setattr(BACKEND, step, fails)
    with pytest.raises(WriteError, match="in the middle"):
        FreezePlan().freeze("all").apply(model)
    assert (inside(model), flags(model), stem.grad.numpy().tobytes()) == before


# For a while -------------------------------------------------------------------------------------


class Discriminator(nn.Layer):
    """Everything whose kernel needs help, in a row."""

    def __init__(self):
        super().__init__()
        paddle.seed(1)
        self.inorm = nn.InstanceNorm1D(3)
        self.act = nn.PReLU(3)
        self.rnn = nn.LSTM(3, 4)
        self.lnorm = nn.LayerNorm(4)
        self.norm = nn.BatchNorm1D(5)
        self.head = nn.Linear(4, 1)
        for tensor in (self.inorm.scale, self.lnorm.weight, self.norm.weight):
            tensor.set_value(floats(*tensor.shape))

    def forward(self, x):
        x, _ = self.rnn(self.act(self.inorm(x)).transpose([0, 2, 1]))
        return self.head(self.norm(self.lnorm(x)))


@pytest.mark.usefixtures("double")
def test_a_model_frozen_for_a_while_lets_the_right_gradient_through():
    """B, C, D: what a generator needs of its discriminator."""
    model = Discriminator()
    x = paddle.to_tensor(floats(2, 3, 5), stop_gradient=False)
    weighted(model(x)).backward()
    expected = x.grad.numpy()
    before = inside(model), flags(model)
    for _ in range(2):
        x.clear_gradient(False)
        for parameter in model.parameters():
            parameter.clear_gradient(False)
        with uf.frozen(model):
            weighted(model(x)).backward()
        check_same(x.grad, expected)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert (inside(model), flags(model)) == before


@pytest.mark.usefixtures("double")
def test_a_model_under_a_plan_can_be_frozen_for_a_while():
    model = Discriminator()
    x = paddle.to_tensor(floats(2, 3, 5), stop_gradient=False)
    handle = FreezePlan().freeze("norm & weight | rnn.weight_hh_l0").apply(model)
    expected = gradients(model, x), x.grad.numpy()
    before = inside(model), flags(model)
    with uf.frozen(model):
        x.clear_gradient(False)
        assert set(gradients(model, x).values()) == {None}
        check_same(x.grad, expected[1])
    assert (inside(model), flags(model)) == before
    check_same(gradients(model, x), expected[0])
    handle.verify()


def test_flags_come_back_when_the_work_fails():
    model = Discriminator()
    before = inside(model), flags(model)
    with pytest.raises(KeyboardInterrupt), uf.frozen(model):
        raise KeyboardInterrupt
    assert (inside(model), flags(model)) == before


# Several models, and everything ------------------------------------------------------------------


def test_several_models_go_under_one_plan_and_come_back():
    student, teacher = recurrent()["head"], recurrent()
    before = inside(student), inside(teacher), flags(student), flags(teacher)
    plan = FreezePlan().freeze("teacher").freeze("blocks[0] in student")
    handle = uf.apply(plan, {"student": student, "teacher": teacher})
    assert all(frozen for name, frozen in flags(teacher).items())
    assert handle.resolution.counts()[0] == 255 - 96
    x = paddle.to_tensor(floats(2, 5, 3), stop_gradient=False)
    weighted(teacher["body"].layer(x)).backward()
    assert np.abs(x.grad.numpy()).max() > 0
    handle.verify()
    handle.remove()
    assert (inside(student), inside(teacher), flags(student), flags(teacher)) == before


def test_freezing_everything_has_to_be_said():
    model = Stack()
    with pytest.raises(TrivialPlanError, match="leaves nothing trainable"):
        FreezePlan().freeze("stem | blocks | head").apply(model)
    assert not any(frozen for name, frozen in flags(model).items() if "norm._" not in name)


def test_a_model_frozen_whole_gives_a_loss_without_gradient():
    """Paddle's backward does nothing then, and says nothing."""
    model = Stack()
    handle = FreezePlan().freeze("all").apply(model)
    model.train()
    loss = loss_of(model)
    assert loss.stop_gradient
    loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert str(handle) == "trainable params: 0 || all params: 255 || trainable%: 0.0000"
    assert handle.verify()[:3] == (16, 4, 0)
    with pytest.raises(OptimizerError, match="nothing to train"):
        handle.param_groups()
