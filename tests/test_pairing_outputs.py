"""Which output is which: by keys where both models have them, and otherwise never by a guess."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.pairs.ported import LIMIT, gap, ported, scramble
from unifreeze._evidence import check_step
from unifreeze._numerics.outputs import Seen, caches_in, match_outputs, outputs_in
from unifreeze._numerics.projections import sketch_flat
from unifreeze.errors import PairingError

ROWS = np.random.default_rng(0).standard_normal((4, 8)).astype("float32")
FRESH = np.random.default_rng(1).standard_normal((4, 8)).astype("float32")
Pair = namedtuple("Pair", "start end")
Reversed = namedtuple("Reversed", "end start")


@dataclass
class Answer:
    start: Any
    end: Any


@dataclass
class ReversedAnswer:
    end: Any
    start: Any


PUT = {
    "dictionary": (lambda s, e: {"start": s, "end": e}, lambda s, e: {"end": e, "start": s}),
    "named tuple": (Pair, lambda s, e: Reversed(e, s)),
    "dataclass": (Answer, lambda s, e: ReversedAnswer(e, s)),
    "nested": (
        lambda s, e: ({"answer": {"start": s}}, [e]),
        lambda s, e: ({"answer": {"start": s}}, [e]),
    ),
    "dictionary and dataclass": (
        lambda s, e: {"start": s, "end": e},
        lambda s, e: ReversedAnswer(e, s),
    ),
    "tuple": (lambda s, e: (s, e), lambda s, e: (s, e)),
}


class TorchHeads(nn.Module):
    def __init__(self, put, width=3):
        super().__init__()
        self.a, self.start, self.end = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, width)
        self.put = put

    def forward(self, x):
        h = self.a(x).tanh()
        return self.put(self.start(h), self.end(h))


class PaddleHeads(paddle.nn.Layer):
    def __init__(self, put, width=3):
        super().__init__()
        linear = paddle.nn.Linear
        self.b, self.last, self.first = linear(8, 8), linear(8, width), linear(8, 3)
        self.put = put

    def forward(self, x):
        h = paddle.tanh(self.b(x))
        return self.put(self.first(h), self.last(h))


HEADS = {"a": "b", "start": "first", "end": "last"}
NAMES = {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in HEADS.items() for leaf in ("weight", "bias")}


def function_gap(one, other):
    """Compare both as functions to a dictionary, whatever they return."""
    puts = one.put, other.put
    one.put = other.put = lambda s, e: {"start": s, "end": e}
    try:
        return gap(one, other, FRESH, names=NAMES)
    finally:
        one.put, other.put = puts


@pytest.mark.parametrize("way", PUT)
def test_outputs_go_by_their_keys(way):
    one, other = scramble(TorchHeads(PUT[way][0])), PaddleHeads(PUT[way][1])
    pairing = ported(one, other, ROWS)
    assert {row.one: row.other for row in pairing.pairs} == NAMES
    assert function_gap(one, other) < LIMIT


@pytest.mark.parametrize("way", PUT)
def test_and_the_other_way_round(way):
    one, other = TorchHeads(PUT[way][0]), scramble(PaddleHeads(PUT[way][1]))
    ported(other, one, ROWS)
    assert function_gap(one, other) < LIMIT


def test_a_step_compares_each_output_with_the_one_of_its_key():
    one, other = TorchHeads(PUT["dictionary"][0]), PaddleHeads(PUT["dictionary"][1])
    report = check_step(uf.FreezePlan().train("all"), one, other, batch=ROWS)
    assert report.holds, str(report)


UNLIKE = {
    "a dictionary and a tuple": (lambda s, e: {"start": s, "end": e}, lambda s, e: (e, s)),
    "other keys": (lambda s, e: {"start": s, "end": e}, lambda s, e: {"end_": e, "start_": s}),
    "one key of two": (lambda s, e: {"start": s, "b": e}, lambda s, e: {"x": s, "y": e}),
}


@pytest.mark.parametrize("way", UNLIKE)
def test_outputs_that_could_be_swapped_are_not_certain(way):
    one, other = (
        make(put) for make, put in zip((TorchHeads, PaddleHeads), UNLIKE[way], strict=True)
    )
    with pytest.raises(PairingError, match="not certain which output is which") as caught:
        uf.pair(one, other, batch=ROWS)
    assert "under the same keys" in str(caught.value)


@pytest.mark.parametrize("way", UNLIKE)
def test_outputs_of_other_shapes_cannot_be_swapped(way):
    puts = UNLIKE[way]
    one, other = scramble(TorchHeads(puts[0], width=2)), PaddleHeads(puts[1], width=2)
    ported(one, other, ROWS)
    assert function_gap(one, other) < LIMIT


def test_one_output_more_on_one_side_is_left_out():
    one = scramble(TorchHeads(lambda s, e: {"start": s, "end": e, "both": s + e}))
    other = PaddleHeads(lambda s, e: {"end": e, "start": s})
    pairing = ported(one, other, ROWS)
    assert dict(pairing.outputs) == {"start": "start", "end": "end"}
    assert function_gap(one, other) < LIMIT


def test_the_same_output_twice_is_no_doubt():
    one = scramble(TorchHeads(lambda s, e: {"start": s, "again": s, "end": e}, width=2))
    other = PaddleHeads(lambda s, e: (e, s), width=2)
    ported(one, other, ROWS)
    assert function_gap(one, other) < LIMIT


def test_values_tell_outputs_of_one_shape_apart():
    def both(h):
        return {"low": h.tanh(), "high": h}

    one = scramble(nn.Sequential(nn.Linear(8, 3), Apply(both)))
    other = paddle.nn.Sequential(paddle.nn.Linear(8, 3), PaddleApply(lambda h: (h, paddle.tanh(h))))
    ported(one, other, ROWS)
    one[1].call, other[1].call = (lambda h: h), (lambda h: h)
    assert gap(one, other, FRESH) < LIMIT


class Apply(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


class PaddleApply(paddle.nn.Layer):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


def seen(**values):
    return {key: Seen(np.shape(v), sketch_flat(np.asarray(v, float))) for key, v in values.items()}


def test_matching_is_by_key_then_by_value_then_by_order():
    one = seen(a=[1, 2], b=[3, 4], c=[5, 6, 7])
    assert match_outputs(one, seen(b=[3, 4], a=[1, 2], c=[5, 6, 7])).names == {k: k for k in "bac"}
    found = match_outputs(one, seen(x=[3, 4], y=[5, 6, 7], z=[1, 2]))
    assert found == ({"x": "b", "y": "c", "z": "a"}, ())
    found = match_outputs(seen(a=[1, 2], b=[1, 2]), seen(x=[1, 2], y=[1, 2]))
    assert found.unsure == ((("a", "b"), ("x", "y")),)
    assert match_outputs(one, seen(x=[9, 9], y=[8, 8])).names == {"x": "a", "y": "b"}


def test_outputs_in_a_row_that_are_in_another_order_go_by_their_values():
    one = {"0": seen(a=[1, 2])["a"], "1": seen(a=[3, 4])["a"]}
    other = {"0": one["1"], "1": one["0"]}
    assert match_outputs(one, other).names == {"0": "1", "1": "0"}


def test_axes_of_length_one_do_not_part_outputs():
    one, other = {"0": Seen((4, 1))}, {"score": Seen((4,))}
    assert match_outputs(one, other).names == {"score": "0"}


def test_every_output_has_a_key_of_its_own_and_caches_have_none():
    found = outputs_in({"a": (1, {"b": 2}), "cache": 3, "a.0": 4}, lambda v: isinstance(v, int))
    assert found == {"a.0": 1, "a.1.b": 2, "a.0#2": 4}
    result = {"cache": 3, "mems": (1, 2)}
    assert outputs_in(result, lambda v: isinstance(v, int), caches=True) == {"cache": 3}
    assert list(caches_in(result, lambda v: isinstance(v, int))) == ["mems"]
    assert outputs_in(5, lambda v: isinstance(v, int)) == {"output": 5}


class TorchCached(nn.Module):
    def __init__(self, key, make):
        super().__init__()
        self.head, self.memory, self.key, self.make = nn.Linear(6, 5), nn.Linear(6, 5), key, make

    def forward(self, x):
        return {"out": self.head(x), self.key: self.make(self.memory(x))}


class PaddleCached(paddle.nn.Layer):
    def __init__(self, key, make):
        super().__init__()
        self.head, self.memory = paddle.nn.Linear(6, 5), paddle.nn.Linear(6, 5)
        self.key, self.make = key, make

    def forward(self, x):
        return {"out": self.head(x), self.key: self.make(self.memory(x))}


@pytest.mark.parametrize("key", ["cache", "mems", "past_key_values"])
def test_a_cache_that_is_one_tensor_is_an_output(key):
    rows = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    one, other = TorchCached(key, lambda h: h), PaddleCached(key, lambda h: h)
    pairing = uf.pair(one, other, batch=rows)
    assert not pairing.left
    assert (key, key) in pairing.outputs
    assert uf.check_step(uf.FreezePlan().train("all"), one, other, batch=rows).holds
    for pair in ((one, PaddleCached(key, lambda h: h * 3)), (PaddleCached(key, abs), one)):
        with pytest.raises(PairingError, match=f"different functions: output {key}"):
            uf.pair(*pair, batch=rows)


def test_a_cache_of_several_tensors_is_said_to_be_left_out():
    rows = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    one, other = TorchCached("mems", lambda h: (h, h)), PaddleCached("mems", lambda h: h)
    pairing = uf.pair(one, other, batch=rows)
    assert pairing.left_out == ((0, "mems"), (1, "mems"))
    assert pairing.turned().left_out == ((1, "mems"), (0, "mems"))
    assert "not compared: output mems of torch" in str(pairing)


class TorchComplex(nn.Linear):
    def forward(self, x):
        return torch.complex(super().forward(x), super().forward(-x))


class PaddleComplex(paddle.nn.Linear):
    def forward(self, x):
        return paddle.complex(super().forward(x), super().forward(-x))


def test_complex_outputs_alone_are_refused_for_what_they_are():
    rows = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    with pytest.raises(PairingError, match="no floating tensor that could be compared") as error:
        uf.pair(TorchComplex(6, 5), PaddleComplex(6, 5), batch=rows)
    assert "view_as_real" in str(error.value)
