"""The page of `unifreeze explain --html`, read as HTML: it loads nothing, and says what holds."""

import base64
import hashlib
import re

import pytest
from hypothesis import given, settings

from tests.support.command_line import MODELS
from tests.support.pages import (
    HOSTILE,
    PHASES,
    TIED,
    data_of,
    hostile_page,
    page_of,
    read,
    text_net,
)
from tests.support.random_models import models
from tests.support.trees import conv_net, spec
from unifreeze._drawing.page import report_page
from unifreeze._drawing.timeline import timeline_of
from unifreeze._plan import FreezePlan
from unifreeze.errors import UnifreezeError


@pytest.fixture(scope="module")
def page():
    return read(page_of())


def test_the_page_says_what_trains_and_why(page):
    words = page.words()
    assert "Freeze plan on net" in words
    assert "330 of 76,802 values train (0.43%) · 2 of 62 parameters" in words
    assert "rule 1: only: head · matches 2, decides 62 (76,802 values)" in words
    assert "memory saved: 3 MiB" in words
    assert str(PHASES) in words


def test_the_page_loads_nothing_and_runs_its_own_script_alone(page):
    text = page_of()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\")", text)
    for element in page.all():
        assert not {"src", "href", "onclick", "onload"} & set(element.attributes), element
        assert element.name not in ("link", "img", "iframe", "object", "embed")
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    scripts = [e for e in page.all("script") if e.attributes.get("type") != "application/json"]
    (code,) = [script.text for script in scripts]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy.attributes["content"]
    assert "default-src 'none'" in policy.attributes["content"]


def test_the_script_is_told_the_truth():
    made = text_net()
    timeline = timeline_of(TIED, made)
    data = data_of(read(report_page(timeline, title="net", plan="")))
    rows = {row.name: row for row in made.parameters}
    assert len(data["parameters"]) == len(rows) == len({facts[1] for facts in data["parameters"]})
    for facts in data["parameters"]:
        row = rows[facts[1]]
        assert facts[0].split(" = ") == [row.path, *row.aliases]
        assert facts[4] == row.values
        number = made.parameters.index(row)
        story = data["stories"][facts[5]]
        for phase, resolution in enumerate(timeline.resolutions):
            assert story["reasons"][phase] == resolution.reason(number)
            assert (story["looks"][phase] >= 2) == resolution.trainable[number]


def test_units_and_boxes_hold_every_parameter_once():
    page = read(page_of(text_net(), TIED))
    data = data_of(page)
    spans = [list(range(*span)) for span in data["units"]]
    everything = list(range(len(data["parameters"])))
    assert [number for span in spans for number in span] == everything
    assert len(page.styled("unit")) == len(spans)
    for svg in [e for e in page.all("svg") if "data-layout" in e.attributes]:
        contents = data["leaves"][svg.attributes["data-layout"]]
        assert sorted(number for leaf in contents for number in leaf[2]) == everything
        assert len(svg.styled("leaves")[0].children) == len(contents)


def test_a_plan_without_phases_has_no_slider():
    page = read(page_of(plan=FreezePlan().only("head")))
    assert not page.all("input", type="range")
    assert not page.styled("timeline")
    assert len(data_of(page)["phases"]) == 1


def test_names_are_never_markup():
    page = read(hostile_page())
    assert len(page.all("script")) == 2
    assert page.all("title")[0].text == f"Freeze plan on {HOSTILE}"
    assert "window.hurt=1" in str(data_of(page)["parameters"])
    assert not page.styled("hurt")


@given(models())
@settings(deadline=None, max_examples=25)
def test_any_model_that_a_plan_fits_has_a_page(root):
    made = spec(root)
    try:
        timeline = timeline_of(FreezePlan().freeze("all"), made)
    except UnifreezeError:
        return
    data_of(read(report_page(timeline, title="any", plan="")))


def test_elements_that_people_use_have_names(page):
    for name in ("input", "svg"):
        for element in page.all(name):
            hidden = element.attributes.get("aria-hidden") == "true"
            assert hidden or element.attributes.get("aria-label"), element
    (map_,) = page.styled("map")
    assert map_.attributes["tabindex"] == "0"
    assert "arrow keys" in map_.attributes["aria-label"]


@pytest.mark.parametrize("framework", MODELS)
def test_explain_writes_the_page(cli, plan, tmp_path, framework):
    path, model = plan(("only", "head")), MODELS[framework]
    code, out, _ = cli("explain", path, model, "--html", tmp_path / "report.html")
    assert code == 0
    assert "trainable params: 21" in out
    page = read((tmp_path / "report.html").read_text("utf-8"))
    assert f"Freeze plan on {model}" in page.words()
    assert "memory saved: 768 B of gradients" in page.words()
    assert "21 of 213 values train (9.86%)" in page.words()


def test_the_page_begins_with_the_phase_that_is_asked_for(cli, tmp_path):
    file = tmp_path / "phases.yaml"
    PHASES.save(file)
    page = tmp_path / "report.html"
    for phase, number in (("", 0), ("all", 2)):
        asked = ("--phase", phase) if phase else ()
        model = "tests.support.kits.torch_kit:Plain"
        code, _, err = cli("explain", file, model, *asked, "--html", page)
        assert (code, err) == (0, "")
        data = data_of(read(page.read_text("utf-8")))
        assert data["start"] == number
        saved = [phase["notes"][-1] for phase in data["phases"]]
        assert saved[0].startswith("memory saved: 768 B of gradients")
        assert saved[2].startswith("memory saved: 0 B of gradients")


def test_explain_refuses_a_page_that_cannot_be_written(cli, plan, tmp_path):
    page = tmp_path / "no" / "report.html"
    code, _, err = cli("explain", plan(("only", "head")), MODELS["torch"], "--html", page)
    assert code == 2
    assert "cannot write" in err
    assert "hint: make its folder first" in err


def test_the_page_of_a_plan_says_what_the_phases_are(page):
    said = [phase["said"] for phase in data_of(page)["phases"]]
    assert said == [
        "1 of 3: head, at once, rate 0.001",
        "2 of 3: top, at epoch 5, rate 0.0001",
        "3 of 3: all, after 3 epochs, rate 0.0001",
    ]
    assert spec(conv_net()).framework in data_of(page)["phases"][0]["counts"]
