"""`parity`: each side in a process of its own, with a framework that imports in no time."""

import json
import subprocess

import pytest

from tests.support.command_line import BATCH, ROOT, TOY, TOY_BACKEND, TOY_FOLDER, alone
from unifreeze._evidence import PARITY_CLAUSES


def toy_parity(plan, *sides, **how):
    json_file = plan.with_name("report.json")
    run = alone("parity", plan, *sides, *BATCH, *TOY_BACKEND, "--json", json_file, **how)
    return run, json.loads(json_file.read_text()) if json_file.exists() else None


def test_parity_holds(head):
    run, report = toy_parity(head, TOY, TOY)
    assert run.returncode == 0, run.stderr
    assert "parity holds" in run.stdout
    assert report["holds"] is True
    assert list(report) == ["holds", "clauses", "sides", "steps", "optimizers"]
    assert [clause["name"] for clause in report["clauses"]] == [row.name for row in PARITY_CLAUSES]
    assert report["sides"][0] == {
        "framework": "toynet",
        "device": "cpu",
        "parameters": 14,
        "values": 213,
        "frozen": 12,
        "trainable": 2,
    }


def test_parity_does_not_hold(head):
    run, report = toy_parity(head, TOY, "tests.support.toy_framework.toy_models:Forgetful")
    assert run.returncode == 1
    assert "parity does not hold" in run.stdout
    broken = [clause["name"] for clause in report["clauses"] if not clause["holds"]]
    assert broken == ["gradients", "trained"]


def test_a_side_that_cannot_be_recorded_speaks_for_itself(head):
    run, report = toy_parity(head, TOY, "tests.support.toy_framework.toy_models:Plian")
    assert run.returncode == 2
    assert report is None
    assert "tests.support.toy_framework.toy_models:Plian did not run to its end" in run.stderr
    assert "did you mean 'Plain'?" in run.stderr


def test_a_mistake_in_a_backend_is_told_as_a_bug(head, tmp_path):
    (tmp_path / "buggy.py").write_text(
        "from unifreeze_toynet import ToynetBackend\n"
        "class Buggy(ToynetBackend):\n"
        "    def get_guards(self, walk):\n"
        "        raise ZeroDivisionError('oops')\n"
    )
    paths = f"{TOY_FOLDER}:{ROOT}:{tmp_path}"
    arguments = ["--backend", "toynet=buggy:Buggy"]
    run = alone("parity", head, TOY, TOY, *BATCH, *arguments, PYTHONPATH=paths)
    assert run.returncode == 3
    assert "ZeroDivisionError: oops" in run.stderr
    assert "This is a bug in unifreeze or in a backend; please report it." in run.stderr


def test_an_interpreter_that_is_not_there_is_unusable(cli, head):
    code, _, err = cli(
        "parity", head, TOY, TOY, *BATCH, *TOY_BACKEND, "--other-python", "/no/python"
    )
    assert code == 2
    assert "cannot run /no/python" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a batch is needed"),
        (["--batch", "float32[8"], "cannot be read"),
        ([*BATCH, "--device", "tpu"], "device 'tpu' cannot be read"),
        ([*BATCH, "--order", "sideways"], "order 'sideways' cannot be read"),
        ([*BATCH, "--backend", "torch"], "backend 'torch' cannot be read"),
    ],
)
def test_what_parity_cannot_read_is_said_before_anything_runs(
    cli, head, monkeypatch, arguments, said
):
    monkeypatch.setattr(subprocess, "Popen", None)
    code, _, err = cli("parity", head, "a:b", "c:d", *arguments)
    assert code == 2
    assert said in err
    assert "did not run to its end" not in err
