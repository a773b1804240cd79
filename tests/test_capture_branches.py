"""Equal branches that two ports count in another order are never taken for each other."""

from random import Random

import numpy as np
import pytest

import unifreeze as uf
from tests.support.pairs import crossed
from tests.support.pairs import freezings as zoo
from tests.support.trees import linear, module, spec
from unifreeze._authoring.capture import translate_spec
from unifreeze._structure.branches import branches_of, unlike_branches
from unifreeze.errors import CapturedPlanError, PlanError, PlanFileError

BOTH = ("torch", "paddle")
CROSSWISE = (("torch", "first"), ("paddle", "second"))


@pytest.fixture(scope="module")
def x():
    return np.linspace(-1, 1, 3 * 6, dtype=np.float32).reshape(3, 6)


def frozen(model):
    return sorted({n.partition(".")[0] for n, trains in zoo.flags(model).items() if not trains})


def freeze(model, *starts):
    zoo.freeze(model, {name for name in zoo.flags(model) if name.startswith(starts)})
    return model


@pytest.mark.parametrize("pair", crossed.CROSSED, ids=lambda pair: pair.name)
def test_random_freezings_of_crossed_ports_come_out_right_or_are_refused(pair):
    random = Random(f"crossed {pair.name}")
    ports = zoo.Ports.of(pair)
    found = list(zoo.random_freezings(ports, random, 25, zoo.WAYS))
    other = [f"{what}: {o.reason}; {o.plan}" for what, o in found if o.verdict == zoo.OTHER]
    assert not other, "\n".join(other)
    assert any(outcome.verdict == zoo.RIGHT for _, outcome in found)


# With a batch on both sides -------------------------------------------------------------------


@pytest.mark.parametrize("tower", ["text", "vision"])
@pytest.mark.parametrize("way", ["file", "value"])
def test_towers_that_run_crosswise_are_not_taken_for_each_other(tower, way, x):
    one, other = (crossed.towers(f, "text vision", r) for f, r in CROSSWISE)
    found = uf.capture(freeze(one, tower), batch=x)
    plan = uf.FreezePlan.from_yaml(found.text) if way == "file" else found.plan
    with pytest.raises(CapturedPlanError, match="equal branches") as error:
        plan.apply(other, batch=x)
    assert f"{tower}: linear" in str(error.value)
    assert "pairing" in error.value.hint
    assert frozen(other) == []
    plan.apply(one, batch=x).remove()


def test_towers_of_one_order_are_told_apart_by_it(x):
    one, other = (crossed.towers(f, "text vision", "first") for f in BOTH)
    found = uf.capture(freeze(one, "text"), batch=x)
    uf.FreezePlan.from_yaml(found.text).apply(other, batch=x)
    assert frozen(other) == ["text"]


def test_towers_without_a_name_in_common_are_refused_where_their_order_decides(x):
    one, other = crossed.towers("torch", "a b", "first"), crossed.towers("paddle", "c d", "first")
    found = uf.capture(freeze(one, "a"), batch=x).plan
    with pytest.raises(CapturedPlanError, match=r"a, b, of equal layers, have other names here"):
        found.apply(other, batch=x)
    both = uf.capture(freeze(one, "a", "b"), batch=x).plan
    both.apply(other, batch=x)
    assert frozen(other) == ["c", "d"]


def test_a_pairing_says_which_tower_is_which(x):
    one, other = (crossed.towers(f, "text vision", r) for f, r in CROSSWISE)
    pairing = uf.pair(one, other, batch=x)
    uf.capture(freeze(one, "text"), pairing=pairing).plan.apply(other)
    assert frozen(other) == ["text"]


def test_experts_of_a_list_that_run_backwards_are_not_taken_for_each_other(x):
    one, other = (crossed.experts(f, r) for f, r in zip(BOTH, ("forward", "backward"), strict=True))
    found = uf.capture(freeze(one, "experts.0"), batch=x[:, :4]).plan
    with pytest.raises(CapturedPlanError, match="equal branches"):
        found.apply(other, batch=x[:, :4])


@pytest.mark.parametrize("source", [0, 1])
@pytest.mark.parametrize("rule", ["text", "vision"])
def test_translating_refuses_towers_that_run_crosswise(source, rule, x):
    ports = [crossed.towers(f, "text vision", r) for f, r in CROSSWISE]
    one, other = ports[source], ports[1 - source]
    plan = uf.FreezePlan().freeze(rule)
    with pytest.raises(PlanError, match="equal branches") as error:
        uf.translate(plan, one, other, batch=x)
    assert "pairing=" in error.value.hint
    assert "batch" not in error.value.hint
    made = uf.translate(plan, one, other, pairing=uf.pair(one, other, batch=x)).plan
    made.apply(other)
    assert frozen(other) == [rule]


# By registration ------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [0, 1])
@pytest.mark.parametrize("chosen", ["lower.0", "upper.1", "upper"])
def test_lists_registered_in_another_order_are_not_taken_for_each_other(source, chosen, x):
    ports = [crossed.lists(*said) for said in (("torch", "lower upper"), ("paddle", "upper lower"))]
    one, other = ports[source], ports[1 - source]
    plan = uf.FreezePlan().freeze(f'path:"{chosen}"')
    with pytest.raises(PlanError, match="equal branches") as error:
        uf.translate(plan, one, other)
    assert "batch=" in error.value.hint
    captured = uf.capture(freeze(one, f"{chosen}.")).plan
    for batch in (None, x[:, :4]):
        with pytest.raises(CapturedPlanError):
            captured.apply(other, batch=batch)
    uf.translate(plan, one, other, batch=x[:, :4]).plan.apply(other, batch=x[:, :4])
    assert frozen(other) == [chosen.partition(".")[0]]


