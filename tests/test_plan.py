"""Plans as values and as files: what is kept, what is refused, and with which words."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_models import EXPRESSIONS
from tests.support.trees import conv_net, spec
from unifreeze._plan import FreezePlan, Group, NormRule, Rule
from unifreeze._plan.document import json_schema
from unifreeze._plan.plan_file import _Loader
from unifreeze._plan.selectors import Selector
from unifreeze._resolution import resolve_spec
from unifreeze.errors import (
    ArgumentError,
    PlanError,
    PlanFileError,
    PlanVersionError,
    SelectorSyntaxError,
)

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = jsonschema.Draft202012Validator(json_schema())
EXAMPLES = sorted(ROOT.glob("examples/**/*.yaml"))


def read(*lines):
    return FreezePlan.from_yaml("\n".join(["unifreeze: 1", *lines]))


def mistakes(text):
    with pytest.raises(PlanFileError) as caught:
        FreezePlan.from_yaml(text)
    return caught.value.mistakes


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


# Files: what comes back ---------------------------------------------------------------------

texts = EXPRESSIONS.map(str)
choices = texts | st.dictionaries(
    st.sampled_from(["torch", "paddle", "1e5", "no"]), texts, min_size=1
)
verbs = st.sampled_from(["freeze", "train", "only"])
rules = st.builds(
    lambda verb, choice, optional: {verb: choice} | ({"optional": True} if optional else {}),
    verbs,
    choices,
    st.booleans(),
)
decays = st.none() | st.floats(0, 1e6)
groups = st.fixed_dictionaries(
    {"match": choices},
    optional={
        "lr_scale": decays,
        "weight_decay": decays,
        "layer_decay": st.none() | st.floats(0, 1, exclude_min=True),
    },
).filter(lambda group: any(value is not None for key, value in group.items() if key != "match"))
holding = st.sampled_from(["hold", "update"])
norm_rules = st.lists(st.builds(lambda verb, choice: {verb: choice}, holding, choices), max_size=2)
TRICKY = ("1e-4", "off", "yes", "~", "1:30", "010", "2001-01-01", "a: b", "é\n ", "", "name")
tricky = st.sampled_from(TRICKY)
numbers = st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
sizes = st.floats(0, 1e6, exclude_min=True)
metrics = st.fixed_dictionaries(
    {"metric": tricky.filter(bool)},
    optional={"min_delta": st.floats(0, 9), "mode": st.sampled_from(["min", "max"])},
)
turns = st.sampled_from(["stalled_for", "risen_for"])
whens = st.builds(
    lambda row, turn, reports: {**row, turn: reports}, metrics, turns, st.integers(1, 9)
)
afters = st.builds(
    lambda unit, count: {unit: count}, st.sampled_from(["epochs", "steps"]), st.integers(1, 99)
)
entries = st.builds(lambda after: {"after": after}, afters) | st.builds(
    lambda when: {"when": when}, whens
)
changes = st.fixed_dictionaries(
    {"lr": sizes},
    optional={
        "add": st.lists(rules, max_size=2),
        "norm_stats": st.sampled_from(["hold", "update", "hold_all"]) | norm_rules,
        "weight_decay": st.floats(0, 1),
    },
)
phase_lists = st.lists(st.tuples(entries, changes), max_size=2).map(
    lambda rows: [
        {"name": "start"},
        *({"name": f"{n}: on", **entry, **change} for n, (entry, change) in enumerate(rows)),
    ]
)
documents = st.fixed_dictionaries(
    {"unifreeze": st.just(1)},
    optional={
        "rules": st.lists(rules, max_size=3),
        "norm_stats": st.sampled_from(["hold", "update", "hold_all"]) | norm_rules,
        "dropout": st.sampled_from(["live", "off"]),
        "groups": st.lists(groups, max_size=2),
        "phases": phase_lists,
    },
)


def plan_of(document):
    return FreezePlan()._reread(**{k: v for k, v in document.items() if k != "unifreeze"})


@settings(max_examples=120, deadline=None)
@given(documents.map(plan_of))
def test_a_plan_that_is_saved_and_loaded_is_equal_with_an_equal_digest(plan):
    again = FreezePlan.from_yaml(plan.to_yaml())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.digest == plan.digest
    assert again.phases == plan.phases


@settings(max_examples=60, deadline=None)
@given(documents.map(plan_of))
def test_every_plan_that_can_be_written_fits_the_schema(plan):
    SCHEMA.validate(plan.document())


@settings(max_examples=60, deadline=None)
@given(documents.map(plan_of))
def test_a_plan_file_reads_the_same_under_yaml_1_1_but_for_numbers(plan):
    """Expressions and settings that are words must not depend on which YAML reads them."""
    document = plan.document()
    found = yaml.safe_load(plan.to_yaml())
    assert found["rules"] == document["rules"]
    assert found.get("norm_stats") == document.get("norm_stats")
    assert found.get("dropout") == document.get("dropout")


def test_a_file_on_disk_comes_back(tmp_path):
    plan = FreezePlan().only("head").with_group("bias", weight_decay=1e-4)
    plan.save(tmp_path / "plan.yaml")
    assert FreezePlan.load(tmp_path / "plan.yaml") == plan
    assert FreezePlan.load(str(tmp_path / "plan.yaml")) == plan


def test_a_written_plan_is_short_and_its_expressions_are_quoted():
    plan = FreezePlan().only("head | **.bias").freeze("norm", optional=True)
    assert plan.to_yaml().splitlines() == [
        "unifreeze: 1",
        "rules:",
        '- only: "head | **.bias"',
        '- freeze: "norm"',
        "  optional: true",
    ]


def test_a_number_in_scientific_notation_is_a_number():
    plan = read("groups: [{match: all, lr_scale: 1e-4, weight_decay: 5E+2}]")
    assert plan.groups[0].lr_scale == 1e-4
    assert plan.groups[0].weight_decay == 500.0
    assert read("phases: [{name: a, lr: 1e-4}]").phases[0].lr == 1e-4


def test_off_and_its_like_are_words():
    assert read("dropout: off").dropout == "off"
    assert read("rules: [{freeze: off}]").rules[0].choice == Selector("off")
    assert read("rules: [{freeze: no}]").rules[0].choice == Selector("no")
    words = [phase.name for phase in read("phases: [{name: yes}]").phases]
    words += [read(f"phases: [{{name: {word}}}]").phases[0].name for word in ("On", "n", "1:30")]
    words += [
        read(f"phases: [{{name: {word}}}]").phases[0].name for word in ("1_000", "2001-01-01")
    ]
    assert words == ["yes", "On", "n", "1:30", "1_000", "2001-01-01"]


def test_true_and_null_mean_what_they_mean():
    assert read("rules: [{freeze: norm, optional: true}]").rules[0].optional
    assert not read("rules: [{freeze: norm, optional: false}]").rules[0].optional
    phase = read("phases: [{name: a, rules: null, add: ~, lr: .5}]").phases[0]
    assert (phase.rules, phase.add, phase.lr) == (None, (), 0.5)


def test_a_selector_may_begin_with_any_sign_if_it_is_quoted():
    for text in ("~norm", "**.bias", "*.weight"):
        assert read(f'rules: [{{freeze: "{text}"}}]').rules[0].choice == Selector(text)


def test_anchors_and_merges_are_plain_yaml():
    plan = read(
        "groups:",
        "  - &base {match: norm, weight_decay: 0}",
        "  - {<<: *base, match: bias}",
    )
    assert [str(group.match) for group in plan.groups] == ["norm", "bias"]
    assert plan.groups[1].weight_decay == 0


def test_phases_are_written_as_they_were_read():
    plan = read(
        "rules: [{only: head}]",
        "phases:",
        "  - {name: head, rules: [{only: head}]}",
        '  - {name: top, at: {epoch: 5}, add: [{train: "blocks[-2:]"}], lr: 1e-4}',
    )
    phases = [
        {"name": "head", "rules": [{"only": "head"}]},
        {"name": "top", "at": {"epoch": 5}, "add": [{"train": "blocks[-2:]"}], "lr": 1e-4},
    ]
    assert plan.document()["phases"] == phases
    assert FreezePlan.from_yaml(plan.to_yaml()).phases == plan.phases
    assert plan.freeze("norm").phases == plan.phases
    assert plan.with_dropout("off").phases == plan.phases


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


# Mistakes -----------------------------------------------------------------------------------


def test_every_mistake_of_a_file_is_reported_at_once_with_its_path_and_line():
    text = """\
