"""The timeline of a plan, and the chart of a run: what trains when, and what was measured."""

import math
from xml.etree import ElementTree

import pytest

from tests.support.pages import HOSTILE, PHASES, hostile_timeline
from tests.support.trees import conv_net, spec
from unifreeze._drawing.looks import looks_in_phases
from unifreeze._drawing.parts import alike, units_of
from unifreeze._drawing.run_chart import run_chart, ticks
from unifreeze._drawing.timeline import timeline_of
from unifreeze._handle.history import History, run_report
from unifreeze._plan import FreezePlan

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture, name="text"):
    return [element.text for element in ElementTree.fromstring(picture).iter(f"{SVG}{name}")]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_a_plan_has_the_same_timeline_in_both_frameworks(kits, framework):
    plan = FreezePlan().phase("head", rules={"only": "head"}, lr=1e-3)
    plan = plan.phase("all", at={"epoch": 5}, add={"train": "all"}, weight_decay=0.1)
    model = kits[framework].plain.make()
    timeline = plan.timeline(model)
    assert str(timeline).splitlines()[1:] == [
        "head   at once     0.001         21    9.9",
        "all    at epoch 5  0.001        213  100.0",
    ]
    assert "blocks.0 … blocks.1 (2)" in texts(timeline.to_svg())
    assert timeline._repr_html_() == timeline.to_svg()


def test_rows_are_runs_of_units_that_look_alike_in_every_phase():
    made = spec(conv_net())
    looks = looks_in_phases(timeline_of(PHASES, made).resolutions)
    rows = alike(units_of(made), looks, made)
    assert [row.label for row in rows] == ["stem", "blocks.0 … blocks.5", "blocks.6 … blocks.7",
                                           "head"]  # fmt: skip
    assert sorted(n for row in rows for n in row.numbers.tolist()) == list(range(len(made)))


def test_units_that_differ_in_one_phase_have_rows_of_their_own():
    made = spec(conv_net())
    plan = FreezePlan().only("head | blocks[3]")
    rows = alike(units_of(made), looks_in_phases(timeline_of(plan, made).resolutions), made)
    assert [row.label for row in rows][1:4] == ["blocks.0 … blocks.2", "blocks.3",
                                                "blocks.4 … blocks.7"]  # fmt: skip


@pytest.mark.parametrize("part", ["norm", "blocks[3] & conv", "params[:1] in layer2.1"])
def test_units_that_differ_in_a_part_have_rows_of_their_own(part):
    made = spec(conv_net())
    plan = FreezePlan().only("head").train(f"blocks[3] & ({part})")
    rows = alike(units_of(made), looks_in_phases(timeline_of(plan, made).resolutions), made)
    assert [row.label for row in rows][1:4] == ["blocks.0 … blocks.2", "blocks.3",
                                                "blocks.4 … blocks.7"]  # fmt: skip


def test_units_that_train_different_parts_are_not_one_row():
    made = spec(conv_net())
    plan = FreezePlan().only("head").train("(blocks[3] & norm) | (blocks[4] & conv)")
    plan = plan.with_norm_stats("update")
    rows = alike(units_of(made), looks_in_phases(timeline_of(plan, made).resolutions), made)
    assert {"blocks.3", "blocks.4"} <= {row.label for row in rows}


def test_a_timeline_says_what_trains_when_and_at_which_rate():
    picture = timeline_of(PHASES, spec(conv_net())).to_svg()
    shown = texts(picture)
    for text in (
        "head",
        "top",
        "all",
        "at once",
        "at epoch 5",
        "after 3 epochs",
        "0.001",
        "0.0001",
    ):
        assert text in shown
    titles = texts(picture, "title")
    assert "blocks.6 … blocks.7 (2) in top: 41,472 values trainable, new in this phase" in titles


def test_a_phase_that_stops_trains_nothing():
    when = {"metric": "loss", "stalled_for": 2}
    plan = PHASES.phase("end", when=when, stop=True)
    timeline = timeline_of(plan, spec(conv_net()))
    assert str(timeline).splitlines()[-1].split()[-4:] == ["training", "ends", "0", "0.0"]
    assert "training ends" in texts(timeline.to_svg())


