"""PaddlePaddle: what a frozen parameter does under every optimizer, and which writes are seen.

Rules E, F, I, J, K, L and N are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import inspect

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.regularizer import L2Decay
from paddle.utils import unique_name

from tests.support.kits.paddle_layers import bits, floats
from tests.support.paddle_steps import loss_of, optimizer_class, stack, train
from tests.support.rounding import SINGLE_PART, check_same, nudged
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend
from unifreeze.errors import ArgumentError, FrozenDriftError, OptimizerError, WriteError

OPTIMIZERS = {
    "SGD": {"weight_decay": 0.1},
    "Momentum": {"weight_decay": 0.1, "momentum": 0.9},
    "Momentum nesterov": {"weight_decay": L2Decay(0.1), "momentum": 0.9, "use_nesterov": True},
    "Adam": {"weight_decay": 0.1},
    "AdamW": {"weight_decay": 0.1},
    "Lamb": {"lamb_weight_decay": 0.1},
    "Adagrad": {"weight_decay": 0.1},
    "Adadelta": {"weight_decay": 0.1},
    "Adamax": {"weight_decay": 0.1},
    "RMSProp": {"weight_decay": 0.1, "momentum": 0.9},
    "NAdam": {"weight_decay": 0.1},
    "RAdam": {"weight_decay": 0.1},
    "ASGD": {"weight_decay": 0.1},
    "Rprop": {},
}


@pytest.fixture(params=OPTIMIZERS)
def make_optimizer(request):
    cls, settings = optimizer_class(request.param), OPTIMIZERS[request.param]
    return lambda parameters: cls(learning_rate=0.05, parameters=parameters, **settings)


def moved(model, before):
    after = bits(model)
    return {name for name in after if after[name] != before[name]}


# Flags -------------------------------------------------------------------------------------------


def test_a_flag_is_written_and_read_back():
    """L: only `stop_gradient` on the tensor counts."""
    model = stack()
    handle = FreezePlan().freeze("path:'0'").apply(model)
    assert [p.stop_gradient for p in model.parameters()] == [True] * 2 + [False] * 4
    assert [p.trainable for p in model.parameters()] == [False] * 2 + [True] * 4
    handle.remove()
    assert not any(p.stop_gradient for p in model.parameters())


def test_a_flag_that_does_not_stick_is_an_error_and_changes_nothing(monkeypatch):
    """L: in older releases setting the wrong attribute was silently ignored."""
    model = stack()
    loss_of(model).backward()
    gradients = [p.grad.numpy() for p in model.parameters()]
    backend = load_backend("paddle")
    frozen = FreezePlan().freeze("path:'0' | path:'2.weight'")
    deaf = model[2].weight
    written = backend.set_flag
    monkeypatch.setattr(
        backend, "set_flag", lambda t, trainable: None if t is deaf else written(t, trainable)
    )
    with pytest.raises(WriteError, match=r"1 of 6 flags did not read back"):
        frozen.apply(model)
    assert not any(p.stop_gradient for p in model.parameters())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        np.testing.assert_array_equal(parameter.grad.numpy(), gradient)


# Gradients left over -----------------------------------------------------------------------------


def test_freezing_drops_a_gradient_left_over():
    """E: Paddle's own clear_grad skips what is frozen."""
    model = stack()
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    loss_of(model).backward()
    FreezePlan().freeze("path:'0'").apply(model)
    assert model[0].weight.grad is None
    assert model[0].bias.grad is None
    assert model[2].weight.grad is not None
    optimizer.clear_grad()
    assert model[0].weight.grad is None


def test_the_first_gradient_after_thawing_is_not_added_to_an_old_one():
    """E: a gradient that came while it was frozen is dropped when it is trained again."""
    model = stack()
    loss_of(model).backward()
    expected = model[0].weight.grad.numpy()
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    FreezePlan().freeze("path:'0'").apply(model)
    model[0].weight.grad = paddle.ones([4, 5])
    FreezePlan().train("all").apply(model)
    assert model[0].weight.grad is None
    loss_of(model).backward()
    np.testing.assert_array_equal(model[0].weight.grad.numpy(), expected)


