"""PyTorch: which drift a handle finds, how much of it, and what it takes in.

Rule R11 is that of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import unifreeze as uf
from tests.support.drifts import drifts
from tests.support.kits.torch_nets import Block, Stack, add, backward, bits, moved, seeded
from unifreeze import FreezePlan
from unifreeze.errors import FrozenDriftError


def detail(handle, path):
    """How much `verify` says that one tensor changed."""
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    return next(drift.detail for drift in caught.value.drifts if drift.path == path)


def figure(text):
    return float(re.search(r"at (?:most|least) ([^,]*)", text)[1])


# R11: kinds of drift are told apart -------------------------------------------------------------


def test_what_has_not_drifted_is_counted():
    model = seeded(Stack)
    handle = uf.freeze(model, 'path:"blocks"')
    verified = handle.verify()
    assert (verified.parameters, verified.states) == (12, 6)
    assert str(verified) == "unchanged: 12 frozen parameters, 6 held state tensors"


def test_a_move_is_told_by_path_and_nothing_else_is():
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    add(model.blocks[1].first.bias)
    add(model.blocks[0].norm.running_mean)
    add(model.head.weight)
    assert drifts(handle) == {
        "blocks.1.first.bias": "moved",
        "blocks.0.norm.running_mean": "moved",
    }


def test_a_load_is_told_from_a_move():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem | blocks")
    state = model.state_dict()
    for name in ("stem.bias", "blocks.0.norm.running_var"):
        state[name] = state[name] + 1
    model.load_state_dict(state)
    add(model.stem.weight)
    assert drifts(handle) == {
        "stem.bias": "reloaded",
        "blocks.0.norm.running_var": "reloaded",
        "stem.weight": "moved",
    }
    add(model.stem.bias)  # what was loaded has moved since
    assert drifts(handle)["stem.bias"] == "moved"


def test_a_load_through_a_wrapper_is_a_load():
    model = seeded(Stack)
    wrapped = nn.DataParallel(model)
    handle = uf.freeze(wrapped, "stem")
    wrapped.load_state_dict(nn.DataParallel(Stack()).state_dict())
    assert set(drifts(handle).values()) == {"reloaded"}


def test_a_cast_is_told_with_both_types():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    model.to(torch.bfloat16)
    assert drifts(handle) == {"stem.weight": "cast", "stem.bias": "cast"}
    assert detail(handle, "stem.bias") == "float32 to bfloat16"


def test_a_parameter_put_in_place_of_another_is_replaced_though_it_is_equal():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem | blocks")
    model.stem.weight = nn.Parameter(model.stem.weight.detach().clone(), requires_grad=False)
    model.load_state_dict(model.state_dict(), assign=True)
    kinds = drifts(handle)
    assert set(kinds) == {p for p in handle.resolution.frozen_paths}
    assert set(kinds.values()) == {"replaced"}


def test_missing_and_new_parameters_are_told():
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    model.blocks[1].second = nn.Identity()
    model.blocks[0].extra = nn.Linear(6, 6)
    assert drifts(handle) == {
        "blocks.1.second.weight": "missing",
        "blocks.1.second.bias": "missing",
        "blocks.0.extra.weight": "new",
        "blocks.0.extra.bias": "new",
    }


def test_a_new_parameter_that_the_plan_does_not_freeze_is_no_drift():
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    model.extra = nn.Linear(6, 6)
    handle.verify()


def test_a_parametrization_put_on_a_frozen_layer_is_told():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    nn.utils.parametrizations.weight_norm(model.stem)
    assert drifts(handle) == {"stem.weight": "missing"}
    handle.reapply()
    assert handle.verify().parameters == 3


def test_a_flag_that_something_else_sets_is_told():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    model.requires_grad_(True)
    assert drifts(handle) == {"stem.weight": "thawed", "stem.bias": "thawed"}


def test_a_tensor_can_drift_in_two_ways_at_once():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    add(model.stem.weight.requires_grad_(True))
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    assert [d.kind for d in caught.value.drifts] == ["thawed", "moved"]


def test_the_error_says_how_to_go_on():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem | blocks")
    model.half()
    model.stem.requires_grad_(True)
    with pytest.raises(FrozenDriftError, match="cast") as caught:
        handle.verify()
    advice = str(caught.value).partition("hint: ")[2]
    assert "handle.rebase()" in advice
    assert "handle.reapply()" in advice


def test_a_long_list_of_drifts_is_cut_and_kept_whole_on_the_error():
    model = seeded(Stack, 4)
    handle = uf.freeze(model, "blocks")
    for parameter in model.blocks.parameters():
        add(parameter)
    with pytest.raises(FrozenDriftError, match=r"24 frozen tensors are .* moved") as caught:
        handle.verify()
    assert "and 4 more" in str(caught.value)
    assert len(caught.value.drifts) == 24


# How much: exact, or from below -----------------------------------------------------------------


VALUES = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(VALUES, min_size=1, max_size=200),
    changes=st.lists(st.tuples(st.integers(0, 199), VALUES), min_size=1, max_size=8),
)
def test_the_amount_is_exact_with_kept_values_and_a_true_lower_bound_without(before, changes):
    after = torch.tensor(before)
    for position, value in changes:
        after[position % len(before)] = value
    true = (after.double() - torch.tensor(before).double()).abs().max().item()
    exact, bound = (moved_by(before, after, keep_values=keep) for keep in (True, False))
    if exact is None:
        assert bound is None
        assert true == 0
        return
    assert exact == pytest.approx(true, rel=0.005)  # three digits are shown
    assert bound <= true * 1.005 + 1e-9


def moved_by(before, after, *, keep_values):
    """The figure in the error, None where nothing is found."""
    model = nn.Module()
    model.odd = nn.Parameter(torch.tensor(before))
    model.head = nn.Linear(2, 2)
    handle = uf.apply(FreezePlan().freeze("odd"), model, keep_values=keep_values)
    with torch.no_grad():
        model.odd.copy_(after)
    try:
        handle.verify()
    except FrozenDriftError as error:
        return figure(error.drifts[0].detail)
    return None


def test_a_change_of_all_values_alike_is_bounded_tightly():
    """The bound is not an empty word: for one shift of everything it is the shift."""
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    add(model.stem.weight, 0.25)
    assert figure(detail(handle, "stem.weight")) == pytest.approx(0.25, rel=0.005)
    assert "a lower bound" in detail(handle, "stem.weight")


def test_amounts_of_complex_values_count_both_parts():
    for keep_values in (True, False):
        model = nn.ParameterDict({"a": torch.ones(3, dtype=torch.complex64), "b": torch.ones(3)})
        handle = uf.apply(FreezePlan().freeze("a"), model, keep_values=keep_values)
        add(model.a, 2j)
        figures = figure(detail(handle, "a"))
        assert figures == pytest.approx(2.0) if keep_values else 0 < figures <= 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("keep_values", [True, False])
def test_a_change_to_what_is_not_finite_is_called_that(value, keep_values):
    model = seeded(Stack)
    handle = uf.apply(FreezePlan().freeze("stem"), model, keep_values=keep_values)
    add(model.stem.bias, value)
    assert detail(handle, "stem.bias") == "to or from what is not finite"


def test_a_change_of_shape_is_told_as_one():
    model = seeded(Stack)
    handle = uf.apply(FreezePlan().freeze("stem"), model, keep_values=True)
    model.stem.weight.data = torch.ones(2, 6)
    assert detail(handle, "stem.weight") == "shape [6, 6] to [2, 6]"


# Going on after a drift -------------------------------------------------------------------------


def test_rebase_of_what_is_gone_is_refused_and_changes_nothing():
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    add(model.blocks[0].first.bias)
    model.blocks[1].norm = nn.Identity()
    with pytest.raises(uf.UnifreezeError, match=r"5 frozen tensors are no longer there"):
        handle.rebase()
    assert drifts(handle)["blocks.0.first.bias"] == "moved"


def test_rebase_forgets_an_earlier_load():
    """What moves back to loaded values after a rebase has moved."""
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    model.load_state_dict(Stack().state_dict())
    loaded = model.stem.weight.detach().clone()
    add(model.stem.weight)
    handle.rebase()
    with torch.no_grad():
        model.stem.weight.copy_(loaded)
    assert drifts(handle) == {"stem.weight": "moved"}


def test_a_new_head_is_taken_in_by_reapply_and_trains():
    model = seeded(Stack)
    handle = uf.apply(FreezePlan().only("head"), model)
    model.head = nn.Linear(6, 5)
    handle.verify()
    handle.reapply()
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
    before = bits(model)
    backward(model)
    optimizer.step()
    assert moved(model, before) == {"head.weight", "head.bias"}


def test_a_frozen_block_put_in_anew_is_frozen_and_held_by_reapply():
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    model.blocks[0] = Block(6)
    assert set(drifts(handle).values()) == {"replaced"}
    handle.reapply()
    before = bits(model)
    model.train()
    backward(model)
    assert not moved(model, before)
    assert all(p.grad is None for p in model.blocks.parameters())
    handle.rebase()
    handle.verify()
    handle.remove()
    assert all(p.requires_grad for p in model.parameters())
    assert model.train().blocks[0].norm.training


def test_reapply_does_not_forgive_what_moved_before():
    model = seeded(Stack)
    handle = uf.apply(FreezePlan().freeze("stem | blocks"), model, keep_values=True)
    add(model.stem.weight, 0.25)
    model.blocks[0] = Block(6)
    handle.reapply()
    kinds = drifts(handle)
    assert kinds["stem.weight"] == "moved"
    assert figure(detail(handle, "stem.weight")) == pytest.approx(0.25, rel=0.005)


def test_a_reapply_that_fails_leaves_the_plan_in_force():
    model = seeded(Stack)
    handle = uf.apply(FreezePlan().only("head"), model)
    model.head = None
    with pytest.raises(uf.UnifreezeError):
        handle.reapply()
    model.load_state_dict(Stack().state_dict(), strict=False)
    assert drifts(handle)["stem.weight"] == "reloaded"


# What a backward pass left ----------------------------------------------------------------------


def test_a_good_backward_pass_has_nothing_to_find():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    backward(model)
    assert handle.check_gradients() == ()


def test_missing_unwanted_and_broken_gradients_are_found():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    backward(model)
    model.head.weight.grad = None
    model.stem.bias.grad = torch.ones(6)
    model.head.bias.grad[0] = torch.nan
    model.blocks[0].norm.bias.grad[0] = torch.inf
    assert {f.subject: f.message for f in handle.check_gradients()} == {
        "head.weight": "is trainable and has no gradient",
        "stem.bias": "is frozen and has a gradient",
        "head.bias": "has a gradient of norm nan",
        "blocks.0.norm.bias": "has a gradient of norm inf",
    }


def test_gradients_of_every_kind_of_tensor_are_looked_at():
    model = nn.ParameterDict(
        {
            "short": torch.ones(3, dtype=torch.bfloat16),
            "complex": torch.ones(3, dtype=torch.complex64),
            "table": torch.ones(4, 2),
            "frozen": torch.ones(1),
        }
    )
    handle = uf.freeze(model, 'path:"frozen"')
    model.short.grad = torch.full((3,), torch.nan, dtype=torch.bfloat16)
    model.complex.grad = torch.full((3,), complex(0, torch.nan))
    model.table.grad = torch.sparse_coo_tensor([[1]], [[torch.inf, 0.0]], (4, 2))
    assert {f.subject for f in handle.check_gradients()} == {"short", "complex", "table"}


def test_a_held_norm_swapped_for_one_over_the_same_tensors_is_told_before_it_moves():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    handle = FreezePlan().only("head").apply(model)
    old, new = model[1], nn.BatchNorm1d(4)
    new.weight, new.bias = old.weight, old.bias
    new.running_mean, new.running_var = old.running_mean, old.running_var
    new.num_batches_tracked = old.num_batches_tracked
    model[1] = new
    with pytest.raises(FrozenDriftError, match=r"1: replaced(.|\n)*reapply"):
        handle.verify()
    handle.reapply()
    handle.verify()
