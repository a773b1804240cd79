"""State that outputs depend on is carried over like weights; rows read as zeros are spoken of."""

from __future__ import annotations

import warnings

import numpy as np
import paddle
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import unifreeze as uf
from tests.support.pairs.ported import LIMIT, gap, ported, scramble
from unifreeze._ports.carrying import port_file
from unifreeze._ports.pairing import Pairing
from unifreeze.errors import PairingError, PortError

ROWS = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
FRESH = np.random.default_rng(1).standard_normal((4, 6)).astype("float32")
IMAGE = np.random.default_rng(2).standard_normal((2, 6, 7, 7)).astype("float32")


def old(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.spectral_norm(layer)


new, here = nn.utils.parametrizations.spectral_norm, paddle.nn.utils.spectral_norm
SPECTRAL = {
    "linear": (lambda: old(nn.Linear(6, 9)), lambda: here(paddle.nn.Linear(6, 9))),
    "square linear": (lambda: old(nn.Linear(6, 6)), lambda: here(paddle.nn.Linear(6, 6))),
    "new linear": (lambda: new(nn.Linear(6, 9)), lambda: here(paddle.nn.Linear(6, 9))),
    "new square linear": (lambda: new(nn.Linear(6, 6)), lambda: here(paddle.nn.Linear(6, 6))),
    "convolution": (lambda: old(nn.Conv2d(6, 9, 3)), lambda: here(paddle.nn.Conv2D(6, 9, 3))),
    "new convolution": (lambda: new(nn.Conv2d(6, 9, 3)), lambda: here(paddle.nn.Conv2D(6, 9, 3))),
}


def spectral(case):
    make, there = SPECTRAL[case]
    batch = IMAGE if "conv" in case else ROWS
    width = 6 if "square" in case else 9
    one, other = [make(), nn.Tanh()], [there(), paddle.nn.Tanh()]
    if "conv" in case:
        one, other = [*one, nn.Flatten()], [*other, paddle.nn.Flatten()]
        width *= 25
    one = nn.Sequential(*one, nn.Linear(width, 3))
    return one, paddle.nn.Sequential(*other, paddle.nn.Linear(width, 3)), batch


@pytest.mark.parametrize("case", SPECTRAL)
def test_a_spectral_norm_goes_into_a_fresh_model_with_its_vectors(case):
    one, other, batch = spectral(case)
    fresh = spectral(case)[1]
    pairing = uf.pair(scramble(one), other, batch=batch)
    assert sum(pair.state for pair in pairing.pairs) == 2
    ported = uf.port_weights(one, fresh, pairing=pairing)
    assert not ported.passed_over
    assert gap(one, fresh, batch[::-1].copy()) < LIMIT


@pytest.mark.parametrize("case", SPECTRAL)
def test_and_back_into_a_fresh_one(case):
    one, other, batch = spectral(case)
    uf.port_weights(scramble(other), one, batch=batch)
    assert gap(one, other, batch[::-1].copy()) < LIMIT


def test_files_carry_the_vectors(tmp_path):
    one, other, batch = spectral("linear")
    pairing = uf.pair(one, other, batch=batch)
    state = {name: tensor.numpy() for name, tensor in scramble(one).state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    port_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", pairing)
    there = load_file(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(there["0.weight_u"], state["0.weight_u"])
    np.testing.assert_array_equal(there["0.weight_v"], state["0.weight_v"])


class TorchBuffer(nn.Module):
    """A linear layer after something that a buffer takes part in; or that stands in the code."""

    def __init__(self, value=None, name="scale", persistent=True):
        super().__init__()
        self.fc, self.name = nn.Linear(6, 3), name
        if value is not None:
            self.register_buffer(name, torch.tensor(value), persistent=persistent)
            self.register_buffer("unused", torch.zeros(6))

    def forward(self, x):
        return self.fc(x * getattr(self, self.name, 2.0))


class PaddleBuffer(paddle.nn.Layer):
    def __init__(self, value, name="scale"):
        super().__init__()
        self.fc, self.name = paddle.nn.Linear(6, 3), name
        self.register_buffer(name, paddle.to_tensor(value))

    def forward(self, x):
        return self.fc(x * getattr(self, self.name))


TWOS = np.full(6, 2.0, "float32")


class TorchTwoBuffers(nn.Module):
    """A loose parameter and two buffers, by which it is multiplied and to which it is added."""

    def __init__(self, factor, term):
        super().__init__()
        self.w, self.names = nn.Parameter(torch.randn(6, 3)), (factor, term)
        self.register_buffer(factor, torch.full((6,), 2.0))
        self.register_buffer(term, torch.full((6,), 3.0))

    def forward(self, x):
        factor, term = (getattr(self, name) for name in self.names)
        return (x * factor + term) @ self.w


def test_buffers_go_by_what_they_hold_and_not_by_their_names():
    one, other = TorchTwoBuffers("factor", "term"), TorchTwoBuffers("term", "factor")
    pairing = uf.pair(one, other, batch=ROWS)
    found = {row.one: row.other for row in pairing.pairs}
    assert (found["factor"], found["term"]) == ("term", "factor")


@pytest.mark.parametrize("name", ["scale", "mean", "running_mean"])
def test_a_buffer_that_both_have_is_carried_over(name):
    one, other = TorchBuffer(TWOS, name), PaddleBuffer(TWOS, name)
    pairing = uf.pair(one, other, batch=ROWS)
    scramble(one)
    ported = uf.port_weights(one, other, pairing=pairing)
    assert ported.passed_over == ("unused",)
    assert gap(one, other, FRESH) < LIMIT


class TorchTwins(nn.Module):
    """Two buffers of a layer's own that hold the same: a factor, and what is added."""

    def __init__(self, factor="k", term="j", held=1.0):
        super().__init__()
        self.fc, self.names = nn.Linear(6, 3), (factor, term)
        for name in ("k", "j"):
            self.register_buffer(name, torch.full((3,), held))

    def forward(self, x):
        factor, term = (getattr(self, name) for name in self.names)
        return torch.tanh(self.fc(x)) * factor + term


class PaddleTwins(paddle.nn.Layer):
    def __init__(self, factor="k", term="j", held=1.0):
        super().__init__()
        self.fc, self.names = paddle.nn.Linear(6, 3), (factor, term)
        for name in ("k", "j"):
            self.register_buffer(name, paddle.full([3], held))

    def forward(self, x):
        factor, term = (getattr(self, name) for name in self.names)
        return paddle.tanh(self.fc(x)) * factor + term


@pytest.mark.parametrize("held", [3.0, 1.0])
@pytest.mark.parametrize("names", ["kj", "jk"])
def test_buffers_that_hold_the_same_go_by_what_they_do(names, held):
    one, other = TorchTwins(held=held), PaddleTwins(*names, held=held)
    pairing = uf.pair(one, other, batch=ROWS)
    found = {row.one: row.other for row in pairing.pairs if row.state}
    assert found == {"k": names[0], "j": names[1]}
    assert set(pairing.certificate.by_results) == {"k", "j"}
    fresh = PaddleTwins(*names)
    uf.port_weights(scramble(one), fresh, pairing=pairing)
    assert gap(one, fresh, FRESH) < LIMIT
    uf.port_weights(scramble(fresh), one, pairing=pairing, reverse=True)
    assert gap(one, fresh, FRESH) < LIMIT


def test_a_map_that_swaps_buffers_that_hold_the_same_is_refused():
    one, other = TorchTwins(), PaddleTwins("j", "k")
    with pytest.raises(PairingError, match="does not hold"):
        uf.pair(one, other, batch=ROWS, hints={"k": "k", "j": "j"})


class TorchFragile(TorchTwins):
    """It takes no other values than it holds."""

    def forward(self, x):
        if not all(torch.all(buffer == 1) for buffer in self.buffers()):
            raise ValueError("one of the buffers is not one")
        return super().forward(x)


def test_what_nothing_tells_apart_is_left_with_the_reason():
    pairing = uf.pair(TorchFragile(), TorchFragile(), batch=ROWS)
    reason = "others here hold the same, outputs depend on each, and nothing tells them apart"
    assert [(row.side, row.path, row.reason) for row in pairing.left] == [
        (side, path, reason) for side in (0, 1) for path in ("k", "j")
    ]


class TorchMasked(nn.Module):
    """Integers and truth values on which outputs depend."""

    def __init__(self, names=("mask", "order", "back")):
        super().__init__()
        self.fc, self.names = nn.Linear(6, 5), names
        self.register_buffer(names[0], torch.ones(5, dtype=torch.bool))
        for name in names[1:]:
            self.register_buffer(name, torch.arange(5))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        mask, order, back = (getattr(self, name) for name in self.names)
        return torch.tanh((self.fc(x) * mask)[:, order]).cumsum(1)[:, back]


class PaddleMasked(paddle.nn.Layer):
    def __init__(self, names=("mask", "order", "back")):
        super().__init__()
        self.fc, self.names = paddle.nn.Linear(6, 5), names
        self.register_buffer(names[0], paddle.ones([5], dtype="bool"))
        for name in names[1:]:
            self.register_buffer(name, paddle.arange(5))

    def forward(self, x):
        mask, order, back = (getattr(self, name) for name in self.names)
        h = paddle.index_select(self.fc(x) * mask.astype(x.dtype), order, axis=1)
        return paddle.index_select(paddle.tanh(h).cumsum(1), back, axis=1)


@pytest.mark.parametrize("names", [("mask", "order", "back"), ("kept", "back", "order")])
def test_masks_and_indices_are_carried_over(names, tmp_path):
    one, other = TorchMasked(), PaddleMasked(names)
    pairing = uf.pair(one, other, batch=ROWS)
    found = {row.one: row.other for row in pairing.pairs if row.state}
    assert found == dict(zip(("mask", "order", "back"), names, strict=True))
    assert pairing.one.own_state == ("steps",)
    one.mask[1] = False
    one.order.copy_(torch.tensor([4, 3, 2, 1, 0]))
    uf.port_weights(one, other, pairing=pairing)
    assert gap(one, other, FRESH) < LIMIT
    fresh = TorchMasked().double()
    uf.port_weights(other, fresh, pairing=pairing, reverse=True)
    assert gap(one, fresh, FRESH) < LIMIT
    torch.save(one.state_dict(), tmp_path / "a.pt")
    port_file(tmp_path / "a.pt", tmp_path / "b.pdparams", pairing)
    written = paddle.load(str(tmp_path / "b.pdparams"))
    assert written[names[1]].dtype == paddle.int64
    assert written[names[1]].tolist() == [4, 3, 2, 1, 0]


def test_a_mask_that_the_other_port_has_in_its_code_is_spoken_of():
    class Plain(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.fc = paddle.nn.Linear(6, 5)

        def forward(self, x):
            return paddle.tanh(self.fc(x)).cumsum(1)

    pairing = uf.pair(TorchMasked(), Plain(), batch=ROWS)
    reason = "outputs depend on it, and nothing there is the same"
    assert {row.path: row.reason for row in pairing.left} == {"mask": reason}
    assert set(pairing.one.own_state) >= {"order", "back"}, "which count on from 0"


def test_positions_that_the_other_port_counts_in_its_code_are_its_own():
    """As the position_ids of many text models."""

    class Torch(nn.Module):
        def __init__(self, values):
            super().__init__()
            self.fc = nn.Linear(6, 5)
            self.register_buffer("position_ids", torch.tensor([values]))

        def forward(self, x):
            return torch.tanh(self.fc(x)) * (self.position_ids[0] + 1)

    class Paddle(paddle.nn.Layer):
        def __init__(self, values):
            super().__init__()
            self.fc, self.values = paddle.nn.Linear(6, 5), values

        def forward(self, x):
            factor = paddle.to_tensor(self.values, dtype="float64").astype(x.dtype)
            return paddle.tanh(self.fc(x)) * (factor + 1)

    for values, left in (([0, 1, 2, 3, 4], set()), ([0, 1, 2, 4, 3], {"position_ids"})):
        pairing = uf.pair(Torch(values), Paddle(values), batch=ROWS)
        assert {row.path for row in pairing.left} == left


def test_random_buffers_are_paired_on_values_given_to_both():
    """As the frequencies of random Fourier features: each port has drawn its own."""
    draw = np.random.default_rng(3)
    values = [draw.standard_normal(6).astype("float32") for _ in range(2)]
    one, other = TorchBuffer(values[0]), PaddleBuffer(values[1], "frequencies")
    pairing = ported(one, other, ROWS)
    assert {pair.one: pair.other for pair in pairing.pairs}["scale"] == "frequencies"
    assert gap(one, other, FRESH) < LIMIT


def test_a_buffer_that_stands_in_the_code_of_the_other_port_is_spoken_of():
    one, other = PaddleBuffer(TWOS), TorchBuffer()
    pairing = uf.pair(one, other, batch=ROWS)
    reason = "outputs depend on it, and nothing there is the same"
    assert [(row.path, row.reason) for row in pairing.left] == [("scale", reason)]
    with pytest.raises(PortError, match="1 in the source, with no place in the target: scale"):
        uf.port_weights(one, other, pairing=pairing)
    uf.port_weights(one, other, pairing=pairing, partial=True)
    assert gap(other, one, FRESH) < LIMIT


def test_scratch_buffers_are_each_ports_own():
    pairing = uf.pair(TorchBuffer(TWOS, persistent=False), PaddleBuffer(TWOS), batch=ROWS)
    assert [row.path for row in pairing.left] == ["scale"]
    assert set(pairing.one.own_state) == {"scale", "unused"}


def tables(padding_torch, padding_paddle):
    one = nn.Sequential(nn.Embedding(11, 6, padding_idx=padding_torch), nn.Linear(6, 3))
    layer = paddle.nn.Embedding(11, 6, padding_idx=padding_paddle)
    return one, paddle.nn.Sequential(layer, paddle.nn.Linear(6, 3))


WORDS = np.array([[1, 2, 3, 4]])
ZERO = "row 0 of 0.weight is zeros in paddle whatever it holds, and read as it is in torch"


@pytest.mark.parametrize("padding", [0, None], ids=["also in torch", "in paddle alone"])
def test_a_row_that_one_port_reads_as_zeros_is_told_by_pair_and_port(padding, tmp_path):
    one, other = tables(padding, 0)
    with torch.no_grad():
        one[0].weight[0] = 3.0
    pairing = uf.pair(one, other, batch=WORDS)
    assert ZERO in str(pairing)
    pairing.save(tmp_path / "pairing.json")
    assert Pairing.load(tmp_path / "pairing.json") == pairing
    ported = uf.port_weights(one, other, pairing=pairing)
    assert "row 0 of 0.weight is not zero: paddle reads it as zeros" in str(ported)
    assert gap(one, other, WORDS) < LIMIT
    assert gap(one, other, WORDS * 0) > 0.1  # and it is true


def test_the_same_is_told_from_the_other_side_and_of_files(tmp_path):
    one, other = tables(0, 0)
    pairing = uf.pair(scramble(other), one, batch=WORDS)
    assert ZERO.replace("0.weight", "0.weight") in str(pairing)
    ported = uf.port_weights(other, one, pairing=pairing)
    assert "row 0 of 0.weight is not zero" in str(ported)
    save_file({n: t.numpy() for n, t in one.state_dict().items()}, tmp_path / "a.safetensors")
    written = port_file(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", pairing, reverse=True
    )
    assert written.notes == ported.notes
    with torch.no_grad():
        one[0].weight[0] = 0.0
    assert not uf.port_weights(one, other, pairing=pairing, reverse=True).notes


def test_nothing_is_told_where_both_read_a_row_alike():
    pairing = uf.pair(*tables(0, None), batch=WORDS)
    assert not pairing.zeros
    assert "settings differ: padding_idx: 0 and None in 0" in str(pairing)
    assert not uf.pair(*tables(None, None), batch=WORDS).differences


def test_statistics_are_those_of_norms():
    """A mean beside a deviation is a constant of preprocessing, and no running statistic."""
    one, other = TorchBuffer(TWOS, "mean"), PaddleBuffer(TWOS, "mean")
    pairing = uf.pair(one, other, batch=ROWS)
    assert not pairing.certificate.unproven
    assert pairing.certificate.by_results == ("mean",)
    with pytest.raises(PairingError, match="compute different functions"):
        uf.pair(TorchBuffer(TWOS * 2, "mean"), TorchBuffer(), batch=ROWS)


@pytest.mark.parametrize("turned", [False, True])
def test_a_batch_that_holds_the_row_is_told_which_row_that_is(turned):
    models = tables(0, 0)[:: -1 if turned else 1]
    with pytest.raises(PairingError, match=r"paddle reads row 0 of 0\.weight as zeros"):
        uf.pair(*models, batch=np.array([[0, 2, 3, 0]]))
