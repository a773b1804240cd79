"""Phases built in Python: what a plan file can say, and refused for what a file is refused for."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unifreeze._plan import FreezePlan
from unifreeze._plan.document import read_document
from unifreeze._plan.phase_document import PhaseDocument
from unifreeze._plan.selectors import Selector
from unifreeze.errors import ArgumentError, PlanError, PlanFileError, UnifreezeError

ROOT = Path(__file__).resolve().parent.parent
HEAD = FreezePlan().phase("head", rules=[{"only": "head"}], lr=1e-3)


def written_plans():
    """Every plan with phases that stands in a file, in a page, or in a test, as text."""
    texts = [file.read_text("utf-8") for file in ROOT.glob("[a-z]*/**/*.yaml")]
    for page in [ROOT / "README.md", *ROOT.glob("*/**/*.md")]:
        texts += re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.S)
    for file in ROOT.glob("tests/**/*.py"):
        constants = ast.walk(ast.parse(file.read_text("utf-8")))
        texts += [node.value for node in constants if isinstance(getattr(node, "value", 0), str)]
    for text in dict.fromkeys(text for text in texts if "phases:" in text):
        try:
            plan = FreezePlan.from_yaml(text)
        except PlanError:  # tests hold plans with mistakes, too
            continue
        if plan.phases:
            yield plan


PLANS = list(written_plans())


def rebuilt(plan):
    """Make a plan's phases by calls, each as its own document says it."""
    made = FreezePlan(plan.rules, plan.norm_stats, plan.dropout, plan.groups)
    made = made.with_moments(plan.moments).with_order(plan.order)
    for phase in plan.document()["phases"]:
        made = made.phase(**phase)
    return made


def refused(call):
    with pytest.raises(UnifreezeError) as caught:
        call()
    return caught.value


# The same as the file -----------------------------------------------------------------------


def test_every_written_plan_is_said_in_python_too():
    assert len(PLANS) > 30
    for plan in PLANS:
        made = rebuilt(plan)
        assert made == plan
        assert made.digest == plan.digest
        assert made.to_yaml() == plan.to_yaml()
    said = {key for plan in PLANS for phase in plan.document()["phases"] for key in phase}
    assert said == set(PhaseDocument.model_fields)


def test_python_knows_the_words_of_the_file_and_no_others():
    names = FreezePlan.phase.__wrapped__.__annotations__.keys() - {"return"}
    assert names == set(PhaseDocument.model_fields)


def entries():
    count = st.integers(1, 3)
    turn = st.sampled_from(["stalled_for", "risen_for"])
    return st.one_of(
        st.builds(
            lambda unit, n: {"after": {unit: n}}, st.sampled_from(["epochs", "steps"]), count
        ),
        st.builds(lambda turn, n: {"when": {"metric": "loss", turn: n}}, turn, count),
        st.just({}),
    )


def phases():
    verbs, words = st.sampled_from(["freeze", "train", "only"]), st.sampled_from(["head", "norm"])
    rules = st.lists(st.builds(lambda verb, what: {verb: what}, verbs, words), max_size=2)
    rate = st.floats(0, 2, allow_subnormal=False) | st.integers(0, 2)
    settings_ = {"lr": rate, "weight_decay": rate, "rules": rules, "add": rules}
    settings_ |= {"warmup": st.fixed_dictionaries({"steps": st.integers(0, 2)})}
    settings_ |= {"stop": st.booleans(), "restore_best": st.booleans()}
    settings_ |= {"norm_stats": st.sampled_from(["hold", "update"])}
    settings_ |= {"like": st.sampled_from(["a", "b", "zz"])}
    named = st.fixed_dictionaries({"name": st.sampled_from("abcd")}, optional=settings_)
    return st.builds(lambda phase, entry: phase | entry, named, entries())


def as_file(said):
    """Return the plan that a file with these phases gives, or its mistakes."""
    try:
        return read_document({"unifreeze": 1, "phases": said}, source="file")
    except PlanFileError as error:
        return error.mistakes


@settings(max_examples=300, deadline=None)
@given(st.lists(phases(), min_size=1, max_size=3))
def test_python_takes_what_the_file_takes_and_refuses_what_it_refuses(said):
    made = FreezePlan()
    for number, phase in enumerate(said, start=1):
        read = as_file(said[:number])
        if not isinstance(read, FreezePlan):
            error = refused(lambda made=made, phase=phase: made.phase(**phase))
            assert error.mistakes == read
            assert error.hint
            return
        made = made.phase(**phase)
        assert made == read


# What Python has besides ----------------------------------------------------------------------


def test_a_phase_leaves_the_plan_it_is_added_to_as_it_was():
    longer = HEAD.phase("top", at={"epoch": 5}, add=[{"train": "blocks[-2:]"}], lr=1e-4)
    assert [phase.name for phase in HEAD.phases] == ["head"]
    assert [phase.name for phase in longer.phases] == ["head", "top"]
    assert longer.only("norm").phases == longer.phases


