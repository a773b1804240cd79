"""Plans as values: how they are built, copied and compared; one selector per framework."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys

import pytest

from tests.support.plan_text import read
from tests.support.trees import conv_net, spec
from unifreeze._plan import FreezePlan, Group, NormRule, Rule
from unifreeze._plan.selectors import Selector
from unifreeze._resolution import resolve_spec
from unifreeze.errors import ArgumentError, PlanError, PlanFileError, SelectorSyntaxError

# Plans as values ----------------------------------------------------------------------------


def test_the_policy_for_moments_is_set_and_written():
    plan = FreezePlan().only("head").with_moments("clear")
    assert plan.moments == "clear"
    assert FreezePlan.from_yaml(plan.to_yaml()) == plan
    assert "moments" not in plan.with_moments("keep").document()
    with pytest.raises(ArgumentError, match='should be "keep" or "clear"'):
        plan.with_moments("drop")


def test_every_phase_that_is_wrong_is_told_with_its_line():
    text = """unifreeze: 1
phases:
  - {name: a, lr: 0.1}
  - {name: a, at: {epoch: 2}, lr: 0.1}
  - {name: c, lr: 0.1}
  - {name: d, at: {epoch: 1}}
"""
    with pytest.raises(PlanFileError) as caught:
        FreezePlan.from_yaml(text)
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        "line 4: phases[1] ('a'): an earlier phase has that name",
        "line 5: phases[2] ('c'): needs a start: at, after or when",
        "line 6: phases[3] ('d'): changes nothing",
        "line 6: phases[3] ('d'): can never be entered at epoch 1: epoch 2 is before it",
    ]


def test_a_plan_is_built_by_chaining():
    plan = FreezePlan().only("head | blocks[-2:]").freeze("norm", optional=True).train("bias")
    assert plan.rules == (
        Rule("only", Selector("head | blocks[-2:]")),
        Rule("freeze", Selector("norm"), optional=True),
        Rule("train", Selector("bias")),
    )


def test_chaining_leaves_the_plan_it_starts_from_as_it_was():
    base = FreezePlan().only("head")
    longer = base.freeze("norm").with_dropout("off").with_group("bias", weight_decay=0)
    assert base == FreezePlan().only("head")
    assert len(longer.rules) == 2


@pytest.mark.parametrize("attribute", ["rules", "norm_stats", "dropout", "groups", "new"])
def test_a_plan_cannot_be_changed(attribute):
    plan = FreezePlan().only("head")
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        setattr(plan, attribute, ())
    for part in (plan.rules[0], Group(Selector("all"), 2.0), NormRule("hold", Selector("all"))):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            part.choice = Selector("norm")


def test_what_a_plan_hands_out_changes_nothing_in_it():
    plan = read("phases: [{name: head, rules: [{only: head}]}]")
    plan.document()["phases"][0]["name"] = "other"
    plan.document()["rules"].append({"freeze": "all"})
    assert plan.document()["phases"] == [{"name": "head", "rules": [{"only": "head"}]}]
    assert plan.rules == ()


def test_settings_are_checked_as_in_a_file_when_set_in_python():
    with pytest.raises(ArgumentError, match="policy is 'holdd', and should be"):
        FreezePlan().with_norm_stats("holdd")
    with pytest.raises(ArgumentError, match="policy is 'on', and should be"):
        FreezePlan().with_dropout("on")
    with pytest.raises(PlanFileError, match=r"groups\[0\].layer_decay: should be less"):
        FreezePlan().with_group("all", layer_decay=1.5)
    with pytest.raises(SelectorSyntaxError):
        FreezePlan().freeze("head |")
    with pytest.raises(PlanFileError, match=r"groups\[0\].match: selector 'head |' does not parse"):
        FreezePlan().with_group("head |", lr_scale=1)


def test_python_and_a_file_make_the_same_plan():
    built = (
        FreezePlan()
        .only("head | blocks[-2:]")
        .freeze("norm")
        .with_norm_stats([{"hold": "norm & backbone"}, {"update": "norm & head"}])
        .with_dropout("off")
        .with_group("all", layer_decay=0.9)
        .with_group("bias | norm", weight_decay=0)
    )
    written = read(
        "rules:",
        '  - only: "head | blocks[-2:]"',
        "  - freeze: norm",
        'norm_stats: [{hold: "norm & backbone"}, {update: "norm & head"}]',
        "dropout: off",
        "groups:",
        "  - {match: all, layer_decay: 0.9}",
        '  - {match: "bias | norm", weight_decay: 0}',
    )
    assert built == written
    assert built.digest == written.digest


def test_the_spelling_of_a_selector_does_not_matter_to_a_plan():
    one, other = FreezePlan().only("head|norm"), FreezePlan().only(Selector("head | (norm)"))
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest == other.digest


def test_plans_that_say_different_things_have_different_digests():
    plans = [
        FreezePlan(),
        FreezePlan().only("head"),
        FreezePlan().train("head"),
        FreezePlan().freeze("head"),
        FreezePlan().freeze("head", optional=True),
        FreezePlan().freeze("norm"),
        FreezePlan().freeze("head").freeze("norm"),
        FreezePlan().freeze("norm").freeze("head"),
        FreezePlan().freeze({"torch": "head"}),
        FreezePlan().with_dropout("off"),
        FreezePlan().with_norm_stats("update"),
        FreezePlan().with_group("all", lr_scale=2),
        FreezePlan().with_group("all", weight_decay=2),
        read("phases: [{name: head}]"),
    ]
    assert len({plan.digest for plan in plans}) == len(plans) == len(set(plans))


def test_equal_numbers_make_equal_digests_however_they_are_written():
    zeros = [0, 0.0, -0.0]
    plans = [FreezePlan(groups=(Group(Selector("all"), weight_decay=zero),)) for zero in zeros]
    assert len(set(plans)) == 1
    assert len({plan.digest for plan in plans}) == 1


def test_the_digest_is_the_same_in_another_process():
    code = "import unifreeze as uf; print(uf.FreezePlan().only('head').freeze('norm').digest)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == FreezePlan().only("head").freeze("norm").digest


def test_a_plan_survives_copying_and_pickling():
    plan = FreezePlan().only({"torch": "a", "paddle": "b"}).with_group("bias", weight_decay=0)
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert copy.deepcopy(plan) == plan


# One selector per framework -------------------------------------------------------------------


def test_a_rule_may_have_a_selector_per_framework():
    plan = read('rules: [{train: {torch: "layer4", paddle: "stage4"}}]')
    assert plan.rules[0].selector("torch") == Selector("layer4")
    assert plan.rules[0].selector("paddle") == Selector("stage4")
    assert plan == FreezePlan().train({"paddle": "stage4", "torch": "layer4"})


def test_a_framework_that_a_rule_leaves_out_is_an_error():
    plan = FreezePlan().train({"torch": "layer4"})
    with pytest.raises(PlanError, match="has no selector for 'paddle'") as caught:
        plan.rules[0].selector("paddle")
    assert "it has one for: torch" in str(caught.value)
    assert 'add "paddle: …"' in caught.value.hint


def test_a_rule_for_no_framework_at_all_is_refused():
    with pytest.raises(PlanError, match="freeze: has no selector for any framework"):
        FreezePlan().freeze({})


def test_each_framework_resolves_its_own_selector():
    plan = FreezePlan().freeze({"torch": "layer1", "paddle": "layer2"})
    for framework, layer in (("torch", "layer1"), ("paddle", "layer2")):
        frozen = resolve_spec(plan, spec(conv_net(), framework=framework)).frozen_paths
        assert {path.split(".")[0] for path in frozen} == {layer}


def test_norm_rules_and_groups_may_have_a_selector_per_framework():
    plan = read(
        'norm_stats: [{hold: {torch: "bn1", paddle: "bn"}}]',
        'groups: [{match: {torch: "fc", paddle: "out"}, lr_scale: 2}]',
    )
    assert FreezePlan.from_yaml(plan.to_yaml()) == plan
    assert dict(plan.groups[0].match)["paddle"] == Selector("out")


def test_a_group_given_in_python_may_have_a_selector_per_framework():
    plan = FreezePlan().with_group({"torch": "fc", "paddle": "out"}, lr_scale=2)
    assert plan == read('groups: [{match: {torch: "fc", paddle: "out"}, lr_scale: 2}]')


def test_wherever_text_will_do_a_selector_will():
    norms = Selector("norm") & "backbone"
    held = FreezePlan().with_norm_stats([{"hold": norms}, {"update": {"torch": Selector("all")}}])
    assert held == FreezePlan().with_norm_stats(
        [{"hold": "norm & backbone"}, {"update": {"torch": "all"}}]
    )
    assert FreezePlan().with_group(norms, lr_scale=2) == FreezePlan().with_group(
        "norm & backbone", lr_scale=2
    )
