"""Where no gradient tells which tensor is which, what layers return does; nothing is guessed."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.pairs.ported import LIMIT, gap, ported, scramble
from unifreeze._evidence import check_step
from unifreeze.errors import PairingError, TargetError

ROWS = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
FRESH = np.random.default_rng(1).standard_normal((4, 6)).astype("float32")
IMAGE = np.random.default_rng(2).standard_normal((2, 3, 7, 7)).astype("float32")
TOKENS = np.random.default_rng(3).standard_normal((2, 5, 8)).astype("float32")
MEMORY = np.random.default_rng(4).standard_normal((2, 7, 6)).astype("float32")
VALUES = np.random.default_rng(5).standard_normal((2, 7, 5)).astype("float32")
EVERYTHING = uf.FreezePlan().train("all")


class TorchCut(nn.Module):
    """A stem, a body and two heads; what is in `cut` passes no gradient on."""

    def __init__(self, cut):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.body, self.cut = nn.Conv2d(4, 4, 3), cut
        self.head, self.side = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        with torch.set_grad_enabled("stem" not in self.cut):
            x = self.stem(x)
        h = self.body(x).tanh().mean((2, 3))
        side = self.side(h.detach() if "side input" in self.cut else h)
        return self.head(h), side.detach() if "side" in self.cut else side


class PaddleCut(paddle.nn.Layer):
    def __init__(self, cut):
        super().__init__()
        self.last, self.extra = paddle.nn.Linear(4, 3), paddle.nn.Linear(4, 2)
        self.middle, self.cut = paddle.nn.Conv2D(4, 4, 3), cut
        norm = paddle.nn.BatchNorm2D(4)
        self.first = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), norm, paddle.nn.ReLU())

    def forward(self, x):
        with paddle.set_grad_enabled("stem" not in self.cut):
            x = self.first(x)
        h = paddle.tanh(self.middle(x)).mean([2, 3])
        side = self.extra(h.detach() if "side input" in self.cut else h)
        return self.last(h), side.detach() if "side" in self.cut else side


def uncut(one, other):
    one.cut, other.cut = (), ()
    return gap(one, other, IMAGE[::-1].copy())


@pytest.mark.parametrize("cut", ["stem", "side"])
def test_what_both_ports_cut_off_is_told_by_what_layers_return(cut):
    one, other = scramble(TorchCut((cut,))), PaddleCut((cut,))
    pairing = ported(one, other, IMAGE)
    assert not pairing.left
    assert not pairing.certificate.cut
    expected = {"stem": {f"stem.{n}.{leaf}" for n in (0, 1) for leaf in ("weight", "bias")}}
    expected["side"] = {"side.weight", "side.bias"}
    assert set(pairing.certificate.by_results) == expected[cut]
    assert "without a gradient, told by what their layers return" in str(pairing)
    assert uncut(one, other) < LIMIT


@pytest.mark.parametrize("sides", [("stem", ""), ("", "stem")], ids=["torch", "paddle"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_stem_that_one_port_alone_cuts_off_is_paired_and_spoken_of(sides, backwards):
    one, other = TorchCut((sides[0],)), PaddleCut((sides[1],))
    models = (other, one) if backwards else (one, other)
    pairing = ported(scramble(models[0]), models[1], IMAGE)
    who, whom = ("torch", "paddle") if sides[0] else ("paddle", "torch")
    assert f"{who} cuts off the gradient of 4 tensors, and {whom} does not" in str(pairing)
    assert f"{who} cuts off the gradient of 4 tensors" in str(pairing.turned())
    step = check_step(EVERYTHING, *models, batch=IMAGE, pairing=pairing)
    assert f"gets a gradient in {whom} only" in str(step)
    assert uncut(one, other) < LIMIT


def test_a_port_that_cuts_off_a_part_of_a_gradient_is_refused_for_that():
    with pytest.raises(PairingError) as caught:
        uf.pair(TorchCut(("side input",)), PaddleCut(()), batch=IMAGE)
    assert "outputs agree, and gradients of 6 tensors do not" in str(caught.value)
    assert "one port cuts gradients" in str(caught.value)


def test_a_port_that_passes_no_gradient_at_all_is_refused():
    with pytest.raises(TargetError, match="that a gradient could come from"):
        uf.pair(nn.Sequential(nn.Linear(6, 3), Detached()), nn.Linear(6, 3), batch=ROWS)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


class Loose(nn.Module):
    """Loose parameters, cut off: no gradient, and no layer that returns anything."""

    def __init__(self, name, size=4):
        super().__init__()
        self.name, self.out = name, nn.Linear(6, 3)
        self.register_parameter(name, nn.Parameter(torch.randn(6, size)))

    def forward(self, x):
        return self.out(x), (x @ getattr(self, self.name)).detach()


def test_loose_parameters_that_are_cut_off_are_told_by_the_outputs():
    pairing = uf.pair(Loose("a"), Loose("b"), batch=ROWS)
    assert {row.one: row.other for row in pairing.pairs}["a"] == "b"
    assert pairing.certificate.by_results == ("a",)


def test_nothing_tells_how_a_square_one_is_stored():
    with pytest.raises(PairingError, match="square, and nothing tells which way round"):
        uf.pair(Loose("a", 6), Loose("b", 6), batch=ROWS)


class TorchCross(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **sizes)
        self.out = nn.Linear(8, 3)

    def forward(self, x, keys, values):
        return self.out(self.attention(x, keys, values, need_weights=False)[0])


class PaddleCross(paddle.nn.Layer):
    def __init__(self, **sizes):
        super().__init__()
        self.out = paddle.nn.Linear(8, 3)
        self.attend = paddle.nn.MultiHeadAttention(8, 2, **sizes)

    def forward(self, x, keys, values):
        return self.out(self.attend(x, keys, values))


CROSS = {
    "two widths": ({"kdim": 6, "vdim": 5}, (TOKENS, MEMORY, VALUES)),
    "one width": ({"kdim": 6, "vdim": 6}, (TOKENS, MEMORY, MEMORY * 2)),
    "the same width": ({}, (TOKENS, TOKENS * 2, TOKENS * 3)),
    "keys of the same": ({"kdim": 8, "vdim": 5}, (TOKENS, TOKENS[:, :4] * 2, VALUES[:, :4])),
}


@pytest.mark.parametrize("case", CROSS)
@pytest.mark.parametrize("backwards", [False, True])
def test_attention_of_which_a_bias_alone_is_fused_is_taken_apart(case, backwards):
    sizes, batch = CROSS[case]
    one, other = TorchCross(**sizes), PaddleCross(**sizes)
    models = (other, one) if backwards else (one, other)
    pairing = ported(scramble(models[0]), models[1], batch)
    assert not pairing.left
    fresh = [array[::-1].copy() for array in batch]
    assert gap(one, other, *fresh) < LIMIT
    for number, name in enumerate("qkv"):
        ours = one.attention.in_proj_bias[8 * number : 8 * number + 8].detach().numpy()
        np.testing.assert_array_equal(ours, getattr(other.attend, f"{name}_proj").bias.numpy())


class TorchNorms(nn.Module):
    """Batch norms without weights: nothing trains in them, and all are of one shape."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(6, affine=False) for _ in range(3))
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        for norm, layer in zip(self.norms, (self.a, self.b, self.c), strict=True):
            x = layer(norm(x).tanh())
        return x


