"""Kept rows and what happens around them: kills, full disks, other processes, loaders."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cache_kills
from tests.support import cached_nets as nets
from unifreeze.errors import UnifreezeWarning

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def program(*arguments):
    """Run `tests.support.cache_kills` in a process of its own; return what it printed."""
    places = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.cache_kills", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": places},
    )  # fmt: skip
    assert not result.returncode, result.stdout + result.stderr
    return result.stdout


def test_ten_kills_at_random_moments_of_the_filling_change_no_bit(framework):
    said = program(framework, "--kills", 10)
    assert said.count(f"{framework}: killed after") == 10


def test_two_processes_fill_one_folder_and_each_reads_all_of_it(framework, tmp_path):
    program(framework, "--two", tmp_path)


def test_a_file_that_may_not_grow_ends_the_filling_and_says_so(framework, tmp_path):
    said = program(framework, "--disk", tmp_path, "--most", 1000)
    assert "no more rows are kept: cannot write to" in said
    assert "limits the size of files" in said
    assert "training goes on without" in said
    assert "stopped keeping rows: cannot write" in said


def test_a_full_disk_ends_the_filling_and_says_so(framework, tmp_path):
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", tmp_path], capture_output=True
    ).returncode
    try:
        # Where no small disk can be mounted, a device that is always full stands for one.
        if not mounted:
            (tmp_path / "rows").symlink_to("/dev/full")
            with pytest.raises(uf.UnifreezeError):
                refused_folder(framework, tmp_path / "rows")
            return
        said = program(framework, "--disk", tmp_path / "rows")
    finally:
        if mounted:
            subprocess.run(["umount", tmp_path], check=True)
    assert "No space left on device (make room on the disk" in said
    assert "kept: 5 rows" in said


def refused_folder(framework, folder):
    fw = nets.framework_of(framework)
    uf.FreezePlan.from_yaml(cache_kills.PLAN).apply(nets.residual_net(fw)).cached(folder)


@pytest.fixture
def as_nobody():
    """A folder that this process may read and not write to; the superuser may write anywhere."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # noqa: PTH101
        before = os.geteuid()

        def become():
            for path in Path(place).rglob("*"):
                path.chmod(0o555 if path.is_dir() else 0o444)
            os.chmod(place, 0o555)  # noqa: PTH101
            if before == 0:
                os.seteuid(NOBODY)

        try:
            yield Path(place), become
        finally:
            os.seteuid(before)
            os.chmod(place, 0o755)  # noqa: PTH101
            for path in Path(place).rglob("*"):
                path.chmod(0o755)


def test_in_a_read_only_folder_nothing_is_kept_and_that_is_said(fw, as_nobody):
    folder, become = as_nobody
    plain = cache_kills.fill(fw, None)
    become()
    with pytest.warns(UnifreezeWarning, match="Permission denied"):
        cached = cache_kills.fill(fw, folder)
    assert nets.same(plain, cached)
    assert "stopped keeping rows" in str(cached[3])


def test_rows_in_a_read_only_folder_are_read(fw, as_nobody):
    folder, become = as_nobody
    plain = cache_kills.fill(fw, folder)
    become()
    cached = cache_kills.fill(fw, folder)
    assert nets.same(plain, cached)
    assert (cached[3].counts.misses, cached[3].counts.hits) == (8, 56)


def test_a_folder_that_may_not_be_made_is_refused_before_training(fw, as_nobody):
    folder, become = as_nobody
    handle = uf.FreezePlan.from_yaml(cache_kills.PLAN).apply(nets.residual_net(fw))
    become()
    with pytest.raises(uf.UnifreezeError, match=r"cannot keep rows in .*Permission denied"):
        handle.cached(folder / "rows")


class Images:
    """The images as a data set for loaders."""

    def __len__(self):
        return len(nets.IMAGES)

    def __getitem__(self, row):
        return nets.IMAGES[row], nets.LABELS[row]


def loader_of(fw, order):
    if fw.name == "torch":
        from torch.utils.data import DataLoader

        return DataLoader(Images(), batch_size=8, sampler=order, num_workers=3)
    from paddle import io

    class PaddleImages(Images, io.Dataset):
        """Paddle takes only its own class."""

    batches = [list(map(int, order[n : n + 8])) for n in range(0, len(order), 8)]
    return io.DataLoader(PaddleImages(), batch_sampler=batches, num_workers=3)


def test_batches_from_several_loader_workers_give_the_same_bits(fw):
    results = []
    for use in (False, True):
        fw.seed(0)
        model = nets.residual_net(fw)
        handle = uf.FreezePlan.from_yaml(cache_kills.PLAN).apply(model)
        optimizer, losses = handle.optimizer(fw.AdamW, lr=1e-2), []

        def train(model=model, optimizer=optimizer, losses=losses):
            for epoch in range(3):
                for images, labels in loader_of(fw, np.random.default_rng(epoch).permutation(24)):
                    loss = fw.nn.functional.cross_entropy(model(images), labels)
                    loss.backward()
                    optimizer.step()
                    fw.clear(optimizer)
                    losses.append(float(loss))

        if use:
            with handle.cached() as run:
                train()
            assert (run.counts.misses, run.counts.hits) == (24, 48)
        else:
            train()
        results.append((losses, {n: v.tobytes() for n, v in nets.values_of(model).items()}))
    assert results[0] == results[1]
