"""Check what a backend writes to a live model, and that it can be read back and undone."""

from __future__ import annotations

import copy

import numpy as np

from unifreeze._handle import apply, frozen
from unifreeze._plan import FreezePlan
from unifreeze.testing.kit import Kit


def writes_what_is_decided(kit: Kit) -> None:
    """Flags read back as decided, for plans on zones, kinds and parts; removal restores them."""
    for plan in (
        FreezePlan().only("head"),
        FreezePlan().freeze("blocks[0]"),
        FreezePlan().freeze("norm"),
        FreezePlan().only("bias"),
    ):
        model = kit.plain.make()
        before = kit.backend.read(model)
        handle = apply(plan, model)
        trainable = set(handle.resolution.trainable_paths)
        assert {path for path, flag in kit.backend.read(model).items() if flag} == trainable
        handle.remove()
        assert kit.backend.read(model) == before


def applying_again_replaces_the_plan(kit: Kit) -> None:
    """A second plan replaces the first, and removing it goes back to before the first."""
    model = kit.plain.make()
    before = kit.backend.read(model)
    apply(FreezePlan().only("head"), model)
    second = apply(FreezePlan().freeze("head"), model)
    frozen_now = {path for path, flag in kit.backend.read(model).items() if not flag}
    assert frozen_now == set(second.resolution.frozen_paths)
    second.remove()
    assert kit.backend.read(model) == before


def ties_are_frozen_by_any_name(kit: Kit) -> None:
    """A rule on a tied tensor's second name freezes it."""
    model = kit.tied.make()
    parameter = next(p for p in kit.backend.describe(model).parameters if p.aliases)
    apply(FreezePlan().freeze(f'path:"{parameter.aliases[0]}"'), model)
    assert kit.backend.read(model)[parameter.path] is False


def fingerprints_see_every_bit(kit: Kit) -> None:
    """Equal bits, equal digest; the sign of a zero, a NaN and two swapped values change it."""
    model = kit.plain.make()
    path = next(p.path for p in kit.backend.describe(model).parameters if len(p.shape) == 2)
    original = kit.backend.tensor(model, path)
    zero = np.zeros_like(original)
    swapped = original.copy().reshape(-1)
    swapped[[0, 1]] = swapped[[1, 0]] if swapped[0] != swapped[1] else (swapped[0] + 1, swapped[1])
    digests = []
    for values in (original, zero, -zero, zero + np.nan, swapped.reshape(original.shape)):
        kit.backend.assign(model, path, values)
        digests.append(kit.backend.fingerprint(model, [path])[path].bits)
        assert digests[-1] == kit.backend.fingerprint(model, [path])[path].bits
    assert len(set(digests)) == len(digests)


def assigns_in_place(kit: Kit) -> None:
    """Values go in and come out bit for bit, and the tensor stays the same object."""
    model = kit.plain.make()
    path = kit.backend.describe(model).parameters[0].path
    before = kit.backend.objects(model)[path]
    values = kit.backend.tensor(model, path) * 2 + 1
    kit.backend.assign(model, path, values)
    assert kit.backend.objects(model)[path] is before
    assert np.array_equal(kit.backend.tensor(model, path), values)


def copies_keep_what_is_held(kit: Kit) -> None:
    """Statistics hold on a deep copy as they do on the model."""
    model = kit.plain.make()
    apply(FreezePlan().only("head"), model)
    states = {state.path for state in kit.backend.describe(model).states if state.moves}
    held = [path for path in kit.backend.objects(model) if path in states]
    assert held
    for live in (model, copy.deepcopy(model)):
        before = kit.backend.fingerprint(live, held)
        kit.backend.train_mode(live)
        kit.backend.run(live, kit.plain.batch)
        after = kit.backend.fingerprint(live, held)
        assert [after[path].bits for path in held] == [before[path].bits for path in held]


def groups_reach_the_optimizer(kit: Kit) -> None:
    """Param groups hold what is trainable, in canonical order, each parameter once."""
    model = kit.plain.make()
    plan = FreezePlan().freeze("blocks[0]").with_group("head", lr_scale=10.0, weight_decay=0.0)
    handle = apply(plan, model)
    paths = [path for group in handle.groups() for path in group.paths]
    assert sorted(paths) == sorted(handle.resolution.trainable_paths)
    lengths = [
        [len(value) for value in group.values() if isinstance(value, list)]
        for group in handle.param_groups(lr=0.1)
    ]
    assert lengths == [[len(group.paths)] for group in handle.groups()]


def flags_alone_can_be_frozen_for_a_while(kit: Kit) -> None:
    """`frozen` sets every flag and puts back each as it was."""
    model = kit.plain.make()
    apply(FreezePlan().freeze("blocks[0]"), model)
    before = kit.backend.read(model)
    with frozen(model):
        assert not any(kit.backend.read(model).values())
    assert kit.backend.read(model) == before


def several_models_go_under_one_plan(kit: Kit) -> None:
    """Two models in a mapping are addressed by name and do not mix."""
    student, teacher = kit.plain.make(), kit.plain.make()
    plan = FreezePlan().freeze("teacher").freeze("blocks[0] in student")
    apply(plan, {"student": student, "teacher": teacher})
    assert not any(kit.backend.read(teacher).values())
    alone = kit.plain.make()
    apply(FreezePlan().freeze("blocks[0]"), alone)
    assert kit.backend.read(student) == kit.backend.read(alone)


def training_is_noticed(kit: Kit) -> None:
    """A watch is called at a forward pass of training, not at the backend's own, until stopped."""
    model, batch, calls = kit.plain.make(), kit.plain.batch, list[int]()
    kit.backend.train_mode(model)
    stop = kit.backend.watch_training(model, lambda: calls.append(1))
    kit.backend.describe(model, batch)
    kit.backend.run(model, batch)
    assert not calls
    args, kwargs = kit.backend.inputs(model, batch)
    model(*args, **kwargs)
    assert calls
    stop()
    calls.clear()
    model(*args, **kwargs)
    assert not calls
