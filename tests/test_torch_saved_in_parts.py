"""PyTorch: `torch.distributed.checkpoint` keeps a run with phases, in any number of processes."""

from __future__ import annotations

import pytest

from tests.support import saved_in_parts as parts
from tests.support.processes import in_processes


def check(folder, *stages):
    """Save in some processes and go on in others."""
    for count, stage in stages:
        seen = in_processes(parts.every, count, str(folder), stage, timeout=500)
        assert seen == [list(parts.KITS)] * count


def test_a_run_goes_on_with_everything_that_its_optimizer_knew(tmp_path):
    check(tmp_path, (1, "save and go on"))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (2, 4), (1, 2)])
def test_a_run_goes_on_in_another_number_of_processes(tmp_path, before, after):
    check(tmp_path, (before, "save"), (after, "go on"))
