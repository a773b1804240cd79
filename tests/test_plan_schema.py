"""The JSON Schema of plan files accepts and refuses what the loader does."""

from __future__ import annotations

import warnings
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.support.plan_text import SCHEMA
from unifreeze._plan import FreezePlan
from unifreeze._plan.document import json_schema
from unifreeze._plan.yaml_text import read_yaml
from unifreeze.errors import PlanFileError, PlanVersionError

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(ROOT.glob("examples/**/*.yaml"))

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
    SCHEMA.validate(read_yaml(path.read_text())[0])
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
