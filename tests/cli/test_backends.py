"""Backends: listed, missing, given by hand; the schema, and the program itself."""

import importlib.metadata
import json

import pytest
import torch
from jsonschema import Draft202012Validator

from tests.support.command_line import MODELS, TOY, TOY_BACKEND, alone
from unifreeze._protocol import registry
from unifreeze.errors import MissingFrameworkError

# Frameworks that are not installed ---------------------------------------------------------


def without(*frameworks):
    """Code that runs the command line where frameworks cannot be imported."""
    return f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {frameworks!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in {frameworks!r} else found(name)
sys.meta_path.insert(0, Missing())
from unifreeze._cli import main
main()
"""


def test_a_model_of_a_framework_that_is_not_installed_says_how_to_install_it(head):
    run = alone("explain", head, MODELS["paddle"], code=without("paddle"))
    assert run.returncode == 2
    assert "MissingFrameworkError: paddle is not installed here" in run.stderr
    assert "pip install 'unifreeze[paddle]'" in run.stderr


def test_backends_lists_what_is_not_installed():
    run = alone("backends", code=without("paddle", "torch"))
    assert run.returncode == 0
    assert run.stdout == "paddle: not installed\ntorch: not installed\n"


def test_compare_needs_neither_framework(saved):
    records = [saved("torch"), saved("paddle")]
    run = alone("compare", *records, code=without("torch", "paddle"))
    assert run.returncode == 0, run.stderr
    assert "parity holds" in run.stdout


def test_a_plan_is_read_before_anything_heavy():
    run = alone("parity", "nowhere.yaml", "a:b", "c:d", code=without("torch", "paddle"))
    assert run.returncode == 2
    assert "nowhere.yaml" in run.stderr


def test_a_backend_whose_framework_is_gone_is_listed_and_named(monkeypatch, cli):
    entry = importlib.metadata.EntryPoint("nonet", "unifreeze_nonet:backend", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "_entries", lambda: {"nonet": entry})
    assert cli("backends")[:2] == (0, "nonet: not installed\n")
    with pytest.raises(MissingFrameworkError, match="nonet is not installed here\n  hint: install"):
        raise registry.missing_framework("nonet")


# Backends given by hand --------------------------------------------------------------------


def test_a_backend_is_tried_out_in_place_of_the_installed_one(cli):
    code, out, _ = cli("show", TOY, *TOY_BACKEND)
    assert code == 0
    assert f"{TOY}: toynet, 14 parameters" in out


def test_a_backend_that_no_model_calls_for_is_refused(cli):
    code, _, err = cli("show", MODELS["torch"], "--backend", "troch=nowhere:Backend")
    assert code == 2
    assert "--backend troch=nowhere:Backend was not used" in err


def test_a_backend_that_is_none_says_what_it_lacks(cli):
    code, _, err = cli("show", MODELS["torch"], "--backend", "torch=builtins:dict")
    assert code == 2
    assert "is not a backend: it lacks agree_later, assign, base_rate" in err


def test_a_backend_that_is_not_there_is_unusable(cli):
    code, _, err = cli("show", MODELS["torch"], "--backend", "torch=nowhere:Backend")
    assert code == 2
    assert "there is no module 'nowhere'" in err


# schema, backends, and the program itself --------------------------------------------------------


def test_the_schema_takes_good_plans_and_refuses_bad_ones(cli, tmp_path):
    code, out, _ = cli("schema")
    assert code == 0
    schema = json.loads(out)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    good = {"unifreeze": 1, "rules": [{"only": "head"}], "norm_stats": "hold"}
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, "norm_stat": "hold"})
    assert not validator.is_valid({**good, "unifreeze": 2})
    path = tmp_path / "schema.json"
    assert cli("schema", "--json", path)[:2] == (0, "")
    assert json.loads(path.read_text()) == schema


def test_backends_lists_both_with_version_and_devices(cli):
    code, out, _ = cli("backends", "--json", "-")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows.keys() == {"torch", "paddle"}
    assert rows["torch"]["version"] == torch.__version__
    assert all(row["installed"] and row["devices"][0] == "cpu" for row in rows.values())
    code, out, _ = cli("backends")
    assert f"torch: {torch.__version__}, devices: cpu" in out


def test_a_command_that_is_not_there_is_unusable(cli):
    code, _, err = cli("freeze")
    assert code == 2
    assert "freeze" in err


def test_the_module_runs_as_the_program_does():
    run = alone("--help")
    assert run.returncode == 0
    assert "Exit codes: 0 it holds, 1 it does not hold, 2 unusable input" in run.stdout
    for command in ("show", "explain", "parity", "record", "compare", "schema", "backends"):
        assert f" {command} " in run.stdout
