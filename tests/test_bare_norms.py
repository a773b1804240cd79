"""Norms without scale and shift, norms with children, norms without an inference mode."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf

IMAGES = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("float32") * 2 + 1


class Torch:
    """What these tests build of PyTorch."""

    conv = staticmethod(lambda a, b: torch.nn.Conv2d(a, b, 3, padding=1))
    linear, flatten, relu = torch.nn.Linear, torch.nn.Flatten, torch.nn.ReLU
    stack, module = torch.nn.Sequential, torch.nn.Module
    bare = staticmethod(lambda n: torch.nn.BatchNorm2d(n, affine=False))
    bare_rows = staticmethod(lambda n: torch.nn.BatchNorm1d(n, affine=False))

    class NormAct(torch.nn.BatchNorm2d):
        """A norm with an activation that has a parameter."""

        def __init__(self, width):
            super().__init__(width)
            self.act = torch.nn.PReLU(width)

        def forward(self, x):
            return self.act(super().forward(x))

    @staticmethod
    def run(net):
        net.train()
        return net(torch.tensor(IMAGES)).detach().numpy()

    @staticmethod
    def infer(net):
        net.eval()
        return net(torch.tensor(IMAGES)).detach().numpy()

    @staticmethod
    def mean(norm):
        return norm.running_mean.numpy().tobytes()


class Paddle:
    """What these tests build of Paddle."""

    conv = staticmethod(lambda a, b: paddle.nn.Conv2D(a, b, 3, padding=1))
    linear, flatten, relu = paddle.nn.Linear, paddle.nn.Flatten, paddle.nn.ReLU
    stack, module = paddle.nn.Sequential, paddle.nn.Layer
    bare = staticmethod(lambda n: paddle.nn.BatchNorm2D(n, weight_attr=False, bias_attr=False))
    bare_rows = staticmethod(lambda n: paddle.nn.BatchNorm1D(n, weight_attr=False, bias_attr=False))

    class NormAct(paddle.nn.BatchNorm2D):
        """A norm with an activation that has a parameter."""

        def __init__(self, width):
            super().__init__(width)
            self.act = paddle.nn.PReLU(width)

        def forward(self, x):
            return self.act(super().forward(x))

    @staticmethod
    def run(net):
        net.train()
        return net(paddle.to_tensor(IMAGES)).numpy()

    @staticmethod
    def infer(net):
        net.eval()
        return net(paddle.to_tensor(IMAGES)).numpy()

    @staticmethod
    def mean(norm):
        return norm._mean.numpy().tobytes()


@pytest.fixture(params=[Torch, Paddle], ids=["torch", "paddle"])
def side(request):
    return request.param


def flat(side):
    """A flat encoder with a norm between and after its convolutions, and a head."""
    return side.stack(
        side.conv(3, 4), side.bare(4), side.relu(), side.conv(4, 4), side.bare(4), side.relu(),
        side.flatten(), side.linear(4 * 64, 2),
    )  # fmt: skip


def in_stages(side):
    """Two modules that hold a convolution and a norm each, and a head."""
    return side.stack(
        side.stack(side.conv(3, 4), side.bare(4)),
        side.stack(side.conv(4, 4), side.bare(4)),
        side.stack(side.flatten(), side.linear(4 * 64, 2)),
    )


def probe(side):
    """A frozen body under a linear probe, which begins with a norm without scale and shift."""
    return side.stack(
        side.stack(side.conv(3, 4), side.relu(), side.flatten()),
        side.stack(side.bare_rows(4 * 64), side.linear(4 * 64, 2)),
    )


def norms(net):
    layers = net.modules() if isinstance(net, torch.nn.Module) else net.sublayers()
    return [layer for layer in layers if "BatchNorm" in type(layer).__name__]


def updated(side, net):
    """Which norms' statistics a forward pass in training mode moves."""
    before = [side.mean(norm) for norm in norms(net)]
    side.run(net)
    return [side.mean(norm) != was for norm, was in zip(norms(net), before, strict=True)]


FLAT = [
    ("only: head", uf.FreezePlan().only("head"), [False, False]),
    ("freeze: backbone", uf.FreezePlan().freeze("backbone"), [False, False]),
    ("every layer by path", uf.FreezePlan().freeze('path:"0" | path:"3"'), [False, False]),
    ("the layer before", uf.FreezePlan().freeze('path:"0"'), [True, True]),
    ("the layer after", uf.FreezePlan().freeze('path:"3"'), [True, False]),
    ("weights alone", uf.FreezePlan().freeze("conv & weight"), [True, True]),
    ("the norm by path", uf.FreezePlan().freeze('path:"1"'), [False, True]),
    ("a norm and a layer", uf.FreezePlan().freeze('path:"1" | path:"7"'), [False, True]),
    ("norms by kind", uf.FreezePlan().freeze("norm"), [False, False]),
    ("norms by class", uf.FreezePlan().freeze('type:"BatchNorm2*"'), [False, False]),
    ("the norm by pattern", uf.FreezePlan().freeze('re:"4\\..*"'), [True, False]),
    ("by canonical name", uf.FreezePlan().freeze('at:"net/norm.1"'), [True, False]),
    ("by position", uf.FreezePlan().freeze("children[1]"), [False, True]),
    ("named to train", uf.FreezePlan().only("head").train('path:"1"'), [True, False]),
    ("frozen again", uf.FreezePlan().train('path:"1"').only("head"), [False, False]),
    ("the weights around it trained", uf.FreezePlan().only("conv & weight"), [True, True]),
    ("update", uf.FreezePlan().only("head").with_norm_stats("update"), [True, True]),
    ("hold_all", uf.FreezePlan().train("all").with_norm_stats("hold_all"), [False, False]),
    (
        "by rule",
        uf.FreezePlan().only("head").with_norm_stats([{"update": 'path:"4"'}]),
        [False, True],
    ),
]


