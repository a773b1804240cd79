"""Networks and loops made to fool the cache: each trains the same bits, or is refused in words."""

import random

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from tests.support.cache_attacks import ATTACKS
from unifreeze.errors import CacheError

EPOCHS = 4


def trained(fw, attack, *, cached):
    """Train; return the losses and the final values, and the run."""
    rule = f"unifreeze: 1\nrules: [{{only: '{attack.rule}'}}]\n"
    handle = uf.FreezePlan.from_yaml(rule).apply(attack.model)
    optimizer = handle.optimizer(fw.AdamW, lr=1e-2)
    attack.model.train()
    call = attack.call or (lambda model, rows: model(fw.tensor(attack.data[rows])))
    fw.seed(1)
    random.seed(1)
    np.random.seed(1)
    losses = []

    def train():
        for epoch in range(EPOCHS):
            order = np.random.default_rng(epoch).permutation(len(attack.data))
            for rows in order.reshape(-1, 8) if epoch else np.arange(len(order)).reshape(-1, 8):
                if attack.each is not None:
                    attack.each(attack.model, len(losses))
                inputs = fw.tensor(attack.data[rows])
                result = call(attack.model, rows) if attack.loss is None else attack.model(inputs)
                loss = fw.nn.functional.cross_entropy(result, fw.tensor(rows % 3))
                if attack.loss is not None:
                    loss = loss + attack.loss(attack.model, inputs)
                loss.backward()
                optimizer.step()
                fw.clear(optimizer)
                losses.append(float(loss.detach()))

    run = None
    try:
        if cached:
            with handle.cached() as run:
                train()
        else:
            train()
    finally:
        handle.remove()
    return losses, {name: v.tobytes() for name, v in nets.values_of(attack.model).items()}, run


def compare(fw, make):
    """Return "same", "refused: …" or "WRONG …" for one attack."""
    results = []
    for cached in (False, True):
        fw.seed(0)
        try:
            results.append(trained(fw, make(fw), cached=cached))
        except CacheError as error:
            return f"refused: {error}"
    plain, with_cache = results
    counts = with_cache[2].counts
    if plain[:2] == with_cache[:2]:
        return f"same: {counts.hits} hits"
    first = next((n for n, (a, b) in enumerate(zip(plain[0], with_cache[0], strict=True))
                  if a != b), "values alone")  # fmt: skip
    return f"WRONG from step {first} on, {counts.hits} hits"


@pytest.mark.parametrize("make", ATTACKS)
def test_a_network_made_to_fool_the_cache_trains_right_or_is_refused(framework, make):
    outcome = compare(nets.framework_of(framework), make)
    assert not outcome.startswith("WRONG"), outcome
    assert outcome.startswith("same") or "hint" in outcome
