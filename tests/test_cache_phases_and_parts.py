"""Phases that freeze more or less, and models that are called in parts."""

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache.extending import Extending
from unifreeze.errors import CacheError, UnifreezeWarning


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def phased(*rules):
    lines = "".join(
        f'- {{name: p{n}, at: {{epoch: {n}}}, rules: [{{only: "{rule}"}}]}}\n'
        if n
        else f'- {{name: p0, rules: [{{only: "{rule}"}}]}}\n'
        for n, rule in enumerate(rules)
    )
    return uf.FreezePlan.from_yaml(f"unifreeze: 1\ndropout: off\nphases:\n{lines}")


def both(fw, plan, make, data, *, epochs, folder=None):
    fw.seed(0)
    model = make(fw)
    start, results = nets.values_of(model), []
    for use in (False, True):
        fw.load(model, {name: fw.tensor(value) for name, value in start.items()})
        handle = plan.apply(model)

        def batches(epoch, handle=handle):
            handle.step(epoch=epoch)
            return data(epoch)

        block = (lambda h=handle: h.cached(folder)) if use else None
        results.append(nets.train(fw, model, handle, batches, epochs=epochs, cached=block))
        handle.remove()
    return results


TEXT = ["head | layers[-2:]", "head | layers[-1]", "head"]
IMAGE = ["head | last | stages[1]", "head | last", "head"]


@pytest.mark.parametrize(
    ("make", "data", "rules"),
    [
        (nets.text_net, nets.text_batches, TEXT),
        (nets.residual_net, nets.image_batches, ["head | last", "head"]),
    ],
)
@pytest.mark.parametrize("place", ["memory", "folder"])
def test_a_phase_that_freezes_more_extends_the_rows(fw, make, data, rules, place, tmp_path):
    folder = tmp_path if place == "folder" else None
    plain, cached = both(fw, phased(*rules), make, data, epochs=len(rules) + 1, folder=folder)
    assert nets.same(plain, cached)
    assert cached[3].counts.extended > 0
    assert "computed from rows of an earlier phase" in str(cached[3])


def test_only_the_modules_between_the_boundaries_run(fw, monkeypatch):
    fw.seed(0)
    model = nets.text_net(fw)
    ran = []

    def counted(self, key, forward, args, kwargs):
        ran.append(key[-1][0])
        return plain(self, key, forward, args, kwargs)

    plain = Extending._run
    monkeypatch.setattr(Extending, "_run", counted)
    handle = phased("head | layers[-2:]", "head | layers[-1]").apply(model)

    def batches(epoch):
        handle.step(epoch=epoch)
        return nets.text_batches(epoch)

    nets.train(fw, model, handle, batches, epochs=2, cached=handle.cached)
    paths = handle._in_force.backend.walk(model).tree.paths
    names = {paths[number].split(".")[1] for number in ran if paths[number].startswith("layers.")}
    assert names == {"2", "3"}


def test_after_a_thaw_and_a_new_freeze_old_rows_of_other_weights_are_not_used(fw):
    plan = phased("head | layers[-1]", "head | layers[-2:]", "head", "head | layers[-2:]")
    plain, cached = both(fw, plan, nets.text_net, nets.text_batches, epochs=5)
    assert nets.same(plain, cached)
    assert cached[3].counts.hits >= 24  # the last phase finds the rows of the second


def test_a_plan_that_freezes_by_hand_extends_too(fw):
    fw.seed(0)
    model = nets.text_net(fw, drop=0.0)
    handle = uf.FreezePlan.from_yaml("unifreeze: 1\nrules: [{only: 'head | layers[-2:]'}]").apply(
        model
    )
    model.eval()
    with handle.cached() as run:
        for rows, length in nets.text_batches(0):
            nets.run_net(fw, model, rows, length)
        for parameter in model.layers[2].parameters():
            if fw.name == "torch":
                parameter.requires_grad_(False)
            else:
                parameter.stop_gradient = True
        for rows, length in nets.text_batches(0):
            nets.run_net(fw, model, rows, length)
    assert run.counts.extended == 16


