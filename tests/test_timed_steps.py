"""An estimate runs steps of three kinds: what they show is of real steps, and leaves no trace."""

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache import module_calls, timed_steps

TEXTS = {"ids": nets.IDS[:8], "attention_mask": np.ones_like(nets.IDS[:8])}
TOP = "unifreeze: 1\nrules: [{only: 'head | layers[-1]'}]\ndropout: off\n"


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def with_an_unused_layer(fw):
    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = fw.nn.Linear(8, 16), fw.nn.Linear(16, 3)
            self.unused = fw.nn.Linear(16, 50)

        def forward(self, x):
            return self.head(self.body(x))

    return Net()


def moments_of(optimizer):
    """Return the bytes of an AdamW's moments: of all that it keeps but counts of steps."""
    state = optimizer.state_dict()
    state = state.get("state", state)
    rows = [v for row in state.values() for v in (row.values() if isinstance(row, dict) else [row])]
    sizes = [4 * int(np.prod(tuple(value.shape))) for value in rows if hasattr(value, "shape")]
    return sum(size for size in sizes if size > 4)


def test_bytes_are_those_of_a_real_step_also_where_a_layer_is_not_used(fw):
    model = with_an_unused_layer(fw)
    images = np.zeros((4, 8), np.float32)
    handle = uf.FreezePlan().only('path:"head" | path:"unused"').apply(model)
    estimate = handle.estimate(images, examples=9)
    optimizer = fw.AdamW(parameters=model.parameters()) if fw.name == "paddle" else None
    optimizer = optimizer or fw.AdamW(model.parameters())
    model(fw.tensor(images)).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert estimate.gradient_bytes == sum(4 * int(np.prod(tuple(g.shape))) for g in gradients)
    optimizer.step()
    assert estimate.optimizer_bytes == moments_of(optimizer)


@pytest.fixture
def calls(monkeypatch):
    """A clock that tells how many modules have been called, so that ratios are known."""
    count = [0]
    call = module_calls._StandIn.__call__

    def counted(self, *args, **kwargs):
        count[0] += 1
        return call(self, *args, **kwargs)

    monkeypatch.setattr(module_calls._StandIn, "__call__", counted)
    monkeypatch.setattr(timed_steps, "process_time", lambda: float(count[0]))
    return count


def test_a_cached_step_is_one_in_which_frozen_layers_do_not_run(fw, calls):
    handle = uf.FreezePlan.from_yaml(TOP).apply(nets.text_net(fw))
    estimate = handle.estimate(TEXTS, examples=100)
    assert estimate.predicted == 1  # the same modules are called
    assert estimate.predicted_cached > 2
    assert estimate.pays_from >= 2


def test_without_a_cache_both_predictions_are_the_same(fw, calls):
    handle = uf.FreezePlan().only("embeddings | head").apply(nets.text_net(fw))
    estimate = handle.estimate(TEXTS, examples=100)
    assert estimate.why_not
    assert estimate.predicted_cached == estimate.predicted == 1
    assert (estimate.pays_from, estimate.cache_bytes) == (0, 0)


def test_an_estimate_in_a_cached_block_is_refused(fw):
    handle = uf.FreezePlan.from_yaml(TOP).apply(nets.text_net(fw))
    with handle.cached(), pytest.raises(uf.UnifreezeError, match="call estimate before the block"):
        handle.estimate(TEXTS, examples=100)
    handle.estimate(TEXTS, examples=100)


def test_no_step_of_an_estimate_counts_as_training(fw):
    text = (
        "{name: first, rules: [{only: head}]}, {name: later, at: {epoch: 1}, add: [{train: all}]}"
    )
    handle = uf.FreezePlan.from_yaml(f"unifreeze: 1\nphases: [{text}]\n").apply(nets.text_net(fw))
    before = handle.state_dict()
    handle.estimate(TEXTS, examples=100)
    assert handle.state_dict() == before
    handle.verify()


def test_the_random_numbers_of_a_loop_are_the_same_after_an_estimate(fw):
    model = nets.text_net(fw)
    handle = uf.FreezePlan().only("head | layers[-1]").apply(model)
    model.train()
    outputs = []
    for estimated in (False, True):
        fw.seed(3)
        np.random.seed(3)
        if estimated:
            handle.estimate(TEXTS, examples=100)
        result = model(fw.tensor(nets.IDS[:4])).detach().numpy()
        outputs.append((result, np.random.random()))
    assert (outputs[0][0] == outputs[1][0]).all()
    assert outputs[0][1] == outputs[1][1]
