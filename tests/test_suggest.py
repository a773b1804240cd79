"""Choosing what to freeze: by rules of thumb, and by measuring; the model stays as it was."""

import itertools
import json
import random
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import unifreeze as uf
from tests.support.rounding import LIMIT, SINGLE_PART
from tests.support.trained import BLOCKS, batches, damaged, in_framework, trained
from tests.support.zoo import FRAMEWORKS, runnable
from unifreeze._authoring.suggest.model_units import has_head, units_of_model
from unifreeze._authoring.suggest.task_facts import FEW, MANY
from unifreeze._protocol import Batch, backend_for
from unifreeze._resolution import resolve_phases
from unifreeze.errors import ArgumentError, PlanFileError, TargetError

HERE = Path(__file__).parent
SIZES = {"few": FEW - 1, "some": FEW, "many": MANY}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stack(framework, **settings):
    return import_module(f"tests.support.kits.{framework}_nets").Stack(**settings)


def measured(framework, name, model, **settings):
    live = in_framework(framework, name, model)
    return uf.suggest(live, batches=batches(name), labels="y", **settings)


def trainable(plan, model, phase=-1):
    """The units that train in a phase, or under a plan without any."""
    if plan.phases:
        resolved = resolve_phases(plan, backend_for(model).describe(model))[phase]
    else:
        resolved = plan.resolve(model)
    return list(dict.fromkeys(name.partition("/")[0] for name in resolved.trainable_names))


# What is measured.


@pytest.mark.parametrize("name", ["pictures", "words"])
@pytest.mark.parametrize("block", [1, 3, 5])
def test_a_damaged_block_is_named_first(framework, name, block):
    found = measured(framework, name, damaged(trained(name), block))
    assert found.ranking[0] == f"blocks.{block}"
    assert [str(rule) for rule in found.plan.rules] == [f"only: blocks[{block}]"]
    assert f"without it {found.loss + found.measures[block + 1].change:.4g}" in found.reasons[0]


@pytest.mark.parametrize("name", ["pictures", "words"])
def test_without_damage_no_block_is_said_to_do_harm(framework, name):
    found = measured(framework, name, trained(name))
    assert not [one for one in found.measures if one.harmful]
    assert not found.ranking[0].startswith("blocks")
    assert "relative to the weights" in found.reasons[0]


@pytest.mark.parametrize("name", ["pictures", "words"])
def test_gradients_relative_to_weights_do_not_name_a_damaged_block(name):
    """Why blocks are passed by: the measure of the paper alone would not find it."""
    largest = [
        max(measured("torch", name, damaged(trained(name), block)).measures, key=lambda m: m.ratio)
        for block in (1, 3, 5)
    ]
    assert [one.unit for one in largest] != ["blocks.1", "blocks.3", "blocks.5"]


@pytest.mark.slow
def test_how_often_either_measure_names_the_damaged_block():
    """The figures in the README: 46 and 4 of 48, where they were counted."""
    by_ranking = by_gradients = 0
    for name, block, seed in itertools.product(("pictures", "words"), range(BLOCKS), range(4)):
        found = measured("torch", name, damaged(trained(name), block, seed))
        by_ranking += found.ranking[0] == f"blocks.{block}"
        by_gradients += max(found.measures, key=lambda m: m.ratio).unit == f"blocks.{block}"
    assert by_ranking >= 44
    assert by_gradients <= 8


@pytest.mark.parametrize("name", ["pictures", "words"])
def test_both_frameworks_measure_the_same(name):
    model = damaged(trained(name), 2)
    one, other = (measured(framework, name, model) for framework in ("torch", "paddle"))
    assert one.ranking == other.ranking
    assert one.loss == pytest.approx(other.loss, rel=SINGLE_PART)
    assert len(one.measures) == BLOCKS + 2
    for here, there in zip(one.measures, other.measures, strict=True):
        assert (here.unit, here.values) == (there.unit, there.values)
        assert here.weight == pytest.approx(there.weight, rel=LIMIT)
        assert here.gradient == pytest.approx(there.gradient, rel=SINGLE_PART)
        assert here.change == (there.change and pytest.approx(there.change, abs=SINGLE_PART))


