"""Records and reports of parity: read back, refused, compared, and printed."""

import json

import pytest
from paddle import nn as pnn
from torch import nn as tnn

import unifreeze as uf
from tests.support.two_nets import HEAD, broken, check, findings, paddle_net, record, torch_net
from unifreeze._evidence import PARITY_CLAUSES, Record, compare_records
from unifreeze.errors import ParityError, RecordError


def test_a_record_reads_back_as_it_was_written(kits, tmp_path):
    for name, kit in kits.items():
        made = record(kit)
        made.save(tmp_path / name)
        assert Record.load(tmp_path / name) == made
        assert [file.name for file in tmp_path.glob(".*")] == []


def test_a_record_cut_in_half_is_refused(kits, tmp_path):
    path = tmp_path / "record.json"
    record(kits["torch"]).save(path)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(RecordError, match="is not a complete record"):
        Record.load(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is not a unifreeze record"),
        ('{"a": 1}', "is not a unifreeze record"),
        ('{"unifreeze_record": 1}', "is of record format 1; this release reads 2"),
        ('{"unifreeze_record": 2}', "is not a valid record"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, text, said):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=said):
        Record.load(path)


def test_records_of_different_plans_are_not_compared(kits):
    one, other = record(kits["torch"]), record(kits["paddle"], uf.FreezePlan().freeze("head"))
    with pytest.raises(RecordError, match="of different plans"):
        compare_records(one, other)


@pytest.mark.parametrize("how", [{"steps": 3}, {"seed": 1}], ids=str)
def test_records_of_different_probes_are_not_compared(kits, how):
    with pytest.raises(RecordError, match="of different probes"):
        compare_records(record(kits["torch"]), record(kits["paddle"], **how))


def test_what_was_not_looked_at_did_not_hold(kits):
    one = record(kits["torch"])
    (first, *others) = one.runs
    frozen = next(row.path for row in one.parameters if not row.trainable)
    held = next(row.path for row in one.states if row.held)
    after = {path: bits for path, bits in first.after.items() if path not in (frozen, held)}
    before = {path: bits for path, bits in first.before.items() if path not in (frozen, held)}
    blind = first.model_copy(update={"before": before, "after": after})
    report = compare_records(one.model_copy(update={"runs": (blind, *others)}), one)
    assert broken(report) == ["frozen", "state"]
    assert findings(report, "frozen") == [
        ("error", f"{frozen}: is frozen and was not looked at (torch on cpu, adamw)")
    ]
    assert findings(report, "state")[0][1].startswith(f"{held}: should hold and was not looked at")


def test_a_name_that_stands_for_two_parameters_is_found(kits):
    one = record(kits["torch"])
    rows = list(one.parameters)
    rows[1] = rows[1].model_copy(update={"name": rows[0].name})
    report = compare_records(one.model_copy(update={"parameters": tuple(rows)}), one)
    assert "parameters" in broken(report)
    assert any("stands for 2 parameters" in text for _, text in findings(report, "parameters"))


def test_the_report_as_data_has_exactly_this_shape():
    data = check(HEAD, torch_net(), paddle_net(body=pnn.Linear(6, 6, bias_attr=False))).to_json()
    assert json.loads(json.dumps(data)) == data
    assert list(data) == ["holds", "clauses", "sides", "steps", "optimizers"]
    assert data["holds"] is False
    assert [clause["name"] for clause in data["clauses"]] == [row.name for row in PARITY_CLAUSES]
    assert all(list(clause) == ["name", "holds", "findings"] for clause in data["clauses"])
    assert data["clauses"][0]["findings"] == [
        {
            "subject": "net/linear.0/bias",
            "message": "body.bias [6] of torch on cpu has no partner in paddle on cpu",
            "hint": "",
            "severity": "error",
        }
    ]
    assert data["sides"][1] == {
        "framework": "paddle",
        "device": "cpu",
        "parameters": 3,
        "values": 57,
        "frozen": 1,
        "trainable": 2,
    }
    assert (data["steps"], data["optimizers"]) == (2, ["adamw", "sgd"])


def test_the_report_as_text_names_each_clause_and_what_breaks_it():
    report = check(HEAD, torch_net(), paddle_net(body=pnn.Linear(6, 6, bias_attr=False)))
    text = str(report)
    assert "torch on cpu: 4 parameters, 63 values, 2 frozen, 2 trainable" in text
    assert "BROKEN  parameters: both sides have the same parameters" in text
    assert all(f"  {row.name}: {row.title}" in text for row in PARITY_CLAUSES)
    with pytest.raises(ParityError, match="parity does not hold: parameters"):
        report.raise_if_broken()


def test_more_than_ten_findings_are_counted_not_listed():
    many = {f"extra{n}": tnn.Linear(6, 6) for n in range(7)}
    report = check(uf.FreezePlan().freeze("body"), torch_net(**many), paddle_net())
    assert (
        len(findings(report, "parameters")) == 14
    )  # without a partner; the heads are partners by their name
    lines = str(report).splitlines()
    (start,) = (n for n, line in enumerate(lines) if line.startswith("BROKEN  parameters"))
    assert lines[start + 10].strip().startswith("net/linear")
    assert lines[start + 11].strip() == "… and 4 more"