unifreeze: 1
rulez: []
rules:
  - freeze: "head |"
  - train: 3
  - frieze: head
  - {freeze: a, train: b}
  - only: head
    optionl: true
norm_stats: holdd
dropout: maybe
groups:
  - match: all
    layer_decay: 2
  - lr_scale: 1
  - match: all
    lr_scale: fast
"""
    found = [mistake.splitlines()[0] for mistake in mistakes(text)]
    starts = [
        "line 4: rules[0].freeze: selector 'head |' does not parse: it ends too early",
        "line 5: rules[1].train: should be a selector in text, or one per framework, not a number",
        "line 6: rules[2]: needs exactly one of freeze, train or only, has none",
        "line 7: rules[3]: needs exactly one of freeze, train or only, has freeze and train",
        "line 9: rules[4].optionl: unknown key 'optionl', did you mean 'optional'?",
        "line 10: norm_stats: should be 'hold', 'update' or 'hold_all', not 'holdd'",
        "line 11: dropout: should be 'live' or 'off', not 'maybe'",
        "line 14: groups[0].layer_decay: should be less than or equal to 1, not 2",
        "line 15: groups[1].match: is missing",
        "line 17: groups[2].lr_scale: should be a valid number, not 'fast'",
        "line 2: rulez: unknown key 'rulez', did you mean 'rules'?",
    ]
    assert len(found) == len(starts)
    for start in starts:
        assert any(mistake.startswith(start) for mistake in found), start


def test_an_error_of_a_file_names_the_file_and_counts_its_mistakes(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("unifreeze: 1\nrulez: []\ndropout: maybe\n")
    with pytest.raises(PlanFileError) as caught:
        FreezePlan.load(path)
    assert str(caught.value).startswith(f"{path}: 2 mistakes")


def test_a_key_that_stands_twice_is_a_mistake_beside_the_others():
    found = mistakes("unifreeze: 1\nrules: [{freeze: a, freeze: b}]\nrulez: 1\nrules: []\n")
    assert found[:2] == ("line 4: key 'rules' stands twice", "line 2: key 'freeze' stands twice")
    assert found[2].startswith("line 3: rulez: unknown key")
    assert mistakes("unifreeze: 1\nrules: []\nrules: []\n") == ("line 3: key 'rules' stands twice",)


def test_a_misspelt_verb_is_named_with_what_was_meant():
    (mistake,) = mistakes("unifreeze: 1\nrules: [{frieze: head}]")
    assert mistake.endswith("has none; unknown key 'frieze', did you mean 'freeze'?")


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "a plan is a mapping with unifreeze and rules, not None"),
        ("- a", "a plan is a mapping with unifreeze and rules, not ['a']"),
        ("rules: []", "unifreeze: is missing (write unifreeze: 1)"),
        ("unifreeze: '1'", "line 1: unifreeze: should be 1, not '1'"),
        ("unifreeze: true", "line 1: unifreeze: should be 1, not True"),
        ("unifreeze: 1.0", "line 1: unifreeze: should be 1, not 1.0"),
        ("unifreeze: 1\nrules: 3", "line 2: rules: should be a valid list, not 3"),
        ("unifreeze: 1\nrules: [head]", "line 2: rules[0]: should be a mapping, not 'head'"),
        (
            "unifreeze: 1\nrules: [{freeze: }]",
            "line 2: rules[0].freeze: should be a selector in text, or one per framework, "
            "not nothing",
        ),
        (
            "unifreeze: 1\nrules: [{freeze: {torch: 1}}]",
            "line 2: rules[0].freeze: framework names and selectors are text",
        ),
        (
            "unifreeze: 1\nrules: [{freeze: a, optional: yes}]",
            "line 2: rules[0].optional: should be a valid boolean, not 'yes'",
        ),
        (
            "unifreeze: 1\nnorm_stats: [{hold: a, update: b}]",
            "line 2: norm_stats[0]: needs exactly one of hold or update, has hold and update",
        ),
        (
            "unifreeze: 1\ngroups: [{match: all, weight_decay: .inf}]",
            "line 2: groups[0].weight_decay: should be a finite number, not inf",
        ),
        ("unifreeze: 1\nrules:\n - freeze: *a", "line 3: found undefined alias 'a'"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("unifreeze: 1\n---\nunifreeze: 1", "line 2: but found another document"),
        ("{[a]: 1}", "line 1: found unhashable key"),
        (
            "unifreeze: 1\nrules: [{only: [head, norm]}]",
            "line 2: rules[0].only: should be a selector in text, or one per framework, not a list "
            "(['head', 'norm']), write them as one: \"head | norm\"",
        ),
        ("{1: 2, unifreeze: 1}", "[1]: Keys should be strings, not 1"),
        ("[" * 600, "it is nested too deeply"),
        ("rules: &a [*a]\nunifreeze: 1", "line 1: rules[0]: should be a mapping, not [[[…]]]"),
    ],
)
def test_a_mistake_is_said_in_plain_words(text, mistake):
    assert mistakes(text)[0].partition(";")[0].partition(" (known")[0] == mistake


def test_an_alias_taken_for_a_glob_is_told_to_be_quoted():
    (mistake,) = mistakes("unifreeze: 1\nrules:\n  - freeze: **.bias")
    assert mistake.startswith("line 3: ")
    assert 'put selectors in quotes: "**.bias"' in mistake


def test_a_file_that_is_not_there_or_not_text_is_an_error_of_the_plan(tmp_path):
    with pytest.raises(PlanFileError, match="cannot be read: No such file"):
        FreezePlan.load(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(PlanFileError, match="cannot be read"):
        FreezePlan.load(tmp_path / "bytes.yaml")


@pytest.mark.parametrize(("version", "hint"), [(2, "upgrade unifreeze"), (0, "write unifreeze: 1")])
def test_another_format_version_is_an_error_of_its_own(version, hint):
    with pytest.raises(PlanVersionError, match=f"format version {version}") as caught:
        FreezePlan.from_yaml(f"unifreeze: {version}\nanything: [else]")
    assert caught.value.hint == hint


TAGS = (
    "!!python/object/apply:os.system ['touch {target}']",
    "!!python/object/apply:subprocess.check_output [[touch, '{target}']]",
    "!!python/object/new:os.system ['touch {target}']",
    "!!python/name:os.system",
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{target}']]",
)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", ["rules", "phases", "unknown"])
def test_a_python_tag_is_refused_and_nothing_is_executed(tag, place, tmp_path):
    target = tmp_path / "executed"
    text = f"unifreeze: 1\n{place}: {tag.format(target=target)}\n"
    (mistake,) = mistakes(text)
    assert mistake.startswith("line 2: tag 'tag:yaml.org,2002:python/")
    assert "nothing in them runs" in mistake
    assert not target.exists()


@pytest.mark.skipif(os.name == "nt", reason="touch is not there")
def test_the_side_effect_that_is_refused_would_have_shown(tmp_path):
    target = tmp_path / "executed"
    yaml.unsafe_load(TAGS[0].format(target=target))
    assert target.exists()


# The JSON Schema ----------------------------------------------------------------------------

GOOD = (
    {"unifreeze": 1},
    {"unifreeze": 1, "rules": [{"only": "head"}, {"freeze": "norm", "optional": True}]},
    {"unifreeze": 1, "rules": [{"train": {"torch": "layer4", "paddle": "stage4"}}]},
    {"unifreeze": 1, "norm_stats": "hold_all", "dropout": "off"},
    {"unifreeze": 1, "norm_stats": [{"hold": "norm & backbone"}, {"update": {"torch": "norm"}}]},
    {"unifreeze": 1, "groups": [{"match": "all", "lr_scale": 0.1, "layer_decay": 0.9}]},
    {"unifreeze": 1, "phases": [{"name": "top", "at": {"epoch": 0}, "add": [{"train": "all"}]}]},
    {
        "unifreeze": 1,
        "phases": [
            {"name": "a", "rules": [{"only": "head"}], "lr": 0.1, "weight_decay": 0.0},
            {"name": "b", "after": {"steps": 9}, "norm_stats": [{"hold": "norm"}]},
            {"name": "c", "when": {"metric": "acc", "stalled_for": 2, "mode": "max"}, "like": "a"},
            {
                "name": "d",
                "when": {"metric": "loss", "risen_for": 1, "min_delta": 0.1},
                "stop": True,
            },
        ],
    },
)
BAD = (
    {},
    {"unifreeze": 2},
    {"unifreeze": "1"},
    {"unifreeze": 1, "rulez": []},
    {"unifreeze": 1, "rules": "head"},
    {"unifreeze": 1, "rules": ["head"]},
    {"unifreeze": 1, "rules": [{}]},
    {"unifreeze": 1, "rules": [{"optional": True}]},
    {"unifreeze": 1, "rules": [{"freeze": "a", "train": "b"}]},
    {"unifreeze": 1, "rules": [{"frieze": "a"}]},
    {"unifreeze": 1, "rules": [{"freeze": 1}]},
    {"unifreeze": 1, "rules": [{"freeze": ""}]},
    {"unifreeze": 1, "rules": [{"freeze": {}}]},
    {"unifreeze": 1, "rules": [{"freeze": {"torch": 1}}]},
    {"unifreeze": 1, "rules": [{"freeze": {"torch": ""}}]},
    {"unifreeze": 1, "rules": [{"freeze": "a", "optional": "yes"}]},
    {"unifreeze": 1, "norm_stats": "holdd"},
    {"unifreeze": 1, "norm_stats": [{"hold": "a", "update": "b"}]},
    {"unifreeze": 1, "norm_stats": [{}]},
    {"unifreeze": 1, "dropout": "on"},
    {"unifreeze": 1, "groups": [{"lr_scale": 1}]},
    {"unifreeze": 1, "groups": [{"match": "all"}]},
    {"unifreeze": 1, "groups": [{"match": "all", "lr": 1}]},
    {"unifreeze": 1, "groups": [{"match": "all", "lr_scale": -1}]},
    {"unifreeze": 1, "groups": [{"match": "all", "layer_decay": 0}]},
    {"unifreeze": 1, "groups": [{"match": "all", "layer_decay": 1.1}]},
    {"unifreeze": 1, "phases": {"name": "a"}},
    {"unifreeze": 1, "phases": [{"lr": 0.1}]},
    {"unifreeze": 1, "phases": [{"name": "a", "lr": 0}]},
    {"unifreeze": 1, "phases": [{"name": "a", "rules": [], "like": "b"}]},
    {"unifreeze": 1, "phases": [{"name": "a", "at": {"epoch": 0}, "after": {"epochs": 1}}]},
    {"unifreeze": 1, "phases": [{"lr": 1, "stop_on_rise": {"metric": "x"}, "lisa": {}}]},
    {"unifreeze": 1, "phases": [{"name": "a", "at": {"epoch": 0, "step": 0}}]},
    {"unifreeze": 1, "phases": [{"name": "a", "at": {"epoch": -1}}]},
    {"unifreeze": 1, "phases": [{"name": "a", "when": {"metric": "x"}}]},
    {"unifreeze": 1, "phases": [{"name": "a", "add": [{"trian": "all"}]}]},
)


def test_the_schema_is_a_valid_schema():
    with warnings.catch_warnings(action="error"):
        json_schema()
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_plan_loads_and_fits_the_schema(path):
    plan = FreezePlan.load(path)
    SCHEMA.validate(plan.document())
    SCHEMA.validate(yaml.load(path.read_text(), Loader=_Loader))
    assert plan.rules or plan.phases


def test_there_are_example_plans():
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("document", GOOD, ids=str)
def test_schema_and_loader_accept_the_same_good_plans(document):
    SCHEMA.validate(document)
    assert FreezePlan.from_yaml(yaml.safe_dump(document)).document() == (
        {"rules": []} | document
    ), "and what is loaded is what was written"


@pytest.mark.parametrize("document", BAD, ids=str)
def test_schema_and_loader_refuse_the_same_bad_plans(document):
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(document)
    with pytest.raises((PlanFileError, PlanVersionError)):
        FreezePlan.from_yaml(yaml.safe_dump(document))


def test_plain_data_that_pyyaml_itself_has_read_is_read_as_the_file_is():
    phase = "{name: a, lr: 5E+2, rules: [{only: '1e3'}]}"
    text = f"{{unifreeze: 1, groups: [{{match: all, lr_scale: 1e-3}}], phases: [{phase}]}}"
    text = text.replace("unifreeze: 1,", "unifreeze: 1, dropout: off,")
    plan = FreezePlan.from_document(yaml.safe_load(text))
    assert plan == FreezePlan.from_yaml(text)
    assert (plan.groups[0].lr_scale, plan.phases[0].lr, plan.dropout) == (1e-3, 500.0, "off")
    with pytest.raises(PlanFileError, match="should be a valid number"):
        FreezePlan.from_yaml(text.replace("lr_scale: 1e-3", "lr_scale: '1e-3'"))
