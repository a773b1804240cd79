"""PyTorch: the groups that a plan hands to an optimizer: rates, weight decay, decay by layer.

Rule R2 is that of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.kits.torch_nets import Block, Stack, backward, seeded
from unifreeze import FreezePlan
from unifreeze.errors import OptimizerError, TrivialPlanError


def test_rates_of_groups_are_absolute():
    model = seeded(Stack)
    plan = FreezePlan().freeze("stem").with_group("head", lr_scale=10.0)
    plan = plan.with_group("bias | norm", weight_decay=0.0)
    optimizer = uf.apply(plan, model).optimizer(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    expected = {
        "head.weight": (1e-2, 0.1),
        "head.bias": (1e-2, 0.0),
        "blocks.0.first.weight": (1e-3, 0.1),
        "blocks.0.norm.weight": (1e-3, 0.0),
        "blocks.1.second.bias": (1e-3, 0.0),
    }
    for path, settings_of in expected.items():
        assert found[id(model.get_parameter(path))] == pytest.approx(settings_of)
    assert len(found) == 14


def test_what_no_group_matches_takes_the_optimizers_own_settings():
    handle = uf.apply(FreezePlan().freeze("stem"), seeded(Stack))
    (group,) = handle.param_groups()
    assert set(group) == {"params", "name"}
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.3, momentum=0.5)
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.param_groups[0]["momentum"] == 0.5


def test_a_group_that_scales_the_rate_needs_one():
    handle = uf.apply(FreezePlan().freeze("stem").with_group("head", lr_scale=10.0), seeded(Stack))
    with pytest.raises(OptimizerError, match=r"pass lr="):
        handle.param_groups()
    rates = sorted(group["lr"] for group in handle.param_groups(lr=0.1))
    assert rates == pytest.approx([0.1, 1.0])


def test_layer_decay_counts_blocks_down_from_the_head():
    """The head 1, the last block d, the first of three d^3, the stem d^4, as in timm."""
    model = seeded(Stack, 3)
    plan = FreezePlan().train("all").with_group("all", layer_decay=0.5)
    optimizer = uf.apply(plan, model).optimizer(torch.optim.SGD, lr=1.0)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(model.head.weight)] == 1.0
    assert rates[id(model.blocks[2].norm.weight)] == 0.5
    assert rates[id(model.blocks[1].first.weight)] == 0.25
    assert rates[id(model.blocks[0].second.bias)] == 0.125
    assert rates[id(model.stem.weight)] == 0.0625


def test_layer_decay_and_scale_multiply():
    model = seeded(Stack)
    plan = FreezePlan().train("all").with_group("all", layer_decay=0.5)
    plan = plan.with_group("blocks[0]", lr_scale=8.0)
    groups = uf.apply(plan, model).param_groups(lr=1.0)
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    assert rates[id(model.blocks[0].first.weight)] == 2.0
    assert rates[id(model.blocks[1].first.weight)] == 0.5


def test_groups_and_their_parameters_are_in_one_order_whatever_the_model_was_through():
    """R2: an optimizer's saved state is by position."""
    plan = FreezePlan().freeze("stem").with_group("head", lr_scale=10.0)
    plan = plan.with_group("norm", weight_decay=0.0)

    def order(model):
        groups = uf.apply(plan, model).groups()
        return [(group.name, group.paths) for group in groups]

    first = order(seeded(Stack, 3))
    again = seeded(Stack, 3)
    uf.freeze(again, "head")
    again.blocks[1] = Block(6)
    backward(again)
    assert order(again) == first
    assert order(copy.deepcopy(again)) == first
    starts = [paths[0] for _, paths in first]
    assert starts == ["blocks.0.first.weight", "blocks.0.norm.weight", "head.weight"]


def test_a_tied_tensor_is_in_one_group_once():
    model = nn.ModuleDict({"table": nn.Embedding(5, 4), "out": nn.Linear(4, 5, bias=False)})
    model.body = nn.Linear(4, 4)
    model.out.weight = model.table.weight
    optimizer = uf.freeze(model, "body").optimizer(torch.optim.SGD, lr=0.1)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_a_plan_that_freezes_nothing_or_everything_must_say_so():
    model = seeded(Stack)
    with pytest.raises(TrivialPlanError):
        uf.freeze(model, "stem | blocks | head")
    handle = uf.apply(FreezePlan().freeze("all"), model)
    assert handle.verify().parameters == 16
    assert np.all(~handle.resolution.trainable)
