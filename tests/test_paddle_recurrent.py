"""Recurrent networks in PaddlePaddle: nothing that hangs in a cell alone is left out.

Which tensor is which is measured against PyTorch: values are carried over by canonical names, and
both networks must then compute the same, and give the same gradients under the same plan.
"""

from __future__ import annotations

import random

import numpy as np
import paddle
import pytest
import torch
from paddle import nn

import unifreeze as uf
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend

PADDLE, TORCH = load_backend("paddle"), load_backend("torch")
MODES = ("LSTM", "GRU", "SimpleRNN")
SHAPES = [
    (mode, layers, both, projection)
    for mode in MODES
    for layers in (1, 2)
    for both in (False, True)
    for projection in ((0, 3) if mode == "LSTM" else (0,))
]
"""Mode, number of layers, whether both directions, and size of the projection."""


@pytest.fixture(autouse=True)
def in_double():
    before = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype(before)


def in_paddle(mode, layers=1, both=False, projection=0, **more):
    sizes = {"proj_size": projection} if projection else {}
    direction = "bidirect" if both else "forward"
    return getattr(nn, mode)(5, 6, num_layers=layers, direction=direction, **sizes, **more)


def in_torch(mode, layers=1, both=False, projection=0):
    cls = {"SimpleRNN": "RNN"}.get(mode, mode)
    sizes = {"proj_size": projection} if projection else {}
    return getattr(torch.nn, cls)(
        5, 6, layers, bidirectional=both, batch_first=True, dtype=torch.float64, **sizes
    )


class Paddle(nn.Layer):
    """A linear layer, so that gradient has somewhere to go, a network, and what uses it."""

    def __init__(self, rnn, width):
        super().__init__()
        self.below, self.rnn, self.out = nn.Linear(7, 5), rnn, nn.Linear(width, 2)

    def forward(self, x):
        return self.out(self.rnn(self.below(x))[0])


class Torch(torch.nn.Module):
    def __init__(self, rnn, width):
        super().__init__()
        self.below = torch.nn.Linear(7, 5, dtype=torch.float64)
        self.rnn, self.out = rnn, torch.nn.Linear(width, 2, dtype=torch.float64)

    def forward(self, x):
        return self.out(self.rnn(self.below(x))[0])


def models(shape):
    """The same network in both frameworks, with the same values by canonical name."""
    _, _, both, projection = shape
    width = (projection or 6) * (2 if both else 1)
    one, other = Torch(in_torch(*shape), width), Paddle(in_paddle(*shape), width)
    here = {p.name: p for p in TORCH.describe(one).parameters}
    there = {p.name: p for p in PADDLE.describe(other).parameters}
    assert here.keys() == there.keys()
    assert [p.neutral_shape for p in here.values()] == [there[n].neutral_shape for n in here]
    for name, parameter in here.items():
        value = TORCH.tensor(one, parameter.path)
        turned = there[name].shape != there[name].neutral_shape
        PADDLE.assign(other, there[name].path, np.ascontiguousarray(value.T if turned else value))
    return one, other


def batch(width=7):
    return np.random.default_rng(0).standard_normal((3, 4, width))


def listed(model):
    """What the framework lists, by identity."""
    return {id(tensor): name for name, tensor in model.named_parameters()}


def described(model):
    spec = PADDLE.describe(model)
    live = PADDLE.objects(model)
    return {id(live[parameter.path]): parameter for parameter in spec.parameters}


# What there is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_one_layer_with_the_names_it_has_in_pytorch(shape):
    """Paddle hands its names out in order, and with a projection to the wrong tensors."""
    one, other = models(shape)
    assert described(other).keys() == listed(other).keys()
    spec = PADDLE.describe(other)
    assert not any(parameter.aliases for parameter in spec.parameters)
    assert not spec.runs
    assert {p.owner for p in spec.parameters} == {"below", "rnn", "out"}
    expected = one(torch.from_numpy(batch())).detach().numpy()
    np.testing.assert_allclose(other(paddle.to_tensor(batch())).numpy(), expected, rtol=1e-9)


def without(leaf):
    """Build a network whose own registration of a weight is taken off; the cell still has it."""

    def build():
        rnn = in_paddle("LSTM", 2)
        del rnn._parameters[leaf]
        return rnn

    return build


def with_another(leaf):
    """Build a network that registers another tensor than the cell under the same name."""

    def build():
        rnn = in_paddle("GRU")
        setattr(rnn, leaf, rnn.create_parameter(rnn._parameters[leaf].shape))
        return rnn

    return build


