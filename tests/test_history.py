"""The history of a run: which row a metric belongs to, what a resumed run knows, what is shown."""

import csv
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unifreeze._handle.history import BEFORE, History, history, run_report
from unifreeze._handle.history.history_report import split_name
from unifreeze.errors import ScheduleError, UnifreezeError

TOTAL = 1000
TRAINABLE = {"": 500, "head": 10, "top": 400, "full": 1000}


def noted(*places):
    """A history of the calls given as (epoch, step, phase, metrics)."""
    made = History()
    for place in places:
        note(made, place)
    return made


def note(made, place):
    epoch, step, phase, metrics = place
    made.note(
        epoch=epoch,
        step=step,
        phase=phase,
        trainable=TRAINABLE[phase],
        total=TOTAL,
        metrics=metrics,
    )


def losses(made):
    """Each row's epoch, phase and metrics."""
    return [(row.epoch, row.phase, row.metrics) for row in made.rows]


def three_epochs(last=True):
    """A loop as people write it: what epoch n measured comes with the call for epoch n + 1."""
    calls = [
        (0, None, "head", None),
        (1, None, "head", {"loss": 1.0, "val_loss": 1.5}),
        (2, None, "top", {"loss": 0.5, "val_loss": 0.75}),
    ]
    return calls + ([(3, None, "top", {"loss": 0.25, "val_loss": 1.0})] if last else [])


def test_what_comes_as_an_epoch_begins_was_measured_in_the_one_before():
    assert losses(noted(*three_epochs())) == [
        (0, "head", {"loss": 1.0, "val_loss": 1.5}),
        (1, "head", {"loss": 0.5, "val_loss": 0.75}),
        (2, "top", {"loss": 0.25, "val_loss": 1.0}),
        (3, "top", {}),
    ]


def test_the_last_epoch_is_closed_by_one_more_call_or_by_its_metrics_alone():
    one = noted(*three_epochs())
    other = noted(*three_epochs(last=False))
    assert losses(other)[-1] == (2, "top", {})
    other.measured({"loss": 0.25, "val_loss": 1.0})
    assert run_report(one).rows == run_report(other).rows
    assert [row["epoch"] for row in run_report(one).rows] == [0, 1, 2]
    assert run_report(one).begun["epoch"] == 3
    assert run_report(other).begun is None


def test_an_epoch_may_also_be_called_again_at_its_end():
    made = History()
    for epoch in range(2):
        note(made, (epoch, None, "head", None))
        note(made, (epoch, None, "head", {"val_loss": float(epoch)}))
    assert losses(made) == [(0, "head", {"val_loss": 0.0}), (1, "head", {"val_loss": 1.0})]


def test_what_was_measured_before_the_first_epoch_has_a_row_of_its_own():
    made = noted((0, None, "head", {"val_loss": 2.0}), (1, None, "head", {"val_loss": 1.0}))
    assert losses(made)[:2] == [(BEFORE, "head", {"val_loss": 2.0}), (0, "head", {"val_loss": 1.0})]
    assert run_report(made).table().splitlines()[1].split()[0] == "before"


def test_other_words_for_a_place_add_up():
    made = noted(
        (0, None, "head", None),
        (0, None, "head", {"loss": 1.0}),
        (0, None, "head", {"loss": 7.0, "val_loss": 2.0}),
    )
    assert losses(made) == [(0, "head", {"loss": 1.0, "val_loss": 2.0})]


def test_steps_within_an_epoch_keep_its_row_and_the_last_that_was_measured():
    made = noted(
        (0, 0, "head", None),
        (None, 1, "head", {"loss": 3.0}),
        (None, 2, "head", {"loss": 2.0}),
        (1, 3, "head", {"loss": 1.0, "val_loss": 4.0}),
        (None, 4, "head", {"loss": 0.5}),
    )
    assert losses(made) == [(0, "head", {"loss": 1.0, "val_loss": 4.0}), (1, "head", {"loss": 0.5})]


def test_without_epochs_there_is_one_row_for_a_phase():
    made = History()
    for step in range(1000):
        phase = "head" if step < 600 else "top"
        note(made, (None, step, phase, {"loss": float(step - 1)} if step else None))
    assert losses(made) == [(None, "head", {"loss": 599.0}), (None, "top", {"loss": 998.0})]
    assert [row.step for row in made.rows] == [0, 600]
    assert len(json.dumps(made.state())) < 500
    assert run_report(made).table().splitlines()[0].split()[:2] == ["step", "phase"]


