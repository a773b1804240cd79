"""`show` and `explain`: the tree of a model, what each rule takes, and plans that do not fit."""

import json

import pytest

from tests.support.command_line import BATCH, FOUR, MODELS

# show --------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", MODELS)
def test_show_prints_the_tree_with_roles_and_counts(cli, framework):
    code, out, _ = cli("show", MODELS[framework])
    assert code == 0
    assert f"{MODELS[framework]}: {framework}, 14 parameters, 213 values, 14 trainable" in out
    assert "0 Block  blocks.0  6 parameters, 96 values, trainable" in out
    assert "head Linear  head/linear.0  2 parameters, 21 values, trainable" in out
    assert out.rstrip().endswith("blocks: 2 blocks in 1 stage")
    assert "first Linear" not in out


def test_show_goes_into_blocks_when_asked(cli):
    _, out, _ = cli("show", MODELS["torch"], "--all")
    assert "norm BatchNorm1d  blocks.1/norm.0  2 parameters, 12 values" in out


def test_show_says_by_which_order_it_counted(cli):
    assert "by order of registration" in " ".join(cli("show", MODELS["torch"])[1].split())
    out = cli("show", MODELS["torch"], *BATCH)[1]
    assert "by order of execution" in " ".join(out.split())


def test_show_writes_json_to_a_file_or_to_the_output(cli, tmp_path):
    code, out, _ = cli("show", MODELS["paddle"], "--json", "-")
    assert code == 0
    shown = json.loads(out)
    assert list(shown) == ["framework", "order", "parameters", "states", "unused", "runs"]
    assert len(shown["parameters"]) == 14
    assert shown["parameters"][0]["name"] == "blocks.0/linear.0/weight"
    assert shown["runs"] == [
        {"label": "blocks", "blocks": ["blocks.0", "blocks.1"], "stages": [0, 0]}
    ]
    path = tmp_path / "shown.json"
    code, out, _ = cli("show", MODELS["paddle"], "--json", path)
    assert (code, out) == (0, "")
    assert json.loads(path.read_text()) == shown


def test_a_file_that_cannot_be_written_is_unusable(cli, tmp_path):
    code, _, err = cli("show", MODELS["torch"], "--json", tmp_path / "no" / "where.json")
    assert code == 2
    assert "TargetError: cannot write" in err


# explain -----------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", MODELS)
def test_explain_says_what_each_rule_takes_and_saves(cli, plan, framework):
    path = plan(("only", "head | blocks[-1]"), ("freeze", "norm"))
    code, out, _ = cli("explain", path, MODELS[framework])
    assert code == 0
    assert "trainable params: 105 || all params: 213 || trainable%: 49.2958" in out
    assert "rule 1  only: head | blocks[-1]: matches 8, decides 10" in out
    assert "rule 2  freeze: norm: matches 4, decides 4 (24 values)" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["blocks.0", "blocks.0", "frozen", "6", "96", "384", "B"] in rows
    assert ["blocks.1", "blocks.1", "4", "of", "6", "trainable", "6", "96", "384", "B"] in rows
    assert ["head", "head", "trainable", "2", "21", "84", "B"] in rows
    assert "memory saved: 432 B of gradients, 864 B of optimizer state" in out


def test_explain_says_why(cli, head):
    code, out, _ = cli("explain", head, MODELS["torch"], "--why", "head.*")
    assert code == 0
    assert out.splitlines() == [
        "head.weight  head/linear.0/weight  trainable by rule 1 (only: head)",
        "head.bias  head/linear.0/bias  trainable by rule 1 (only: head)",
    ]


def test_explain_says_why_by_canonical_name_too(cli, head):
    _, out, _ = cli("explain", head, MODELS["paddle"], "--why", "blocks.1/norm.0/*")
    assert [line.split()[0] for line in out.splitlines()] == [
        "blocks.1.norm.weight",
        "blocks.1.norm.bias",
    ]


