"""PyTorch: which norms hold their statistics, and where dropout is off.

Rule R4 is that of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.kits.torch_nets import Stack, backward, bits, moved, rows, seeded
from unifreeze import FreezePlan

# norm_stats: which norms hold ------------------------------------------------------------------


def moved_statistics(plan, model):
    """Which layers' statistics one training pass moves under a plan."""
    handle = uf.apply(plan, model)
    before = bits(model)
    model.train()
    backward(model)
    handle.verify()
    return {n.removesuffix(".running_mean") for n in moved(model, before) if "running_mean" in n}


def test_a_half_frozen_norm_updates():
    plan = FreezePlan().freeze("norm & weight")
    assert moved_statistics(plan, seeded(Stack)) == {"blocks.0.norm", "blocks.1.norm"}


def test_a_norm_whose_own_parameters_are_frozen_holds_though_its_block_trains():
    plan = FreezePlan().freeze("norm & blocks[0]")
    assert moved_statistics(plan, seeded(Stack)) == {"blocks.1.norm"}


def test_a_norm_without_scale_and_shift_follows_its_block():
    model = seeded(Stack, affine=False)
    assert moved_statistics(FreezePlan().freeze("blocks[0]"), model) == {"blocks.1.norm"}
    half = FreezePlan().freeze("blocks[0] & weight")
    assert moved_statistics(half, model) == {"blocks.0.norm", "blocks.1.norm"}


def test_update_lets_frozen_norms_update():
    plan = FreezePlan().freeze("blocks").with_norm_stats("update")
    assert moved_statistics(plan, seeded(Stack)) == {"blocks.0.norm", "blocks.1.norm"}


def test_hold_all_holds_statistics_though_scale_and_shift_train():
    model = seeded(Stack)
    plan = FreezePlan().freeze("stem").with_norm_stats("hold_all")
    assert moved_statistics(plan, model) == set()
    assert model.blocks[0].norm.weight.grad is not None


def test_rules_by_selector_hold_some_and_update_others():
    rules = [{"hold": "norm & blocks[1]"}, {"update": "norm & blocks[0]"}]
    frozen = FreezePlan().freeze("blocks").with_norm_stats(rules)
    assert moved_statistics(frozen, seeded(Stack)) == {"blocks.0.norm"}
    trained = FreezePlan().freeze("stem").with_norm_stats(rules)
    assert moved_statistics(trained, seeded(Stack)) == {"blocks.0.norm"}


def test_a_later_plan_lets_go_of_what_an_earlier_one_held():
    model = seeded(Stack)
    uf.freeze(model, "blocks")
    assert moved_statistics(FreezePlan().freeze("blocks[0]"), model) == {"blocks.1.norm"}


# R4: dropout is a choice of its own ------------------------------------------------------------


def differs(function, *args):
    torch.manual_seed(1)
    first = function(*args)
    torch.manual_seed(2)
    return not torch.equal(first, function(*args))


@pytest.mark.parametrize("policy", ["live", "off"])
def test_dropout_inside_frozen_blocks_is_live_or_off_as_the_plan_says(policy):
    model = seeded(Stack, dropout=0.5)
    uf.apply(FreezePlan().freeze("blocks[0]").with_dropout(policy), model)
    model.train()
    x = rows()
    assert differs(model.blocks[0], x) == (policy == "live")
    assert differs(model.blocks[1], x)


class Functional(nn.Module):
    """Drops out by function, as the container's own mode says."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        return nn.functional.dropout(self.linear(x), 0.5, self.training)


@pytest.mark.parametrize(
    "make",
    [
        Functional,
        lambda: nn.LSTM(6, 6, num_layers=2, dropout=0.5),
        lambda: nn.TransformerEncoderLayer(6, 2, 12, dropout=0.5),
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)),
    ],
    ids=["F.dropout", "LSTM", "attention", "container"],
)
def test_dropout_off_reaches_every_kind_of_layer_in_a_frozen_block(make):
    model = seeded(lambda: nn.ModuleDict({"body": make(), "head": nn.Linear(6, 2)}))
    uf.apply(FreezePlan().freeze("body").with_dropout("off"), model)
    model.train()
    run = model.body if not isinstance(model.body, nn.LSTM) else lambda x: model.body(x)[0]
    assert not differs(run, rows())
    uf.apply(FreezePlan().freeze("body"), model)
    assert differs(run, rows())


def test_dropout_off_leaves_alone_what_stands_beside_frozen_blocks():
    """R4: a layer without parameters goes with the nearest module that has some."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 2), nn.Dropout(0.5))
    uf.apply(FreezePlan().freeze('path:"0"').with_dropout("off"), model)
    model.train()
    assert model[1].training
    assert model[3].training
    assert not model[0].training


def test_a_recurrent_layer_without_dropout_stays_in_training_mode():
    """R4: cuDNN passes no gradient through one in inference mode, and there is nothing to gain."""
    model = nn.ModuleDict({"stem": nn.Linear(6, 6), "rnn": nn.GRU(6, 6), "head": nn.Linear(6, 2)})
    uf.apply(FreezePlan().freeze("rnn").with_dropout("off"), model)
    assert model.train().rnn.training


def test_a_recurrent_layer_whose_dropout_is_off_stays_in_training_mode():
    """R4: its dropout alone goes, so that gradient still passes it on a GPU."""
    model = nn.ModuleDict({"rnn": nn.LSTM(6, 6, num_layers=2, dropout=0.5)})
    model["head"] = nn.Linear(6, 2)
    handle = uf.apply(FreezePlan().freeze("rnn").with_dropout("off"), model)
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.train().rnn.training
        assert copied.rnn.dropout == 0
    handle.remove()
    assert model.rnn.dropout == 0.5
