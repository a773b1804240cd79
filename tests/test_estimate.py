"""What freezing saves is estimated before training, and the model is as it was."""

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


TEXTS = {"ids": nets.IDS[:8], "attention_mask": np.ones_like(nets.IDS[:8])}


def estimate(model, rules, batch, **how):
    plan = uf.FreezePlan.from_yaml(f"unifreeze: 1\nrules: [{{{rules}}}]\ndropout: off\n")
    handle = plan.apply(model)
    before = nets.values_of(model)
    found = handle.estimate(batch, **{"examples": 100, **how})
    assert all((before[name] == value).all() for name, value in nets.values_of(model).items())
    handle.verify()
    return found


def test_a_frozen_prefix_is_found_with_its_share(fw):
    found = estimate(nets.text_net(fw), 'only: "head | layers[-1]"', TEXTS)
    assert found.ends_at == "layers.3.query.weight"
    assert found.frozen_share == pytest.approx(0.75, abs=0.02)
    assert found.cached_share == pytest.approx(found.frozen_share, abs=0.02)
    assert found.limit == pytest.approx(3 / (3 - 2 * found.frozen_share), rel=0.1)
    assert found.cached_limit > found.run_limit > found.limit
    assert found.why_not == found.cure == ""


def test_the_module_that_breaks_the_prefix_is_named_with_what_it_costs(fw):
    found = estimate(nets.text_net(fw), 'only: "embeddings | head | layers[-1]"', TEXTS)
    assert found.ends_at == "embeddings.words.weight"
    assert found.cached_share == 0
    assert found.cure == "embeddings"
    assert found.cured_share == pytest.approx(0.75, abs=0.02)
    assert "nothing can be cached" in found.why_not
    assert "freeze embeddings as well, and" in str(found)


def test_dropout_that_prevents_a_cache_is_named(fw):
    plan = uf.FreezePlan().only("head | layers[-1]")
    found = plan.apply(nets.text_net(fw)).estimate(TEXTS, examples=100)
    assert "depends on chance" in found.why_not
    assert "dropout: off" in found.why_not


def test_bytes_are_exact(fw):
    model = nets.residual_net(fw)
    found = estimate(model, 'only: "head"', nets.IMAGES[:4], examples=50)
    assert found.gradient_bytes == 4 * (16 * 3 + 3)
    assert found.optimizer_bytes == 2 * found.gradient_bytes
    rows = uf.FreezePlan().only("head").apply(model).cached()
    model.train()
    with rows:
        model(fw.tensor(nets.IMAGES[:4]))
    assert found.cache_bytes * 4 == 50 * rows._store.nbytes


def test_what_is_kept_for_the_backward_pass_shrinks_with_freezing(fw):
    model = nets.residual_net(fw)
    head = estimate(model, 'only: "head"', nets.IMAGES[:4])
    everything = estimate(model, 'only: "head | last | stages"', nets.IMAGES[:4])
    assert 0 < head.activation_bytes < everything.activation_bytes / 2


@pytest.mark.parametrize("how", [{"examples": 0}, {"examples": 10, "epochs": 0}])
def test_numbers_are_checked(fw, how):
    handle = uf.FreezePlan().only("head").apply(nets.residual_net(fw))
    with pytest.raises(uf.UnifreezeError, match="is below 1"):
        handle.estimate(nets.IMAGES[:4], **how)


def test_several_models_are_refused(fw):
    models = {"a": nets.residual_net(fw), "b": nets.residual_net(fw)}
    handle = uf.apply(uf.FreezePlan().freeze('path:"a"'), models)
    for call in (lambda: handle.estimate(nets.IMAGES[:4], examples=9), handle.cached):
        with pytest.raises(uf.UnifreezeError, match="several models"):
            call()
