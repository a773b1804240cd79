"""Plan files: every plan comes back as it was written, and plain YAML is read as people mean it."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.plan_text import SCHEMA, read
from tests.support.random_models import EXPRESSIONS
from unifreeze._plan import FreezePlan
from unifreeze._plan.selectors import Selector
from unifreeze.errors import PlanFileError

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


def test_aliases_and_merge_keys_are_refused_with_what_to_write():
    with pytest.raises(PlanFileError, match=r"line 4: alias \*base is refused; write it out"):
        read(
            "groups:",
            "  - &base {match: norm, weight_decay: 0}",
            "  - {<<: *base, match: bias}",
        )
    with pytest.raises(PlanFileError, match="line 3: the merge key << is refused"):
        read("groups:", "  - {<<: {weight_decay: 0}, match: bias}")


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
