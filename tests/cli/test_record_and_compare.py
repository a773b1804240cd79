"""`record` and `compare`: what a run showed, written to a file, and two such files compared."""

import json
from pathlib import Path

import pytest
import torch

from tests.support.command_line import BATCH, MODELS
from unifreeze._evidence import PARITY_CLAUSES, Record
from unifreeze._plan import FreezePlan


@pytest.mark.parametrize("framework", MODELS)
def test_record_writes_what_a_run_showed(cli, head, framework):
    code, out, _ = cli("record", head, MODELS[framework], "-o", "r.json", *BATCH, "--seed", "3")
    assert code == 0
    assert out == f"{framework} on cpu: 14 parameters, 2 trainable; written to r.json\n"
    record = Record.load("r.json")
    assert (record.framework, record.model, record.seed) == (framework, MODELS[framework], 3)
    assert record.plan == {"unifreeze": 1, "rules": [{"only": "head"}]}
    assert record.versions.keys() >= {"python", "unifreeze"}
    assert [run.optimizer for run in record.runs] == ["adamw", "sgd"]


def test_record_says_as_json_what_it_wrote(cli, head):
    code, out, _ = cli("record", head, MODELS["torch"], "-o", "r.json", *BATCH, "--json", "-")
    assert code == 0
    outputs = {"output": [8, 3]}
    assert json.loads(out) == {"record": "r.json", "side": "torch on cpu", "outputs": outputs}


def test_record_without_a_batch_says_what_for(cli, head):
    code, _, err = cli("record", head, MODELS["torch"], "-o", "r.json")
    assert code == 2
    assert "a batch is needed: the model is run on it" in err
    assert not Path("r.json").exists()


def test_record_into_a_folder_that_is_not_there_is_unusable(cli, head):
    code, _, err = cli("record", head, MODELS["torch"], "-o", "no/r.json", *BATCH)
    assert code == 2
    assert "RecordError: cannot write no/r.json" in err


def test_record_refuses_outputs_that_the_model_has_not(cli, head):
    code, _, err = cli(
        "record", head, MODELS["torch"], "-o", "r.json", *BATCH, "--outputs", "nowhere"
    )
    assert code == 2
    assert "it returns: output [8, 3]; asked for: nowhere" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_unusable(cli, head):
    code, _, err = cli(
        "record", head, MODELS["torch"], "-o", "r.json", *BATCH, "--device", "torch=gpu"
    )
    assert code == 2
    assert "torch sees no 'gpu' device here" in err


def test_a_batch_that_the_model_does_not_take_is_unusable(cli, head):
    code, _, err = cli("record", head, MODELS["torch"], "-o", "r.json", "--batch", "float32[2,5]")
    assert code == 2
    assert "the model does not run on this batch" in err
    assert "batch: float32[2, 5]" in err


def test_compare_holds_or_does_not(cli, saved, tmp_path):
    one, other = saved("torch"), saved("paddle")
    code, out, _ = cli("compare", one, other)
    assert code == 0
    assert "parity holds (2 steps each of adamw, sgd)" in out
    damaged = Record.load(other)
    flags = {**damaged.runs[0].flags, "head.bias": False}
    runs = (damaged.runs[0].model_copy(update={"flags": flags}), damaged.runs[1])
    damaged.model_copy(update={"runs": runs}).save(other)
    code, out, _ = cli("compare", one, other, "--json", tmp_path / "report.json")
    assert code == 1
    assert "parity does not hold" in out
    assert "BROKEN  flags" in out
    assert "head.bias: is decided trainable, reads frozen (paddle on cpu)" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [clause["name"] for clause in report["clauses"] if not clause["holds"]] == ["flags"]


def test_compare_prints_nothing_but_json_when_asked(cli, saved):
    path = saved("torch")
    code, out, _ = cli("compare", path, path, "--json", "-")
    assert code == 0
    report = json.loads(out)
    assert list(report) == ["holds", "clauses", "sides", "steps", "optimizers"]
    assert [clause["name"] for clause in report["clauses"]] == [row.name for row in PARITY_CLAUSES]


def test_a_record_cut_in_half_is_unusable(cli, saved):
    path = saved("torch")
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    code, _, err = cli("compare", path, path)
    assert code == 2
    assert "is not a complete record" in err
    assert "write it again with `unifreeze record`" in err


def test_a_record_of_another_version_is_unusable(cli, saved):
    path = saved("torch")
    path.write_text(json.dumps({**json.loads(path.read_text()), "unifreeze_record": 1}))
    code, _, err = cli("compare", path, path)
    assert code == 2
    assert "is of record format 1; this release reads 2" in err


def test_records_of_different_plans_are_unusable(cli, saved):
    code, _, err = cli("compare", saved("torch"), saved("paddle", FreezePlan().freeze("head")))
    assert code == 2
    assert "the records are of different plans" in err
    assert "record both sides with the same plan file" in err


def test_records_of_different_probes_are_unusable(cli, saved):
    code, _, err = cli("compare", saved("torch"), saved("paddle", steps=3))
    assert code == 2
    assert "the records are of different probes" in err


def test_a_record_that_is_not_there_is_unusable(cli):
    code, _, err = cli("compare", "one.json", "two.json")
    assert code == 2
    assert "RecordError: cannot read one.json" in err


def test_several_records_are_compared_with_the_first(cli, head):
    other = head.replace("head.yaml", "other.yaml") if isinstance(head, str) else "other.yaml"
    Path(other).write_text("unifreeze: 1\nrules:\n  - train: all\n")
    for name, plan, framework in (
        ("a", head, "torch"),
        ("b", head, "paddle"),
        ("c", head, "torch"),
        ("d", other, "torch"),
    ):
        assert cli("record", plan, MODELS[framework], "-o", f"{name}.json", *BATCH)[0] == 0
    code, out, _ = cli("compare", "a.json", "b.json", "c.json")
    assert code == 0
    assert out.count("parity holds (2 steps each of adamw, sgd)") == 2
    assert "parity holds in 2 of 2 comparisons with the first" in out
    code, out, _ = cli("compare", "a.json", "b.json", "c.json", "--json", "-")
    told = json.loads(out)
    assert (code, told["holds"], len(told["comparisons"])) == (0, True, 2)
    code, _, err = cli("compare", "a.json", "b.json", "d.json")
    assert code == 2
    assert "different plans" in err


def test_one_record_is_not_enough(cli):
    code, _, err = cli("compare", "a.json")
    assert code == 2
    assert "compare needs two records or more" in err