def test_a_phase_that_begins_within_an_epoch_has_a_row_of_its_own():
    made = noted((0, 0, "head", None), (0, 5, "top", {"loss": 1.0}), (1, 9, "top", {"loss": 0.5}))
    assert losses(made)[:2] == [(0, "head", {"loss": 1.0}), (0, "top", {"loss": 0.5})]


def test_a_row_says_what_trained_when_it_ended():
    made = History()
    made.note(step=0, trainable=10, total=TOTAL)
    made.note(step=1, trainable=20, total=TOTAL)
    assert [(row.trainable, row.frozen) for row in made.rows] == [(20, 0.98)]


def test_a_history_of_any_length_stays_small(monkeypatch):
    monkeypatch.setattr(history, "LIMIT", 3)
    made = noted(*[(n, None, "head", {"loss": n - 1.0} if n else None) for n in range(7)])
    assert losses(made) == [(4, "head", {"loss": 4.0}), (5, "head", {"loss": 5.0}), (6, "head", {})]
    assert str(run_report(made)).startswith("the first 4 rows were dropped\n")
    assert History.restored(made.state()).left_out == 4


metrics = st.none() | st.dictionaries(
    st.sampled_from(["loss", "val_loss", "test_acc"]), st.floats(width=32), max_size=3
)
runs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), metrics), max_size=12).map(
    lambda moves: [
        (sum(m[0] for m in moves[: n + 1]), sum(m[1] for m in moves[: n + 1]), "head", move[2])
        for n, move in enumerate(moves)
    ]
)
stepwise = runs.map(lambda calls: [(None, step, phase, m) for _, step, phase, m in calls])


def same(one, other):
    return json.dumps(one.state(), allow_nan=False) == json.dumps(other.state(), allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(runs | stepwise, st.integers(0, 12))
def test_a_run_that_was_killed_and_resumed_has_the_same_history(calls, cut):
    first = noted(*calls[:cut])
    again = History.restored(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert same(first, again)
    for call in calls[max(cut - 1, 0) :]:  # the last call before the kill is made once more
        note(again, call)
    assert same(again, noted(*calls))


def test_what_a_resumed_run_measures_anew_at_the_same_place_changes_nothing():
    made = History.restored(noted(*three_epochs()).state())
    note(made, (3, None, "top", {"val_loss": 9.0}))
    assert losses(made) == losses(noted(*three_epochs()))


@settings(max_examples=60, deadline=None)
@given(runs | stepwise)
def test_every_call_may_be_made_twice(calls):
    assert same(noted(*[call for call in calls for _ in range(2)]), noted(*calls))


@settings(max_examples=60, deadline=None)
@given(runs | stepwise)
def test_a_state_is_no_window_into_the_history(calls):
    made = noted(*calls)
    state = made.state()
    kept = json.dumps(state)
    note(made, (99, None, "top", {"loss": 1.0}))
    assert json.dumps(state) == kept


STATE = noted(*three_epochs()).state()


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": None},
        {"rows": [{}]},
        {"rows": [{**STATE["rows"][0], "trainable": "10"}]},
        {"rows": [{**STATE["rows"][0], "metrics": {"loss": None}}]},
        {"rows": [{**STATE["rows"][0], "metrics": [1.0]}]},
        {"rows": [], "behind": True},
        {"epoch": -4},
        {"step": 1.5},
        {"behind": 1},
        {"reported": [3]},
        {"left_out": None},
    ],
)
def test_a_damaged_state_is_refused(damage):
    assert History.restored(STATE).rows
    with pytest.raises(ScheduleError, match="not a state of a history"):
        History.restored({**STATE, **damage})


@pytest.mark.parametrize("state", [None, {}, [], "rows"])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ScheduleError, match="not a state of a history"):
        History.restored(state)


@pytest.mark.parametrize("value", ["0.5", None, [1.0, 2.0], True, 10**400])
def test_a_metric_is_a_number(value):
    made = noted((0, None, "head", None))
    before = made.state()
    with pytest.raises(ScheduleError, match=r"metric 'val_loss' is .*, not a number"):
        note(made, (1, None, "head", {"loss": 1.0, "val_loss": value}))
    assert made.state() == before
    with pytest.raises(ScheduleError, match="not a number"):
        made.measured({"val_loss": value})


@pytest.mark.parametrize("epoch", [-1, 1.0, True, "0"])
def test_a_place_is_counted_from_0(epoch):
    with pytest.raises(ScheduleError, match="epoch is a whole number from 0 on"):
        noted((epoch, None, "head", None))


def test_metrics_need_an_epoch_to_belong_to():
    with pytest.raises(ScheduleError, match="belong to no epoch: none has begun yet"):
        History().measured({"loss": 1.0})


