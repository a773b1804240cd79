"""Which norms hold their statistics under a plan, and where dropout is off, in both frameworks."""

from __future__ import annotations

import numpy as np
import pytest

import unifreeze as uf
from unifreeze import FreezePlan

BOTH = {"blocks.0.norm", "blocks.1.norm"}
# State tensors of one norm: PyTorch counts its batches, too.
STATES = {"torch": 3, "paddle": 2}


# Statistics ----------------------------------------------------------------------------------


def moved_statistics(nets, plan, model):
    """The norms whose statistics one training pass moves under a plan: all of them, or none."""
    handle = uf.apply(plan, model)
    before = nets.bits(model)
    model.train()
    nets.backward(model)
    handle.verify()
    moved = nets.moved(model, before) & set(nets.statistics(model))
    norms = {name.rpartition(".")[0] for name in moved}
    assert moved == {name for norm in norms for name in nets.statistics(model, norm)}
    return norms


HELD = {
    "hold": {0},
    "update": set(),
    "hold_all": {0, 1},
    "by selector": {1},
}


@pytest.mark.parametrize("choice", HELD)
def test_norm_stats_says_which_statistics_hold(choice, framework, nets):
    policy = choice
    if choice == "by selector":
        policy = [{"update": "norm & blocks[0]"}, {"hold": "norm & blocks[1]"}]
    plan = FreezePlan().freeze("blocks[0]").with_norm_stats(policy)
    model = nets.Stack()
    moving = moved_statistics(nets, plan, model)
    assert moving == BOTH - {f"blocks.{n}.norm" for n in HELD[choice]}
    states = uf.apply(plan, model).verify().states
    assert states == STATES[framework] * len(HELD[choice])


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_half_frozen_norm_updates(part, nets):
    plan = FreezePlan().freeze(f"norm & {part}")
    assert moved_statistics(nets, plan, nets.Stack()) == BOTH


def test_a_norm_whose_own_parameters_are_frozen_holds_though_its_block_trains(nets):
    plan = FreezePlan().freeze("norm & blocks[0]")
    assert moved_statistics(nets, plan, nets.Stack()) == {"blocks.1.norm"}


def test_a_norm_without_scale_and_shift_follows_its_block(nets):
    model = nets.Stack(affine=False)
    assert moved_statistics(nets, FreezePlan().freeze("blocks[0]"), model) == {"blocks.1.norm"}
    half = FreezePlan().freeze("blocks[0] & weight")
    assert moved_statistics(nets, half, model) == BOTH


def test_update_lets_frozen_norms_update(nets):
    plan = FreezePlan().freeze("blocks").with_norm_stats("update")
    assert moved_statistics(nets, plan, nets.Stack()) == BOTH


def test_hold_all_holds_statistics_though_scale_and_shift_train(nets):
    model = nets.Stack()
    plan = FreezePlan().freeze("stem").with_norm_stats("hold_all")
    assert moved_statistics(nets, plan, model) == set()
    assert model.blocks[0].norm.weight.grad is not None


def test_rules_by_selector_hold_some_and_update_others(nets):
    rules = [{"hold": "norm & blocks[1]"}, {"update": "norm & blocks[0]"}]
    frozen = FreezePlan().freeze("blocks").with_norm_stats(rules)
    assert moved_statistics(nets, frozen, nets.Stack()) == {"blocks.0.norm"}
    trained = FreezePlan().freeze("stem").with_norm_stats(rules)
    assert moved_statistics(nets, trained, nets.Stack()) == {"blocks.0.norm"}


def test_a_later_plan_lets_go_of_what_an_earlier_one_held(nets):
    model = nets.Stack()
    uf.freeze(model, "blocks")
    plan = FreezePlan().freeze("blocks[0]")
    assert moved_statistics(nets, plan, model) == {"blocks.1.norm"}


# Dropout --------------------------------------------------------------------------------------


def differs(layer, x):
    """Return whether two passes give different outputs."""
    first, second = (layer(x).detach().numpy() for _ in range(2))
    return not np.array_equal(first, second)


def test_dropout_is_live_in_frozen_blocks_unless_the_plan_turns_it_off(nets):
    model = nets.Stack(dropout=0.5)
    uf.apply(FreezePlan().freeze("blocks"), model)
    model.train()
    assert differs(model, nets.rows())
    uf.apply(FreezePlan().freeze("blocks").with_dropout("off"), model)
    assert not differs(model, nets.rows())


@pytest.mark.parametrize("policy", ["live", "off"])
def test_dropout_inside_frozen_blocks_is_live_or_off_as_the_plan_says(policy, nets):
    model = nets.Stack(dropout=0.5)
    uf.apply(FreezePlan().freeze("blocks[0]").with_dropout(policy), model)
    model.train()
    x = nets.rows()
    assert differs(model.blocks[0], x) == (policy == "live")
    assert differs(model.blocks[1], x)


def test_dropout_off_leaves_statistics_to_norm_stats(nets):
    plan = FreezePlan().freeze("blocks").with_dropout("off").with_norm_stats("update")
    assert moved_statistics(nets, plan, nets.Stack(dropout=0.5)) == BOTH
