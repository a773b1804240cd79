"""Check a backend's seeded runs on a live model: that they show the truth and leave no trace."""

from __future__ import annotations

from typing import Any

import numpy as np

from unifreeze._evidence import Record, compare_records, make_record
from unifreeze._handle import apply, resolve
from unifreeze._numerics.measurements import MeasureConfig, MeasureRun
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Batch, ProbeConfig
from unifreeze.testing.kit import Example, Kit, blocks, fingerprints


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
    """Of two equal norms the frozen one keeps its statistics, and the trainable one moves them."""
    record = _record(kit, FreezePlan().freeze("blocks[0]"), kit.plain)
    for run in record.runs:
        for row in record.states:
            if row.role in ("mean", "var"):
                kept = run.before[row.path] == run.after[row.path]
                assert kept == row.held == row.name.startswith("blocks.0/"), row.path


def the_probe_restores_the_model(kit: Kit) -> None:
    """After the probe every bit, flag and gradient is as before."""
    model = kit.plain.make()
    before = _snapshot(kit, model)
    resolution = resolve(FreezePlan().only("head"), model)
    kit.backend.probe(model, resolution, ProbeConfig(kit.plain.batch))
    assert _snapshot(kit, model) == before


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
    before = _snapshot(kit, model), kit.backend.training(model)
    _measure(kit, model)
    assert (_snapshot(kit, model), kit.backend.training(model)) == before


def measuring_sees_what_is_frozen(kit: Kit) -> None:
    """Every parameter that could train is measured, whatever the flags say."""
    model, free = kit.plain.make(), kit.plain.make()
    for path in kit.backend.objects(model):
        kit.backend.assign(free, path, kit.backend.tensor(model, path))
    apply(FreezePlan().only("head"), model)
    frozen, trained = (_measure(kit, live).gradients[0] for live in (model, free))
    assert frozen.keys() == kit.backend.read(model).keys()
    assert frozen == trained


def a_bypassed_block_passes_its_input_on(kit: Kit) -> None:
    """Bypassing a block that adds nothing keeps the loss; bypassing the next block changes it."""
    model = kit.plain.make()
    first, second = blocks(kit, model)
    for path in kit.backend.read(model):
        if path.startswith(f"{first}."):
            kit.backend.assign(model, path, np.zeros_like(kit.backend.tensor(model, path)))
    run = _measure(kit, model)
    assert run.bypassed[first].losses == run.losses
    assert run.bypassed[second].losses
    assert run.bypassed[second].losses != run.losses


def _snapshot(kit: Kit, model: Any) -> tuple[object, ...]:
    """Return a model's bits, flags and gradients."""
    return fingerprints(kit, model), kit.backend.read(model), kit.backend.gradients(model)


def _measure(kit: Kit, model: Any) -> MeasureRun:
    """Measure by the cross-entropy of some labels."""
    (rows,) = kit.plain.batch.args
    batch = Batch((rows,), {"labels": np.arange(len(rows)) % 3})
    config = MeasureConfig([batch], labels="labels", blocks=tuple(blocks(kit, model)))
    return kit.backend.measure(model, config)


def _record(kit: Kit, plan: FreezePlan, example: Example, model: Any = None) -> Record:
    live = example.make() if model is None else model
    config = ProbeConfig(example.batch)
    return make_record(plan, live, kit.backend, config, device="cpu", name="example")
