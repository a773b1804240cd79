"""Random pairs of networks: most are right, the rest is refused for a reason, none is wrong.

Right is what the judge finds, which runs both networks in every mode and asks no certificate.
"""

from __future__ import annotations

from collections import Counter

import pytest

import unifreeze as uf
from tests.support.pairs.drawn import draw, judge
from tests.support.pairs.drawn.judging import check_description
from unifreeze._numerics.outputs import Matched
from unifreeze._ports.pairing import certificate, model_sketch, name_agreement

IN_CI, IN_ALL = 20, 200
REASONS = (
    "it is not certain which output is which",
    "tensors that ran have no certain partner, and outputs depend on them",
)
"""What a refusal says; each is true only of a network that was drawn to have that obstacle."""


SILENT = {185: "k_proj.bias: nothing there has an equal gradient"}
"""What is left in a network without an obstacle: the bias of keys changes no output at all."""


def outcomes(seeds):
    return {seed: judge(draw(seed), backwards=bool(seed % 2)) for seed in seeds}


def check(found):
    """None wrong, at least 80 % right, and the rest told why: because of what was drawn."""
    counts = Counter(outcome.verdict for outcome in found.values())
    assert not counts["wrong"], {s: o.why for s, o in found.items() if o.verdict == "wrong"}
    for seed, outcome in found.items():
        if outcome.verdict == "partly" and seed in SILENT:
            assert SILENT[seed] in outcome.why
            continue
        if outcome.verdict != "right":
            assert draw(seed).obstacles, f"{seed} has no obstacle, and was {outcome}"
        if outcome.verdict == "refused":
            assert any(reason in outcome.why for reason in REASONS), outcome.why
        if outcome.verdict == "partly":
            assert "its module never ran on this batch" in outcome.why
    assert counts["right"] >= 0.8 * len(found), counts


def test_20_random_pairs():
    check(outcomes(range(IN_CI)))


@pytest.mark.slow
def test_200_random_pairs():
    check(outcomes(range(IN_ALL)))


@pytest.mark.parametrize("seed", range(IN_CI))
def test_both_ports_of_a_description_are_one_network(seed):
    assert check_description(draw(seed)) == ""


def test_a_description_is_the_same_whenever_it_is_drawn():
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_the_drawn_networks_are_of_every_sort():
    nets = [draw(seed) for seed in range(IN_ALL)]
    assert {net.naming for net in nets} == {"same", "random", "permuted"}
    assert {net.domain for net in nets} == {"tokens", "vector", "image"}
    kinds = Counter(part.kind for net in nets for part in net.parts.values())
    assert len(kinds) > 20
    forms = {form for net in nets for part in net.parts.values() for form in part.forms}
    assert {"fused", "fused by head", "split", "wide", "c11", "[]", "in x out", "old"} <= forms
    assert {side.container for net in nets for side in net.sides} == {"bare", "tuple", "dict"}
    for what in ("tied", "cut", "idle", "lists", "obstacles"):
        assert 2 < sum(bool(getattr(net, what)) for net in nets) < IN_ALL / 2, what
    unlike = [net for net in nets if net.inputs[0] != net.inputs[1]]
    assert len(unlike) > 10


def by_position(one, other):
    return Matched(dict(zip(other, one, strict=False)))


MUTANTS = {
    "names are always believed": (22, [(name_agreement.NameAgreement, "tell", lambda *_: True)]),
    "outputs go by position": (94, [(model_sketch, "match_outputs", by_position)]),
    "no certificate": (20, [(certificate, "LIMIT", 1e9), (certificate, "GRADIENT_LIMIT", 1e9)]),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_judge_sees_what_is_wrong(mutant, monkeypatch):
    seed, faults = MUTANTS[mutant]
    assert judge(draw(seed), backwards=bool(seed % 2)).verdict != "wrong"
    for fault in faults:
        monkeypatch.setattr(*fault)
    assert judge(draw(seed), backwards=bool(seed % 2)).verdict == "wrong"


def test_the_judge_sees_a_tensor_that_was_not_carried_over(monkeypatch):
    straight = uf.port_weights

    def careless(source, target, **given):
        kept = {name: tensor.numpy().copy() for name, tensor in target.state_dict().items()}
        ported = straight(source, target, **given)
        name = next(name for name in kept if name.endswith("bias"))
        target.state_dict()[name].set_value(kept[name])
        return ported

    monkeypatch.setattr(uf, "port_weights", careless)
    assert judge(draw(2)).verdict == "wrong"
