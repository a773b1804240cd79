"""`schema`: printed, written, or put beside a plan so that editors find it."""

import json

import jsonschema
import pytest

import unifreeze as uf
from unifreeze._plan.document import json_schema

LINE = "# yaml-language-server: $schema=unifreeze-plan.schema.json"


@pytest.fixture
def plan(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("# kept\nunifreeze: 1\nrules:\n  - only: head  # kept, too\n")
    return file


def test_the_schema_is_put_beside_a_plan_that_names_it(cli, plan):
    before = plan.read_text()
    for _ in range(2):
        code, out = cli("schema", "--install", str(plan))[:2]
        assert code == 0
        assert "unifreeze-plan.schema.json" in out
    assert plan.read_text() == f"{LINE}\n{before}"
    schema = json.loads((plan.parent / "unifreeze-plan.schema.json").read_text())
    assert schema == json.loads(json.dumps(json_schema()))
    jsonschema.validate(uf.FreezePlan.load(plan).document(), schema)


def test_plans_that_are_saved_beside_the_schema_name_it(cli, plan):
    other = plan.parent / "other.yaml"
    uf.FreezePlan().only("head").save(other)
    assert LINE not in other.read_text()
    cli("schema", "--install", str(plan))
    uf.FreezePlan().only("head").save(other)
    assert other.read_text().splitlines()[0] == LINE
    assert uf.FreezePlan.load(other) == uf.FreezePlan().only("head")


def test_nothing_is_written_beside_a_plan_with_mistakes(cli, plan):
    plan.write_text("unifreeze: 1\nrulez: []\n")
    code = cli("schema", "--install", str(plan))[0]
    assert code == 2
    assert [file.name for file in plan.parent.iterdir()] == ["plan.yaml"]


def test_the_schema_is_printed_without_options(cli):
    code, out = cli("schema")[:2]
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(json_schema()))
