"""The acceptance report: correct ports hold, an error breaks its line, models are restored."""

import json
import re
import sys

import numpy as np
import pytest
import torch

import unifreeze as uf
from tests.support.alignment.errors_list import ERRORS
from tests.support.pairs import small
from tests.support.porting_errors import port
from unifreeze._cli import main
from unifreeze._evidence.alignment import AlignmentReport
from unifreeze._evidence.alignment.lines import SECTIONS
from unifreeze._evidence.alignment.words import LINES, SOURCES
from unifreeze.errors import RecordError

STEPS = 3


def state(model):
    return {name: np.array(t.detach().numpy()).tobytes() for name, t in model.state_dict().items()}


def broken_lines(report):
    return {line.key for line in report.lines if line.verdict == "BROKEN"}


@pytest.fixture(scope="module")
def reports():
    """Reports of correct ports by network, made once."""
    made = {}
    for network in ("ResNet", "ERNIE", "decoder"):
        one, other, batch = port(network)
        before = state(one), state(other)
        flags = [p.requires_grad for p in one.parameters()]
        random = torch.get_rng_state()
        made[network] = uf.align(one, other, batch=batch, steps=STEPS)
        assert (state(one), state(other)) == before, network
        assert [p.requires_grad for p in one.parameters()] == flags
        assert torch.equal(torch.get_rng_state(), random)
        assert not one.training
    return made


@pytest.mark.parametrize("network", ["ResNet", "ERNIE", "decoder"])
def test_a_correct_port_holds_and_is_restored_to_the_bit(reports, network):
    report = reports[network]
    assert report.holds, str(report)
    assert [s for s in SECTIONS if s in {line.section for line in report.lines}] == list(SECTIONS)


def test_a_port_in_the_other_direction_holds():
    one, other, batch = port("ResNet")
    assert uf.align(other, one, batch=batch, steps=STEPS).holds


def test_a_port_with_weights_of_its_own_holds_and_the_report_says_so():
    report = uf.align(
        small.torch_text(), small.paddle_text(), batch=["int64[3,6]<0:11>"], steps=STEPS
    )
    assert report.holds, str(report)
    assert "own weights" in {line.key for line in report.lines}


BREAKS = {
    "epsilon of the norms 1e-6, not 1e-5": {"outputs", "setting"},
    "momentum of the norms by PyTorch's convention (0.1)": {"statistics", "setting"},
    "norm of one shortcut not copied": {"some differ"},
    "leaky ReLU in one block": {"not one function", "outputs", "step gradients"},
    "ReLU6 in one block": {"large inputs"},
    "ReLU, not GELU, in one layer": {"not one function", "first layer", "setting"},
    "one square matrix not transposed": {"some differ"},
    "dropout scales in inference": {"setting"},
    "base of the rotation 1000, not 10000": {
        "not one function",
        "first layer",
        "tokens of random weights",
    },
}


@pytest.mark.parametrize("name", BREAKS)
def test_an_error_breaks_its_lines(name):
    error = next(error for error in ERRORS if error.name == name)
    one, other, batch = port(error.network)
    error.edit(other)
    before = state(other)
    report = uf.align(one, other, batch=batch, steps=STEPS)
    assert BREAKS[name] <= broken_lines(report), str(report)
    assert state(other) == before


def test_the_first_layer_that_differs_is_named():
    one, other, batch = port("ERNIE")
    error = next(e for e in ERRORS if e.name == "ReLU, not GELU, in one layer")
    error.edit(other)
    report = uf.align(one, other, batch=batch, steps=STEPS)
    line = next(line for line in report.lines if line.key == "first layer")
    assert line.facts["one"] == "ernie.encoder.layer.0.output.dense"


def test_both_languages_have_the_same_lines(reports):
    for report in reports.values():
        pages = [report.to_markdown(language, picture="a.svg") for language in ("en", "zh")]
        shapes = [
            [(re.match(r"[#!-]*", row)[0], row.count(" | ")) for row in page.splitlines()]
            for page in pages
        ]
        assert shapes[0] == shapes[1]
        numbers = [re.findall(r"\d\.\de[+-]\d+", page) for page in pages]
        assert numbers[0]
        # A sentence of words, such as where a limit comes from, may name further numbers.
        assert set(numbers[0]) == set(numbers[1])
        assert "复现对齐报告" in pages[1]
        assert "Acceptance report" in pages[0]


def test_every_sentence_takes_the_same_facts_in_both_languages():
    facts = re.compile(r"\{(\w+)[:}]")
    for english, chinese in (*LINES.values(), *SOURCES.values()):
        assert set(facts.findall(english)) == set(facts.findall(chinese)), english
        assert bool(english) == bool(chinese)


def test_tokens_say_where_the_weights_come_from(reports):
    assert "nobody said" in str(reports["decoder"])
    one, other, batch = port("decoder")
    report = uf.align(one, other, batch=batch, steps=STEPS, weights="a checkpoint")
    assert "weights: a checkpoint" in str(report)


def test_a_report_travels_as_json(reports, tmp_path):
    report = reports["ERNIE"]
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report.to_json(), allow_nan=False))
    loaded = AlignmentReport.load(file)
    assert loaded == report
    assert loaded.to_markdown("zh") == report.to_markdown("zh")
    report.save(file)
    assert AlignmentReport.load(file) == report


def test_a_report_of_other_sentences_is_refused(reports, tmp_path):
    data = reports["ERNIE"].to_json()
    data["lines"][0]["key"] = "nonsense"
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(RecordError, match="no sentence for 'nonsense'"):
        AlignmentReport.load(tmp_path / "report.json")


def test_a_report_draws_both_curves(reports):
    picture = reports["ResNet"].to_svg()
    assert picture.startswith("<svg ")
    assert picture.count("uf-stroke uf-s1") == 2
    assert reports["ResNet"]._repr_html_().startswith("<")


def test_a_plan_is_carried_out_in_both():
    one, other, batch = port("ResNet")
    report = uf.align(one, other, batch=batch, steps=STEPS, plan=uf.FreezePlan().only("head"))
    assert report.holds, str(report)


@pytest.fixture
def cli(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["unifreeze", "align", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return run


def test_the_command_writes_the_report_and_reads_it_again(cli, tmp_path):
    models = "tests.support.pairs.small:torch_text", "tests.support.pairs.small:paddle_text"
    saved, page, chinese = tmp_path / "r.json", tmp_path / "r.md", tmp_path / "zh.md"
    code, out, _ = cli(
        *models, "--batch", "int64[3,6]<0:11>", "--steps", 2, "-o", page, "--json", saved
    )
    assert (code, out) == (0, f"written to {page}\nthe port is aligned\n")
    assert "(r.svg)" in page.read_text(encoding="utf-8")
    assert (tmp_path / "r.svg").is_file()
    code, out, _ = cli(saved, "--language", "zh", "-o", chinese)
    assert code == 0
    assert chinese.read_text(encoding="utf-8").startswith("# 复现对齐报告")


def test_the_command_says_by_its_exit_code_what_came_of_it(cli, tmp_path):
    models = (
        "tests.support.pairs.small:torch_text(relu=True)",
        "tests.support.pairs.small:paddle_text",
    )
    code, out, _ = cli(*models, "--batch", "int64[3,6]<0:11>", "--steps", 2)
    assert code == 1
    assert out.splitlines()[-1].startswith("the port is not aligned: pairing, layers, outputs")
    assert cli(models[0])[0] == 2
    assert "hint: en or zh" in cli(*models, "--language", "de")[2]
