"""Networks and loops made to fool the cache: each trains the same bits, or is refused in words."""

import random

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cache_attacks_by_code as by_code
from tests.support import cache_attacks_by_state as by_state
from tests.support import cached_nets as nets
from tests.support.cache_attacks import ATTACKS, ROWS, body_and_head, line, module
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


SAID = {
    "causal_over_rows": "a (LSTM) is frozen, and what it returns for a row depends on other rows",
    "place_in_the_batch": "table (Embedding) is frozen, and what it returns for a row depends",
    "cumulative_sum": "norm_stats: hold",
    "large_batches_are_centred": "body is frozen, and what it returns for a row depends on other",
    "packed_rows": "depends on other rows",
    "rare_chance_in_python": "dropout: off",
    "rare_chance_in_numpy": "body (Made) is frozen, and what it returns depends on chance",
    "stash_in_a_list": "reads what they left behind (IndexError",
    "stash_read_by_the_loop": "body sets 'kept' in each forward pass, to what a frozen module",
    "input_changed_in_place": "the last frozen module is body (Made); code between modules writes",
    "index_from_what_trains": "judge.weight is trainable",
    "moving_average_in_forward": "slow.weight changes in each forward pass",
    "scale_set_by_the_loop": "body.scale was changed from outside since rows were kept",
    "scale_of_the_model_set_by_the_loop": "what is kept of a differs from what it computes now",
    "tensor_attribute_changed": "body.held is frozen, and has changed",
    "setting_in_an_object": "body.settings was changed from outside",
    "buffer_of_the_model_set_by_the_loop": "scale is frozen, and has changed",
    "hook_put_on_later": "body.0 has a hook around its forward pass",
    "function_replaced": "body.act was changed from outside",
    "constant_of_the_file": "body.forward's FACTOR was changed from outside",
    "constant_that_only_a_helper_reads": "body.forward's FACTOR was changed from outside",
    "helper_of_a_helper_replaced": "body.forward's bend was changed from outside",
    "settings_of_the_file_changed": "body.forward's scale was changed from outside",
    "settings_of_the_file_replaced": "body.forward's CONFIG was changed from outside",
    "constant_of_the_class": "body.scale was changed from outside",
    "constant_of_a_base_hidden_by_the_class": "body.scale was changed from outside",
    "method_of_the_class_replaced": "body.bent was changed from outside",
    "property_of_the_class_replaced": "body.factor was changed from outside",
    "forward_of_the_class_replaced": "body.forward was changed from outside",
    "code_of_a_function_changed": "body.forward's scaled was changed from outside",
    "branch_on_rare_values": "train without a cache",
}
"""What refusals say; networks that are not listed train the same bits, or are refused, too."""
HIT = (
    "list_of_losses", "counter_in_live_code", "counter_in_a_list", "hook_that_collects",
    "hook_that_changes", "buffer_behind_the_boundary_set_by_the_loop", "gate_on_large_values",
    "gate_on_small_values", "chance_in_the_live_part", "layers_by_the_step",
    "proxy_that_stands_for_nothing_yet", "forward_of_a_live_class_replaced",
    "constant_that_live_code_reads",
)  # fmt: skip
"""Networks that look as bad, and are cached with the same bits."""


@pytest.mark.parametrize("make", [*ATTACKS, *by_state.ATTACKS, *by_code.ATTACKS])
def test_a_network_made_to_fool_the_cache_trains_right_or_is_refused(framework, make):
    outcome = compare(nets.framework_of(framework), make)
    assert not outcome.startswith("WRONG"), outcome
    assert outcome.startswith("same") or "hint" in outcome
    assert SAID.get(make.__name__, "") in outcome
    if make.__name__ in HIT:
        assert outcome.startswith("same")
        assert "same: 0 hits" not in outcome


def test_values_that_are_too_large_for_float16_are_refused(framework):
    fw = nets.framework_of(framework)
    model = body_and_head(fw, line(fw))
    big = module(fw, lambda n, x: n.a(x) * 1e6, a=line(fw))
    model.body = big
    handle = uf.FreezePlan.from_yaml("unifreeze: 1\nrules: [{only: 'path:\"head\"'}]\n").apply(
        model
    )
    batch = fw.tensor(ROWS[:8])
    with handle.cached(dtype="float16"), pytest.raises(CacheError, match="too large for float16"):
        model(batch)
    with handle.cached(dtype="bfloat16") as run:
        model(batch)
        model(batch)
    assert run.counts.hits == 8
