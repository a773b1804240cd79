"""PyTorch: where dropout is off, in layers of every kind.

Rule R4 is that of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.kits.torch_nets import rows, seeded
from unifreeze import FreezePlan


def differs(function, *args):
    torch.manual_seed(1)
    first = function(*args)
    torch.manual_seed(2)
    return not torch.equal(first, function(*args))


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
