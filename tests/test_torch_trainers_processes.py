"""PyTorch: phases change in several processes under accelerate, transformers and Lightning."""

from __future__ import annotations

import socket

import pytest

from tests.support import trainers_in_processes as trainers
from tests.support.processes import in_processes


@pytest.fixture(scope="module")
def seen():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return in_processes(trainers.runs, 2, port, timeout=150, UNIFREEZE_TIMEOUT="20")


@pytest.mark.parametrize("trainer", trainers.RUNS)
def test_ranks_are_equal_in_every_phase(trainer, seen):
    first, second = (rank[trainer] for rank in seen)
    assert first == second
    names = list(dict.fromkeys(name for name, _ in first))
    assert names == ["head", "top", "all", "head again"]
    assert len({bits for _, bits in first}) > len(names)
