"""Check how a backend describes a model: the first part of the contract."""

from __future__ import annotations

from functools import reduce

from unifreeze._handle import resolve
from unifreeze._plan import FreezePlan
from unifreeze.testing.kit import Kit, fingerprints

ROLES = ("weight", "bias")


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
    """Following a native path from the model, attribute by attribute, ends at that tensor."""
    for example in (kit.plain, kit.tied, kit.loose):
        model = example.make()
        objects = kit.backend.objects(model)
        for parameter in kit.backend.describe(model).parameters:
            for path in (parameter.path, *parameter.aliases):
                tensor = reduce(getattr, path.split("."), model)
                assert tensor is objects[path], f"{path} leads to another tensor"


def describing_touches_nothing(kit: Kit) -> None:
    """Describing, with a batch or without, and resolving leave every bit and flag alone."""
    model = kit.plain.make()
    before = fingerprints(kit, model), kit.backend.read(model)
    kit.backend.describe(model)
    traced = kit.backend.describe(model, kit.plain.batch)
    resolve(FreezePlan().freeze("blocks"), model)
    assert (fingerprints(kit, model), kit.backend.read(model)) == before
    assert traced.order == "execution"
