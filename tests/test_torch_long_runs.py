"""PyTorch: 1,000 steps with 200 random changes under DDP: ranks are equal, memory stays flat."""

from __future__ import annotations

import pytest

from tests.support import long_runs
from tests.support.processes import in_processes

SETTINGS = [{}, {"static_graph": True}, {"find_unused_parameters": True}]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: next(iter(s), "plain"))
def test_memory_is_flat_and_ranks_are_equal(settings):
    first, second = in_processes(long_runs.run, 2, settings, timeout=1200)
    assert first["digests"] == second["digests"]
    assert len(set(first["digests"])) == long_runs.STEPS
    for rank in (first, second):
        warm, end = rank["objects"][2], rank["objects"][-1]
        assert end < 1.01 * warm, rank["objects"]
        warm, end = rank["memory"][2], rank["memory"][-1]
        assert end < 1.02 * warm, rank["memory"]
