"""Rows that are known again by the ids of their samples."""

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache import given_back
from unifreeze.errors import CacheError

PLAN = 'unifreeze: 1\ndropout: off\nrules: [{only: "head | last"}]\n'


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def built(fw):
    fw.seed(0)
    model = nets.residual_net(fw)
    return model, uf.FreezePlan.from_yaml(PLAN).apply(model)


def train(fw, *, ids=None, each=None, epochs=3, folder=None):
    model, handle = built(fw)
    now = []

    def batches(epoch):
        for rows, length in nets.image_batches(epoch):
            now[:] = rows.tolist()
            yield rows, length

    block = (lambda: handle.cached(folder, ids=ids(now))) if ids else None
    return nets.train(fw, model, handle, batches, epochs=epochs, cached=block, each=each)


@pytest.mark.parametrize(
    "ids",
    [
        lambda now: lambda _: now,
        lambda now: lambda _: [f"picture {row}" for row in now],
        lambda now: lambda _: np.array(now),
    ],
)
def test_ids_in_place_of_bytes_give_the_same_bits(fw, ids):
    plain, cached = train(fw), train(fw, ids=ids)
    assert nets.same(plain, cached)
    counts = cached[3].counts
    assert counts.misses == 24
    assert counts.hits + counts.uncached == 48


def test_ids_serve_a_second_run_from_a_folder(fw, tmp_path):
    for _ in range(2):
        cached = train(fw, ids=lambda now: lambda _: now, folder=tmp_path)
    assert cached[3].counts.misses == 8  # the batch on which outputs are looked at first


def named_net(fw):
    """A model that is called by name, and takes nothing but `x`."""
    inner = nets.residual_net(fw)

    class Named(fw.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x=None):
            return self.inner(x)

    return Named()


@pytest.mark.parametrize("takes", [False, True])
def test_the_input_that_holds_ids_is_not_passed_on_to_a_model_without_it(fw, takes):
    fw.seed(0)
    model = named_net(fw)
    if takes:
        plain = type(model).forward
        type(model).forward = lambda self, x=None, sample=None: plain(self, x)
    handle = uf.FreezePlan().only("head | inner.last").apply(model)
    images = fw.tensor(nets.IMAGES[:4])
    ids = fw.tensor(np.arange(4))
    model.train()
    with handle.cached(ids="sample") as run:
        for _ in range(4):
            result = model(x=images, sample=ids)
    assert run.counts.misses == 4
    assert run.counts.hits >= 8
    assert tuple(result.shape) == (4, 3)


def test_a_batch_in_a_dictionary_is_looked_into(fw):
    fw.seed(0)
    inner = nets.residual_net(fw)

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, batch):
            return self.inner(batch["x"])

    model = Net()
    handle = uf.FreezePlan().only("head | inner.last").apply(model)
    with handle.cached(ids="row") as run:
        for _ in range(4):
            model({"x": fw.tensor(nets.IMAGES[:4]), "row": fw.tensor(np.arange(4))})
    assert run.counts.misses == 4


def test_the_same_id_for_other_inputs_is_found(fw, monkeypatch):
    monkeypatch.setattr(given_back, "CHECK_EVERY", 6)

    def often():
        train(fw, ids=lambda now: lambda _: [0, 1, 2, 3, 4, 5, 6, 7], epochs=9)

    with pytest.raises(CacheError, match=r"row \d of this batch: what is kept of .* differs") as e:
        often()
    assert "ids" in str(e.value)


def test_the_first_batch_that_is_given_back_by_ids_is_compared(fw):
    model, handle = built(fw)
    with handle.cached(ids=lambda _: [0, 1, 2, 3]) as run:
        model(fw.tensor(nets.IMAGES[:4]))
        with pytest.raises(CacheError, match="differs"):
            model(fw.tensor(nets.IMAGES[4:8]))
    assert run.counts.misses == 4


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (lambda _: [1, 2], "2 ids for a batch of 4 rows"),
        (lambda _: 3, "3 for a batch of 4 rows"),
        (lambda _: [1, 2, 3, None], "the id None is neither a whole number nor text"),
        (lambda _: [1.5] * 4, "the id 1.5 is neither"),
        ("sample", "without an input of that name"),
    ],
)
def test_ids_that_do_not_fit_are_refused(fw, ids, said):
    model, handle = built(fw)
    with handle.cached(ids=ids), pytest.raises(CacheError, match=said):
        model(fw.tensor(nets.IMAGES[:4]))


def test_ids_are_a_name_or_a_function(fw):
    _, handle = built(fw)
    with pytest.raises(uf.UnifreezeError, match="ids"):
        handle.cached(ids=3)
