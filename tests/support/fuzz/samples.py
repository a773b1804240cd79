"""One good file of each format, written once per run by the library itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

import unifreeze as uf
from tests.support.two_nets import HEAD, ROWS, TorchNet, two_layers
from unifreeze._cache.folder_store import Manifest
from unifreeze._cache.shards import write_shard
from unifreeze._evidence import make_record, make_side
from unifreeze._evidence.alignment import (
    AlignmentSide,
    Task,
    compare_alignment_sides,
    save_first_side,
    save_second_side,
)
from unifreeze._ports.pairing import make_sketch, pair_sketches
from unifreeze._ports.weights import Named, save_weights
from unifreeze._protocol import Batch, ProbeConfig, StepConfig, backend_for
from unifreeze_paddle.trainers._run_state import RunState

PLANS = (
    'unifreeze: 1\nrules:\n  - only: "head | blocks[-2:]"\n  - freeze: norm\nnorm_stats: hold\n'
    'groups:\n  - {match: all, layer_decay: 0.9}\n  - {match: "bias | norm", weight_decay: 0}\n'
    "phases:\n  - {name: head, rules: [{only: head}]}\n"
    '  - {name: top, at: {epoch: 5}, add: [{train: "blocks[-2:]"}], lr: 1e-4}\n'
    "  - {name: rest, when: {metric: loss, stalled_for: 2}, restore_best: true, "
    "add: [{train: all}]}\n",
    'unifreeze: 1\nrules: [{train: {torch: "layer4", paddle: "stage4"}, optional: true}]\n'
    "phases:\n  - {name: lisa, lisa: {blocks: 2, every: {steps: 5}, periods: 3, seed: 1}}\n"
    "  - {stop_on_rise: {metric: loss}}\n",
)
SELECTORS = (
    "head | blocks[-2:] & ~norm - (bias | stem)",
    'encoder.layers[0:10].**.bias | re:"(a|b)+\\.weight" & type:"BatchNorm*"',
    'at:"blocks.3/linear.*" | size(> 1e6) | path:"norm" | params[:70%] | all in student',
    "**.*a*b?c.**.layer?[1:] | children[-1]",
)


def small_model() -> torch.nn.Module:
    """Return a network of two layers."""
    torch.manual_seed(0)
    return TorchNet(two_layers, body=torch.nn.Linear(6, 4), head=torch.nn.Linear(4, 3))


def keeping_best(folder: Path) -> uf.Handle:
    """Return a run that has kept best values in a folder, and will go back to them."""
    handle = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nphases:\n  - {name: a, rules: [{only: head}]}\n"
        "  - {name: b, when: {metric: m, stalled_for: 1}, add: [{train: all}], "
        "restore_best: true}\n"
    ).apply(small_model())
    handle.keep_best(folder)
    handle.attach(torch.optim.SGD(handle.model.parameters(), lr=0.1))
    handle.step(epoch=0)
    handle.step(epoch=1, metrics={"m": 1.0})
    return handle


def _keep_rows(folder: Path) -> None:
    """Write a folder of kept rows: its group is called `rows`."""
    rows = {f"key {number}": ((np.full((3,), number, "float32"),),) for number in range(4)}
    write_shard(folder / "rows.safetensors", "rows", rows, bfloat16=False)
    texts = ("model", "plan", "framework", "weights", "dtype", "exact")
    manifest = Manifest(group="rows", outputs_of=("body",), **dict.fromkeys(texts, "x"))
    manifest.save(folder / "manifest.json")


def _align(folder: Path, task: Task, batch: Batch) -> None:
    """Write both sides of an acceptance report, and the report."""
    first, second = folder / "first-aligned.json", folder / "second-aligned.json"
    backend = backend_for(small_model())
    save_first_side(task, small_model(), backend, batch, first)
    save_second_side(task, small_model(), backend, batch, first, second)
    sides = AlignmentSide.load(first), AlignmentSide.load(second)
    compare_alignment_sides(*sides, task.pairing).save(folder / "alignment.json")


def write_samples(folder: Path) -> dict[str, Path]:
    """Write a good file of each format, and return them by name."""
    files = {name: folder / name for name in ("record.json", "side.json", "sketch.json")}
    model, batch = small_model(), Batch.of(ROWS)
    backend = backend_for(model)
    record = make_record(HEAD, model, backend, ProbeConfig(batch), device="cpu", name="one")
    record.save(files["record.json"])
    sketch = make_sketch(model, backend, batch, name="one")
    sketch.save(files["sketch.json"])
    second = make_sketch(small_model(), backend, batch, name="two", like=sketch)
    pairing = pair_sketches(sketch, second)
    second.save(folder / "second.json")
    pairing.save(folder / "pairing.json")
    make_side(HEAD, model, backend, StepConfig(batch), name="one").save(files["side.json"])
    _align(folder, Task(HEAD, pairing, steps=2), batch)
    weights = [
        Named("w", (4, 6), "float32", lambda: np.ones((4, 6), "float32")),
        Named("half", (3,), "bfloat16", lambda: np.ones(3, "uint16")),
        Named("tied", (4, 6), "float32", lambda: np.ones((4, 6), "float32"), "w"),
    ]
    for suffix in ("safetensors", "pdparams", "pt"):
        save_weights(folder / f"w.{suffix}", weights)
    torch.save({"w": torch.ones(4, 6)}, folder / "w.bin", _use_new_zipfile_serialization=False)
    handle = uf.FreezePlan().train("all").apply(small_model())
    handle.save_trained(folder / "trained.safetensors")
    placed = dict.fromkeys(("w", "half", "tied"), "w.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    (folder / "map.json").write_text('{"body.weight": "body.weight"}')
    run = handle.state_dict()
    RunState(handle=run, epoch=1, step=4, reports={"loss": 0.5}, waiting=False).save(
        folder / "run.json"
    )
    _keep_rows(folder)
    return {path.name: path for path in folder.iterdir() if path.is_file()}
