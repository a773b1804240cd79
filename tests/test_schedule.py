"""When phases begin: epochs, steps, spans, metrics; and what can never begin or go back."""

import math

import pytest

from unifreeze._handle.schedule import Schedule
from unifreeze._plan import FreezePlan
from unifreeze.errors import PlanFileError, ScheduleError

START = "{name: start, rules: [{only: head}]}"
ON = "lr: 1.0"
B = "name: b"
END = "{name: a, at: {epoch: 1}, stop: true}"


def schedule(*entries, **changes):
    """A schedule with a phase for each entry, named after the letters."""
    rows = [f"{{name: {'abcdef'[n]}, {entry}, lr: 0.1}}" for n, entry in enumerate(entries)]
    return Schedule(
        FreezePlan.from_yaml(f"{{unifreeze: 1, phases: [{START}, {', '.join(rows)}]}}").phases
    )


def walk(made, calls):
    """The phase after each call."""
    names = []
    for call in calls:
        made.advance(call.get("epoch"), call.get("step"), call.get("metrics"))
        names.append(made.current.name)
    return names


def epochs(count, *losses):
    """A call before each epoch, with what was measured in the one before it."""
    return [
        {"epoch": n, "metrics": {"loss": losses[n - 1]} if 0 < n <= len(losses) else None}
        for n in range(count)
    ]


def test_phases_begin_at_epochs_and_after_spans():
    made = schedule("at: {epoch: 2}", "after: {epochs: 3}", "after: {epochs: 1}")
    assert walk(made, epochs(8)) == ["start", "start", "a", "a", "a", "b", "c", "c"]


def test_phases_begin_at_steps():
    made = schedule("at: {step: 2}", "after: {steps: 2}")
    calls = [{"step": n} for n in range(6)]
    assert walk(made, calls) == ["start", "start", "a", "a", "b", "b"]


def test_steps_are_counted_from_the_first_one_of_an_epoch_that_was_told_before_it():
    made = schedule("at: {epoch: 1}", "after: {steps: 3}")
    alone, step = [], 0
    for epoch in range(2):
        alone.append({"epoch": epoch})
        alone += [{"step": step + n} for n in range(4)]
        step += 4
    together = [{"epoch": n // 4, "step": n} for n in range(8)]
    begun = "start " * 4 + "a a a b"
    assert walk(schedule("at: {epoch: 1}", "after: {steps: 3}"), together) == begun.split()
    names = zip(walk(made, alone), alone, strict=True)
    assert [name for name, call in names if "step" in call] == begun.split()


def test_what_was_skipped_is_entered_in_order():
    made = schedule("at: {epoch: 1}", "at: {epoch: 2}")
    assert made.advance(5, None, None) == [1, 2]


def test_what_was_measured_before_a_phase_began_counts_for_none_after():
    made = schedule("at: {epoch: 1}", "when: {metric: loss, stalled_for: 1}")
    made.advance(0, None, None)
    for _ in range(2):
        made.advance(1, None, {"loss": 0.5})
    assert made.watch.best is None
    made.advance(2, None, {"loss": 0.6})
    assert made.current.name == "a"


def test_the_same_epoch_again_changes_nothing():
    made = schedule("when: {metric: loss, stalled_for: 2}")
    made.advance(0, None, None)
    for _ in range(5):
        made.advance(1, None, {"loss": 1.0})
    assert made.current.name == "start"
    assert made.watch.since_best == 0
    made.advance(2, None, {"loss": 1.0})
    made.advance(3, None, {"loss": 1.0})
    assert made.current.name == "a"


@pytest.mark.parametrize(
    ("entry", "losses", "begins"),
    [
        ("stalled_for: 2", [1.0, 0.9, 0.95, 0.9], 4),
        ("stalled_for: 2, min_delta: 0.2", [1.0, 0.9, 0.85], 3),
        ("stalled_for: 1, mode: max", [0.1, 0.2, 0.2], 3),
        ("stalled_for: 1", [1.0, 0.9, 0.8], None),
        ("risen_for: 2", [1.0, 1.1, 1.2], 3),
        ("risen_for: 2", [1.0, 1.1, 1.0, 1.1], None),
        ("risen_for: 1, min_delta: 0.2", [1.0, 1.1, 1.2, 1.5], 4),
        ("risen_for: 1, mode: max", [0.5, 0.4], 2),
    ],
)
def test_a_phase_begins_when_a_metric_has_turned(entry, losses, begins):
    made = schedule(f"when: {{metric: loss, {entry}}}")
    names = walk(made, epochs(len(losses) + 1, *losses))
    found = names.index("a") if "a" in names else None
    assert found == begins


def test_a_metric_is_watched_from_the_beginning_of_the_phase_before():
    made = schedule("at: {epoch: 2}", "when: {metric: loss, stalled_for: 2}")
    # Worse than in the first phase, and better within the second.
    losses = [0.1, 0.1, 0.9, 0.8, 0.7, 0.7, 0.7]
    assert walk(made, epochs(8, *losses))[-3:] == ["a", "a", "b"]


@pytest.mark.parametrize("cut", range(8))
def test_a_restored_schedule_goes_on_alike(cut):
    entries = ("at: {epoch: 1}", "when: {metric: loss, stalled_for: 2}", "after: {epochs: 1}")
    calls = epochs(8, 1.0, 0.9, 0.95, 0.95, 0.9, 0.9)
    whole = walk(schedule(*entries), calls)
    first = schedule(*entries)
    begun = walk(first, calls[:cut])
    again = schedule(*entries).restored(first.state())
    assert begun + walk(again, calls[cut:]) == whole
    assert whole[-1] == "c"


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([{}], "needs the epoch or the step"),
        ([{"epoch": 2}, {"epoch": 1}], "epoch 1 after epoch 2: a schedule never goes back"),
        ([{"step": 5, "epoch": 0}, {"step": 4}], "step 4 after step 5"),
        ([{"epoch": -1}], "a whole number from 0 on, not -1"),
        ([{"epoch": 1.0}], "from 0 on, not 1.0"),
        ([{"epoch": True}], "from 0 on, not True"),
        ([{"epoch": 1, "metrics": {"acc": 1.0}}], "waits for loss, and it is not among acc"),
        (
            [{"epoch": 1, "metrics": {"loss": math.nan}}],
            r"waits for loss, and it is nan \(epoch 1\)",
        ),
        ([{"epoch": n} for n in range(9)], "waits for loss, and 7 epochs began without it"),
    ],
)
def test_a_call_that_cannot_be_right_is_refused(calls, words):
    made = schedule("when: {metric: loss, stalled_for: 2}")
    with pytest.raises(ScheduleError, match=words):
        walk(made, calls)