class Gated(nn.LSTMCell):
    """A cell of a user's own, with layers and a parameter beside its weights."""

    def __init__(self):
        super().__init__(5, 6)
        self.norm, self.gate = nn.LayerNorm(6), nn.Linear(6, 6)
        self.scale = self.create_parameter([6])

    def forward(self, inputs, states=None):
        output, states = super().forward(inputs, states)
        return self.norm(self.gate(output)) * self.scale, states


def with_own_cell():
    rnn = in_paddle("LSTM")
    rnn[0].cell, rnn.could_use_cudnn = Gated(), False
    return rnn


class WithNorm(nn.GRU):
    def __init__(self):
        super().__init__(5, 6)
        self.norm = nn.LayerNorm(6)


def sharing():
    rnn = in_paddle("LSTM")
    rnn.other = in_paddle("LSTM")
    rnn.other[0].cell = rnn[0].cell
    return rnn


ODD = {
    "a weight dropped": without("weight_hh_l0"),
    "a bias dropped": without("bias_ih_l1"),
    "a weight replaced": with_another("weight_hh_l0"),
    "no bias for inputs": lambda: in_paddle("LSTM", bias_ih_attr=False),
    "no bias for inputs, two layers": lambda: in_paddle("GRU", 2, bias_ih_attr=False),
    "no bias for states": lambda: in_paddle("SimpleRNN", bias_hh_attr=False),
    "a cell of one's own": with_own_cell,
    "a layer of one's own": WithNorm,
    "another network in it, with its cell": sharing,
    "RNN of a cell": lambda: nn.RNN(Gated()),
    "BiRNN of two cells": lambda: nn.BiRNN(Gated(), nn.LSTMCell(5, 6)),
    "RNN of a cell that projects": lambda: nn.RNN(nn.LSTMCell(5, 6, proj_size=3)),
}


@pytest.mark.parametrize("build", ODD.values(), ids=ODD)
def test_nothing_that_a_network_holds_is_left_out(build):
    model = nn.LayerDict({"rnn": build(), "out": nn.Linear(6, 2)})
    found = described(model)
    assert found.keys() == listed(model).keys()
    names = [parameter.name for parameter in found.values()]
    assert len(set(names)) == len(names)
    handle = FreezePlan().only("out").apply(model)
    trained = {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert trained == {"out.weight", "out.bias"}
    assert handle.resolution.counts()[1] == sum(p.size for p in model.parameters())


@pytest.mark.parametrize("name", ["a weight dropped", "a cell of one's own", "RNN of a cell"])
def test_what_hangs_in_a_cell_alone_keeps_its_bits(name):
    model = nn.LayerDict({"rnn": ODD[name](), "out": nn.Linear(6, 2)})
    handle = FreezePlan().only("out").apply(model)
    before = {n: p.numpy().tobytes() for n, p in model.named_parameters()}
    optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters(), weight_decay=0.1)
    model.train()
    model["out"](model["rnn"](paddle.to_tensor(batch(5)))[0]).square().mean().backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if p.numpy().tobytes() != before[n]}
    assert moved == {"out.weight", "out.bias"}
    handle.verify()


def test_a_cell_put_in_later_is_seen():
    model = nn.LayerDict({"rnn": in_paddle("LSTM"), "out": nn.Linear(6, 2)})
    handle = FreezePlan().only("out").apply(model)
    model["rnn"][0].cell = Gated()
    assert described(model).keys() == listed(model).keys()
    handle.reapply()
    assert all(p.stop_gradient for p in model["rnn"].parameters())


# What passes through it --------------------------------------------------------------------------


def gradients(model, spec, outputs):
    """The gradient of a weighted sum of outputs, by canonical name in the neutral layout."""
    outputs.backward()
    found, live = {}, dict(model.named_parameters())
    for parameter in spec.parameters:
        gradient = live[parameter.path].grad
        value = None if gradient is None else gradient.numpy()
        turned = value is not None and parameter.shape != parameter.neutral_shape
        found[parameter.name] = value.T if turned else value
    return found