def test_relative_gradients_are_what_they_are_defined_to_be():
    model, given = trained("words"), batches("words", 2)
    found = uf.suggest(model, batches=given, labels="y")
    norms = []
    for batch in given:
        model.zero_grad()
        scores = model(torch.tensor(batch["ids"]))
        functional.cross_entropy(scores, torch.tensor(batch["y"])).backward()
        flat = torch.cat([p.grad.reshape(-1) for p in model.blocks[1].parameters()])
        norms.append(float(flat.norm()))
    model.zero_grad()
    weights = torch.cat([p.detach().reshape(-1) for p in model.blocks[1].parameters()])
    (block,) = [one for one in found.measures if one.unit == "blocks.1"]
    assert block.gradient == pytest.approx(np.mean(norms), rel=LIMIT)
    assert block.ratio == pytest.approx(np.mean(norms) / float(weights.norm()), rel=LIMIT)


def test_passing_a_block_by_is_what_it_is_defined_to_be():
    model, (batch,) = trained("pictures"), batches("pictures", 1)

    def loss():
        with torch.no_grad():
            scores = model(torch.tensor(batch["x"]))
            return float(functional.cross_entropy(scores, torch.tensor(batch["y"])))

    found = uf.suggest(model, batches=[batch], labels="y")
    whole, kept = loss(), model.blocks[2]
    model.blocks[2] = nn.Identity()
    without = loss()
    model.blocks[2] = kept
    assert found.loss == pytest.approx(whole, rel=LIMIT)
    assert found.measures[3].change == pytest.approx(without - whole, abs=LIMIT)


def everything_of(framework, backend, model):
    prints = backend.fingerprint(model, backend.objects(model))
    drawn = torch.get_rng_state() if framework == "torch" else None
    if framework == "paddle":
        import paddle

        drawn = re.sub("0x[0-9a-f]+", "", str(paddle.get_rng_state()[0]))  # without its address
    return (
        {path: digest.bits for path, digest in prints.items()},
        backend.read(model),
        backend.gradients(model),
        backend.training(model),
        drawn.tolist() if framework == "torch" else drawn,
        random.getstate(),
        np.random.get_state()[1].tolist(),
        [sorted(vars(module)) for module in backend.walk(model).modules],
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_bit_for_bit(framework, backend, fails):
    nets = import_module(f"tests.support.kits.{framework}_nets")
    model = stack(framework, blocks=3, dropout=0.5)
    handle = uf.FreezePlan().freeze("stem | blocks[:2]").apply(model)
    backend.train_mode(model)
    (model(nets.rows()) ** 2).mean().backward()
    before = everything_of(framework, backend, model)

    def drawn_at_random():
        for _ in range(3):
            random.random()
            yield np.random.standard_normal((8, 6)).astype("float32")

    def loss(live, batch):
        if fails:
            live.train()
            raise ZeroDivisionError
        made = backend.run(live, Batch.of(batch))
        return (made**2).mean()

    if fails:
        with pytest.raises(ZeroDivisionError):
            uf.suggest(model, batches=drawn_at_random(), loss=loss)
    else:
        uf.suggest(model, batches=drawn_at_random(), loss=loss)
    assert everything_of(framework, backend, model) == before
    handle.verify()


@pytest.mark.usefixtures("double")
def test_dropout_and_batch_statistics_do_not_enter(framework, backend):
    model = stack(framework, blocks=3, dropout=0.5)
    nets = import_module(f"tests.support.kits.{framework}_nets")
    (backend.train_mode(model), [model(nets.rows()) for _ in range(3)])
    rows = np.random.default_rng(0).standard_normal((8, 6))

    def loss(live, batch):
        return (backend.run(live, Batch.of(batch)) ** 2).mean()

    found = uf.suggest(model, batches=[rows, rows], loss=loss)
    again = uf.suggest(model, batches=[rows], loss=loss)
    model.eval()
    value = (backend.run(model, Batch.of(rows)) ** 2).mean()
    assert found.loss == again.loss == pytest.approx(float(backend.to_array(value)), rel=LIMIT)
    assert found.measures == again.measures


def test_a_loss_that_turns_training_mode_on_is_refused(framework, backend):
    model = stack(framework, blocks=3, dropout=0.5)
    before = everything_of(framework, backend, model)

    def loss(live, batch):
        live.train()
        return (backend.run(live, Batch.of(batch)) ** 2).mean()

    rows = [np.ones((8, 6), "float32")]
    with pytest.raises(TargetError, match="the loss puts the model in training mode"):
        uf.suggest(model, batches=rows, loss=loss)
    assert everything_of(framework, backend, model) == before


def test_only_the_first_few_batches_are_drawn(framework, backend):
    drawn = []

    def endless():
        for number in itertools.count():
            drawn.append(number)
            yield np.ones((8, 6), "float32") * number

    def loss(live, batch):
        return (backend.run(live, Batch.of(batch)) ** 2).mean()

    told = []
    uf.suggest(
        stack(framework),
        batches=endless(),
        loss=loss,
        most=2,
        progress=lambda *what: told.append(what),
    )
    assert drawn == [0, 1]
    assert told == [
        ("gradients", 1, 2), ("gradients", 2, 2), ("blocks", 1, 2), ("blocks", 2, 2)
    ]  # fmt: skip


class Halves(nn.Module):
    """Blocks that cannot be passed by, each for a reason of its own, and one that can."""

    class Block(nn.Module):
        def __init__(self, inputs=4, outputs=4, returns="tensor"):
            super().__init__()
            self.first, self.second = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)
            self.returns = returns

        def forward(self, x, *, named=None):
            x = self.second(self.first(x.add_(1) if self.returns == "tuple" else x))
            return {"tensor": x, "tuple": (x, None), "dict": {"x": x}}[self.returns]

    def __init__(self):
        super().__init__()
        made = self.Block
        self.blocks = nn.ModuleList(
            [made(), made(returns="tuple"), made(4, 2), made(2, 2, "dict"), made(2, 2)]
        )
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        one, two, half, last, _idle = self.blocks
        return self.head(last(half(two(one(x) * 1)[0]))["x"])


