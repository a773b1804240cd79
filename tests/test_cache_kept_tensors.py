"""Of the tensors that a frozen call returns, those that the rest of the model reads are kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze.errors import CacheError

WIDTH, LENGTH, ROWS = 16, 12, 24
HIDDEN = LENGTH * WIDTH * 4
SCORES = LENGTH * LENGTH * 4
PLAN = 'unifreeze: 1\ndropout: off\nrules: [{only: "path:\\"last\\" | path:\\"head\\""}]\n'


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


@dataclasses.dataclass
class Result:
    """What a backbone returns, as libraries write it."""

    last: object
    states: tuple
    scores: list
    note: str = "states"


def attention(fw):
    """A layer that returns its hidden state and its attention weights."""

    class Layer(fw.Module):
        def __init__(self):
            super().__init__()
            self.query, self.value = fw.nn.Linear(WIDTH, WIDTH), fw.nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            scores = fw.softmax(self.query(x) @ fw.swap(x) * 0.25)
            return x + self.value(scores @ x), scores

    return Layer()


def backbone(fw, count=4, form=Result):
    """Layers that return all of their states and scores in one container."""

    class Backbone(fw.Module):
        def __init__(self):
            super().__init__()
            self.words = fw.nn.Embedding(50, WIDTH)
            self.layers = fw.List([attention(fw) for _ in range(count)])

        def forward(self, ids):
            states, all_scores = [self.words(ids)], []
            for layer in self.layers:
                x, scores = layer(states[-1])
                states.append(x)
                all_scores.append(scores)
            if form is Result:
                return Result(states[-1], tuple(states), all_scores)
            if form is dict:
                return {"last": states[-1], "states": states, "scores": tuple(all_scores)}
            return states[-1], states, all_scores

    return Backbone()


def net(fw, reads, *, form=Result, layers=None):
    """A model of layers one by one, or of a backbone of which `reads` takes something."""

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.body = layers or backbone(fw, form=form)
            self.last = attention(fw)
            self.head = fw.nn.Linear(WIDTH, 3)
            self.phase = 0

        def forward(self, ids, attention_mask=None):
            return self.head(self.last(reads(self, self.body(ids)))[0].mean(1))

    return Net()


def two_lists(result):
    if isinstance(result, Result):
        return result.last, result.states, result.scores
    return tuple(result.values()) if isinstance(result, dict) else result


READS = {
    "the last state": (lambda m, r: two_lists(r)[0], HIDDEN),
    "the last of a list": (lambda m, r: two_lists(r)[1][-1], HIDDEN),
    "a middle state": (lambda m, r: two_lists(r)[1][2], HIDDEN),
    "the first state": (lambda m, r: two_lists(r)[1][0], HIDDEN),
    "a slice of a middle state": (lambda m, r: two_lists(r)[1][2][:, 2:9] * 2, HIDDEN),
    "the last state under both of its names": (
        lambda m, r: two_lists(r)[0] * two_lists(r)[1][-1],
        HIDDEN,
    ),
    "two states, added": (lambda m, r: two_lists(r)[1][1] + two_lists(r)[1][3], 2 * HIDDEN),
    "a state and its scores": (
        lambda m, r: two_lists(r)[2][1] @ two_lists(r)[1][1],
        HIDDEN + SCORES,
    ),
    "scores alone": (lambda m, r: two_lists(r)[2][3] @ two_lists(r)[1][0], HIDDEN + SCORES),
    "a mean without gradient": (
        lambda m, r: two_lists(r)[1][1] + two_lists(r)[2][0].detach().mean(),
        HIDDEN + SCORES,
    ),
}


def ids_batches(epoch):
    order = np.random.default_rng(epoch).permutation(ROWS)
    return [(order[n : n + 8], LENGTH) for n in range(0, ROWS, 8)]


def both(fw, make, *, plan=PLAN, folder=None, epochs=2, batches=ids_batches):
    """Train without and with a cache; hold them equal, and return the run."""
    fw.seed(0)
    model = make()
    start, results = nets.values_of(model), []
    for use in (False, True):
        fw.load(model, {name: fw.tensor(value) for name, value in start.items()})
        handle = uf.FreezePlan.from_yaml(plan).apply(model)

        def each(epoch, handle=handle):
            handle.step(epoch=epoch)
            return batches(epoch)

        block = (lambda h=handle: h.cached(folder)) if use else None
        results.append(nets.train(fw, model, handle, each, epochs=epochs, cached=block))
        handle.remove()
    assert nets.same(*results)
    return results[1][3]


@pytest.mark.parametrize("form", [Result, dict, tuple])
@pytest.mark.parametrize("reads", READS)
def test_what_is_read_of_a_backbone_is_kept_and_nothing_else(fw, reads, form):
    taken, size = READS[reads]
    run = both(fw, lambda: net(fw, taken, form=form))
    assert run._store.nbytes == ROWS * size
    assert run.counts.hits > 0


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_attention_weights_that_nobody_reads_are_not_kept(fw, place, tmp_path):
    """Each layer is called by the model's own code and returns its scores beside its state."""

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.words = fw.nn.Embedding(50, WIDTH)
            self.layers = fw.List([attention(fw) for _ in range(3)])
            self.last, self.head = attention(fw), fw.nn.Linear(WIDTH, 3)

        def forward(self, ids, attention_mask=None):
            x = self.words(ids)
            for layer in self.layers:
                x = layer(x)[0]
            return self.head(self.last(x)[0].mean(1))

    run = both(fw, Net, folder=tmp_path if place == "folder" else None)
    assert run._store.nbytes == ROWS * HIDDEN
    if place == "folder":
        again = both(fw, Net, folder=tmp_path)
        assert (again.counts.misses, again._store.nbytes) == (8, ROWS * HIDDEN)


