"""Choosing what to freeze by measuring: what is measured, and the model stays as it was."""

import itertools
import random
import re
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import unifreeze as uf
from tests.support.rounding import LIMIT, SINGLE_PART
from tests.support.suggested_units import stack, trainable
from tests.support.trained import BLOCKS, batches, damaged, in_framework, trained
from unifreeze._protocol import Batch
from unifreeze.errors import TargetError


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def measured(framework, name, model, **settings):
    live = in_framework(framework, name, model)
    return uf.suggest(live, batches=batches(name), labels="y", **settings)


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
    """The figures in docs/en/choosing.md: 46 and 4 of 48, where they were counted."""
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
    assert whys["blocks.3"] == "it returns a dict, and it is unknown which part is passed on"
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
        ({"loss": lambda model, batch: 3.0}, "the loss returned a float, not a single number"),
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