def test_what_cannot_be_passed_by_says_why():
    batch = {"x": np.ones((2, 4), "float32"), "y": np.array([0, 1])}
    found = uf.suggest(Halves(), batches=[batch], labels="y")
    whys = {one.unit: one.why for one in found.measures}
    changes = {one.unit: one.change for one in found.measures}
    assert whys["blocks.0"] == whys["blocks.1"] == ""
    assert None not in (changes["blocks.0"], changes["blocks.1"])
    assert whys["blocks.2"] == "it changes the shape, 2x4 to 2x2"
    assert whys["blocks.3"] == "it returns a dict: what of it is passed on is unknown"
    assert whys["blocks.4"] == "it does not run on these batches"
    assert {changes[f"blocks.{number}"] for number in (2, 3, 4)} == {None}
    assert "blocks.2 is not left out: it changes the shape" in str(found)
    (idle,) = [one for one in found.measures if one.unit == "blocks.4"]
    assert idle.gradient is idle.ratio is None


def test_a_block_that_works_in_place_is_passed_its_input_as_it_came():
    model, batch = Halves().double(), {"x": np.ones((2, 4)), "y": np.array([0, 1])}
    found = uf.suggest(model, batches=[batch], labels="y")
    with torch.no_grad():
        x = model.blocks[0](torch.tensor(batch["x"]))
        scores = model.head(model.blocks[3](model.blocks[2](x))["x"])
        without = float(functional.cross_entropy(scores, torch.tensor(batch["y"])))
    assert found.measures[1].change == pytest.approx(without - found.loss, abs=LIMIT)


def test_new_heads_are_trained_before_what_was_measured(framework):
    found = measured(framework, "words", damaged(trained("words"), 3), new_head=True)
    assert [phase.name for phase in found.plan.phases] == ["head", "measured"]
    assert str(found.plan.phases[1].add[0]) == "train: blocks[3]"
    assert any("random still" in reason for reason in found.reasons)


