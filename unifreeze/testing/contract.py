"""The contract every backend must pass, as plain functions that a third framework can run.

A backend's author writes a `Kit`: three small models and a batch for each. Then

    @pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
    def test_contract(check):
        check(kit)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from unifreeze._arguments import checked_methods
from unifreeze._evidence import Record, compare_records, make_record
from unifreeze._handle import apply, frozen, resolve
from unifreeze._numerics.measurements import MeasureConfig, MeasureRun
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Backend, Batch, ProbeConfig

ROLES = ("weight", "bias")


@checked_methods
@dataclass(frozen=True)
class Example:
    """A way to make a model, and a batch it takes.

    Attributes:
        make: Builds the model; every call a new one, all parameters trainable.
        batch: Inputs it runs on.
    """

    make: Callable[[], Any]
    batch: Batch


@checked_methods
@dataclass(frozen=True)
class Kit:
    """What a backend's author provides.

    Attributes:
        backend: The backend.
        plain: Two like blocks, each of two linear layers and one norm with running statistics,
            in a list-like container, then one linear head; each layer with weight and bias.
        tied: A model in which one tensor has two names.
        loose: A model whose root owns a parameter itself.
    """

    backend: Backend
    plain: Example
    tied: Example
    loose: Example


def describes_every_parameter_once(kit: Kit) -> None:
    """Each tensor is one parameter under one canonical name; no statistic is among them."""
    spec = kit.backend.describe(kit.plain.make())
    layers = [f"blocks.{n}/{layer}" for n in (0, 1) for layer in ("linear.0", "linear.1", "norm.0")]
    expected = {f"{layer}/{role}" for layer in (*layers, "head/linear.0") for role in ROLES}
    names = [parameter.name for parameter in spec.parameters]
    assert len(set(names)) == len(names)
    assert set(names) == expected
    statistics = {spec.state_name(state) for state in spec.states}
    assert {"blocks.0/norm.0/mean", "blocks.1/norm.0/var"} <= statistics
    assert not {state.path for state in spec.states} & {p.path for p in spec.parameters}


def describes_ties_and_loose_parameters(kit: Kit) -> None:
    """A tied tensor is one parameter with an alias; the root's own parameters are not forgotten."""
    tied = kit.backend.describe(kit.tied.make())
    assert any(parameter.aliases for parameter in tied.parameters)
    loose = kit.backend.describe(kit.loose.make())
    assert any("." not in parameter.path for parameter in loose.parameters)


def native_paths_lead_to_the_tensors(kit: Kit) -> None:
    """Following a native path from the model, attribute by attribute, ends at its very tensor."""
    for example in (kit.plain, kit.tied, kit.loose):
        model = example.make()
        objects = kit.backend.objects(model)
        for parameter in kit.backend.describe(model).parameters:
            for path in (parameter.path, *parameter.aliases):
                found = reduce(getattr, path.split("."), model)
                assert found is objects[path], f"{path} leads to another tensor"


def describing_touches_nothing(kit: Kit) -> None:
    """Describing, with a batch or without, and resolving leave every bit and flag alone."""
    model = kit.plain.make()
    before = _fingerprints(kit, model), kit.backend.read(model)
    kit.backend.describe(model)
    traced = kit.backend.describe(model, kit.plain.batch)
    resolve(FreezePlan().freeze("blocks"), model)
    assert (_fingerprints(kit, model), kit.backend.read(model)) == before
    assert traced.order == "execution"


def writes_what_is_decided(kit: Kit) -> None:
    """Flags read back as decided, for plans on zones, kinds and parts; removal restores them."""
    for plan in (
        FreezePlan().only("head"),
        FreezePlan().freeze("blocks[0]"),
        FreezePlan().freeze("norm"),
        FreezePlan().only("bias"),
    ):
        model = kit.plain.make()
        found = kit.backend.read(model)
        handle = apply(plan, model)
        trainable = set(handle.resolution.trainable_paths)
        assert {path for path, flag in kit.backend.read(model).items() if flag} == trainable
        handle.remove()
        assert kit.backend.read(model) == found