def test_a_phase_counted_by_steps_needs_them():
    made = schedule("at: {step: 10}")
    made.advance(0, None, None)
    with pytest.raises(ScheduleError, match=r"phase 'a' begins at step 10; only epochs are given"):
        made.advance(1, None, None)


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        (
            f"[{START}, {{name: start, at: {{epoch: 1}}, lr: 1.0}}]",
            "an earlier phase has that name",
        ),
        (f"[{START}, {{name: a, lr: 1.0}}]", "needs a start"),
        (f"[{START}, {{name: a, at: {{epoch: 0}}, lr: 1.0}}]", "can never be entered at epoch 0"),
        (
            f"[{START}, {{name: a, at: {{epoch: 4}}, {ON}}}, {{{B}, at: {{epoch: 3}}, {ON}}}]",
            "can never be entered at epoch 3: epoch 4 is before it",
        ),
        (
            f"[{START}, {{name: a, after: {{steps: 9}}, {ON}}}, {{{B}, at: {{step: 9}}, {ON}}}]",
            "can never be entered at step 9",
        ),
        (f"[{START}, {{name: a, at: {{epoch: 1}}}}]", "changes nothing"),
        (
            f"[{START}, {{name: a, at: {{epoch: 1}}, like: b}}]",
            "like 'b', and there is no such phase",
        ),
        ("[{name: a, at: {epoch: 3}}]", "the first phase begins at once, and not at epoch 3"),
        (f"[{START}, {{name: a, at: {{epoch: 1}}, stop: true, lr: 1.0}}]", "training ends there"),
        (
            f"[{START}, {END}, {{{B}, at: {{epoch: 2}}, {ON}}}]",
            "training has ended before it",
        ),
        ("[{name: a, rules: [{only: head}], like: b}]", "has rules and like"),
        (
            f"[{START}, {{name: a, at: {{epoch: 1}}, after: {{epochs: 2}}, lr: 1.0}}]",
            "at and after",
        ),
    ],
)
def test_phases_that_cannot_be_are_mistakes_of_the_plan(phases, words):
    with pytest.raises(PlanFileError, match=words) as caught:
        FreezePlan.from_yaml(f"unifreeze: 1\nphases: {phases}")
    assert "line 2: phases" in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"phase": 7}, None, {"phase": "x"}])
def test_a_state_that_is_none_is_refused(state):
    made = schedule("at: {epoch: 1}")
    with pytest.raises(ScheduleError, match="not a state of a schedule"):
        made.restored(state)
    with pytest.raises(ScheduleError, match="there is no phase 5"):
        made.restored({**made.state(), "phase": 5})