@pytest.mark.usefixtures("double")
def test_clipping_does_not_count_what_is_frozen():
    """E: `clip_grad_norm_` counts any gradient it finds, stale ones too."""
    model = stack()
    loss_of(model).backward()
    everything = paddle.nn.utils.clip_grad_norm_(model.parameters(), 1e9).item()
    squares = [float((p.grad**2).sum()) for p in model[2:].parameters()]
    FreezePlan().freeze("path:'0'").apply(model)
    found = paddle.nn.utils.clip_grad_norm_(model.parameters(), 1e9).item()
    assert found == pytest.approx(sum(squares) ** 0.5, rel=SINGLE_PART)
    assert found < everything


def test_a_gradient_that_comes_after_freezing_is_reported():
    """A plan acts between steps: a forward pass that was under way still gives gradients."""
    model = stack()
    loss = loss_of(model)
    handle = FreezePlan().freeze("path:'0.weight'").apply(model)
    loss.backward()
    assert [str(f) for f in handle.check_gradients()] == ["0.weight: is frozen and has a gradient"]


# Optimizers --------------------------------------------------------------------------------------


def test_every_optimizer_of_paddle_is_tried():
    """So that an optimizer of a later release is not forgotten."""
    optimizers = inspect.getmembers(paddle.optimizer, inspect.isclass)
    base = paddle.optimizer.Optimizer
    found = {name for name, cls in optimizers if issubclass(cls, base)} - {"Optimizer"}
    refused = {"LBFGS"}
    assert found - refused - {name.split()[0] for name in OPTIMIZERS} == set()


def test_a_parameter_frozen_on_the_way_keeps_every_bit(make_optimizer):
    """With momentum, decay and moments that it had gathered before."""
    model = stack()
    optimizer = make_optimizer(model.parameters())
    train(model, optimizer)
    loss_of(model).backward()
    handle = FreezePlan().freeze("path:'0' | path:'2.bias'").apply(model)
    before = bits(model)
    train(model, optimizer)
    assert moved(model, before) == {"2.weight", "3.weight", "3.bias"}
    assert handle.verify().parameters == 3


def test_a_parameter_frozen_from_the_start_keeps_every_bit_and_trains_later(make_optimizer):
    """J: an optimizer over all parameters takes in what is thawed; no moments came before."""
    model = stack()
    FreezePlan().freeze("path:'0'").apply(model)
    optimizer = make_optimizer(model.parameters())
    before = bits(model)
    train(model, optimizer)
    assert moved(model, before) == {"2.weight", "2.bias", "3.weight", "3.bias"}
    FreezePlan().train("all").apply(model)
    before = bits(model)
    train(model, optimizer)
    assert moved(model, before) == set(before)


def test_cutting_the_activation_would_not_have_held_it():
    """F: Paddle fills in zeros as gradients, and decay moves the weight; the flag holds it."""

    def after(model, forward):
        optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters(), weight_decay=0.1)
        train(model, optimizer, steps=1)
        before = bits(model)
        forward(model)
        for _ in range(2):
            x = model[0](paddle.to_tensor(floats(6, 4)))
            if forward is cut:
                x.stop_gradient = True
            model[1:](x).sum().backward()
            optimizer.step()
            optimizer.clear_grad()
        return moved(model, before)

    def cut(_model):
        pass

    def planned(model):
        FreezePlan().freeze("path:'0'").apply(model)

    assert "0.weight" in after(stack(), cut)
    assert not after(stack(), planned) & {"0.weight", "0.bias"}


def test_a_clip_inside_the_optimizer_leaves_what_is_frozen_alone():
    model = stack()
    loss_of(model).backward()
    FreezePlan().freeze("path:'0'").apply(model)
    optimizer = paddle.optimizer.Momentum(
        0.1, parameters=model.parameters(), weight_decay=0.1,
        grad_clip=nn.ClipGradByGlobalNorm(0.01),
    )  # fmt: skip
    before = bits(model)
    train(model, optimizer)
    assert moved(model, before) == {"2.weight", "2.bias", "3.weight", "3.bias"}


def test_lbfgs_is_refused():
    """I: it keeps one direction over all parameters."""
    handle = FreezePlan().freeze("path:'0'").apply(stack())
    with pytest.raises(OptimizerError, match="LBFGS keeps one direction"):
        handle.optimizer(paddle.optimizer.LBFGS, lr=1.0)


