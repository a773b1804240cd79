"""How many Python calls the plan engine makes on large models: counted, and not timed.

The models have no values, so that nothing is hashed. What runs over every tensor of a model must do
so without a Python frame for each.
"""

import sys

import pytest

import unifreeze as uf
from unifreeze._protocol import load_backend, override_backend, registry

RULES = uf.FreezePlan().freeze("all").train("blocks[50%:]").train("head").freeze("norm")
RULES = RULES.freeze("**.bias").train("blocks.3.up").freeze("blocks.*.down").train("blocks[-1]")
PHASES = """
unifreeze: 1
order: as_described
rules:
  - only: head
phases:
  - {name: head}
  - {name: last, at: {epoch: 1}, add: [{train: "blocks[-1]"}]}
  - {name: two, at: {epoch: 2}, add: [{train: "blocks[-2]"}]}
"""
TENSORS_PER_BLOCK = 6
FRAMEWORKS = ("torch", "paddle")


def network(framework, blocks):
    """Build blocks of two linear layers and a norm, whose parameters have no values."""
    if framework == "torch":
        import torch

        with torch.device("meta"):
            return build(torch.nn.Module, torch.nn, torch.nn.ModuleList, blocks)
    import paddle

    with paddle.LazyGuard():
        return build(paddle.nn.Layer, paddle.nn, paddle.nn.LayerList, blocks)


def build(module, nn, several, blocks):
    class Block(module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.GroupNorm(1, 4), nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x):
            return x + self.down(self.up(self.norm(x)))

    class Network(module):
        def __init__(self):
            super().__init__()
            self.blocks = several([Block() for _ in range(blocks)])
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    return Network()


def calls_of(run):
    """Return how many Python functions a call runs."""
    count = 0

    def profile(_frame, event, _argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def sgd(framework):
    if framework == "torch":
        import torch

        return torch.optim.SGD
    import paddle

    return paddle.optimizer.SGD


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_first_apply_makes_less_than_one_call_for_each_tensor(framework, monkeypatch):
    monkeypatch.setattr(registry, "_overrides", dict(registry._overrides))
    RULES.apply(network(framework, 10)).remove()  # what is done once in a process
    counts = {}
    for blocks in (100, 300):
        model = network(framework, blocks)
        override_backend(framework, type(load_backend(framework)))
        counts[blocks] = calls_of(lambda model=model: RULES.apply(model))
    per_tensor = (counts[300] - counts[100]) / (200 * TENSORS_PER_BLOCK)
    assert per_tensor < CALLS_PER_TENSOR, counts


CALLS_PER_TENSOR = 12


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_phase_change_makes_as_many_calls_on_a_large_model_as_on_a_small_one(framework, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PHASES)
    plan = uf.FreezePlan.load(path)
    counts = {}
    for blocks in (50, 500):
        handle = plan.apply(network(framework, blocks))
        optimizer = handle.optimizer(sgd(framework), lr=0.1)
        handle.step(epoch=0)
        handle.step(epoch=1)
        counts[blocks] = calls_of(lambda handle=handle: handle.step(epoch=2))
        assert sum(handle.resolution.trainable) == 2 * TENSORS_PER_BLOCK + 2
        del optimizer
    assert counts[500] <= counts[50] + 100, counts