def test_a_plan_without_phases_is_a_timeline_of_one():
    timeline = timeline_of(FreezePlan().only("head"), spec(conv_net()))
    assert str(timeline).splitlines()[1].startswith("the run  at once  as built")
    assert "the run" in texts(timeline.to_svg())


def test_generators_are_written_out():
    each = {"by": "blocks", "every": {"epochs": 1}}
    timeline = timeline_of(FreezePlan().phase("down", gradual_unfreezing=each), spec(conv_net()))
    assert len(timeline.phases) == 10
    texts(timeline.to_svg())


def test_many_phases_fit_without_names():
    plan = FreezePlan().phase("p0", rules={"only": "head"})
    for number in range(1, 150):
        plan = plan.phase(f"p{number}", at={"step": number}, like="p0")
    assert texts(timeline_of(plan, spec(conv_net())).to_svg()).count(None) > 100


def test_names_of_phases_are_never_markup():
    picture = hostile_timeline().to_svg()
    assert not list(ElementTree.fromstring(picture).iter(f"{SVG}script"))
    assert any(HOSTILE in (title or "") for title in texts(picture, "title"))


# The chart of a run -------------------------------------------------------------------------


def report_of(*metrics, phases=("head", "all")):
    """A run of an epoch for each of the metrics; the second half is in the second phase."""
    history = History()
    for epoch in range(len(metrics)):
        phase = phases[2 * epoch >= len(metrics)]
        measured = metrics[epoch - 1] if epoch else None
        history.note(trainable=5, total=9, epoch=epoch, phase=phase, metrics=measured)
    history.measured(metrics[-1])
    return run_report(history)


def test_a_chart_draws_each_metric_and_each_phase():
    report = report_of(*({"train_loss": 1 / n, "val_loss": 2 / n, "acc": n / 9} for n in (1, 2, 3)))
    shown = texts(report.to_svg())
    for text in ("loss", "accuracy", "training", "validation", "head", "all", "epoch", "0", "2"):
        assert text in shown
    assert "5 of 9 values train" in texts(report.to_svg(), "title")


def paths(report):
    root = ElementTree.fromstring(run_chart(report))
    return [p.get("d") for p in root.iter(f"{SVG}path") if p.get("stroke-linecap")]


@pytest.mark.parametrize("gap", [math.nan, math.inf, -math.inf, None])
def test_a_line_has_a_gap_where_nothing_finite_was_measured(gap):
    rows = [{"loss": float(n)} for n in range(5)]
    rows[2] = {} if gap is None else {"loss": gap}
    (line,) = paths(report_of(*rows))
    assert line.count("M") == 2
    assert line.count("L") == 2
    assert "nan" not in line
    assert "inf" not in line


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-30, 1e300])
def test_a_metric_that_never_changes_is_a_level_line(value):
    (line,) = paths(report_of({"loss": value}, {"loss": value}))
    heights = {point.split()[1] for point in line.replace("M", "L").split("L")[1:]}
    assert len(heights) == 1


def test_a_chart_without_rows_or_metrics_says_so():
    assert "nothing has been noted yet" in texts(run_report(History()).to_svg())
    assert "epoch" in texts(report_of({}, {}).to_svg())


def test_names_of_metrics_are_never_markup():
    picture = report_of({HOSTILE: 1.0}, {HOSTILE: 2.0}, phases=(HOSTILE, "b")).to_svg()
    assert not list(ElementTree.fromstring(picture).iter(f"{SVG}script"))
    assert HOSTILE in texts(picture)


@pytest.mark.parametrize("ends", [(0, 1), (0.13, 0.92), (-3e5, 2e6), (1e-9, 2e-9), (1e300, 2e300)])
def test_ticks_are_few_round_numbers_within(ends):
    marks = ticks(*ends)
    assert 2 <= len(marks) <= 6
    assert all(ends[0] <= mark <= ends[1] for mark in marks)
