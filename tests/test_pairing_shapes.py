"""Axes of length 1 come and go: they are left out to compare, and reshaped to carry over."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import paddle
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import unifreeze as uf
from tests.support.pairs.ported import LIMIT, gap, scramble
from unifreeze._evidence import check_step
from unifreeze._numerics.projections import plain_shape, sketch
from unifreeze._ports.carrying import port_file
from unifreeze._ports.pairing.layout import are_one, reshaped
from unifreeze.errors import PairingError

WIDTH = 6
ROWS = np.random.default_rng(0).standard_normal((4, 5, WIDTH)).astype("float32")
FRESH = np.random.default_rng(1).standard_normal((4, 5, WIDTH)).astype("float32")
IMAGE = np.random.default_rng(2).standard_normal((2, WIDTH, 7, 7)).astype("float32")


class Torch(nn.Module):
    """A linear layer, and a loose parameter that takes part as it is told."""

    def __init__(self, shape, use):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.loose, self.use = nn.Parameter(torch.randn(shape)), use

    def forward(self, x):
        return self.b(self.use(self.a(x).tanh(), self.loose))


class Paddle(paddle.nn.Layer):
    def __init__(self, shape, use):
        super().__init__()
        self.first, self.last = paddle.nn.Linear(WIDTH, WIDTH), paddle.nn.Linear(WIDTH, 3)
        self.extra, self.use = paddle.create_parameter(list(shape), "float32"), use

    def forward(self, x):
        return self.last(self.use(paddle.tanh(self.first(x)), self.extra))


def times(*shape):
    return lambda x, loose: x * loose.reshape(shape)


def plus(*shape):
    return lambda x, loose: x + loose.reshape(shape)


FORMS = {
    "scalars": ([(), (1,), (1, 1), (1, 1, 1)], times(1)),
    "vectors": ([(WIDTH,), (WIDTH, 1), (1, WIDTH), (1, 1, WIDTH), (WIDTH, 1, 1)], times(WIDTH)),
    "positions": ([(5, WIDTH), (1, 5, WIDTH), (5, 1, WIDTH), (1, 5, 1, WIDTH)], plus(5, WIDTH)),
    "cubes": ([(4, 5, WIDTH), (1, 4, 5, WIDTH), (4, 5, 1, WIDTH)], plus(4, 5, WIDTH)),
}
CASES = [
    pytest.param(one, other, use, id=f"{name} {list(one)} and {list(other)}")
    for name, (shapes, use) in FORMS.items()
    for one, other in ((shapes[0], shape) for shape in shapes)
]


@pytest.mark.parametrize(("one", "other", "use"), CASES)
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_a_parameter_with_axes_of_length_1_is_paired_and_carried(
    one, other, use, backwards, tmp_path
):
    ours, theirs = scramble(Torch(one, use)), scramble(Paddle(other, use), seed=1)
    pairing = uf.pair(ours, theirs, batch=ROWS)
    assert not pairing.left
    assert not any(pair.cropped for pair in pairing.pairs)
    state = ours.state_dict()
    save_file({name: tensor.numpy() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    port_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", pairing)
    port_file(tmp_path / "b.safetensors", tmp_path / "c.safetensors", pairing)
    there, back = (load_file(tmp_path / f"{name}.safetensors") for name in "bc")
    assert there["extra"].shape == tuple(other)
    assert all(np.array_equal(back[name], tensor.numpy()) for name, tensor in state.items())
    if backwards:
        uf.port_weights(theirs, ours, pairing=pairing, reverse=True)
    else:
        uf.port_weights(ours, theirs, pairing=pairing)
    assert gap(ours, theirs, FRESH, names={"loose": "extra", "a.weight": "first.weight"}) < LIMIT


def test_a_step_compares_them():
    _, use = FORMS["positions"]
    report = check_step(
        uf.FreezePlan().freeze("a").train("b"),
        Torch((1, 5, WIDTH), use),
        Torch((5, WIDTH), use),
        batch=ROWS,
    )
    assert report.holds, str(report)


def old(norm, layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return norm(layer)


def linear_of(convolution):
    """Use a linear layer as a convolution of one point."""
    return lambda x: convolution(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PaddlePoint(paddle.nn.Layer):
    """A convolution of one point, written as a linear layer over channels."""

    def __init__(self, inner, outer):
        super().__init__()
        self.mix = paddle.nn.Linear(inner, outer)

    def forward(self, x):
        return self.mix(x.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])


class TorchMean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class PaddleMean(paddle.nn.Layer):
    def forward(self, x):
        return x.mean([2, 3])


PADDLE_NORM = paddle.nn.utils.weight_norm
LAYERS = {
    "weight norm of a convolution": (
        lambda: old(nn.utils.weight_norm, nn.Conv2d(WIDTH, 4, 3)),
        lambda: PADDLE_NORM(paddle.nn.Conv2D(WIDTH, 4, 3)),
    ),
    "its new form": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(WIDTH, 4, 3)),
        lambda: PADDLE_NORM(paddle.nn.Conv2D(WIDTH, 4, 3)),
    ),
    "a convolution of one point and a linear layer": (
        lambda: nn.Conv2d(WIDTH, 4, 1),
        lambda: PaddlePoint(WIDTH, 4),
    ),
    "the same, square": (lambda: nn.Conv2d(WIDTH, WIDTH, 1), lambda: PaddlePoint(WIDTH, WIDTH)),
    "a convolution to one channel": (
        lambda: nn.Conv2d(WIDTH, 1, 3, bias=False),
        lambda: paddle.nn.Conv2D(WIDTH, 1, 3, bias_attr=False),
    ),
    "a convolution of each channel": (
        lambda: nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH),
        lambda: paddle.nn.Conv2D(WIDTH, WIDTH, 3, groups=WIDTH),
    ),
}


@pytest.mark.parametrize("case", LAYERS)
def test_kernels_with_axes_of_length_1_are_paired_and_carried(case):
    make, there = LAYERS[case]
    tail = 1 if "to one" in case else WIDTH if "each" in case or "square" in case else 4
    one = scramble(nn.Sequential(make(), nn.Tanh(), TorchMean(), nn.Linear(tail, 3)))
    other = paddle.nn.Sequential(there(), paddle.nn.Tanh(), PaddleMean(), paddle.nn.Linear(tail, 3))
    ported = uf.port_weights(one, other, batch=IMAGE)
    assert not ported.untouched
    assert gap(one, other, IMAGE[::-1].copy()) < LIMIT


def test_one_that_fuses_convolutions_of_one_point():
    """As in attention over an image, where one convolution makes queries, keys and values."""
    one, other = scramble(TorchQkv()), PaddleQkv()
    uf.port_weights(one, other, batch=IMAGE)
    assert gap(one, other, IMAGE[::-1].copy()) < LIMIT


class TorchQkv(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Conv2d(WIDTH, 12, 1, bias=False), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        q, k, v = (part.flatten(2) for part in self.qkv(x).chunk(3, 1))
        mixed = torch.softmax(q.transpose(1, 2) @ k, -1) @ v.transpose(1, 2)
        return self.out(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


class PaddleQkv(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        conv = paddle.nn.Conv2D
        self.k, self.v, self.q = (conv(WIDTH, 4, 1, bias_attr=False) for _ in range(3))
        self.out = conv(4, 3, 1)

    def forward(self, x):
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        scores = paddle.nn.functional.softmax(q.transpose([0, 2, 1]) @ k, -1)
        mixed = (scores @ v.transpose([0, 2, 1])).transpose([0, 2, 1])
        return self.out(mixed.reshape([x.shape[0], 4, *x.shape[2:]]))


def test_plain_shapes_and_sketches_do_not_see_them():
    values = np.random.default_rng(0).standard_normal((5, 3))
    for shape in ((5, 3), (1, 5, 3), (5, 1, 3, 1)):
        assert plain_shape(shape) == (5, 3)
        assert sketch(values.reshape(shape)) == sketch(values)
    assert plain_shape((1, 1)) == plain_shape(()) == ()
    assert are_one((1, 5, 3), (3, 5, 1), transposed=True)
    assert not are_one((1, 5, 3), (3, 5, 1), transposed=False)
    turned = reshaped(values.reshape(1, 5, 3), (3, 5, 1), transposed=True)
    np.testing.assert_array_equal(turned[..., 0], values.T)


class TorchTurned(nn.Linear):
    """Stores its matrix input by output."""

    def forward(self, x):
        return x @ self.weight + self.bias


class PaddleTurned(paddle.nn.Linear):
    """Stores its matrix output by input."""

    def forward(self, x):
        return paddle.matmul(x, self.weight, transpose_y=True) + self.bias


def torch_idle(layer, first=None, cut=False):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.l, self.idle = first() if first else nn.Linear(5, 5), layer()

        def forward(self, x, *, used=cut):
            if not cut:
                h = self.l(x)
                return self.idle(h) if used else h
            with torch.no_grad():
                h = self.idle(x)
            return self.l(h)

    return Idle()


def paddle_idle(layer, first=None, cut=False):
    class Idle(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.l, self.idle = first() if first else paddle.nn.Linear(5, 5), layer()

        def forward(self, x, *, used=cut):
            if not cut:
                h = self.l(x)
                return self.idle(h) if used else h
            with paddle.no_grad():
                h = self.idle(x)
            return self.l(h)

    return Idle()


FIVES = np.random.default_rng(4).standard_normal((3, 5)).astype("float32")
LINES = np.random.default_rng(5).standard_normal((3, 5, 4)).astype("float32")
UNLAID = "it is square, and nothing tells which way round its partner is stored"
THERE = paddle.nn.utils.weight_norm


def normed(axis):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(5, 5), dim=axis)


def test_an_idle_transposed_convolution_of_one_point_is_turned():
    convolutions = partial(nn.Conv1d, 5, 5, 1), partial(paddle.nn.Conv1D, 5, 5, 1)
    turned = partial(nn.ConvTranspose1d, 5, 5, 1), partial(paddle.nn.Conv1DTranspose, 5, 5, 1)
    for up, there in ((turned[0], convolutions[1]), (convolutions[0], turned[1]), turned):
        one, other = torch_idle(up, convolutions[0]), paddle_idle(there, convolutions[1])
        pairing = uf.pair(one, other, batch=LINES)
        uf.port_weights(one, other, pairing=pairing)
        assert gap(one, other, LINES, used=True) < LIMIT


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (partial(TorchTurned, 5, 5), partial(paddle.nn.Linear, 5, 5)),
        (partial(nn.Linear, 5, 5), partial(PaddleTurned, 5, 5)),
    ],
)
def test_an_idle_square_matrix_of_a_class_that_computes_otherwise_is_left(one, other):
    models = torch_idle(one), paddle_idle(other)
    for pairing in (uf.pair(*models, batch=FIVES), uf.pair(*models[::-1], batch=FIVES)):
        assert [(row.path, row.reason) for row in pairing.left] == [("idle.weight", UNLAID)] * 2
    with pytest.raises(PairingError, match=r"which way round both ports store idle\.weight"):
        uf.pair(torch_idle(one, cut=True), paddle_idle(other, cut=True), batch=FIVES)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("there", [0, 1])
def test_idle_lengths_go_by_the_axis_that_they_are_of(axis, there):
    one = torch_idle(lambda: normed(axis))
    other = paddle_idle(lambda: THERE(paddle.nn.Linear(5, 5), dim=there))
    pairing = uf.pair(one, other, batch=FIVES)
    if axis != there:  # the two store their matrices either way round
        assert not pairing.left
        uf.port_weights(one, other, pairing=pairing)
        assert gap(one, other, FIVES, used=True) < LIMIT
    else:
        reason = "its layer is normed along another axis"
        assert [row.reason for row in pairing.left] == [reason] * 2
