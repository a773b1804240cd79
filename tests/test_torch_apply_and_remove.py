"""PyTorch: a plan applied, failed, removed, or in force for a while, leaves nothing behind.

Rule R1 is that of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

import unifreeze as uf
from tests.support.drifts import drifts
from tests.support.kits.torch_nets import Stack, add, backward, bits, moved, rows, seeded
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend
from unifreeze.errors import UnsupportedPlanError, WriteError

backend = load_backend("torch")


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
