"""`show --structure`: where everything is and why, as derived and as a plan corrects it."""

import json
import re
from pathlib import Path

import pytest
import yaml

import unifreeze as uf

NET = {
    "torch": "tests.support.odd.torch_net:Net",
    "paddle": "tests.support.odd.paddle_net:Net",
}
STATED = {
    "torch": {"head": "my.odd", "blocks": "trunk.cells[*]", "stem": "enter"},
    "paddle": {"head": "tail.strange", "blocks": "body[*]", "stem": "second"},
}
STACK = "tests.support.odd.torch_net:Stack"
TWO = "tests.support.odd.torch_net:Two"


def lines(text):
    """Return the lines of a printed text, with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_structure_is_printed_with_a_reason_for_each_part(cli):
    code, out, _ = cli("show", STACK, "--structure")
    assert code == 0
    assert lines(out)[1:] == [
        "blocks: 4 blocks: modules of one class in a list, of which at least one holds two "
        "matrices",
        "units.0 … units.3",
        "place modules parameters values why",
        "neck norm 2 8 after the last block and before the head",
        "head head 2 10 after the last block, outside any module that holds one",
    ]


def test_towers_are_printed_where_there_are_several_runs(cli):
    out = cli("show", TWO, "--structure")[1]
    shown = lines(out)
    assert "tower encoder: it holds this run and no other, and its name says encoder" in shown
    assert "decoder.units.0 … decoder.units.2" in shown


def test_stages_are_printed_with_the_reason_for_them(cli, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text('unifreeze: 1\nstructure: {blocks: "encoder.units[*] | decoder.units[*]"}\n')
    shown = lines(cli("show", TWO, "--structure", "--plan", path)[1])
    assert "blocks: 5 blocks in 2 stages: the plan's structure says so" in shown
    assert "stage 1: decoder.units.0 … decoder.units.2" in shown
    assert "the blocks of each list are a stage" in shown
    assert any(line.endswith("between two blocks, leading into this one") for line in shown)


@pytest.mark.parametrize("framework", NET)
def test_a_plan_corrects_it(cli, plan, framework):
    derived = json.loads(cli("show", NET[framework], "--structure", "--json", "-")[1])
    assert derived["structure"]["runs"] == []
    file = plan(("only", "head"), structure=STATED[framework])
    shown = cli("show", NET[framework], "--structure", "--plan", file, "--json", "-")[1]
    structure = json.loads(shown)["structure"]
    (run,) = structure["runs"]
    assert len(run["blocks"]) == 4
    assert run["why"] == "the plan's structure says so"
    places = {row["place"]: row for row in structure["places"]}
    assert list(places) == ["stem", "neck", "head", "unplaced"]
    assert places["head"]["modules"] == [STATED[framework]["head"]]
    assert places["head"]["why"] == "the plan's structure says so"
    assert places["unplaced"]["why"] == "outside the stem that the plan's structure gives"
    assert places["neck"]["why"] == "outside the head that the plan's structure gives"
    assert places["head"]["parameters"] == 6
    assert "blocks.0/linear.0/weight" in {row["name"] for row in json.loads(shown)["parameters"]}


def test_the_tree_follows_the_plan_too(cli, plan):
    file = plan(("only", "head"), structure=STATED["torch"])
    out = cli("show", NET["torch"], "--plan", file)[1]
    assert "0 Sequential blocks.0" in " ".join(out.split())


def test_explain_shows_what_a_plan_says_of_the_structure(cli, plan):
    file = plan(("only", "head"), structure=STATED["torch"])
    out = cli("explain", file, NET["torch"])[1]
    assert "structure  head: my.odd" in out
    assert "structure  blocks: trunk.cells[*]" in out
    assert any(line.startswith("head my.odd") for line in lines(out))
    shown = json.loads(cli("explain", file, NET["torch"], "--json", "-")[1])
    assert shown["structure"] == STATED["torch"]


def test_a_captured_plan_is_written_in_the_words_of_a_structure(cli, plan, tmp_path):
    file = plan(("only", "head"), structure=STATED["torch"])
    out = cli("capture", NET["torch"], "--plan", file, "-o", tmp_path / "captured.yaml")[1]
    assert "1 rule" in out
    text = (tmp_path / "captured.yaml").read_text()
    assert 'head: "my.odd"' in text
    code, _, err = cli("explain", tmp_path / "captured.yaml", NET["torch"])
    assert code == 0, err


def test_a_structure_that_cannot_be_is_refused(cli, plan):
    file = plan(("only", "head"), structure={"head": "my.od"})
    for command in (("show", NET["torch"], "--plan", file), ("explain", file, NET["torch"])):
        code, _, err = cli(*command)
        assert code == 2
        assert "structure.head: 'my.od' matches none of" in err


@pytest.mark.parametrize("framework", NET)
def test_parity_takes_a_structure_for_each_framework(cli, plan, framework):
    both = {
        part: {name: STATED[name][part] for name in STATED} for part in ("head", "blocks", "stem")
    }
    file = plan(("only", "head | blocks[-1]"), structure=both)
    code, out, _ = cli("parity", file, NET["torch"], NET["paddle"], "--batch", "float32[8,6]")
    assert code == 0, out


PAGE = Path(__file__).resolve().parents[2] / "docs" / "en" / "plan-language.md"


def test_the_structure_that_is_shown_is_that_of_a_plan():
    texts = re.findall(r"```yaml\n(unifreeze: 1.*?)```", PAGE.read_text("utf-8"), re.S)
    (text,) = (text for text in texts if "structure:" in text)
    structure = uf.FreezePlan.from_yaml(text).document()["structure"]
    assert structure == yaml.safe_load(text)["structure"]
    assert len(structure) == 3
