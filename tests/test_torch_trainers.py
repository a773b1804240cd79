"""In every trainer of PyTorch a plan makes the run that the plain loop makes, to the last bit."""

import pytest
import torch_trainer_runs as runs
from torch_trainer_runs import PLAN, RUNS, TIMELINE

HEAD = {"net.head.weight", "net.head.bias"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return {name: run(tmp_path_factory.mktemp(name)) for name, run in RUNS.items()}


@pytest.fixture(params=list(RUNS))
def trainer(request):
    return request.param


def test_phases_begin_at_the_steps_they_should_and_the_run_stops(whole, trainer):
    assert whole[trainer].phases == TIMELINE
    assert whole[trainer].handle.phase.name == "end"


def test_every_step_leaves_the_bits_that_the_plain_loop_leaves(whole, trainer):
    assert whole[trainer].after == whole["plain"].after