def test_why_of_nothing_is_unusable(cli, head):
    code, out, err = cli("explain", head, MODELS["torch"], "--why", "heda.*")
    assert (code, out) == (2, "")
    assert "no parameter matches 'heda.*'" in err


def test_explain_writes_json(cli, head):
    code, out, _ = cli("explain", head, MODELS["torch"], "--json", "-")
    assert code == 0
    data = json.loads(out)
    assert (data["trainable_values"], data["all_values"]) == (21, 213)
    assert data["rules"] == [{"text": "only: head", "matched": 2, "decided": 14, "values": 213}]
    assert data["parameters"][-1] == {
        "name": "head/linear.0/bias",
        "path": "head.bias",
        "trainable": True,
        "reason": "trainable by rule 1 (only: head)",
    }
    assert data["held"] == ["blocks.0.norm", "blocks.1.norm"]
    assert data["saved_bytes"] == {"gradients": 768, "adam": 1536, "sgd_momentum": 768}


def test_explain_says_what_the_framework_would_refuse(cli, plan, tmp_path):
    (tmp_path / "four_blocks.py").write_text(
        "from torch import nn\n"
        "net = nn.Sequential(nn.Embedding(5, 4, max_norm=1.0), nn.Linear(4, 2))\n"
    )
    code, out, _ = cli("explain", plan(("freeze", "embedding")), FOUR)
    assert code == 0
    assert "torch would refuse: 0: max_norm rewrites the frozen table" in out


# Plans that do not fit ---------------------------------------------------------------------


def test_a_typo_in_a_role_names_the_word(cli, plan):
    code, _, err = cli("explain", plan(("only", "haed")), MODELS["torch"])
    assert code == 2
    assert 'UnmatchedSelectorError: rule 1 (only: "haed")' in err
    assert 'did you mean "head" (a word of the vocabulary, 2 parameters)?' in err


def test_a_slice_past_the_end_says_how_many_there_are(cli, plan, four_blocks):
    code, _, err = cli("explain", plan(("freeze", "blocks[:10]")), FOUR)
    assert code == 2
    assert "SelectorRangeError" in err
    assert "the model has 4 blocks" in err


def test_an_index_where_there_are_several_runs_lists_them(cli, plan, four_blocks):
    code, _, err = cli("explain", plan(("freeze", "blocks[:2]")), "four_blocks:two_runs")
    assert code == 2
    assert "SelectorScopeError" in err
    assert "4 blocks under left (left.blocks), 4 blocks under right (right.blocks)" in err
    assert "blocks[:2] in left or blocks[:2] in right" in err


def test_nothing_trainable_must_be_said(cli, plan):
    code, _, err = cli("explain", plan(("freeze", "backbone"), ("freeze", "head")), MODELS["torch"])
    assert code == 2
    assert "the plan leaves nothing trainable" in err
    assert "freeze: all" in err
    assert cli("explain", plan(("freeze", "all")), MODELS["torch"])[0] == 0


def test_nothing_frozen_must_be_said(cli, plan):
    code, _, err = cli("explain", plan(("train", "backbone"), ("train", "head")), MODELS["torch"])
    assert code == 2
    assert "the plan freezes nothing" in err
    assert "train: all" in err
    assert cli("explain", plan(("train", "all")), MODELS["torch"])[0] == 0


def test_all_mistakes_of_a_plan_file_are_listed(cli, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("unifreeze: 1\nrules:\n  - frezze: head\n  - train: [head]\nnorm_stat: hold\n")
    code, _, err = cli("explain", path, MODELS["torch"])
    assert code == 2
    assert "PlanFileError" in err
    assert "3 mistakes" in err
    assert "did you mean 'norm_stats'?" in err


def test_a_plan_file_that_is_not_there_is_unusable(cli):
    code, _, err = cli("explain", "nowhere.yaml", MODELS["torch"])
    assert code == 2
    assert "nowhere.yaml" in err