def test_lbfgs_made_by_hand_is_caught_by_verify():
    """I: it moves what was frozen after its first step."""
    model = stack()
    optimizer = paddle.optimizer.LBFGS(0.1, max_iter=3, parameters=model.parameters())

    def closure():
        optimizer.clear_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    optimizer.step(closure)
    handle = FreezePlan().freeze("path:'0.weight'").apply(model, keep_values=True)
    before = model[0].weight.numpy()
    optimizer.step(closure)
    change = np.abs(model[0].weight.numpy() - before).max()
    assert change > 0
    with pytest.raises(FrozenDriftError, match=rf"0\.weight: moved \(by at most {change:.3g}\)"):
        handle.verify()


@pytest.mark.parametrize(
    ("cls", "error", "message"),
    [
        (nn.Linear, OptimizerError, "the class Linear is not a Paddle optimizer class"),
        ("AdamW", ArgumentError, "cls is 'AdamW', and should be a class"),
        (None, ArgumentError, "cls is None, and should be a class"),
        (paddle.optimizer.lr.StepDecay, OptimizerError, "StepDecay is not a Paddle optimizer"),
    ],
)
def test_what_is_no_optimizer_is_refused(cls, error, message):
    handle = FreezePlan().freeze("path:'0'").apply(stack())
    with pytest.raises(error, match=message):
        handle.optimizer(cls, lr=0.1)


@pytest.mark.parametrize("name", ["Momentum", "Adam"])
def test_an_optimizer_of_the_handle_may_take_all_tensors_at_once(name):
    """I: it never sees what is frozen, so its count of gradients is right.

    Paddle does so in single precision only.
    """
    plan = FreezePlan().freeze("path:'0'").with_group("bias", lr_scale=3.0, weight_decay=0.0)
    trained = []
    for together, start in ((True, np.asarray), (False, np.asarray), (False, nudged)):
        model = stack()
        for parameter in model.parameters():
            parameter.set_value(start(parameter.numpy()))
        optimizer = plan.apply(model).optimizer(
            optimizer_class(name), lr=0.01, weight_decay=0.1, use_multi_tensor=together
        )
        train(model, optimizer)
        trained.append({name: p.numpy() for name, p in model.named_parameters()})
    found, expected, near = trained
    check_same(found, expected, near=near)


@pytest.mark.parametrize("name", ["Momentum", "Adam"])
def test_an_optimizer_over_all_tensors_at_once_fails_loudly_when_a_plan_comes_later(name):
    """I: Paddle's own error, before anything is written."""
    model = stack()
    cls = optimizer_class(name)
    optimizer = cls(learning_rate=0.1, parameters=model.parameters(), use_multi_tensor=True)
    train(model, optimizer)
    handle = FreezePlan().freeze("path:'0'").apply(model)
    before = bits(model)
    with pytest.raises(ValueError, match=r"received (n|param_num):6 != grads?\.size\(\):4"):
        train(model, optimizer)
    assert not moved(model, before)
    handle.verify()


# Plans that follow one another -------------------------------------------------------------------


def test_an_optimizer_of_the_next_plan_trains_what_that_plan_thaws():
    """J: one built from a filtered list would never see it."""
    model = stack()
    first = FreezePlan().freeze("path:'0'").apply(model)
    train(model, first.optimizer(paddle.optimizer.AdamW, lr=0.01))
    second = FreezePlan().train("all").apply(model)
    before = bits(model)
    train(model, second.optimizer(paddle.optimizer.AdamW, lr=0.01))
    assert moved(model, before) == set(before)


def test_a_run_resumed_under_its_plan_goes_on_as_if_it_had_not_stopped(tmp_path):
    """K: the states of an optimizer belong to one set of trainable parameters."""
    plan = FreezePlan().freeze("path:'0'").with_group("bias", lr_scale=2.0)

    def begin():
        model = stack()
        cls = paddle.optimizer.AdamW
        return model, plan.apply(model).optimizer(cls, lr=0.01, weight_decay=0.1)

    with unique_name.guard():  # Paddle finds states by names that are counted per process
        model, optimizer = begin()
        train(model, optimizer)
        paddle.save(model.state_dict(), str(tmp_path / "model"))
        paddle.save(optimizer.state_dict(), str(tmp_path / "optimizer"))
        train(model, optimizer)
    with unique_name.guard():
        resumed, optimizer = begin()
        resumed.set_state_dict(paddle.load(str(tmp_path / "model")))
        optimizer.set_state_dict(paddle.load(str(tmp_path / "optimizer")))
        train(resumed, optimizer)
    assert bits(resumed) == bits(model)