def test_what_is_deeper_than_the_compute_reaches_is_left_out():
    model = trained("pictures")
    whole = measured("torch", "pictures", model)
    found = measured("torch", "pictures", model, compute=0.5)
    assert "stem" in trainable(whole.plan, model)
    assert not {"stem", "blocks.0", "blocks.1"} & set(trainable(found.plan, model))
    assert any("left out: stem" in reason for reason in found.reasons)


def test_a_damaged_block_is_trained_however_deep_it_is():
    found = measured("torch", "pictures", damaged(trained("pictures"), 1), compute="low")
    assert str(found.plan.rules[0]) == "only: blocks[1]"
    assert any("deeper than the compute given" in reason for reason in found.reasons)


def test_the_text_says_that_freezing_measures_nothing():
    assert "Freezing changes no output" in measured("torch", "words", trained("words")).text()
    assert "freezing changes no output" in " ".join(uf.suggest.__doc__.split())


# The loss.


def test_labels_and_a_loss_of_ones_own_say_the_same(framework):
    model, given = trained("pictures"), batches("pictures", 1)
    live = in_framework(framework, "pictures", model)
    framework_module = import_module(framework)
    cross_entropy = import_module(f"{framework}.nn.functional").cross_entropy

    def loss(live, batch):
        x, y = (getattr(framework_module, "to_tensor", torch.tensor)(batch[n]) for n in "xy")
        return cross_entropy(live(x), y)

    one = uf.suggest(live, batches=given, loss=loss)
    other = uf.suggest(live, batches=given, labels="y")
    assert one.loss == pytest.approx(other.loss, rel=LIMIT)
    for mine, its in zip(one.measures, other.measures, strict=True):
        assert mine.gradient == pytest.approx(its.gradient, rel=LIMIT)


def test_the_loss_that_a_model_returns_is_taken():
    class WithLoss(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))] * 1)
            self.head, self.form = nn.Linear(4, 2), form

        def forward(self, x, labels):
            scores = self.head(self.blocks[0](x))
            loss = functional.cross_entropy(scores, labels)
            return {"loss": loss, "logits": scores} if self.form == "dict" else (loss, scores)

    batch = {"x": np.ones((3, 4)), "labels": np.array([0, 1, 1])}
    for form in ("dict", "tuple"):
        model = WithLoss(form).double()
        found = uf.suggest(model, batches=[batch])
        with torch.no_grad():
            result = model(*map(torch.tensor, batch.values()))
        expected = result["loss"] if form == "dict" else result[0]
        assert found.loss == pytest.approx(float(expected), rel=LIMIT)


def test_labels_of_minus_100_count_for_nothing():
    (batch,) = batches("words", 1)
    some = {"ids": batch["ids"], "y": np.where(np.arange(64) < 10, batch["y"], -100)}
    few = {"ids": batch["ids"][:10], "y": batch["y"][:10]}
    one, other = (
        uf.suggest(trained("words"), batches=[given], labels="y") for given in (some, few)
    )
    assert one.loss == pytest.approx(other.loss, rel=LIMIT)
    assert one.measures[0].gradient == pytest.approx(other.measures[0].gradient, rel=LIMIT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "the model returns no loss"),
        ({"labels": "z"}, "the batch has no array 'z' for the labels"),
        ({"labels": "y", "change": ("y", np.ones(64))}, "labels are whole numbers"),
        ({"labels": "y", "change": ("y", np.full(64, 9))}, "labels run from 9 to 9"),
        ({"labels": "y", "change": ("y", np.ones((64, 2), int))}, "fit nothing that the model"),
        ({"loss": lambda model, batch: 3.0}, "the loss gave a float, and no single number"),
        ({"loss": lambda model, batch: torch.ones(2)}, r"a tensor of shape \[2\]"),
        ({"loss": lambda model, batch: torch.tensor(float("nan"))}, "the loss of a batch is nan"),
        ({"loss": lambda model, batch: torch.tensor(1.0)}, "no gradient comes from the loss"),
        ({"loss": lambda model, batch: 1, "labels": "y"}, "both a loss and labels"),
        ({"labels": "y", "most": 0}, "most=0 is not a number of batches"),
    ],
)
def test_a_loss_that_means_nothing_is_refused(settings, message):
    (batch,) = batches("words", 1)
    settings = dict(settings)
    name, value = settings.pop("change", ("y", batch["y"]))
    given = {**batch, name: value}
    if not settings:
        given.pop("y")
    with pytest.raises(TargetError, match=message):
        uf.suggest(trained("words"), batches=[given], **settings)


