"""Everything that writes a file, each as a function of a path and a size; and writers killed.

python -m tests.support.whole_writers --kills 100
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import unifreeze as uf
from unifreeze._cache.folder_store import Manifest
from unifreeze._cache.shards import write_shard
from unifreeze._cli.html_page import write_page
from unifreeze._cli.output import write_json
from unifreeze._files import Format, Saved
from unifreeze._ports.weights import Named, save_weights
from unifreeze._protocol import backend_for
from unifreeze._whole_files import writing_hint
from unifreeze.errors import CacheError, RecordError, UnifreezeError
from unifreeze_paddle.trainers._run_state import RunState

Writer = Callable[[Path, int], None]
KILOBYTE = 1024


class Note(Saved):
    """A JSON file of the kind that records, sketches, pairings and run states are."""

    format = Format("unifreeze note", "unifreeze_note", 1, RecordError, "write it anew")

    unifreeze_note: int = 1
    text: str = ""


def plan(path: Path, size: int) -> None:
    """Write a plan."""
    uf.FreezePlan().freeze(f're:"{"a" * min(size, 90_000)}"').save(path)


def report(path: Path, size: int) -> None:
    """Write the table of a run."""
    handle = uf.FreezePlan().train("all").apply(torch.nn.Linear(2, 2))
    handle.step(epoch=0, metrics={"m" * size: 1.0})
    handle.report().to_csv(path)
    handle.remove()


def json_output(path: Path, size: int) -> None:
    """Write what a command prints with --json."""
    write_json(["a" * size], str(path))


def note(path: Path, size: int) -> None:
    """Write a JSON file with a version."""
    Note(text="a" * size).save(path)


def weights(path: Path, size: int) -> None:
    """Write weights in several tensors."""
    part = np.zeros(max(size // 4, 1), "uint8")
    save_weights(path, [Named(f"w{n}", part.shape, "uint8", lambda: part) for n in range(4)])


def page(path: Path, size: int) -> None:
    """Write the page of `explain --html`."""
    model = torch.nn.Linear(2, 2)
    spec = backend_for(model).describe(model)
    write_page(str(path), uf.FreezePlan().freeze("all"), spec, _nothing, title="a" * size, start=0)


def _nothing(_: object) -> tuple[()]:
    return ()


def run_state(path: Path, size: int) -> None:
    """Write how far a run in one of Paddle's trainers has come."""
    handle = {"plan_text": "a" * size}
    RunState(handle=handle, epoch=0, step=0, reports={}, waiting=False).save_beside(path)


def manifest(path: Path, size: int) -> None:
    """Write what the rows of a cache are of."""
    texts = dict.fromkeys(("group", "model", "framework", "weights", "dtype", "exact"), "x")
    Manifest(plan="a" * size, outputs_of=(), **texts).save(path)


def kept_rows(path: Path, size: int) -> None:
    """Write rows of a cache; the store itself tells an error as a warning, and goes on."""
    rows = {str(number): ((np.zeros(max(size // 4, 1), "uint8"),),) for number in range(4)}
    try:
        write_shard(path, "group", rows, bfloat16=False)
    except OSError as error:
        raise CacheError(str(error.strerror), hint=writing_hint(error)) from None


WRITERS: dict[str, Writer] = {
    "plan.yaml": plan,
    "report.csv": report,
    "out.json": json_output,
    "record.json": note,
    "w.safetensors": weights,
    "w.pdparams": weights,
    "w.pt": weights,
    "page.html": page,
    "run.json": run_state,
    "manifest.json": manifest,
    "kept.safetensors": kept_rows,
}
"""By the name of the file that each writes."""


def kill_once(name: str, folder: Path, wait: float) -> bool:
    """Write a file in a process of its own that is killed; return whether it was killed."""
    process = os.fork()
    if process == 0:
        try:
            WRITERS[name](folder / name, 60 * KILOBYTE)
        finally:
            os._exit(0)
    time.sleep(wait)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def kill(name: str, folder: Path, kills: int, seed: int = 0) -> tuple[int, int]:
    """Kill a writer at random moments.

    Returns:
        How many writers were started until so many were killed, and how many of the killed had
        written a new file.

    Raises:
        AssertionError: A file was neither the old nor the new one, or something was left over.
    """
    draw, path = random.Random(seed), folder / name
    WRITERS[name](path, 60 * KILOBYTE)
    new = path.read_bytes()
    start = time.perf_counter()
    WRITERS[name](path, 60 * KILOBYTE)
    needed = time.perf_counter() - start
    WRITERS[name](path, 2 * KILOBYTE)
    old, started, killed, replaced = path.read_bytes(), 0, 0, 0
    while killed < kills:
        was_killed = kill_once(name, folder, draw.uniform(0, 2 * needed))
        # Too late: come earlier, so that all are killed in the end, however quick the machine.
        started, needed = started + 1, needed if was_killed else 0.95 * needed
        now = path.read_bytes()
        assert now in (old, new), f"{name}: {len(now)} bytes are neither the old nor the new file"
        killed, replaced = killed + was_killed, replaced + (was_killed and now == new)
        WRITERS[name](path, 2 * KILOBYTE)
        left = sorted(entry.name for entry in folder.iterdir())
        assert left == [name], f"{name}: left over: {left}"
        assert path.read_bytes() == old
    return started, replaced


def fill_disk(name: str, disk: Path) -> None:
    """Write a file on a small disk that is full.

    Raises:
        AssertionError: The old file is gone, the error is another one, or something was left over.
    """
    path, filler = disk / name, disk / "filler"
    WRITERS[name](path, 2 * KILOBYTE)
    before = path.read_bytes()
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4 * KILOBYTE)):
            pass
    with pytest.raises(UnifreezeError, match="No space left"):
        WRITERS[name](path, 80 * KILOBYTE)
    assert path.read_bytes() == before
    filler.unlink()
    assert [file.name for file in disk.iterdir()] == [name]
    path.unlink()


def main() -> None:
    """Kill every writer, and say how often."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument(
        "--disk", type=Path, help="an empty small disk to fill: mount -t tmpfs -o size=1m tmpfs …"
    )
    given = arguments.parse_args()
    for name in WRITERS if given.disk else ():
        fill_disk(name, given.disk)
        print(f"{name}: on a full disk the old file is kept, nothing left over")
    for name in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            started, replaced = kill(name, Path(folder), given.kills, given.seed)
        print(
            f"{name}: {given.kills} of {started} processes killed before their end (seed "
            f"{given.seed}), {replaced} of them after the new file was in place; old or new file "
            "whole, nothing left over",
            flush=True,
        )


if __name__ == "__main__":
    main()