def frozen_sets(names, seed):
    """Nothing, all of the network, and a few halves of it, with and without what is below."""
    draw = random.Random(seed)
    inside = [name for name in names if "/rnn." in name]
    halves = [draw.sample(inside, draw.randint(1, len(inside) - 1)) for _ in range(3)]
    sets = [[], inside, *halves]
    return [
        *sets,
        *([*one, *(n for n in names if "linear.0/" in n and "net" in n)] for one in sets),
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_half_frozen_it_gives_the_gradients_of_pytorch(shape):
    one, other = models(shape)
    specs = TORCH.describe(one), PADDLE.describe(other)
    names = [parameter.name for parameter in specs[0].parameters]
    weights = np.random.default_rng(1).standard_normal((3, 4, 2))
    for frozen in frozen_sets(names, seed=repr(shape)):
        plan = FreezePlan().train("all")
        if frozen:
            plan = plan.freeze(" | ".join(f'at:"{name}"' for name in frozen))
        plan.apply(one.train())
        other.train()
        plan.apply(other)
        loss = (one(torch.from_numpy(batch())) * torch.from_numpy(weights)).sum()
        expected = gradients(one, specs[0], loss)
        loss = (other(paddle.to_tensor(batch())) * paddle.to_tensor(weights)).sum()
        found = gradients(other, specs[1], loss)
        assert {n for n in names if found[n] is None} == set(frozen)
        for name, gradient in expected.items():
            if gradient is None:
                assert found[name] is None, name
            else:
                np.testing.assert_allclose(found[name], gradient, rtol=1e-8, atol=1e-12)
        one.zero_grad()
        for parameter in other.parameters():
            parameter.clear_gradient(False)


@pytest.mark.parametrize("leaf", ["weight_hh_l0", "weight_ih_l1", "bias_hh_l0"])
def test_gradient_passes_one_that_does_not_register_a_frozen_weight(leaf):
    """The kernel is given it all the same, and passes no gradient on if it is frozen."""
    rnn = without(leaf)()
    model = Paddle(rnn, 6)
    x = paddle.to_tensor(batch())
    model.train()
    model(x).square().sum().backward()
    expected = model.below.weight.grad.numpy()
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    FreezePlan().only("below").apply(model)
    model(x).square().sum().backward()
    np.testing.assert_allclose(model.below.weight.grad.numpy(), expected, rtol=1e-9)
    assert all(p.grad is None for p in rnn.parameters())


@pytest.mark.parametrize("shape", [("LSTM", 1, False, 3), ("LSTM", 2, True, 3)], ids=str)
def test_weights_are_carried_over_by_what_they_do_not_by_what_they_are_called(shape):
    """Paddle calls the second layer's `weight_ih` what is the first one's projection."""
    _, _, both, projection = shape
    width = projection * (2 if both else 1)
    one, other = Torch(in_torch(*shape), width), Paddle(in_paddle(*shape), width)
    pairing = uf.pair(one, other, batch=batch())
    names = {p.path: p.name for p in TORCH.describe(one).parameters}
    theirs = {p.path: p.name for p in PADDLE.describe(other).parameters}
    assert {names[pair.one]: theirs[pair.other] for pair in pairing.pairs} == {
        name: name for name in names.values()
    }
    uf.port_weights(one, other, pairing=pairing)
    expected = one(torch.from_numpy(batch())).detach().numpy()
    np.testing.assert_allclose(other(paddle.to_tensor(batch())).numpy(), expected, rtol=1e-9)


# Captured with a batch -----------------------------------------------------------------------


class Reads(nn.Layer):
    """A recurrent network and a head."""

    def __init__(self, network):
        super().__init__()
        self.net, self.out = network, nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.net(x)[0].mean(1))


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.SimpleRNN])
@pytest.mark.parametrize("leaf", ["weight_ih_l0", "bias_hh_l0"])
def test_one_frozen_weight_of_a_recurrent_network_is_captured_with_a_batch(make, leaf):
    """Paddle cannot run such a layer backward by itself."""
    model = Reads(make(6, 5))
    before = set(vars(model.net))
    getattr(model.net, leaf).stop_gradient = True
    x = np.linspace(-1, 1, 48, dtype=np.float32).reshape(2, 4, 6)
    found = uf.capture(model, batch=x)
    assert found.plan.resolve(model).frozen_paths == (f"net.{leaf}",)
    assert found.notes == ()
    assert set(vars(model.net)) == before
    assert [n for n, p in model.named_parameters() if p.stop_gradient] == [f"net.{leaf}"]


def test_a_slope_right_above_the_input_is_captured_with_a_batch():
    model = nn.Sequential(nn.PReLU(), nn.Linear(6, 2))
    model[1].bias.stop_gradient = True
    found = uf.capture(model, batch=np.ones((2, 6), np.float32))
    assert found.plan.resolve(model).frozen_paths == ("1.bias",)
