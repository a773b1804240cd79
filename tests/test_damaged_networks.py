"""However a network is written down, its words select the same with a batch, or say otherwise.

`python -m tests.support.shuffled --damages 100` tries more networks.
"""

from __future__ import annotations

import random

import pytest
import torch

from tests.support.damages import DAMAGES, children_of, modules_of
from tests.support.pairs import PAIRS
from tests.support.shuffled import PLANS, try_model
from unifreeze._cli.find_model import read_batch
from unifreeze._protocol import Batch

NETWORKS = ("bert for sequences", "distilbert for sequences", "bart", "t5", "clip (vision)")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_damaged_network_is_never_silently_decided_otherwise(name, kind):
    pair = PAIRS[name]
    seed = 7 * NETWORKS.index(name) + list(DAMAGES).index(kind)
    target = (pair.torch, pair.paddle)[seed % 2]
    counts, wrong = try_model(target, read_batch(list(pair.batch)) or Batch(), seed, DAMAGES[kind])
    assert not wrong
    assert counts["right"] + counts["told"] + counts["refused"] == len(PLANS)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(4)])
        self.tail = torch.nn.Sequential(
            torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
        )

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.tail(x)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damage_changes_how_a_network_is_written_down_and_not_what_it_computes(kind):
    changed = set()
    for seed in range(5):
        torch.manual_seed(0)
        net, x = Net(), torch.randn(2, 3)
        before, paths = net(x), [path for path, _ in net.named_parameters()]
        damaged = DAMAGES[kind](net, random.Random(seed))
        assert torch.equal(damaged(x), before)
        changed.add([path for path, _ in damaged.named_parameters()] != paths)
    assert True in changed
    assert len(modules_of(damaged)) >= 8
    assert children_of(damaged)