def test_states_saved_under_another_plan_are_not_silently_taken():
    """K: Paddle's own error where what was frozen then has none."""

    def begin(plan):
        model = stack()
        plan.apply(model)
        return model, paddle.optimizer.AdamW(0.01, parameters=model.parameters())

    with unique_name.guard():
        model, optimizer = begin(FreezePlan().freeze("path:'0'"))
        train(model, optimizer)
        saved = optimizer.state_dict()
    with unique_name.guard():
        model, optimizer = begin(FreezePlan().freeze("path:'0.bias'"))
        optimizer.set_state_dict(saved)
        before = bits(model)
        with pytest.raises(AssertionError, match=r"linear_0\.w_0_moment1_0 should in state dict"):
            train(model, optimizer)
    assert not moved(model, before)


# What verify sees --------------------------------------------------------------------------------


def overwrite(model):
    model[0].weight.set_value(model[0].weight + 1.0)


def assign(model):
    paddle.assign(paddle.zeros([4, 5]), model[0].weight)


def in_place(model):
    with paddle.no_grad():
        model[0].weight.scale_(2.0)


def one_sign(model):
    with paddle.no_grad():
        model[0].weight[1, 2] = -model[0].weight[1, 2]


def from_a_vector(model):
    vector = paddle.nn.utils.parameters_to_vector(model[0].parameters())
    paddle.nn.utils.vector_to_parameters(vector * 1.5, model[0].parameters())


@pytest.mark.parametrize("write", [overwrite, assign, in_place, one_sign, from_a_vector])
def test_a_write_into_a_frozen_parameter_is_seen(write):
    """Paddle lets all of these through, and its own version counter does not move."""
    model = stack()
    handle = FreezePlan().freeze("path:'0.weight'").apply(model)
    handle.verify()
    write(model)
    with pytest.raises(FrozenDriftError, match=r"0\.weight: moved"):
        handle.verify()


def test_a_write_through_memory_shared_with_numpy_is_seen():
    model = stack()
    handle = FreezePlan().freeze("path:'0.weight'").apply(model)
    shared = np.from_dlpack(model[0].weight.detach())
    pointer = shared.__array_interface__["data"][0]
    view = np.ctypeslib.as_array(
        np.ctypeslib.ctypes.cast(pointer, np.ctypeslib.ctypes.POINTER(np.ctypeslib.ctypes.c_float)),
        (20,),
    )
    view[3] += 1.0
    with pytest.raises(FrozenDriftError, match=r"0\.weight: moved"):
        handle.verify()


# Recomputation -----------------------------------------------------------------------------------


class Recomputing(nn.Layer):
    """Blocks that are computed again in the backward pass, above an embedding."""

    def __init__(self, reentrant):
        super().__init__()
        paddle.seed(0)
        self.embedding = nn.Embedding(7, 4)
        self.blocks = nn.LayerList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = recompute(block, x, use_reentrant=self.reentrant)
        return self.head(x)


def test_layers_left_without_gradient_by_reentrant_recomputation_are_named():
    """N: above a frozen embedding they silently get none."""
    model = Recomputing(reentrant=True)
    handle = FreezePlan().freeze("tables").apply(model)
    model(paddle.to_tensor([[1, 2, 3]])).sum().backward()
    findings = {finding.subject: finding.message for finding in handle.check_gradients()}
    assert findings == dict.fromkeys(
        ["blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias"],
        "is trainable and has no gradient",
    )


def test_recomputation_that_is_not_reentrant_trains_above_a_frozen_embedding():
    """N"""
    model = Recomputing(reentrant=False)
    handle = FreezePlan().freeze("tables").apply(model)
    model(paddle.to_tensor([[1, 2, 3]])).sum().backward()
    assert handle.check_gradients() == ()
