"""Files that an earlier release wrote still load, and compare as they did."""

from pathlib import Path

import pytest

from unifreeze._evidence import (
    PARITY_CLAUSES,
    STEP_CLAUSES,
    Record,
    StepSide,
    compare_records,
    compare_sides,
)
from unifreeze._ports.pairing import Pairing
from unifreeze.errors import RecordError

FILES = Path(__file__).parent / "golden" / "evidence"
FRAMEWORKS = ("torch", "paddle")


def records():
    return [Record.load(FILES / f"record-{name}.json") for name in FRAMEWORKS]


def sides():
    return [StepSide.load(FILES / f"side-{name}.json") for name in FRAMEWORKS]


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize(("kind", "form"), [("record", Record), ("side", StepSide)])
def test_an_earlier_file_is_written_again_byte_for_byte(kind, form, name, tmp_path):
    file = FILES / f"{kind}-{name}.json"
    form.load(file).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == file.read_text()


def test_the_report_on_earlier_records_reads_as_it_did():
    report = compare_records(*records())
    assert str(report) + "\n" == (FILES / "parity.txt").read_text()
    assert report.summary == "parity holds (2 steps each of adamw, sgd)"


def test_the_report_on_earlier_sides_reads_as_it_did():
    report = compare_sides(*sides(), Pairing.load(FILES / "pairing.json"))
    assert "\n".join(map(str, report.clauses)) + "\n" == (FILES / "step.txt").read_text()
    assert report.summary == "the step is the same"


@pytest.mark.parametrize("clauses", [PARITY_CLAUSES, STEP_CLAUSES], ids=["parity", "step"])
def test_no_two_clauses_of_a_list_share_a_name(clauses):
    assert len({clause.name for clause in clauses}) == len(clauses)


def test_a_report_has_every_clause_of_its_list_in_order():
    parity = compare_records(*records())
    step = compare_sides(*sides(), Pairing.load(FILES / "pairing.json"))
    for report, clauses in ((parity, PARITY_CLAUSES), (step, STEP_CLAUSES)):
        assert [(row.name, row.title) for row in report.clauses] == [
            (clause.name, clause.title) for clause in clauses
        ]


def test_two_sides_of_one_framework_that_differ_are_both_named():
    side = sides()[0]
    with pytest.raises(RecordError, match="seed differs\n  torch: 0\n  torch: 7"):
        compare_sides(
            side,
            side.model_copy(update={"seed": 7}),
            Pairing.load(FILES / "pairing.json"),
        )
