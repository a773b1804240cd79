"""Choosing what to freeze by rules of thumb: by size of the data, likeness, compute and head."""

import itertools
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.suggested_units import stack, trainable
from tests.support.zoo import FRAMEWORKS, runnable
from unifreeze._authoring.suggest.model_units import has_head, units_of_model
from unifreeze._authoring.suggest.task_facts import FEW, MANY
from unifreeze._resolution import resolve_phases
from unifreeze.errors import ArgumentError, PlanFileError, TargetError

SIZES = {"few": FEW - 1, "some": FEW, "many": MANY}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CORNERS = {
    ("few", "same"): ["head"],
    ("few", "similar"): ["head"],
    ("few", "different"): ["blocks.4", "blocks.5", "blocks.6", "blocks.7", "head"],
    ("some", "same"): ["blocks.6", "blocks.7", "head"],
    ("some", "similar"): ["blocks.4", "blocks.5", "blocks.6", "blocks.7", "head"],
    ("some", "different"): ["stem", *(f"blocks.{n}" for n in range(8)), "head"],
    ("many", "same"): ["stem", *(f"blocks.{n}" for n in range(8)), "head"],
    ("many", "similar"): ["stem", *(f"blocks.{n}" for n in range(8)), "head"],
    ("many", "different"): ["stem", *(f"blocks.{n}" for n in range(8)), "head"],
}


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize("corner", CORNERS, ids="-".join)
def test_size_and_similarity_decide_how_deep_to_train(framework, corner, new_head):
    size, similarity = corner
    model = stack(framework, blocks=8)
    found = uf.suggest(model, examples=SIZES[size], similarity=similarity, new_head=new_head)
    assert trainable(found.plan, model) == CORNERS[corner]
    if new_head:
        assert trainable(found.plan, model, phase=0) == ["head"]
    assert all(reason for reason in found.reasons)


def test_a_new_head_trains_first_and_the_rest_is_thawed_from_the_top():
    model = stack("torch", blocks=8)
    plan = uf.suggest(model, examples=5000, similarity="different", new_head=True).plan
    assert [phase.name for phase in plan.phases] == ["head", "top", "half", "all"]
    rates = [phase.lr for phase in plan.phases]
    assert rates == sorted(rates, reverse=True)
    sizes = [len(trainable(plan, model, phase)) for phase in range(4)]
    assert sizes == [1, 3, 5, 10]


def test_with_many_examples_everything_trains_right_after_the_head():
    plan = uf.suggest(stack("torch", blocks=8), examples=MANY, new_head=True).plan
    assert [phase.name for phase in plan.phases] == ["head", "all"]


@pytest.mark.parametrize(
    ("shift", "units"),
    [("input", ["stem", "blocks.0", "blocks.1"]), ("features", ["blocks.2", "blocks.3"]),
     ("output", ["head"])],
)  # fmt: skip
def test_a_known_shift_says_where_to_tune(framework, shift, units):
    model = stack(framework, blocks=6)
    found = uf.suggest(model, shift=shift)
    assert trainable(found.plan, model) == units
    assert "Lee et al. 2022" in found.reasons[0]


def test_a_new_head_is_no_second_stage_of_its_own():
    base = nn.Transformer(4, 2, 2, 2, 8, batch_first=True)
    two_stacks = nn.Sequential(base, nn.Linear(4, 3))
    found = uf.suggest(two_stacks, shift="output", new_head=True)
    assert not found.plan.phases
    assert trainable(found.plan, two_stacks) == ["head"]


def test_less_compute_trains_less():
    model = stack("torch", blocks=8)
    counts = []
    for compute in (0.34, "low", 0.6, "medium", 0.9, "high"):
        found = uf.suggest(model, examples=MANY, compute=compute)
        counts.append(len(trainable(found.plan, model)))
    assert counts == [1, 3, 4, 5, 7, 10]
    assert any("A forward pass is a third" in r for r in
               uf.suggest(model, examples=MANY, compute="low").reasons)  # fmt: skip


def test_the_sources_are_named_in_the_plan():
    text = uf.suggest(
        stack("torch", blocks=8), examples=5000, similarity="different", new_head=True
    ).text()
    for source in ("Kumar et al. 2022", "Howard and Ruder 2018", "CS231n"):
        assert source in " ".join(text.replace("#", "").split())


def deep_and_odd(framework):
    kit = import_module(f"tests.support.kits.{framework}_kit").kit
    yield "residual", stack(framework, blocks=5)
    yield "one block", stack(framework, blocks=1)
    yield from (("tied", kit.tied.make()), ("loose", kit.loose.make()))
    side = import_module(f"{framework}.nn")
    sizes = {"d_model": 4, "nhead": 2, "dim_feedforward": 8}
    yield (
        "two stacks",
        side.Transformer(
            d_model=4, nhead=2, dim_feedforward=8, num_encoder_layers=3, num_decoder_layers=2
        ),
    )
    yield "no head", side.TransformerEncoder(side.TransformerEncoderLayer(**sizes), 3)
    conv = getattr(side, "Conv2d", None) or side.Conv2D
    layers = [conv(3, 4, 3), side.ReLU(), conv(4, 4, 3), side.ReLU(), conv(4, 4, 3)]
    yield "no blocks", side.Sequential(*layers, side.Flatten(), side.Linear(4, 3))