def test_an_epoch_with_few_hits_is_warned_of(fw):
    """Half of the samples are new in each epoch, and more."""
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = uf.FreezePlan().only("head | last").apply(model)
    draw = np.random.default_rng(5)

    def epoch(number):
        handle.step(epoch=number)
        for n in (0, 4, 8):
            new = draw.standard_normal((4, 3, 16, 16)).astype("float32")
            model(fw.tensor(new if n else nets.IMAGES[:4]))

    with handle.cached():
        epoch(0)
        epoch(1)
        with pytest.warns(UnifreezeWarning, match="in epoch 1 4 rows were given back, and 8"):
            epoch(2)


def test_each_epoch_begins_with_a_look_at_all_weights(fw):
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = uf.FreezePlan().only("head | last").apply(model)
    batch = fw.tensor(nets.IMAGES[:4])
    backend = handle._in_force.backend
    with handle.cached() as run:
        handle.step(epoch=0)
        for _ in range(3):
            model(batch)
        weight = model.stages[1].conv2.weight
        with backend.other_values([weight], 1.0625):
            handle.step(epoch=1)
            with pytest.raises(
                CacheError, match=r"stages.1.conv2.weight is frozen, and has changed"
            ):
                model(batch)
            with pytest.raises(CacheError, match="has changed"):
                run.check()


# Models that are called in parts ---------------------------------------------------------------


def parts(fw, drop=0.0):
    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            nn = fw.nn
            self.backbone = nn.Sequential(
                nn.Linear(16, 32), nn.ReLU(), nn.Dropout(drop), nn.Linear(32, 16)
            )
            self.head = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))

        def forward(self, x):
            raise NotImplementedError

    fw.seed(0)
    return Net()


ROWS = np.random.default_rng(0).standard_normal((16, 16)).astype("float32")


@pytest.mark.parametrize("rule", ['path:"head"', 'path:"head" | path:"backbone.3"'])
def test_parts_that_are_called_by_themselves_are_cached(fw, rule):
    losses = []
    for use in (False, True):
        model = parts(fw)
        handle = uf.FreezePlan().only(rule).apply(model)
        optimizer = handle.optimizer(fw.AdamW, lr=1e-2)
        block = handle.cached()
        if use:
            block.__enter__()
        seen = []
        for epoch in range(4):
            order = np.random.default_rng(epoch).permutation(16)
            for rows in np.split(order, 4):
                result = model.head(model.backbone(fw.tensor(ROWS[rows])))
                loss = (result * result).mean()
                loss.backward()
                optimizer.step()
                fw.clear(optimizer)
                seen.append(float(loss))
        losses.append(seen)
        if use:
            block.__exit__(None, None, None)
            assert (block.counts.misses, block.counts.hits) == (16, 48)
    assert losses[0] == losses[1]


def test_a_part_that_cannot_be_cached_is_refused_with_the_cure(fw):
    model = parts(fw, drop=0.5)
    handle = uf.FreezePlan().only('path:"head"').apply(model)
    model.train()
    with handle.cached(), pytest.raises(CacheError, match=r"backbone.2 .*depends on chance"):
        model.backbone(fw.tensor(ROWS))


def test_a_block_that_has_kept_nothing_says_so(fw):
    model = parts(fw)
    handle = uf.FreezePlan().only('path:"head" | path:"backbone.0"').apply(model)

    def look():
        with handle.cached():
            model.head(model.backbone(fw.tensor(ROWS)))

    with pytest.warns(UnifreezeWarning, match="has kept nothing: nothing can be cached"):
        look()


def test_a_phase_in_which_nothing_is_frozen_is_no_reason_to_warn(fw):
    text = phased("head | last", "head", "head | last").to_yaml()
    plan = uf.FreezePlan.from_yaml(text.replace('only: "head"}', "train: all}"))
    assert "all" in plan.to_yaml()
    plain, cached = both(fw, plan, nets.residual_net, nets.image_batches, epochs=4)
    assert nets.same(plain, cached)
    assert cached[3].counts.hits > 0
