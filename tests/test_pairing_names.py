"""Names decide only what nothing else can, and only where they have proved to agree."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.pairs.ported import LIMIT, gap, ported, scramble
from unifreeze._ports.pairing.name_agreement import NameAgreement
from unifreeze.errors import PairingError, PortError

ROWS = np.random.default_rng(0).standard_normal((4, 8)).astype("float32")
FRESH = np.random.default_rng(1).standard_normal((4, 8)).astype("float32")
LANGUAGES = ("en", "de", "fr")


class TorchAdapters(nn.Module):
    """One adapter a language; only the first runs unless another is asked for."""

    def __init__(self, names, start="a", plain=False):
        super().__init__()
        self.names = dict(zip(LANGUAGES, names, strict=True))
        self.add_module(start, nn.Linear(8, 8))
        self.start = start
        made = {self.names[lang]: nn.Linear(8, 8) for lang in sorted(LANGUAGES)}
        self.adapters = nn.ModuleDict(made)

    def forward(self, x, lang="en"):
        return self.adapters[self.names[lang]](getattr(self, self.start)(x).tanh())


class PaddleAdapters(paddle.nn.Layer):
    def __init__(self, names, start="a"):
        super().__init__()
        self.names = dict(zip(LANGUAGES, names, strict=True))
        self.add_sublayer(start, paddle.nn.Linear(8, 8))
        self.start = start
        made = {self.names[lang]: paddle.nn.Linear(8, 8) for lang in reversed(LANGUAGES)}
        self.adapters = paddle.nn.LayerDict(made)

    def forward(self, x, lang="en"):
        return self.adapters[self.names[lang]](paddle.tanh(getattr(self, self.start)(x)))


def idle_left(pairing):
    reasons = {row.reason for row in pairing.left}
    assert reasons == {"its module never ran on this batch"}
    return len(pairing.left)


def test_what_never_ran_goes_by_its_name_however_it_is_registered():
    one, other = scramble(TorchAdapters(LANGUAGES)), PaddleAdapters(LANGUAGES)
    pairing = ported(one, other, ROWS)
    assert {row.by for row in pairing.pairs if ".de." in row.one} == {"name"}
    assert set(pairing.certificate.unproven) == {
        f"adapters.{lang}.{leaf}" for lang in ("de", "fr") for leaf in ("weight", "bias")
    }
    for lang in LANGUAGES:
        assert gap(one, other, FRESH, lang=lang) < LIMIT


def test_one_name_that_has_proved_to_agree_is_enough():
    pairing = uf.pair(TorchAdapters(LANGUAGES), PaddleAdapters(LANGUAGES, start="b"), batch=ROWS)
    assert not pairing.left


@pytest.mark.parametrize(
    ("names", "start"),
    [
        (("x", "y", "z"), "a"),
        (("de", "en", "fr"), "a"),
        (("en", "x", "de"), "a"),
        (("x", "de", "fr"), "b"),
        (("0", "1", "2"), "a"),
    ],
    ids=["others", "crossed", "one of them elsewhere", "unproven", "numbers"],
)
def test_what_never_ran_is_left_where_names_do_not_tell(names, start):
    one = scramble(TorchAdapters(("0", "2", "1") if names[0] == "0" else LANGUAGES))
    other = PaddleAdapters(names, start)
    pairing = uf.pair(one, other, batch=ROWS)
    assert idle_left(pairing) == 8
    with pytest.raises(PortError, match="with no place in the target"):
        uf.port_weights(one, other, pairing=pairing)
    uf.port_weights(one, other, pairing=pairing, partial=True)
    assert gap(one, other, FRESH) < LIMIT


class TorchList(nn.Module):
    """Experts in a list, of which a batch chooses some."""

    def __init__(self, order):
        super().__init__()
        self.order, self.experts = order, nn.ModuleList(nn.Linear(8, 8) for _ in order)

    def forward(self, x, chosen=(0, 1)):
        for expert in chosen:
            x = self.experts[self.order[expert]](x).tanh()
        return x


class PaddleList(paddle.nn.Layer):
    def __init__(self, order):
        super().__init__()
        self.order, self.experts = order, paddle.nn.LayerList(paddle.nn.Linear(8, 8) for _ in order)

    def forward(self, x, chosen=(0, 1)):
        for expert in chosen:
            x = paddle.tanh(self.experts[self.order[expert]](x))
        return x


def test_a_number_in_a_list_is_a_name_once_several_have_proved_it():
    one, other = scramble(TorchList((0, 1, 2, 3))), PaddleList((0, 1, 2, 3))
    ported(one, other, ROWS)
    assert gap(one, other, FRESH, chosen=(3, 2)) < LIMIT


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 2, 1, 3)])
def test_a_list_in_another_order_is_left(order):
    pairing = uf.pair(TorchList((0, 1, 2, 3)), PaddleList(order), batch=ROWS)
    assert idle_left(pairing) == 8


class TorchLoose(nn.Module):
    """A module that runs, and leaves some of its own parameters alone."""

    def __init__(self, names):
        super().__init__()
        self.names, self.out = names, nn.Linear(8, 3)
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.randn(8)))

    def forward(self, x, mode=0):
        return self.out(x * getattr(self, self.names[mode]))


class PaddleLoose(paddle.nn.Layer):
    def __init__(self, names):
        super().__init__()
        self.names, self.out = names, paddle.nn.Linear(8, 3)
        for name in names:
            self.add_parameter(name, paddle.create_parameter([8], "float32"))

    def forward(self, x, mode=0):
        return self.out(x * getattr(self, self.names[mode]))


@pytest.mark.parametrize("names", [("u", "v", "w"), ("v", "u", "w"), ("0", "2", "1")])
def test_loose_parameters_that_were_not_read_did_not_run(names):
    here = ("0", "1", "2") if "0" in names else ("u", "v", "w")
    one, other = scramble(TorchLoose(here)), PaddleLoose(names)
    pairing = uf.pair(one, other, batch=ROWS)
    if names == here:
        uf.port_weights(one, other, pairing=pairing)
        assert all(gap(one, other, FRESH, mode=mode) < LIMIT for mode in (0, 1, 2))
    else:
        assert idle_left(pairing) == 4


class TorchTwins(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x, only=None):
        if only:
            return self.o(getattr(self, only)(x).relu())
        return self.o(self.a(x).relu() + self.b(x).relu())


class PaddleTwins(paddle.nn.Layer):
    def __init__(self, names):
        super().__init__()
        self.o, self.names = paddle.nn.Linear(6, 3), dict(zip("ab", names, strict=True))
        for name in names:
            self.add_sublayer(name, paddle.nn.Linear(8, 6))

    def forward(self, x, only=None):
        relu = paddle.nn.functional.relu
        parts = [
            relu(getattr(self, name)(x)) for key, name in self.names.items() if only in (None, key)
        ]
        return self.o(sum(parts))


def test_twins_go_by_their_names():
    one, other = scramble(TorchTwins()), PaddleTwins("ab")
    pairing = ported(one, other, ROWS)
    assert {row.one: row.by for row in pairing.pairs}["a.weight"] == "name"
    assert all(gap(one, other, FRESH, only=only) < LIMIT for only in (None, "a", "b"))


@pytest.mark.parametrize("names", [("p", "q"), ("p", "a"), ("o2", "b2")])
def test_twins_of_other_names_are_refused_because_they_are_interchangeable(names):
    with pytest.raises(PairingError) as caught:
        uf.pair(TorchTwins(), PaddleTwins(names), batch=ROWS)
    assert "have no certain partner, and outputs depend on them" in str(caught.value)
    assert f"2 there have an equal gradient, interchangeable here: {names[0]}.weight" in str(
        caught.value
    )


def test_hints_say_which_twin_is_which_and_are_checked():
    one, other = scramble(TorchTwins()), PaddleTwins("pq")
    hints = {"a.weight": "q.weight", "b.weight": "p.weight"}
    pairing = ported(one, other, ROWS, hints=hints)
    assert {row.one: row.other for row in pairing.pairs}["a.bias"] == "q.bias"
    assert gap(one, other, FRESH) < LIMIT


def test_unpaired_tensors_that_matter_break_the_certificate_whatever_they_are_called(monkeypatch):
    from unifreeze._ports.pairing.matching import Matching

    straight = Matching.run

    def forgetful(self, shipped=None):
        kept = [pair for pair in straight(self, shipped) if not pair.one.startswith("b.")]
        self.pairs = {pair.one: pair for pair in kept}
        self._taken = {pair.other for pair in kept}
        return kept

    monkeypatch.setattr(Matching, "run", forgetful)
    with pytest.raises(PairingError, match="the pairing does not hold"):
        uf.pair(TorchTwins(), TorchTwins(), batch=ROWS)


def test_names_agree_only_with_a_proof_and_without_a_contradiction():
    a, b, c, d, x = ((name, "weight") for name in ("a", "b", "c.0", "d", "x"))
    assert not NameAgreement([], ({a}, {a})).tell(a)
    assert NameAgreement([(a, a)], ({b}, {b})).tell(b)
    assert not NameAgreement([(a, x)], ({b}, {b})).tell(b)
    assert not NameAgreement([(a, a), (d, b)], ({b, c}, {d, c})).tell(c)  # b is d there
    assert not NameAgreement([(a, a)], ({b, d}, {b, x})).tell(b)  # what is beside it differs
    assert not NameAgreement([(a, a)], ({c}, {c})).tell(c)  # a number that nothing has proved
