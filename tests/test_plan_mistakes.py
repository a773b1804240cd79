"""Mistakes in a plan file: all are reported at once, each with its path and its line."""

from __future__ import annotations

import os

import pytest
import yaml

from unifreeze._plan import FreezePlan
from unifreeze.errors import PlanFileError, PlanVersionError


def mistakes(text):
    with pytest.raises(PlanFileError) as caught:
        FreezePlan.from_yaml(text)
    return caught.value.mistakes


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
        ("unifreeze: 1\nrules:\n - freeze: *a", "line 3: alias *a is refused"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("unifreeze: 1\n---\nunifreeze: 1", "line 2: but found another document"),
        ("{[a]: 1}", "line 1: found unhashable key"),
        (
            "unifreeze: 1\nrules: [{only: [head, norm]}]",
            "line 2: rules[0].only: should be a selector in text, or one per framework, not a list "
            "(['head', 'norm']), write them as one: \"head | norm\"",
        ),
        ("{1: 2, unifreeze: 1}", "[1]: Keys should be strings, not 1"),
        ("[" * 600, "line 1: it is nested too deeply (a plan: 30 levels at most)"),
        ("rules: &a [*a]\nunifreeze: 1", "line 1: alias *a is refused"),
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
