"""PyTorch: what a handle finds, takes in, gives back, and hands to the optimizer.

The rules R1, R2, R3 and R11 are those of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import copy
import gc
import re
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import unifreeze as uf
from tests.support.kits.torch_nets import Block, Stack, backward, bits, moved, rows, seeded
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend
from unifreeze.errors import (
    FrozenDriftError,
    OptimizerError,
    TrivialPlanError,
    UnsupportedPlanError,
    WriteError,
)

backend = load_backend("torch")


def drifts(handle):
    """What `verify` finds: the kind of drift by path."""
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    return {drift.path: drift.kind for drift in caught.value.drifts}


def detail(handle, path):
    """How much `verify` says that one tensor changed."""
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    return next(drift.detail for drift in caught.value.drifts if drift.path == path)


def figure(text):
    return float(re.search(r"at (?:most|least) ([^,]*)", text)[1])


@torch.no_grad()
def add(tensor, amount=0.5):
    tensor.add_(amount)


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


def test_loading_the_very_same_values_is_no_drift():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    handle.verify()


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


def test_rebase_accepts_the_values_of_now():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    add(model.stem.weight)
    handle.rebase()
    handle.verify()
    add(model.stem.weight)
    assert drifts(handle) == {"stem.weight": "moved"}


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


# A plan and its handle --------------------------------------------------------------------------


def test_applying_twice_is_applying_once():
    """A notebook cell may run again."""
    model = seeded(Stack)
    found = [p.requires_grad for p in model.parameters()]
    plan = FreezePlan().freeze("blocks | stem.bias")
    first = uf.apply(plan, model)
    flags = [p.requires_grad for p in model.parameters()]
    second = uf.apply(plan, model)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert second.resolution.frozen_paths == first.resolution.frozen_paths
    with pytest.raises(uf.UnifreezeError, match="no longer in force"):
        first.remove()
    second.remove()
    assert [p.requires_grad for p in model.parameters()] == found
    assert "train" not in vars(model.blocks[0].norm)


def test_what_a_plan_leaves_as_found_is_as_before_the_first_plan():
    """Not as the plan that it replaces had it."""
    model = seeded(Stack)
    uf.freeze(model, "stem")
    uf.freeze(model, "head")
    assert model.stem.weight.requires_grad


def test_a_removed_handle_does_nothing_more():
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    handle.remove()
    for act in (handle.verify, handle.rebase, handle.reapply, handle.remove):
        with pytest.raises(uf.UnifreezeError, match="no longer in force"):
            act()
    with pytest.raises(uf.UnifreezeError, match="no longer in force"):
        handle.optimizer(torch.optim.SGD, lr=0.1)


def test_a_deep_copy_of_a_model_under_a_plan_is_a_model_of_its_own():
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    other = copy.deepcopy(model)
    assert [p.requires_grad for p in other.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    add(other.blocks[0].first.weight)
    handle.verify()
    theirs = uf.apply(FreezePlan().train("all"), other)
    assert not model.blocks[0].first.weight.requires_grad
    other.load_state_dict(Stack().state_dict())
    theirs.verify()
    handle.verify()


def test_models_under_plans_are_not_kept_alive():
    model = seeded(Stack)
    uf.freeze(model, "stem")
    handle = uf.freeze(model, "blocks")
    gone = weakref.ref(model)
    del model, handle
    gc.collect()
    assert gone() is None


# A failed apply changes nothing -----------------------------------------------------------------


def state_of(model):
    """Everything that an apply could touch."""
    return (
        bits(model),
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
        [m.training for m in model.modules()],
        [set(vars(m)) for m in model.modules()],
        [(n, len(h)) for m in model.modules() for n, h in vars(m).items() if "_hooks" in n and h],
    )


def same_state(one, other):
    """Equal, and the gradients the very same objects."""
    return (
        one[:2] == other[:2]
        and one[3:] == other[3:]
        and all(a is b for a, b in zip(one[2], other[2], strict=True))
    )


def refuse_resolution(model, monkeypatch):
    return FreezePlan().freeze("blocks").freeze("no_such_layer")


def refuse_backend(model, monkeypatch):
    model.blocks[0].gradient_checkpointing = True
    return FreezePlan().freeze("stem")


def refuse_flag(model, monkeypatch):
    put = type(backend).set_flag

    def stubborn(self, tensor, trainable):
        if tensor is model.blocks[1].second.bias and not trainable:
            raise RuntimeError("this flag cannot be set")
        put(self, tensor, trainable)

    monkeypatch.setattr(type(backend), "set_flag", stubborn)
    return FreezePlan().freeze("blocks | stem")


def deaf_flag(model, monkeypatch):
    put = type(backend).set_flag

    def deaf(self, tensor, trainable):
        if tensor is not model.blocks[1].second.bias:
            put(self, tensor, trainable)

    monkeypatch.setattr(type(backend), "set_flag", deaf)
    return FreezePlan().freeze("blocks | stem")


def refuse_guard(model, monkeypatch):
    from unifreeze_torch import _guards as modes

    pin = modes.pin

    def broken(module, **_):
        if module is model.blocks[1].norm:
            raise RuntimeError("this module cannot be held")
        pin(module, **_)

    monkeypatch.setattr(modes, "pin", broken)
    return FreezePlan().freeze("blocks | stem")


def refuse_fingerprint(model, monkeypatch):
    def broken(self, tensor):
        raise RuntimeError("no bytes")

    monkeypatch.setattr(type(backend), "payload", broken)
    return FreezePlan().freeze("blocks | stem")


FAILURES = {
    "the plan does not fit": (refuse_resolution, uf.UnifreezeError),
    "the framework would get it wrong": (refuse_backend, UnsupportedPlanError),
    "a flag is refused": (refuse_flag, WriteError),
    "a flag does not read back": (deaf_flag, WriteError),
    "a module cannot be held": (refuse_guard, WriteError),
    "a tensor has no bytes": (refuse_fingerprint, RuntimeError),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("under_plan", [False, True], ids=["free", "under a plan"])
def test_a_failed_apply_leaves_the_model_as_it_was_bit_for_bit(failure, under_plan, monkeypatch):
    """R1: flags, gradients, modes and hooks; and an earlier plan stays in force."""
    arrange, error = FAILURES[failure]
    model = seeded(Stack)
    model.blocks[0].norm.eval()
    handle = uf.freeze(model, "head") if under_plan else None
    backward(model)
    if handle:
        handle.rebase()
    plan = arrange(model, monkeypatch)
    before = state_of(model)
    with pytest.raises(error):
        uf.apply(plan, model)
    monkeypatch.undo()
    assert same_state(state_of(model), before)
    if handle:
        handle.verify()
        handle.remove()
        assert all(p.requires_grad for p in model.parameters())
        assert not model.blocks[0].norm.training


# Several models, and flags for a while ----------------------------------------------------------


def test_several_models_under_one_plan_are_verified_and_given_back_together():
    student, teacher = seeded(Stack), seeded(Stack, 3)
    plan = FreezePlan().freeze("teacher | blocks[0] in student")
    handle = uf.apply(plan, {"student": student, "teacher": teacher})
    assert not any(p.requires_grad for p in teacher.parameters())
    assert [p.requires_grad for p in student.blocks[1].parameters()] == [True] * 6
    before = bits(student), bits(teacher)
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
    student.train(), teacher.train()
    loss = (student(rows()) - teacher(rows())).square().sum()
    loss.backward()
    optimizer.step()
    assert not moved(teacher, before[1])
    assert not any(name.startswith("blocks.0") for name in moved(student, before[0]))
    handle.verify()
    add(teacher.stem.bias)
    assert drifts(handle) == {"teacher.stem.bias": "moved"}
    handle.remove()
    assert all(p.requires_grad for m in (student, teacher) for p in m.parameters())
    assert teacher.train().blocks[0].norm.training


def test_flags_frozen_for_a_while_nest_and_come_back_as_each_was():
    model = seeded(Stack)
    model.stem.requires_grad_(False)
    backward(model)
    flags = [p.requires_grad for p in model.parameters()]
    gradients = [p.grad for p in model.parameters()]
    with uf.frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
        with uf.frozen(model.blocks), uf.frozen(model):
            pass
        assert not any(p.requires_grad for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))


def test_flags_come_back_when_the_body_raises():
    model = seeded(Stack)

    def train_badly():
        with uf.frozen(model):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_badly()
    assert all(p.requires_grad for p in model.parameters())


def test_gradient_flows_through_a_model_frozen_for_a_while():
    """As the generator's step of a GAN needs it; statistics and modes are left alone."""
    generator, discriminator = seeded(Stack), seeded(Stack, 2, 3)
    with uf.frozen(discriminator):
        discriminator(generator(rows())).sum().backward()
        assert discriminator.blocks[0].norm.training
    assert all(p.grad is None for p in discriminator.parameters())
    assert generator.stem.weight.grad.abs().sum() > 0
    assert discriminator.blocks[0].norm.num_batches_tracked == 1


def test_a_plan_is_as_before_once_flags_come_back():
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    with uf.frozen(model):
        pass
    handle.verify()
    assert model.head.weight.requires_grad
    assert not model.blocks[0].first.weight.requires_grad


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


# R2: groups for the optimizer -------------------------------------------------------------------


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
