"""PaddlePaddle: each group's rate and weight decay, and what an optimizer adds of its own."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.regularizer import L2Decay

from tests.support.kits.paddle_layers import bits
from tests.support.paddle_steps import loss_of, optimizer_class, stack, train
from tests.support.rounding import SINGLE_PART, check_same
from unifreeze import FreezePlan
from unifreeze.errors import OptimizerError

GROUPED = ["SGD", "Momentum", "Adam", "AdamW", "Lamb", "Adagrad", "Adamax", "RMSProp", "NAdam"]


def decay(name, value):
    key = "lamb_weight_decay" if name == "Lamb" else "weight_decay"
    return {} if value is None else {key: value}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("base", [None, 0.1])
@pytest.mark.parametrize("name", GROUPED)
def test_a_groups_rate_is_a_scale_and_its_decay_its_own(name, base):
    """Three steps under a plan's groups against plain optimizers, one per group, side by side."""
    cls = optimizer_class(name)
    model, reference = stack(), stack()
    plan = FreezePlan().freeze("path:'0.bias'")
    plan = plan.with_group("path:'0.weight'", lr_scale=10.0, weight_decay=0.5)
    plan = plan.with_group("path:'2'", lr_scale=0.1).with_group("path:'3.bias'", weight_decay=0.0)
    settings = {} if base is None else {"weight_decay": base}
    train(model, plan.apply(model).optimizer(cls, lr=0.01, **settings))

    reference[0].bias.stop_gradient = True
    rest = {} if base is None else decay(name, base)
    train(
        reference,
        cls(learning_rate=0.1, parameters=[reference[0].weight], **decay(name, 0.5)),
        cls(learning_rate=0.001, parameters=reference[2].parameters(), **rest),
        cls(learning_rate=0.01, parameters=[reference[3].bias], **decay(name, 0.0)),
        cls(learning_rate=0.01, parameters=[reference[3].weight], **rest),
    )
    start = stack()
    for found, expected, before in zip(
        model.parameters(), reference.parameters(), start.parameters(), strict=True
    ):
        check_same(found, expected, limit=SINGLE_PART)
        assert found.stop_gradient or np.abs(found.numpy() - before.numpy()).max() > 1e-5


def test_one_group_takes_exactly_the_steps_of_a_plain_optimizer():
    model, reference = stack(), stack()
    plan = FreezePlan().freeze("path:'0'")
    train(model, plan.apply(model).optimizer(paddle.optimizer.AdamW, lr=0.01, weight_decay=0.1))
    plan.apply(reference)
    trainable = [p for p in reference.parameters() if not p.stop_gradient]
    train(reference, paddle.optimizer.AdamW(0.01, parameters=trainable, weight_decay=0.1))
    assert bits(model) == bits(reference)


@pytest.mark.usefixtures("double")
def test_a_schedule_of_rates_scales_every_group():
    model = stack()
    plan = FreezePlan().freeze("path:'0'").with_group("path:'3'", lr_scale=10.0)
    rates = paddle.optimizer.lr.StepDecay(0.01, step_size=1, gamma=0.5)
    optimizer = plan.apply(model).optimizer(paddle.optimizer.SGD, lr=rates)
    sizes = []
    for _ in range(2):
        gradients, before = [], [model[2].bias.numpy(), model[3].bias.numpy()]
        loss_of(model).backward()
        gradients = [model[2].bias.grad.numpy(), model[3].bias.grad.numpy()]
        optimizer.step()
        optimizer.clear_grad()
        after = [model[2].bias.numpy(), model[3].bias.numpy()]
        rows = zip(before, after, gradients, strict=True)
        sizes.append([float(np.median((b - a) / g)) for b, a, g in rows])
        rates.step()
    np.testing.assert_allclose(sizes, [[0.01, 0.1], [0.005, 0.05]], rtol=SINGLE_PART)


def test_removing_the_plan_takes_its_rates_and_decays_off_the_parameters():
    """Paddle writes them onto the parameters, where any later optimizer would read them."""
    model, untouched = stack(), stack()
    plan = FreezePlan().freeze("path:'0'").with_group("path:'3'", lr_scale=10.0, weight_decay=0.5)
    handle = plan.apply(model)
    handle.optimizer(paddle.optimizer.SGD, lr=0.1)
    assert model[3].weight.optimize_attr["learning_rate"] == 10.0
    handle.remove()
    for each in (model, untouched):
        train(each, paddle.optimizer.SGD(0.1, parameters=each.parameters()))
    assert bits(model) == bits(untouched)
    rest = [vars(p).keys() for p in model.parameters()]
    assert rest == [vars(p).keys() for p in untouched.parameters()]


