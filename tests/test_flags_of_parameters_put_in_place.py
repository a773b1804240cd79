"""Flags from before a plan come back where other parameters have taken the place of the first."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.torch_processes import make


def assigned(model):
    values = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(values, assign=True)


def converted(model):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def put_by_hand(model):
    """As `fully_shard` does it: another tensor with the flag of the old one."""
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            module._parameters[name] = nn.Parameter(old.detach().clone(), old.requires_grad)


def flags(model):
    return {name: p.requires_grad for name, p in model.named_parameters()}


WAYS = [assigned, converted, put_by_hand]


@pytest.mark.parametrize("put", WAYS)
@pytest.mark.parametrize("again", [False, True], ids=["removed", "applied again, removed"])
def test_remove_gives_back_the_flags_from_before_the_plan(put, again):
    model = make()
    model.stem.bias.requires_grad_(False)
    before = flags(model)
    handle = uf.FreezePlan().only('head | path:"stem.bias"').apply(model)
    assert flags(model) != before
    put(model)
    if again:
        handle.reapply()
        assert sum(flags(model).values()) == 3
    handle.remove()
    assert flags(model) == before


@pytest.mark.parametrize("put", WAYS)
def test_a_second_plan_leaves_what_it_does_not_decide_as_it_was_before_the_first(put):
    model = make()
    uf.FreezePlan().only("head").apply(model)
    put(model)
    uf.FreezePlan().freeze("norm").apply(model)
    frozen = [name for name, trains in flags(model).items() if not trains]
    assert len(frozen) == 6
    assert all("norm" in name for name in frozen)


def test_a_new_module_keeps_the_flags_that_it_came_with():
    model = make()
    handle = uf.freeze(model, "~head")
    model.stem = nn.Linear(8, 32)
    model.blocks[0].norm.requires_grad_(True)
    model.blocks[1].norm.weight = nn.Parameter(torch.ones(32), requires_grad=True)
    handle.remove()
    assert all(flags(model).values())
