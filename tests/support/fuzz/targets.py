"""What reads hostile input: for each target, a function that draws one input and reads it."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import unifreeze as uf
from tests.support.fuzz.mutations import spoil_bytes, spoil_data, spoil_header, spoil_text
from tests.support.fuzz.samples import PLANS, SELECTORS, keeping_best, small_model
from unifreeze._cache.folder_store import FolderStore, Manifest
from unifreeze._cache.folders import groups_in
from unifreeze._cli import main
from unifreeze._evidence import Record, StepSide, compare_records, compare_sides
from unifreeze._evidence.alignment import AlignmentReport, AlignmentSide, compare_alignment_sides
from unifreeze._ports.pairing import ModelSketch, Pairing, pair_sketches
from unifreeze._ports.weights import open_weights
from unifreeze_paddle.trainers._run_state import RunState

Case = tuple[Any, Callable[[], Any]]
"""An input, for the report of a failure, and a call that reads it."""
Target = Callable[[random.Random, dict[str, Path], Path], Case]


def plan_text(draw: random.Random, files: dict[str, Path], folder: Path) -> Case:
    """Read the text of a plan, and resolve it where it can be read."""
    text = spoil_text(draw, draw.choice(PLANS))

    def read() -> None:
        plan = uf.FreezePlan.from_yaml(text)
        assert uf.FreezePlan.from_yaml(plan.to_yaml()) == plan
        plan.resolve(small_model())

    return text, read


def plan_document(draw: random.Random, files: dict[str, Path], folder: Path) -> Case:
    """Read a plan as plain data."""
    data = spoil_data(draw, yaml.safe_load(draw.choice(PLANS)))
    given = data if isinstance(data, dict) else {"unifreeze": data}

    def read() -> None:
        plan = uf.FreezePlan.from_document(given)
        assert uf.FreezePlan.from_document(plan.document()) == plan
        plan.resolve(small_model())

    return given, read


def selector(draw: random.Random, files: dict[str, Path], folder: Path) -> Case:
    """Read a selector, write it, and evaluate it."""
    text = spoil_text(draw, draw.choice(SELECTORS))

    def read() -> None:
        known = uf.Selector(text)
        assert uf.Selector(str(known)) == known
        uf.FreezePlan().freeze(known, optional=True).train("head").resolve(small_model())

    return text, read


def _json(name: str, use: Callable[[Path, dict[str, Path]], Any]) -> Target:
    def target(draw: random.Random, files: dict[str, Path], folder: Path) -> Case:
        text = files[name].read_text()
        if draw.random() < 0.8:
            text = json.dumps(spoil_data(draw, json.loads(text)))
        else:
            text = spoil_text(draw, text)
        path = folder / "spoiled.json"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return text, lambda: use(path, files)

    return target


def _use_record(path: Path, files: dict[str, Path]) -> None:
    record = Record.load(path)
    report = compare_records(record, Record.load(files["record.json"]))
    str(report), repr(report), repr(record)


def _use_side(path: Path, files: dict[str, Path]) -> None:
    good = StepSide.load(files["side.json"])
    pairing = Pairing.load(files["pairing.json"])
    str(compare_sides(StepSide.load(path), good, pairing))
    str(compare_sides(good, StepSide.load(path), pairing))


def _use_first_aligned(path: Path, files: dict[str, Path]) -> None:
    first, second = AlignmentSide.load(path), AlignmentSide.load(files["second-aligned.json"])
    pairing = Pairing.load(files["pairing.json"])
    _write_out(compare_alignment_sides(first, second, pairing))


def _use_second_aligned(path: Path, files: dict[str, Path]) -> None:
    first, second = AlignmentSide.load(files["first-aligned.json"]), AlignmentSide.load(path)
    pairing = Pairing.load(files["pairing.json"])
    _write_out(compare_alignment_sides(first, second, pairing))


def _use_alignment(path: Path, files: dict[str, Path]) -> None:
    _write_out(AlignmentReport.load(path))


def _write_out(report: AlignmentReport) -> None:
    report.to_markdown("en"), report.to_markdown("zh"), report.to_svg(), str(report), repr(report)


def _use_pairing(path: Path, files: dict[str, Path]) -> None:
    pairing = Pairing.load(path)
    good = StepSide.load(files["side.json"])
    str(pairing), repr(pairing)
    str(compare_sides(good, good, pairing))
    uf.port_file(files["w.safetensors"], path.parent / "ported.safetensors", pairing=pairing)


def _use_sketch(path: Path, files: dict[str, Path]) -> None:
    sketch = ModelSketch.load(path)
    str(pair_sketches(ModelSketch.load(files["sketch.json"]), sketch))
    str(pair_sketches(sketch, ModelSketch.load(files["second.json"])))


def _use_run_state(path: Path, files: dict[str, Path]) -> None:
    state = RunState.load_from(path)
    handle = uf.FreezePlan().train("all").apply(small_model())
    handle.load_state_dict(state.handle)
    handle.step(epoch=state.epoch, step=state.step, metrics=state.reports)
    state.save_beside(path)


def _use_manifest(path: Path, files: dict[str, Path]) -> None:
    _use_rows(files["rows.safetensors"], path)


def _use_rows(rows: Path, manifest: Path) -> None:
    place = rows.parent.parent / f"kept{manifest.parent.name}" / "rows"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(manifest, place / "manifest.json")
    shutil.copy(rows, place / "1.safetensors")
    list(groups_in(place.parent, values=True))
    store = FolderStore(place.parent, 10**6)
    about = Manifest.load(manifest).model_dump(exclude={"unifreeze_cache", "group"})
    store.open("rows", about)
    store.get("rows", [f"key {number}" for number in range(4)])
    store.close()


def _use_index(path: Path, files: dict[str, Path]) -> None:
    index = path.with_name("model.safetensors.index.json")
    path.replace(index)
    if not path.with_name("w.safetensors").exists():
        shutil.copy(files["w.safetensors"], path.with_name("w.safetensors"))
    _read_weights(index, files)


def _use_map(path: Path, files: dict[str, Path]) -> None:
    words = ["sketch", "tests.support.fuzz.samples:small_model", "-o", "out.json"]
    words += ["--batch", "float32[8,6]", "--like", str(files["sketch.json"]), "--map", str(path)]
    _command(words)


def _headers(name: str, use: Callable[[Path, dict[str, Path]], Any]) -> Target:
    """Spoil the header of a safetensors file in its structure, or its bytes."""

    def target(draw: random.Random, files: dict[str, Path], folder: Path) -> Case:
        spoil = spoil_header if draw.random() < 0.8 else spoil_bytes
        data = spoil(draw, files[name].read_bytes())
        path = folder / "spoiled.safetensors"
        path.write_bytes(data)
        return data, lambda: use(path, files)

    return target


def _use_trained(path: Path, files: dict[str, Path]) -> None:
    uf.load_trained(small_model(), path)


def _use_kept(path: Path, files: dict[str, Path]) -> None:
    _use_rows(path, files["manifest.json"])


def best_values(draw: random.Random, files: dict[str, Path], folder: Path) -> Case:
    """Go back to best values that have been spoiled."""
    handle = keeping_best(folder / "best")
    spoil = spoil_header if draw.random() < 0.8 else spoil_bytes
    path = folder / "best" / "best-1--1.safetensors"
    data = spoil(draw, path.read_bytes())
    path.write_bytes(data)
    return data, lambda: handle.step(epoch=2, metrics={"m": 2.0})


def _weights(name: str) -> Target:
    def target(draw: random.Random, files: dict[str, Path], folder: Path) -> Case:
        data = spoil_bytes(draw, files[name].read_bytes())
        path = folder / f"spoiled{Path(name).suffix}"
        path.write_bytes(data)
        return data, lambda: _read_weights(path, files)

    return target


def _read_weights(path: Path, files: dict[str, Path]) -> None:
    with open_weights(path) as weights:
        for tensor in weights:
            weights.read(tensor)


def state(draw: random.Random, files: dict[str, Path], folder: Path) -> Case:
    """Load the state of a run, and go on."""
    plan = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nphases:\n  - {name: a, rules: [{only: head}]}\n"
        "  - {name: b, when: {metric: m, stalled_for: 1}, rules: [{only: body}]}\n"
    )
    handle = plan.apply(small_model())
    handle.step(epoch=0)
    data = spoil_data(draw, handle.state_dict())

    def read() -> None:
        handle.load_state_dict(data)
        handle.step(epoch=10**6, metrics={"m": 1.0})
        handle.report()

    return data, read


WORDS = (
    *("show", "explain", "capture", "suggest", "translate", "expand", "record", "compare", "pair"),
    *("sketch", "port", "step", "align", "cache", "schema", "backends"),
)
ARGUMENTS = (
    *("--json", "-", "-o", "-p", "--batch", "--pairing", "--seed", "--backend", "--map", "--key"),
    *("float32[8,6]", "int64[2**99]", "float32[1000000,1000000,1000000]", "float32[-1]", "x[", ""),
    *("\x00", "/dev/null", "/dev/full", "/no/such", ".", "..", "~", "é", "a" * 5000, "9" * 400),
    *("torch.nn:Linear", "os:system", "json:dumps", "tests.support.fuzz.samples:small_model"),
    *("info", "check", "clear", "--like", "--parts", "--shipped-map", "--states", "--outputs"),
    *("--html", "--phase", "--device", "--order", "--steps", "--partial", "--crop", "\udcff", "-h"),
    *("tests.support.fuzz.samples:small_model()", "small_model(x=1)", "./w.pt:x", "-", "--"),
)


def _copy(file: Path, folder: Path) -> Path:
    """Return a copy of a good file, which a command may overwrite."""
    copy = folder / "given" / file.name
    if not copy.exists() or copy.stat().st_size != file.stat().st_size:
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    return copy


def arguments(draw: random.Random, files: dict[str, Path], folder: Path) -> Case:
    """Run a command with arguments that fit or do not."""
    known = [*(str(_copy(file, folder)) for file in files.values()), *ARGUMENTS]
    kept = folder / "given" / "kept"
    (kept / "rows").mkdir(parents=True, exist_ok=True)
    for name in ("manifest.json", "rows.safetensors"):
        shutil.copy(files[name], kept / "rows" / name)
    known.append(str(kept))
    chosen = [draw.choice(WORDS), *draw.choices(known, k=draw.randrange(6))]
    chosen = [word if draw.random() < 0.95 else spoil_text(draw, word)[:500] for word in chosen]

    return chosen, lambda: _command(chosen)


def _command(words: list[str]) -> None:
    before, sys.argv = sys.argv, ["unifreeze", *words]
    said, code = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    if code == 3:  # what `main` calls a bug
        raise AssertionError(said.getvalue()[-3000:])


TARGETS: dict[str, Target] = {
    "plan text": plan_text,
    "plan document": plan_document,
    "selector": selector,
    "record": _json("record.json", _use_record),
    "step side": _json("side.json", _use_side),
    "first aligned side": _json("first-aligned.json", _use_first_aligned),
    "second aligned side": _json("second-aligned.json", _use_second_aligned),
    "acceptance report": _json("alignment.json", _use_alignment),
    "pairing": _json("pairing.json", _use_pairing),
    "sketch": _json("second.json", _use_sketch),
    "state": state,
    "run state": _json("run.json", _use_run_state),
    "trained values": _headers("trained.safetensors", _use_trained),
    "best values": best_values,
    "kept rows": _headers("rows.safetensors", _use_kept),
    "manifest": _json("manifest.json", _use_manifest),
    "index": _json("model.safetensors.index.json", _use_index),
    "map": _json("map.json", _use_map),
    "header": _headers("w.safetensors", _read_weights),
    **{name: _weights(name) for name in ("w.safetensors", "w.pdparams", "w.pt", "w.bin")},
    "arguments": arguments,
}
