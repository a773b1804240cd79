"""PyTorch: engines that fix what they exchange when they are made; DeepSpeed by a stand-in."""

from __future__ import annotations

import pytest
import torch

import unifreeze as uf
from tests.support.deepspeed_stand_in import DeepSpeedEngine
from tests.support.torch_processes import make

PHASES = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: all, at: {step: 2}, rules: [{train: all}]}
"""
)
REASON = "DeepSpeed has fixed the gradients that it exchanges when its engine was made"


def train(engine, steps=3):
    for number in range(steps):
        rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(number))
        engine.backward(engine(rows).square().mean())
        engine.step()


def flags(model):
    return [parameter.requires_grad for parameter in model.parameters()]


def test_a_plan_from_before_the_engine_holds():
    model = make()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    handle = uf.freeze(model, "~head")
    engine = DeepSpeedEngine(model, handle.optimizer(torch.optim.AdamW, lr=1e-2))
    train(engine)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert moved == ["head.weight", "head.bias"]
    assert str(handle.verify()).startswith("unchanged: 20 frozen parameters")


@pytest.mark.parametrize("on", ["engine", "model"])
def test_a_plan_on_an_engine_is_refused_with_the_reason(on):
    model = make()
    engine = DeepSpeedEngine(model, torch.optim.AdamW(model.parameters()))
    before = flags(model)
    with pytest.raises(uf.errors.UnsupportedPlanError, match=REASON) as told:
        uf.freeze(engine if on == "engine" else model, "~head")
    assert "apply the plan before deepspeed.initialize, without phases" in str(told.value)
    assert flags(model) == before


def test_a_plan_that_changes_nothing_is_taken():
    model = make()
    engine = DeepSpeedEngine(model, torch.optim.AdamW(model.parameters()))
    handle = uf.FreezePlan().train("all").apply(engine)
    train(engine)
    handle.verify()


def test_a_phase_and_a_loaded_state_are_refused_and_change_nothing():
    model = make()
    handle = PHASES.apply(model)
    optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-2)
    ahead = PHASES.apply(make())
    ahead.optimizer(torch.optim.AdamW, lr=1e-2)
    ahead.step(step=2)
    handle.step(step=0)
    engine = DeepSpeedEngine(model, optimizer)
    train(engine, 2)
    before = flags(model)
    calls = [lambda: handle.step(step=2), lambda: handle.load_state_dict(ahead.state_dict())]
    for call in calls:
        with pytest.raises(uf.errors.UnsupportedPlanError, match=REASON):
            call()
        assert flags(model) == before
        assert handle.phase.name == "head"


def test_other_models_are_not_concerned():
    engine = DeepSpeedEngine(make(), None)
    model = make()
    uf.freeze(model, "~head")
    assert sum(flags(model)) == 2
    del engine


def test_the_name_alone_is_not_enough():
    class Engine(torch.nn.Module):
        pass

    Engine.__name__ = "DeepSpeedEngine"
    engine = Engine()
    engine.module = make()
    uf.freeze(engine.module, "~head")