def test_scores_that_the_model_returns_are_kept(fw):
    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.words, self.body = fw.nn.Embedding(50, WIDTH), attention(fw)
            self.head = fw.nn.Linear(WIDTH, 3)

        def forward(self, ids):
            x, scores = self.body(self.words(ids))
            return self.head(x), scores

    model = Net()
    handle = uf.FreezePlan().only('path:"head"').apply(model)
    ids = fw.tensor(nets.IDS[:8])
    with handle.cached() as run:
        first, second = model(ids), model(ids)
        third = model(ids)
    assert run._store.nbytes == 8 * (HIDDEN + SCORES)
    for again in (second, third):
        assert [t.numpy().tobytes() for t in again[1:]] == [t.numpy().tobytes() for t in first[1:]]


def test_a_tensor_in_two_places_stays_one_tensor(fw):
    """What is written to it in place shows in both places, as without a cache."""

    class Body(fw.Module):
        def __init__(self):
            super().__init__()
            self.words = fw.nn.Embedding(50, WIDTH)

        def forward(self, ids):
            x = self.words(ids)
            return {"a": x, "b": [x, 1]}

    def reads(model, result):
        result["a"][:, 0] = 2.0
        return result["b"][0]

    run = both(fw, lambda: net(fw, reads, layers=Body()))
    assert run._store.nbytes == ROWS * HIDDEN


def test_whole_numbers_are_kept_though_nobody_reads_them(fw):
    """They cannot be NaN, so that nothing would show that somebody reads them later."""

    class Body(fw.Module):
        def __init__(self):
            super().__init__()
            self.words = fw.nn.Embedding(50, WIDTH)

        def forward(self, ids):
            x = self.words(ids)
            return x, x + 1, ids + 1

    run = both(fw, lambda: net(fw, lambda m, r: r[0], layers=Body()))
    assert run._store.nbytes == ROWS * (HIDDEN + LENGTH * 8)


PHASES = (
    "unifreeze: 1\ndropout: off\nphases:\n"
    '- {name: first, rules: [{only: \'path:"last" | path:"head"\'}]}\n'
    "- {name: then, at: {epoch: 2}, rules: [{only: 'path:\"head\"'}]}\n"
)


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_a_state_that_only_a_later_phase_reads_is_kept_from_then_on(fw, place, tmp_path):
    def reads(model, result):
        trains = [p.requires_grad if fw.name == "torch" else not p.stop_gradient
                  for p in model.last.parameters()]  # fmt: skip
        return result.states[4 if any(trains) else 1]

    run = both(
        fw,
        lambda: net(fw, reads),
        plan=PHASES,
        epochs=4,
        folder=tmp_path if place == "folder" else None,
    )
    # Of the second phase the last layer is frozen as well, which returns a state and scores.
    assert run._store.nbytes == ROWS * 2 * HIDDEN
    assert not run.counts.extended


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_a_phase_that_freezes_more_begins_with_what_is_kept(fw, place, tmp_path):
    run = both(
        fw,
        lambda: net(fw, READS["the last of a list"][0]),
        plan=PHASES,
        epochs=4,
        folder=tmp_path if place == "folder" else None,
    )
    assert run._store.nbytes == ROWS * 2 * HIDDEN
    assert run.counts.extended > 0


def test_code_that_reads_something_else_without_a_sign_is_found(fw):
    """The rows do not hold it; the model is told of it by NaN, and the run stops."""
    model = net(fw, lambda m, r: r.states[m.phase])
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    ids = fw.tensor(nets.IDS[:8])
    with handle.cached():
        for _ in range(3):
            model(ids)
        model.phase = 2
        with pytest.raises(CacheError, match="computes something else"):
            model(ids)


def test_code_that_writes_to_what_is_not_kept_does_not_hide_a_later_read(fw):
    """Of all tensors of that shape, the value that stands for them must stay NaN."""
    switch = []

    def reads(model, result):
        result.scores[0][:, 0] = 0.0
        result.scores[0][:, 1:] = 0.0
        return result.last + (result.scores[1] @ result.last if switch else 0.0)

    model = net(fw, reads)
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    ids = fw.tensor(nets.IDS[:8])
    with handle.cached():
        for _ in range(3):
            model(ids)
        switch.append(True)
        with pytest.raises(CacheError, match="computes something else"):
            model(ids)


def test_the_frozen_part_can_leave_memory(fw, tmp_path):
    plain = both(fw, lambda: net(fw, READS["a middle state"][0]))
    assert plain._store.nbytes == ROWS * HIDDEN
    fw.seed(0)
    model = net(fw, READS["a middle state"][0])
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    model.train()
    batches = [fw.tensor(nets.IDS[n : n + 8]) for n in (0, 8, 16)]
    want = [model(ids).detach().numpy() for ids in batches]
    with handle.cached(tmp_path) as run:
        run.fill(batches)
        run.drop_frozen()
        got = [model(ids).detach().numpy() for ids in batches]
        assert run._store.nbytes == ROWS * HIDDEN
    assert [a.tobytes() for a in got] == [b.tobytes() for b in want]


def test_the_estimate_counts_what_is_read(fw):
    model = net(fw, READS["a middle state"][0])
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    model.train()
    estimate = handle.estimate(fw.tensor(nets.IDS[:8]), examples=1000)
    assert estimate.cache_bytes == 1000 * HIDDEN