def test_every_suggestion_loads_and_fits_whatever_the_model(framework, backend, tmp_path):
    choices = itertools.product(SIZES.values(), ("similar", "different"), (False, True), (0.5, 1))
    choices = [dict(zip(("examples", "similarity", "new_head", "compute"), c, strict=True))
               for c in choices]  # fmt: skip
    choices += [{"shift": shift} for shift in ("input", "features", "output")]
    for name, model in deep_and_odd(framework):
        for choice in choices:
            if choice.get("new_head") and not has_head(units_of_model(backend.describe(model))):
                with pytest.raises(TargetError, match="no head that could be new"):
                    uf.suggest(model, **choice)
                continue
            found = uf.suggest(model, **choice)
            found.save(tmp_path / "plan.yaml")
            assert (tmp_path / "plan.yaml").read_text() == found.text()
            plan = uf.FreezePlan.load(tmp_path / "plan.yaml")
            assert plan == found.plan
            spec = backend.describe(model)
            counts = [
                one.counts()[0]
                for one in (resolve_phases(plan, spec) if plan.phases else [plan.resolve(model)])
            ]
            assert counts == sorted(counts), (name, choice)
            assert counts[0] > 0, (name, choice)


def test_a_tied_head_trains_under_all_its_names():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(9, 4)
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(4, 2, 8) for _ in range(4))
            self.head = nn.Linear(4, 9)
            self.head.weight = self.words.weight

    found = uf.suggest(Model(), examples=100)
    assert str(found.plan.rules[0]) == "only: head | tied"
    assert "one tensor" in found.reasons[-1]


def test_units_select_what_they_name(framework, backend):
    for name, model in deep_and_odd(framework):
        spec = backend.describe(model)
        units = units_of_model(spec)
        covered = sorted(number for unit in units for number in unit.parameters)
        assert covered == list(range(len(spec))), name
        if name == "tied":
            continue
        for unit in units:
            found = uf.FreezePlan().freeze("all").train(unit.selector, optional=True)
            numbers = np.flatnonzero(found.resolve(model).trainable).tolist()
            assert numbers == sorted(unit.parameters), (name, unit)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing to go by(.|\n)*hint: examples=2000"),
        ({"examples": 0}, "examples=0 is not a number of training examples"),
        ({"examples": True}, "examples is True, and should be a whole number"),
        ({"examples": 2.5}, "examples is 2.5, and should be a whole number"),
        ({"examples": 9, "similarity": "simliar"}, "hint: did you mean 'similar'"),
        ({"examples": 9, "shift": "inputs"}, "hint: did you mean 'input'"),
        ({"examples": 9, "compute": "lots"}, "compute='lots' cannot be read"),
        ({"examples": 9, "compute": 0.2}, "from 0.34"),
        ({"examples": 9, "compute": 2}, "compute=2 cannot be read"),
        ({"examples": 9, "compute": True}, "compute is True, and should be text or a number"),
        ({"examples": 9, "labels": "y"}, "a loss is given, and nothing to measure it on"),
        ({"batches": []}, "there is no batch to measure on"),
        ({"batches": {"y": 1}}, r"batches is \{'y': 1\}, (.|\n)*hint: in a list: batches=\[…\]"),
        ({"batches": [([[1.0]], [1])], "labels": "y"}, "no array 'y'(.|\n)*hint: name its arrays"),
        (
            {"batches": [1], "loss": "mse"},
            "loss is 'mse', (.|\n)*hint: for example loss=lambda model, batch",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(settings, message):
    with pytest.raises((TargetError, ArgumentError), match=message):
        uf.suggest(stack("torch"), **settings)


def test_one_model_at_a_time_is_advised_on(framework):
    with pytest.raises(TargetError, match="several models are given"):
        uf.suggest({"one": stack(framework), "two": stack(framework)}, examples=9)


def test_a_suggestion_that_cannot_be_written_says_so(tmp_path):
    found = uf.suggest(stack("torch"), examples=100)
    with pytest.raises(PlanFileError, match="cannot be written"):
        found.save(tmp_path / "none" / "plan.yaml")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_rules_of_thumb_want_one_tower(framework):
    model = runnable("clip", framework)
    with pytest.raises(TargetError, match="2 stacks of blocks side by side") as caught:
        uf.suggest(model, examples=2000)
    assert "suggest for one of them" in str(caught.value)
    tower = uf.suggest(model.vision_model, examples=2000)
    assert tower.plan.resolve(model.vision_model).trainable.any()
    assert uf.suggest(runnable("t5", framework), examples=200_000).plan