class PaddleNorms(paddle.nn.Layer):
    def __init__(self, order):
        super().__init__()
        norm, self.order = paddle.nn.BatchNorm1D, order
        plain = {"weight_attr": False, "bias_attr": False}
        self.layers = paddle.nn.LayerList(paddle.nn.Linear(6, 6) for _ in order)
        self.norms = paddle.nn.LayerList(norm(6, **plain) for _ in order)

    def forward(self, x):
        for number, layer in zip(self.order, self.layers, strict=True):
            x = layer(paddle.tanh(self.norms[number](x)))
        return x


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_norms_without_weights_go_by_what_they_return(order):
    one, other = scramble(TorchNorms()), PaddleNorms(order)
    pairing = ported(one, other, ROWS)
    found = {row.one: row.other for row in pairing.pairs}
    for here, there in enumerate(order):
        assert found[f"norms.{here}.running_var"] == f"norms.{there}._variance"
    assert gap(one, other, FRESH) < LIMIT


class TorchInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, left, right):
        return self.a(left) + self.b(right).tanh()


class PaddleInput(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.b, self.a = paddle.nn.Linear(6, 3), paddle.nn.Linear(6, 3)

    def forward(self, query, context):
        return self.a(context) + paddle.tanh(self.b(query))


def test_inputs_may_be_called_differently():
    one, other = scramble(TorchInput()), PaddleInput()
    batch = {
        "torch": {"left": ROWS, "right": FRESH},
        "paddle": {"context": ROWS, "query": FRESH},
    }
    pairing = ported(one, other, batch)
    assert not pairing.left
    assert check_step(EVERYTHING, one, other, batch=batch).holds
    assert uf.check_parity(uf.FreezePlan().train("all"), one, other, batch=batch)
    uf.port_weights(one, other, batch=batch)
    named = gap(one, Renamed(other), ROWS, FRESH)
    assert named < LIMIT


class Renamed(paddle.nn.Layer):
    """Takes its inputs in the order of the other port."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, left, right):
        return self.inner(right, left)


def test_inputs_for_another_framework_are_refused():
    with pytest.raises(TargetError, match="batch is for torch, jax, and the models are of paddle"):
        uf.pair(TorchInput(), PaddleInput(), batch={"torch": [ROWS, FRESH], "jax": [ROWS, FRESH]})
    by_name = {"left": ROWS, "right": FRESH}
    assert uf.pair(TorchInput(), TorchInput(), batch=by_name).pairs
    assert uf.pair(TorchInput(), TorchInput(), batch={"torch": by_name}).pairs


class TorchBoth(nn.Module):
    """Attention fused in the first block, a gated layer in the second; the other port has both."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gate, self.up, self.down = nn.Linear(8, 5), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.down(torch.sigmoid(self.gate(x)) * self.up(x))


class PaddleBoth(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = paddle.nn.Linear(8, 10), paddle.nn.Linear(5, 3)
        self.mix = paddle.nn.MultiHeadAttention(8, 2)

    def forward(self, x):
        x = x + self.mix(x)
        up, gate = self.wide(x).chunk(2, -1)
        return self.narrow(paddle.nn.functional.sigmoid(gate) * up)


@pytest.mark.parametrize("backwards", [False, True])
def test_both_ports_may_hold_in_one_what_the_other_holds_apart(backwards):
    one, other = TorchBoth(), PaddleBoth()
    models = (other, one) if backwards else (one, other)
    pairing = ported(scramble(models[0]), models[1], TOKENS)
    assert {"fused in torch", "fused in paddle"} <= {
        line.partition(":")[0] for line in str(pairing).splitlines()
    }
    assert gap(one, other, TOKENS[::-1].copy()) < LIMIT


CLIPPED = [
    (nn.ReLU6, paddle.nn.ReLU, "upper bound: 6.0 and None"),
    (nn.ReLU, paddle.nn.ReLU6, "upper bound: None and 6.0"),
    (lambda: nn.Hardtanh(-40, 50), lambda: paddle.nn.Hardtanh(-40, 60), "upper bound: 50 and 60"),
    (lambda: nn.Hardtanh(-40, 50), lambda: paddle.nn.Hardtanh(-30, 50), "lower bound: -40 and -30"),
    (nn.ReLU6, paddle.nn.ReLU6, ""),
]


@pytest.mark.parametrize(("one", "other", "words"), CLIPPED)
def test_bounds_that_the_batch_does_not_reach_are_listed(one, other, words):
    rows = 0.1 * np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    models = (
        nn.Sequential(nn.Linear(6, 5), one(), nn.Linear(5, 2)),
        paddle.nn.Sequential(paddle.nn.Linear(6, 5), other(), paddle.nn.Linear(5, 2)),
    )
    found = uf.pair(*models, batch=rows).differences
    assert [words in str(row) for row in found] == ([True] if words else [])


class TorchRouted(nn.Module):
    """Each row goes to the expert that its gate chooses."""

    def __init__(self):
        super().__init__()
        self.gate, self.out = nn.Linear(6, 4), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        rows = [
            self.experts[int(row)](x[n : n + 1]) * weights[n, int(row)]
            for n, row in enumerate(weights.argmax(-1))
        ]
        return self.out(torch.cat(rows))


class PaddleRouted(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.gate, self.out = paddle.nn.Linear(6, 4), paddle.nn.Linear(6, 2)
        self.experts = paddle.nn.LayerList([paddle.nn.Linear(6, 6) for _ in range(4)])

    def forward(self, x):
        weights = paddle.nn.functional.softmax(self.gate(x))
        rows = [
            self.experts[int(row)](x[n : n + 1]) * weights[n, int(row)]
            for n, row in enumerate(weights.argmax(-1))
        ]
        return self.out(paddle.concat(rows))


@pytest.mark.parametrize("turned", [False, True])
def test_experts_that_run_on_some_values_alone_are_the_reason(turned):
    models = [TorchRouted(), PaddleRouted()][:: -1 if turned else 1]
    rows = np.random.default_rng(0).standard_normal((40, 6)).astype("float32")
    assert not uf.pair(*models, batch=rows).left
    with pytest.raises(PairingError, match="run on some values and not on others") as error:
        uf.pair(*models, batch=rows[:2])
    assert "a batch of more rows" in str(error.value)