@pytest.mark.parametrize(
    "rules",
    [
        {"train": "blocks[-2:]"},
        ({"train": "blocks[-2:]"},),
        [{"train": Selector("blocks[-2:]")}],
        FreezePlan().train("blocks[-2:]"),
        iter([{"train": "blocks[-2:]"}]),
    ],
)
def test_rules_are_given_as_a_list_as_one_or_as_a_plan(rules):
    made = HEAD.phase("top", at={"epoch": 5}, add=rules)
    assert made == HEAD.phase("top", at={"epoch": 5}, add=[{"train": "blocks[-2:]"}])


def test_numbers_of_numpy_are_numbers_and_zero_is_said():
    made = HEAD.phase("top", at={"epoch": np.int64(5)}, lr=np.float32(0.5), weight_decay=0)
    assert made == HEAD.phase("top", at={"epoch": 5}, lr=0.5, weight_decay=0.0)
    assert made.phases[1].weight_decay == 0.0
    assert type(made.phases[1].entry.count) is int


def test_rules_of_a_plan_that_has_more_are_refused():
    error = refused(
        lambda: HEAD.phase("top", at={"epoch": 5}, add=FreezePlan().with_dropout("off"))
    )
    assert isinstance(error, PlanError)
    assert error.fact == "add of a phase is a plan that has more than rules"
    assert 'add=[{"train": "blocks[-2:]"}]' in error.hint


@pytest.mark.parametrize(
    ("said", "fact", "cure"),
    [
        ({"at": {"epochs": 5}, "lr": 1}, "did you mean 'epoch'?", 'at={"epoch": 5}'),
        ({"after": {"epoch": 5}, "lr": 1}, "did you mean 'epochs'?", 'after={"epochs": 2}'),
        ({"when": {"metric": "a", "stalled": 2}, "lr": 1}, "'stalled_for'?", '"stalled_for": 2}'),
        (
            {"at": {"epoch": 2}, "after": {"epochs": 1}, "lr": 1},
            "has at and after",
            "start of the run",
        ),
        (
            {"rules": {"only": "head"}, "add": {"train": "all"}},
            "has rules and add",
            "leave one out",
        ),
        ({"lr": 1}, "needs a start", "at={"),
        ({"at": {"epoch": 2}}, "changes nothing", "add={"),
        ({"at": {"epoch": -1}, "lr": 1}, "greater than or equal to 0", 'at={"epoch": 5}'),
        ({"at": {"epoch": 0}, "lr": 1}, "can never be entered at epoch 0", "a later epoch"),
        (
            {"name": "head", "at": {"epoch": 2}, "lr": 1},
            "an earlier phase has that name",
            "a name of",
        ),
        ({"name": "", "at": {"epoch": 2}, "lr": 1}, "name: is missing", 'name="top"'),
        ({"at": {"epoch": 2}, "lr": -1}, "lr: should be greater than 0", "lr=1e-3"),
        ({"at": {"epoch": 2}, "like": "hed"}, "no such phase before it (head)", "an earlier"),
        ({"stop_on_rise": {"metrics": "a"}}, "did you mean 'metric'?", "stop_on_rise={"),
    ],
)
def test_what_a_file_is_refused_for_is_refused_with_the_cure(said, fact, cure):
    error = refused(lambda: HEAD.phase(**{"name": "top", **said}))
    assert isinstance(error, PlanFileError)
    assert fact in "\n".join(error.mistakes)
    assert cure in error.hint


@pytest.mark.parametrize(
    ("said", "fact", "cure"),
    [
        ({"at": 5}, "at is 5, and should be a mapping or None", 'at={"epoch": 5}'),
        ({"at": {"epoch": "5"}}, "at['epoch'] is '5'", "without quotes: 5"),
        ({"att": {"epoch": 5}}, "unexpected keyword argument 'att'", "did you mean at=…?"),
        ({"lr": "1e-3"}, "lr is '1e-3'", "without quotes: lr=1e-3"),
        ({"add": "head"}, "add is 'head'", 'add=[{"train": "head"}]'),
        ({"rules": "head"}, "rules is 'head'", 'rules=[{"only": "head"}]'),
        ({"warmup": 100}, "warmup is 100", 'warmup={"steps": 100'),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_as_everywhere(said, fact, cure):
    error = refused(lambda: HEAD.phase("top", **said))
    assert isinstance(error, ArgumentError)
    assert fact in error.fact
    assert cure in error.hint


def test_the_first_phase_is_told_where_a_later_beginning_belongs():
    error = refused(lambda: FreezePlan().phase("top", at={"epoch": 3}, rules={"only": "head"}))
    assert "leave that out of the first phase" in error.hint