@pytest.mark.parametrize(("plan", "moves"), [row[1:] for row in FLAT], ids=[r[0] for r in FLAT])
def test_a_norm_without_parameters_in_a_flat_encoder(side, plan, moves):
    net = flat(side)
    handle = plan.apply(net)
    assert updated(side, net) == moves
    assert handle.verify().states >= moves.count(False)
    handle.remove()
    assert updated(side, net) == [True, True]


STAGES = [
    ("a module that holds it", uf.FreezePlan().freeze('path:"0"'), [False, True]),
    ("trained but for it", uf.FreezePlan().freeze('path:"0"').train('path:"0.0"'), [False, True]),
    ("a module but for biases", uf.FreezePlan().freeze('path:"0" - bias'), [True, True]),
    ("its layer alone", uf.FreezePlan().freeze('path:"0.0"'), [True, True]),
    ("within a module", uf.FreezePlan().freeze('all in path:"0"'), [True, True]),
    ("norms within a module", uf.FreezePlan().freeze('norm in path:"1"'), [True, False]),
]  # fmt: skip


@pytest.mark.parametrize(("plan", "moves"), [r[1:] for r in STAGES], ids=[r[0] for r in STAGES])
def test_a_norm_without_parameters_in_a_module(side, plan, moves):
    net = in_stages(side)
    plan.apply(net)
    assert updated(side, net) == moves


def test_a_norm_that_begins_a_trainable_head_updates(side):
    net = probe(side)
    uf.FreezePlan().only("head").apply(net)
    assert updated(side, net) == [True]
    uf.FreezePlan().freeze("head").apply(net)
    assert updated(side, net) == [False]


def test_a_held_norm_computes_what_it_computes_in_inference(side):
    net = flat(side)
    side.run(net)
    expected = side.infer(net)
    uf.FreezePlan().only("head").apply(net)
    np.testing.assert_array_equal(side.run(net), expected)


def test_a_norm_with_a_trainable_child_is_judged_by_its_own_parameters(side):
    net = side.stack(side.conv(3, 4), side.NormAct(4), side.flatten(), side.linear(256, 2))
    own = 'path:"1.weight" | path:"1.bias"'
    handle = uf.FreezePlan().freeze(own).apply(net)
    then = side.mean(net[1])
    side.run(net)
    assert side.mean(net[1]) == then
    assert "1.act" in "".join(handle.resolution.trainable_paths)
    handle.verify()
    uf.FreezePlan().freeze('path:"1.act"').apply(net)
    side.run(net)
    assert side.mean(net[1]) != then


def test_a_code_book_in_a_frozen_encoder_holds_still():
    class Book(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("codes", torch.zeros(4))

        def forward(self, x):
            if self.training:
                self.codes += x.detach().mean((0, 2, 3))
            return x

    for plan, moves in (("path:'0' | path:'2'", False), ("path:'0'", True), ("path:'2'", True)):
        net = Torch.stack(
            Torch.conv(3, 4), Book(), Torch.conv(4, 4), Torch.flatten(), Torch.linear(256, 2)
        )
        uf.FreezePlan().freeze(plan).apply(net)
        before = net[1].codes.clone()
        Torch.run(net)
        assert torch.equal(net[1].codes, before) != moves


def batch_norm(**settings):
    return paddle.nn.BatchNorm2D(4, use_global_stats=False, **settings)


@pytest.mark.parametrize(
    "make",
    [
        batch_norm,
        lambda: batch_norm(weight_attr=False, bias_attr=False),
        lambda: paddle.nn.BatchNorm(4, trainable_statistics=True),
    ],
    ids=["batch norm", "without parameters", "of old"],
)
def test_a_norm_that_always_uses_the_batch_is_left_alone_and_named(make):
    def net():
        paddle.seed(0)
        return Paddle.stack(Paddle.conv(3, 4), make(), Paddle.flatten(), Paddle.linear(256, 2))

    plain, model = net(), net()
    expected = Paddle.run(plain)
    handle = uf.FreezePlan().only("head").apply(model)
    np.testing.assert_array_equal(Paddle.run(model), expected)
    assert Paddle.mean(model[1]) == Paddle.mean(plain[1])
    assert handle.verify().states == 0
    (notice,) = [text for text in handle.resolution.notices if "left alone" in text]
    assert notice.endswith("its statistics move, and are not verified: 1")
    handle.remove()
    np.testing.assert_array_equal(Paddle.run(model), Paddle.run(plain))


def test_a_norm_that_is_told_to_use_the_batch_after_all_is_seen():
    model = Paddle.stack(
        Paddle.conv(3, 4), paddle.nn.BatchNorm2D(4), Paddle.flatten(), Paddle.linear(256, 2)
    )
    plan = uf.FreezePlan().only("head")
    assert "left alone" not in str(plan.resolve(model))
    model[1]._use_global_stats = False
    assert "left alone" in str(plan.resolve(model))