def applying_again_replaces_the_plan(kit: Kit) -> None:
    """A second plan replaces the first, and removing it goes back to before the first."""
    model = kit.plain.make()
    found = kit.backend.read(model)
    apply(FreezePlan().only("head"), model)
    second = apply(FreezePlan().freeze("head"), model)
    frozen_now = {path for path, flag in kit.backend.read(model).items() if not flag}
    assert frozen_now == set(second.resolution.frozen_paths)
    second.remove()
    assert kit.backend.read(model) == found


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


def freezing_holds_through_training(kit: Kit) -> None:
    """The probe's steps keep what is frozen, and train the rest: parity of a model with itself."""
    for example, plan in (
        (kit.plain, FreezePlan().only("head")),
        (kit.plain, FreezePlan().freeze("norm & bias")),
        (kit.plain, FreezePlan().freeze("blocks[0]").with_norm_stats("hold_all")),
        (kit.tied, FreezePlan().freeze("tied")),
        (kit.loose, FreezePlan().freeze("params[:1]")),
    ):
        record = _record(kit, plan, example)
        compare_records(record, record).raise_if_broken()


def statistics_move_unless_they_are_held(kit: Kit) -> None:
    """Of two like norms the frozen one keeps its statistics, and the other one moves them."""
    record = _record(kit, FreezePlan().freeze("blocks[0]"), kit.plain)
    for run in record.runs:
        for row in record.states:
            if row.role in ("mean", "var"):
                kept = run.before[row.path] == run.after[row.path]
                assert kept == row.held == row.name.startswith("blocks.0/"), row.path


def the_probe_restores_the_model(kit: Kit) -> None:
    """After the probe every bit, flag and gradient is as before."""
    model = kit.plain.make()
    before = _fingerprints(kit, model), kit.backend.read(model), kit.backend.gradients(model)
    resolution = resolve(FreezePlan().only("head"), model)
    kit.backend.probe(model, resolution, ProbeConfig(kit.plain.batch))
    after = _fingerprints(kit, model), kit.backend.read(model), kit.backend.gradients(model)
    assert after == before


def the_probe_is_deterministic(kit: Kit) -> None:
    """The same model, plan and seed give the same record."""
    model = kit.plain.make()
    plan = FreezePlan().only("head")
    assert _record(kit, plan, kit.plain, model) == _record(kit, plan, kit.plain, model)


def measuring_restores_the_model(kit: Kit) -> None:
    """Measuring leaves every bit, flag, gradient and mode as it was, under a plan."""
    model = kit.plain.make()
    apply(FreezePlan().freeze("blocks[0]"), model)
    kit.backend.train_mode(model)

    def seen() -> tuple[object, ...]:
        backend = kit.backend
        flags, gradients = backend.read(model), backend.gradients(model)
        return _fingerprints(kit, model), flags, gradients, backend.training(model)

    before = seen()
    _measured(kit, model)
    assert seen() == before


def measuring_sees_what_is_frozen(kit: Kit) -> None:
    """Every parameter that could train is measured, whatever the flags say."""
    model, free = kit.plain.make(), kit.plain.make()
    _copy_values(kit, free, model)
    apply(FreezePlan().only("head"), model)
    one, other = (_measured(kit, each).gradients[0] for each in (model, free))
    assert one.keys() == kit.backend.read(model).keys()
    assert one == other


def a_bypassed_block_passes_its_input_on(kit: Kit) -> None:
    """Without a block that adds nothing the loss is the same; without another it is not."""
    model = kit.plain.make()
    first, second = _blocks(kit, model)
    for path in kit.backend.read(model):
        if path.startswith(f"{first}."):
            kit.backend.assign(model, path, np.zeros_like(kit.backend.tensor(model, path)))
    run = _measured(kit, model)
    assert run.bypassed[first].losses == run.losses
    assert run.bypassed[second].losses
    assert run.bypassed[second].losses != run.losses