def test_an_earlier_optimizers_decay_does_not_reach_a_later_one():
    """AdamW would add the other's L2 decay to its own."""
    model, reference = stack(), stack()
    handle = FreezePlan().freeze("path:'0'").apply(model)
    handle.optimizer(paddle.optimizer.SGD, lr=0.1, weight_decay=0.5)
    train(model, handle.optimizer(paddle.optimizer.AdamW, lr=0.01, weight_decay=0.1))
    handle = FreezePlan().freeze("path:'0'").apply(reference)
    train(reference, handle.optimizer(paddle.optimizer.AdamW, lr=0.01, weight_decay=0.1))
    assert bits(model) == bits(reference)


def own_settings(seed=0):
    """A model whose author slowed one layer down and gave another a decay of its own."""
    paddle.seed(seed)
    slow = paddle.ParamAttr(learning_rate=0.1)
    held = paddle.ParamAttr(regularizer=L2Decay(0.3))
    return nn.Sequential(
        nn.Linear(4, 5), nn.Linear(5, 4, weight_attr=slow), nn.Linear(4, 3, weight_attr=held)
    )


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Adam", "AdamW"])
def test_rates_and_decays_of_the_models_author_stay_where_the_plan_says_nothing(name):
    model, reference = own_settings(), own_settings()
    plan = FreezePlan().freeze("path:'0'")
    optimizer = plan.apply(model).optimizer(optimizer_class(name), lr=0.01, weight_decay=0.5)
    train(model, optimizer)
    plan.apply(reference)
    train(
        reference,
        optimizer_class(name)(0.01, parameters=reference.parameters(), weight_decay=0.5),
    )
    assert bits(model) == bits(reference)


def test_a_groups_scale_multiplies_the_authors_rate():
    model = own_settings()
    plan = FreezePlan().freeze("path:'0'").with_group("path:'1'", lr_scale=5.0)
    groups = plan.apply(model).param_groups()
    rates = {id(p): group["learning_rate"] for group in groups for p in group["params"]}
    assert rates[id(model[1].weight)] == pytest.approx(0.5)
    assert rates[id(model[1].bias)] == 5.0
    assert rates[id(model[2].weight)] == 1.0


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_plans_decay_overrules_the_authors(name):
    model = own_settings()
    plan = FreezePlan().only("path:'2.weight'").with_group("path:'2.weight'", weight_decay=0.5)
    optimizer = plan.apply(model).optimizer(optimizer_class(name), lr=0.1)
    reference = nn.Linear(4, 3)
    reference.weight.set_value(model[2].weight)
    loss_of(model).backward()
    reference.weight.grad = model[2].weight.grad
    optimizer.step()
    optimizer_class(name)(0.1, parameters=[reference.weight], weight_decay=0.5).step()
    check_same(model[2].weight, reference.weight, limit=SINGLE_PART)


def test_clipping_by_a_global_norm_is_refused_where_it_would_be_one_norm_per_group():
    handle = FreezePlan().freeze("path:'0'").with_group("bias", lr_scale=2.0).apply(stack())
    with pytest.raises(OptimizerError, match=r"each of 2 groups(.|\n)*clip_grad_norm_"):
        handle.optimizer(paddle.optimizer.SGD, lr=0.1, grad_clip=nn.ClipGradByGlobalNorm(1.0))


def test_other_clipping_and_a_single_group_are_not_refused():
    plan = FreezePlan().freeze("path:'0'")
    model, reference = stack(), stack()
    clip = nn.ClipGradByGlobalNorm(0.01)
    train(model, plan.apply(model).optimizer(paddle.optimizer.SGD, lr=0.1, grad_clip=clip))
    plan.apply(reference)
    trainable = [p for p in reference.parameters() if not p.stop_gradient]
    train(reference, paddle.optimizer.SGD(0.1, parameters=trainable, grad_clip=clip))
    assert bits(model) == bits(reference)
    handle = plan.with_group("bias", lr_scale=2.0).apply(stack())
    handle.optimizer(paddle.optimizer.SGD, lr=0.1, grad_clip=nn.ClipGradByNorm(1.0))