# Rules of thumb.

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


# On the command line.


def command_line(*words, cwd=HERE.parent):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "unifreeze", "suggest", *words],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_line_writes_a_plan(framework, tmp_path):
    file = tmp_path / "plan.yaml"
    words = ["--examples", "2000", "--similarity", "different", "--compute", "low", "--new-head"]
    run = command_line(
        f"tests.support.kits.{framework}_nets:Stack(blocks=8)", *words, "-o", str(file)
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"written to {file}\n"
    model = stack(framework, blocks=8)
    assert trainable(uf.FreezePlan.load(file), model) == ["blocks.6", "blocks.7", "head"]


def test_the_command_line_measures_examples_in_a_file(framework, tmp_path):
    drawn = np.random.default_rng(0)
    rows = drawn.standard_normal((32, 6)).astype("float32")
    np.savez(tmp_path / "examples.npz", arr_0=rows, y=drawn.integers(0, 3, 32))
    words = ["--measure", "--batch", str(tmp_path / "examples.npz"), "--labels", "y"]
    found = tmp_path / "found.json"
    run = command_line(
        f"tests.support.kits.{framework}_nets:Stack(blocks=3)",
        *words,
        "--batch-size",
        "8",
        "--json",
        str(found),
    )
    assert run.returncode == 0, run.stderr
    # Paddle says something when it is imported with more than one thread.
    said = [line for line in run.stderr.splitlines() if "OMP_NUM_THREADS" not in line]
    assert not said, "progress is for terminals"
    assert "measured on 4 batches" in run.stdout
    assert "made-up" not in run.stdout
    report = json.loads(found.read_text())
    units = [one["unit"] for one in report["measures"]]
    assert units == ["stem", "blocks.0", "blocks.1", "blocks.2", "head"]
    assert sorted(report["ranking"]) == sorted(units)
    assert uf.FreezePlan.from_yaml(report["text"]).document() == report["plan"]


def test_the_command_line_says_when_numbers_are_made_up():
    words = ["--measure", "--batch", "float32[8,6]", "--batch", "y=int64[8]<0:3>", "--labels", "y"]
    run = command_line("tests.support.kits.torch_nets:Stack", *words)
    assert run.returncode == 0, run.stderr
    assert "# Measured on made-up numbers" in run.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to go by"),
        (["--measure"], "--measure needs a batch"),
        (["--examples", "9", "--labels", "y"], "add --measure"),
        (["--measure", "--batch", "float32[8,6]"], "the model returns no loss"),
        (["--measure", "--batch", "float32[8,6]", "--batch", "y=int64[4]<0:3>", "--labels", "y",
          "--batch-size", "2"], "not equally long"),
    ],
)  # fmt: skip
def test_the_command_line_refuses_what_it_cannot_use(words, message):
    run = command_line("tests.support.kits.torch_nets:Stack", *words)
    assert run.returncode == 2, run.stdout + run.stderr
    assert message in run.stderr


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_rules_of_thumb_want_one_tower(framework):
    model = runnable("clip", framework)
    with pytest.raises(TargetError, match="2 stacks of blocks side by side") as caught:
        uf.suggest(model, examples=2000)
    assert "suggest for one of them" in str(caught.value)
    tower = uf.suggest(model.vision_model, examples=2000)
    assert tower.plan.resolve(model.vision_model).trainable.any()
    assert uf.suggest(runnable("t5", framework), examples=200_000).plan