def copies_keep_what_is_held(kit: Kit) -> None:
    """Statistics hold on a deep copy as they do on the model."""
    model = kit.plain.make()
    apply(FreezePlan().only("head"), model)
    held = [p for p in kit.backend.objects(model) if p in _state_paths(kit, model)]
    assert held
    for each in (model, copy.deepcopy(model)):
        before = kit.backend.fingerprint(each, held)
        kit.backend.train_mode(each)
        kit.backend.run(each, kit.plain.batch)
        after = kit.backend.fingerprint(each, held)
        assert [after[path].bits for path in held] == [before[path].bits for path in held]


def groups_reach_the_optimizer(kit: Kit) -> None:
    """Param groups hold what is trainable, in canonical order, each parameter once."""
    model = kit.plain.make()
    plan = FreezePlan().freeze("blocks[0]").with_group("head", lr_scale=10.0, weight_decay=0.0)
    handle = apply(plan, model)
    paths = [path for group in handle.groups() for path in group.paths]
    assert sorted(paths) == sorted(handle.resolution.trainable_paths)
    lists = [
        [value for value in group.values() if isinstance(value, list)]
        for group in handle.param_groups(lr=0.1)
    ]
    assert [[len(found) for found in group] for group in lists] == [
        [len(group.paths)] for group in handle.groups()
    ]


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
    """A watch hears of a forward pass of training, not of the backend's own, and can be stopped."""
    model, batch, heard = kit.plain.make(), kit.plain.batch, list[int]()
    kit.backend.train_mode(model)
    stop = kit.backend.watch_training(model, lambda: heard.append(1))
    kit.backend.describe(model, batch)
    kit.backend.run(model, batch)
    assert not heard
    args, kwargs = kit.backend.inputs(model, batch)
    model(*args, **kwargs)
    assert heard
    stop()
    heard.clear()
    model(*args, **kwargs)
    assert not heard


CONTRACT: tuple[Callable[[Kit], None], ...] = (
    describes_every_parameter_once,
    describes_ties_and_loose_parameters,
    native_paths_lead_to_the_tensors,
    describing_touches_nothing,
    writes_what_is_decided,
    applying_again_replaces_the_plan,
    ties_are_frozen_by_any_name,
    fingerprints_see_every_bit,
    assigns_in_place,
    freezing_holds_through_training,
    statistics_move_unless_they_are_held,
    the_probe_restores_the_model,
    the_probe_is_deterministic,
    measuring_restores_the_model,
    measuring_sees_what_is_frozen,
    a_bypassed_block_passes_its_input_on,
    copies_keep_what_is_held,
    groups_reach_the_optimizer,
    flags_alone_can_be_frozen_for_a_while,
    several_models_go_under_one_plan,
    training_is_noticed,
)
"""Every check, in the order in which a new backend meets them."""


def _fingerprints(kit: Kit, model: Any) -> dict[str, str]:
    prints = kit.backend.fingerprint(model, kit.backend.objects(model))
    return {path: digest.bits for path, digest in prints.items()}


def _blocks(kit: Kit, model: Any) -> list[str]:
    spec = kit.backend.describe(model)
    return [spec.tree.paths[block] for block in spec.runs[0].blocks]


def _measured(kit: Kit, model: Any) -> MeasureRun:
    """Measure by the cross-entropy of some labels."""
    (rows,) = kit.plain.batch.args
    batch = Batch((rows,), {"labels": np.arange(len(rows)) % 3})
    blocks = tuple(_blocks(kit, model))
    return kit.backend.measure(model, MeasureConfig([batch], labels="labels", blocks=blocks))


def _copy_values(kit: Kit, target: Any, source: Any) -> None:
    for path in kit.backend.objects(source):
        kit.backend.assign(target, path, kit.backend.tensor(source, path))


def _state_paths(kit: Kit, model: Any) -> set[str]:
    return {state.path for state in kit.backend.describe(model).states if state.moves}


def _record(kit: Kit, plan: FreezePlan, example: Example, model: Any = None) -> Record:
    live = example.make() if model is None else model
    config = ProbeConfig(example.batch)
    return make_record(plan, live, kit.backend, config, device="cpu", name="example")
