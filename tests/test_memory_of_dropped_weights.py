"""Frozen weights that are dropped are really out of memory: resident memory of a fresh process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
    import sys
    import numpy as np
    import unifreeze as uf
    from tests.support import cached_nets as nets

    def resident():
        text = open("/proc/self/status").read()
        return int(text.partition("VmRSS:")[2].split()[0]) * 1024

    fw = nets.framework_of(sys.argv[1])
    nn = fw.nn
    model = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(4)], nn.Linear(2048, 2))
    handle = uf.FreezePlan().only('path:"4"').apply(model)
    model.train()
    batch = fw.tensor(np.ones((4, 2048), "float32"))
    with handle.cached() as run:
        run.fill([batch])
        model(batch).sum().backward()
        before = resident()
        freed = run.drop_frozen()
        model(batch).sum().backward()
        saved = before - resident()
        run.restore_frozen()
        print(freed, saved, before - resident())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read memory from")
def test_dropping_frees_the_memory_of_the_frozen_weights(framework):
    places = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), framework],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    freed, saved, left = map(int, done.stdout.split()[-3:])
    assert freed == 4 * (2048 * 2048 + 2048) * 4
    assert saved > 0.9 * freed
    assert left < 0.3 * freed