def test_the_gap_is_validation_minus_training():
    report = run_report(noted(*three_epochs()))
    assert report.metrics == ("loss",)
    assert [row["gap_loss"] for row in report.rows] == [0.5, 0.25, 0.75]
    assert [row["frozen"] for row in report.rows] == [0.99, 0.99, 0.6]
    assert report.best("loss", mode="min")["epoch"] == 1
    assert report.best("loss", mode="max")["epoch"] == 0


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("loss", ("loss", "train")),
        ("train_loss", ("loss", "train")),
        ("train/loss", ("loss", "train")),
        ("val_loss", ("loss", "val")),
        ("valid_loss", ("loss", "val")),
        ("validation_loss", ("loss", "val")),
        ("eval_loss", ("loss", "val")),
        ("dev_f1", ("f1", "val")),
        ("val_accuracy", ("accuracy", "val")),
        ("train_acc", ("accuracy", "train")),
        ("test_loss", ("loss", "test")),
        ("value_loss", ("value_loss", "train")),
        ("test_", ("test_", "train")),
        ("eval", ("eval", "train")),
    ],
)
def test_metrics_are_told_by_their_prefix(name, found):
    assert split_name(name) == found


def test_of_two_names_for_one_metric_the_first_counts():
    made = noted((0, None, "", None), (1, None, "", {"loss": 1.0}))
    made.note(epoch=2, trainable=1, total=2)
    made.rows[0].metrics["train_loss"] = 3.0  # some trainers add the mean over the whole run
    assert run_report(made).rows[0]["train_loss"] == 1.0


def test_rows_have_the_same_keys_and_nothing_where_nothing_was_measured():
    report = run_report(
        noted(
            (0, None, "", None),
            (1, None, "", {"loss": 1.0}),
            (2, None, "", {"val_loss": 2.0, "test_acc": 0.5}),
        )
    )
    assert [row["train_loss"] for row in report.rows] == [1.0, None]
    assert [row["gap_loss"] for row in report.rows] == [None, None]
    assert {tuple(row) for row in report.rows} == {tuple(report.rows[0])}
    assert "train_accuracy" not in report.rows[0]
    assert "gap_accuracy" not in report.rows[0]


def test_a_report_is_a_table():
    calls = three_epochs()
    calls[2][3]["val_acc"] = 0.5
    assert str(run_report(noted(*calls))).splitlines() == [
        "epoch  phase  trainable  frozen  train loss  val loss  gap loss  val accuracy",
        "0      head          10   99.0%           1       1.5      +0.5",
        "1      head          10   99.0%         0.5      0.75     +0.25           0.5",
        "2      top          400   60.0%        0.25         1     +0.75",
        "val loss: lowest 0.75 in epoch 1, highest 1.5 in epoch 0",
        "epoch 3: begun, nothing measured yet",
    ]
    assert (
        run_report(noted(*calls)).table("accuracy").splitlines()[2].endswith("99.0%           0.5")
    )


def test_a_run_without_metrics_is_shown_up_to_the_epoch_that_runs():
    report = run_report(noted((0, None, "head", None), (1, None, "full", None)))
    assert str(report).splitlines() == [
        "epoch  phase  trainable  frozen",
        "0      head          10   99.0%",
        "1      full       1,000    0.0%",
    ]
    assert str(run_report(History())) == "nothing has been noted yet"


def test_what_is_not_finite_is_kept_and_shown(tmp_path):
    report = run_report(
        noted(
            (0, None, "", None),
            (1, None, "", {"val_loss": math.nan}),
            (2, None, "", {"val_loss": 1.0}),
            (3, None, "", {"val_loss": math.inf}),
        )
    )
    assert report.best("loss", mode="min")["epoch"] == 1
    assert [line.split()[-1] for line in report.table().splitlines()] == ["loss", "nan", "1", "inf"]
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert [row["val_loss"] for row in data["rows"]] == ["nan", 1.0, "inf"]
    report.to_csv(tmp_path / "run.csv")
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["val_loss"]) for row in rows] == [
        ("0", "nan"),
        ("1", "1.0"),
        ("2", "inf"),
    ]


def test_a_metric_that_was_not_measured_is_named():
    report = run_report(noted((0, None, "", None), (1, None, "", {"loss": 1.0})))
    with pytest.raises(UnifreezeError, match="nothing called 'los' was measured") as caught:
        report.table("los")
    assert caught.value.hint == "did you mean 'loss'?"
    with pytest.raises(UnifreezeError, match="loss was never measured in validation"):
        report.best("loss", mode="min")
