"""One batch in so many is compared with the modules, and it is not always one of the same kind."""

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache import faster_prefix, given_back
from unifreeze._cache.run_counts import is_compared
from unifreeze.errors import CacheError, UnifreezeWarning

W = 16
HEAD = "unifreeze: 1\nrules: [{only: 'path:\"head\"'}]\n"


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def test_one_pass_in_a_hundred_is_compared_whatever_comes_in_turn():
    compared = [number for number in range(10_000) if is_compared(number, 100)]
    assert len({number // 100 for number in compared}) == len(compared) == 100
    for period in range(2, 13):
        assert {number % period for number in compared} == set(range(period)), period


class Net:
    """Makes a frozen body and a head."""

    def __new__(cls, fw):
        class Module(fw.Module):
            def __init__(self):
                super().__init__()
                self.body, self.head = fw.nn.Linear(W, W), fw.nn.Linear(W, 2)

            def forward(self, x):
                return self.head(self.body(x))

        fw.seed(0)
        return Module()


def run_all(model, batches):
    for batch in batches:
        model(batch)


@pytest.mark.parametrize("drifting", [8, 4])
def test_sizes_that_come_in_turn_are_all_compared(fw, drifting, monkeypatch):
    monkeypatch.setattr(faster_prefix, "COMPARE_EVERY", 4)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model := Net(fw))
    backend, wrong = handle._in_force.backend, []
    make = backend.faster_forward

    def drifts(*args):
        fast = make(*args)
        return lambda x: fast(x) * (1.5 if wrong and x.shape[0] == drifting else 1.0)

    monkeypatch.setattr(backend, "faster_forward", drifts, raising=False)
    prefix = "bfloat16" if fw.name == "torch" else "inference"
    data = np.random.default_rng(0).standard_normal((40, 8, W)).astype("float32")
    with handle.cached(prefix=prefix, budget=1) as run:  # so no row is given back
        with pytest.warns(UnifreezeWarning, match="no more rows"):
            model(fw.tensor(data[0]))
        model(fw.tensor(data[1][:4]))
        wrong.append(True)
        with pytest.raises(CacheError, match="it did not before"):
            run_all(model, [fw.tensor(x[: 8 if n % 2 else 4]) for n, x in enumerate(data[2:])])
    assert run.counts.hits == 0


@pytest.mark.parametrize("changing", [8, 4])
def test_batches_given_back_in_turn_are_all_compared(fw, changing, monkeypatch):
    monkeypatch.setattr(given_back, "CHECK_EVERY", 4)
    model = Net(fw)
    factor = np.ones(1, "float32")
    plain = model.body.forward
    model.body.forward = lambda x: plain(x) * float(factor[0] if x.shape[0] == changing else 1)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    data = np.random.default_rng(0).standard_normal((12, W)).astype("float32")
    parts = fw.tensor(data[:8]), fw.tensor(data[8:])
    with handle.cached():
        for part in parts:
            model(part)
        factor[0] = 2.0
        with pytest.raises(CacheError, match="differs from what it computes now"):
            run_all(model, parts * 20)
