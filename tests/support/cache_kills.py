"""Processes that fill a folder of kept rows: killed, on a full disk, or beside one another.

python -m tests.support.cache_kills torch --kills 10
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache import folder_store

PLAN = 'unifreeze: 1\nrules: [{only: "head | last"}]\n'
ROWS = 24


def fill(fw, folder, *, epochs=3, batches=nets.image_batches):
    """Train the same model on a folder; without a cache if it is None."""
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    block = None if folder is None else lambda: handle.cached(folder)
    return nets.train(fw, model, handle, batches, epochs=epochs, cached=block)


def in_a_child(work: Callable[[], None]) -> int:
    """Do something in a process of its own; return its number."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(code)
    return process


def files_in(folder: Path) -> int:
    """Return how many files of rows are in a folder."""
    return len(list(folder.rglob("*.safetensors")))


def kill_once(fw, folder: Path, after: int, wait: float) -> bool:
    """Fill a folder in a process that is killed once it has written some files."""
    process = in_a_child(lambda: fill(fw, folder, epochs=100) and None)
    while files_in(folder) < after:
        time.sleep(0.0005)
    time.sleep(wait)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def kill(fw, kills: int, seed: int = 0) -> None:
    """Kill the filling at random moments, and go on with what is left.

    Raises:
        AssertionError: Losses, gradients or values are others than without a cache.
    """
    draw, plain = random.Random(seed), fill(fw, None)
    folder_store.SHARD_BYTES = 1  # a file for each row
    for number in range(kills):
        with tempfile.TemporaryDirectory() as place:
            folder, after = Path(place), draw.randrange(ROWS)
            assert kill_once(fw, folder, after, draw.uniform(0, 0.002))
            left = files_in(folder)
            resumed = fill(fw, folder)
            known = ("manifest.json", "replay.json")
            files = [file for file in folder.rglob("*") if file.is_file()]
            strange = [f for f in files if f.suffix != ".safetensors" and f.name not in known]
            assert not strange, strange
            assert nets.same(plain, resumed), f"kill {number}, after {left} files"
            counts = resumed[3].counts
            print(f"{fw.name}: killed after {left} rows; {counts}", flush=True)


def on_a_full_disk(fw, folder: Path, most: int | None) -> None:
    """Train where no more can be written; compare with a run without a cache.

    Args:
        fw: The framework.
        folder: Where rows are kept.
        most: The most bytes of one file; None if the disk is as small by itself.
    """
    plain = fill(fw, None)
    folder_store.SHARD_BYTES = 1
    if most is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cached = fill(fw, folder)
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert nets.same(plain, cached)
    said = [str(w.message) for w in seen if "no more rows are kept" in str(w.message)]
    assert len(said) == 1, said
    print(said[0])
    print(cached[3])


def beside_one_another(fw, folder: Path) -> None:
    """Two processes each fill half of the rows; then each reads all of them."""
    plain = fill(fw, None, epochs=1)
    folder_store.SHARD_BYTES = 1

    def one(number: int) -> None:
        def batches(epoch):
            order = nets.image_batches(0, 12)
            if epoch == 0:
                return [order[number]]
            while files_in(folder) < ROWS:
                time.sleep(0.001)
            return order

        run = fill(fw, folder, epochs=2, batches=batches)[3]
        counts = run.counts
        # If rows of the other process are there from the start, one batch is compared first.
        assert (counts.misses, counts.hits + counts.uncached) == (12, 24), counts
        assert counts.hits >= 12, counts

    processes = [in_a_child(lambda n=n: one(n)) for n in range(2)]
    codes = [os.waitpid(process, 0)[1] for process in processes]
    assert codes == [0, 0], codes
    assert files_in(folder) == ROWS
    assert nets.same(plain, fill(fw, folder, epochs=1))


def main() -> None:
    """Do one of these things, and say what was seen."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("framework")
    arguments.add_argument("--kills", type=int, default=0)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--disk")
    arguments.add_argument("--most", type=int)
    arguments.add_argument("--two")
    given = arguments.parse_args()
    fw = nets.framework_of(given.framework)
    if given.disk:
        on_a_full_disk(fw, Path(given.disk), given.most)
    elif given.two:
        beside_one_another(fw, Path(given.two))
    else:
        kill(fw, given.kills, given.seed)


if __name__ == "__main__":
    main()