@pytest.mark.parametrize("batch", [False, True])
def test_lists_without_a_name_in_common_are_refused_without_a_pairing(batch, x):
    one, other = crossed.lists("torch", "early late"), crossed.lists("paddle", "lower upper")
    given = {"batch": x[:, :4]} if batch else {}
    found = uf.capture(freeze(one, "early"), **given).plan
    with pytest.raises(CapturedPlanError, match="of equal layers"):
        found.apply(other, **given)
    pairing = uf.pair(one, other, batch=x[:, :4])
    uf.capture(one, pairing=pairing).plan.apply(other)
    assert frozen(other) == ["lower"]


def test_translating_needs_a_batch_where_numbered_stages_are_registered_backwards(x):
    one = crossed.lists("paddle", "stage2 stage1")
    other = crossed.lists("torch", "layer1 layer2")
    for plan, source, target in ((uf.FreezePlan().freeze("stage2"), one, other),
                                 (uf.FreezePlan().freeze("layer2"), other, one)):  # fmt: skip
        with pytest.raises(PlanError, match="registers stage2 before stage1") as error:
            uf.translate(plan, source, target)
        assert "batch=" in error.value.hint
    made = uf.translate(uf.FreezePlan().freeze("stage2"), one, other, batch=x[:, :4]).plan
    made.apply(other, batch=x[:, :4])
    assert frozen(other) == ["layer2"]


# As values ------------------------------------------------------------------------------------


def two(*names, framework="torch"):
    """Describe a model of several branches, each of two linear layers."""
    branches = {n: module("M", up=linear(4, 6), down=linear(6, 4)) for n in names}
    return spec(module("M", **branches, last=linear(4, 2)), framework=framework)


def decided(made, *starts):
    return [not row.path.startswith(starts) for row in made.parameters]


def test_branches_are_recorded_only_where_they_are_decided_apart():
    made = two("a", "b")
    assert branches_of(made, decided(made, "a", "b"), ()) == {}
    assert branches_of(made, decided(made, "last"), ()) == {}
    rows = (
        {"linear weight": "ff", "linear bias": "ff"},
        {"linear weight": "tt", "linear bias": "tt"},
    )
    assert branches_of(made, decided(made, "a"), ()) == {
        "blocks": [{"a.*": rows[0], "b.*": rows[1]}]
    }


def test_numbered_branches_need_no_record_and_layers_count_within_their_branch():
    made = two("a1", "a2", "a3")
    assert branches_of(made, decided(made, "a2"), ()) == {}
    made = two("a2_1", "a2_2", "a3_1")
    assert branches_of(made, decided(made, "a2_2"), ()) == {}
    made = two("a", "b")
    there = branches_of(made, decided(made, "a.up", "b.down"), ())
    other = two("b", "a")
    assert not list(unlike_branches(there, other, decided(other, "a.up", "b.down"), ()))
    assert len(list(unlike_branches(there, other, decided(other, "b.up", "a.down"), ()))) == 2


def test_one_name_of_three_is_not_enough():
    made, flags = two("a", "b", "c"), lambda one: decided(one, "a")
    there = branches_of(made, flags(made), ())
    other = two("a", "d", "e")
    assert list(unlike_branches(there, other, flags(other), ()))
    other = two("a", "b", "e")
    assert not list(unlike_branches(there, other, flags(other), ()))


def test_translating_described_branches_goes_by_their_names():
    one, other = two("a", "b"), two("b", "a", framework="paddle")
    with pytest.raises(PlanError, match="equal branches"):
        translate_spec(uf.FreezePlan().freeze("a"), one, other)
    with pytest.raises(PlanError, match="other names"):
        translate_spec(uf.FreezePlan().freeze("a"), one, two("c", "d", framework="paddle"))
    made = translate_spec(uf.FreezePlan().freeze("a"), one, two("a", "b", framework="paddle"))
    assert made.plan.captured.branches["blocks"][0].keys() == {"a.*", "b.*"}


def test_the_file_says_what_is_frozen_in_each_branch():
    one = two("a", "b")
    found = translate_spec(uf.FreezePlan().freeze("a"), one, two("a", "b", framework="paddle"))
    assert 'a.*: {linear weight: "ff", linear bias: "ff"}' in found.text
    assert uf.FreezePlan.from_yaml(found.text).captured == found.plan.captured
    with pytest.raises(PlanFileError, match="branches"):
        uf.FreezePlan.from_yaml(found.text.replace('"ff"', '"fx"'))


def test_what_one_port_fuses_is_compared_projection_by_projection():
    """A fused layer stands for as many letters as it holds projections."""

    def fused(framework, *names):
        def attention():
            return module("M", kv=linear(4, 8), q=linear(4, 4), o=linear(4, 4))

        return spec(module("R", **{n: attention() for n in names}), framework=framework)

    def apart(framework, *names):
        def attention():
            return module("M", k=linear(4, 4), v=linear(4, 4), q=linear(4, 4), o=linear(4, 4))

        return spec(module("R", **{n: attention() for n in names}), framework=framework)

    one, other = fused("torch", "a", "b"), apart("paddle", "b", "a")
    there = branches_of(one, decided(one, "a.kv", "b.o"), ())
    ((rows,),) = there.values()
    assert {len(row["linear weight"]) for row in rows.values()} == {4}
    assert not list(unlike_branches(there, other, decided(other, "a.k", "a.v", "b.o"), ()))
    assert list(unlike_branches(there, other, decided(other, "b.k", "b.v", "a.o"), ()))
