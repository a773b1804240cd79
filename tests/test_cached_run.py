"""With a cache, training gives the same bits as without, and the frozen part runs once."""

import warnings

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache import given_back
from unifreeze._cache.replaying import Replaying
from unifreeze.errors import CacheError, UnifreezeWarning

LAST = {
    "images": (nets.residual_net, nets.image_batches, "head | last"),
    "texts": (nets.text_net, nets.text_batches, "head | layers[-1]"),
}


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def plan_for(rule):
    return uf.FreezePlan.from_yaml(f'unifreeze: 1\nrules: [{{only: "{rule}"}}]\ndropout: off\n')


def both(fw, kind, *, make=None, **cached):
    """Train without and with a cache, from the same values."""
    build, batches, rule = LAST[kind]
    fw.seed(0)
    model = (make or build)(fw)
    start = nets.values_of(model)
    runs = []
    for use in (False, True):
        fw.load(model, {name: fw.tensor(value) for name, value in start.items()})
        handle = plan_for(rule).apply(model)
        block = (lambda h=handle: h.cached(**cached)) if use else None
        runs.append(nets.train(fw, model, handle, batches, cached=block))
        handle.verify()
        handle.remove()
    return runs


@pytest.mark.parametrize("kind", LAST)
def test_losses_gradients_and_values_are_the_same_bits(fw, kind):
    plain, cached = both(fw, kind)
    assert nets.same(plain, cached)
    counts = cached[3].counts
    assert (counts.misses, counts.hits, counts.uncached) == (24, 48, 0)


@pytest.mark.parametrize("kind", LAST)
def test_a_folder_gives_the_same_bits_and_serves_a_second_run(fw, kind, tmp_path):
    plain, first = both(fw, kind, folder=tmp_path)
    again, second = both(fw, kind, folder=str(tmp_path))
    assert nets.same(plain, first)
    assert nets.same(again, second)
    assert second[3].counts.hits > first[3].counts.hits
    assert "rows" in str(second[3])


def test_another_head_reuses_the_rows_of_a_folder(fw, tmp_path):
    fw.seed(0)
    model = nets.residual_net(fw)
    for width in (3, 5):
        model.head = fw.nn.Linear(16, width)
        handle = plan_for("head | last").apply(model)
        run = nets.train(
            fw, model, handle, nets.image_batches, cached=lambda h=handle: h.cached(tmp_path)
        )[3]
    assert run.counts.misses == 8  # the batch on which outputs are looked at first
    assert run.counts.uncached == 8  # the batch on which the rows are compared
    assert run.counts.hits == 56


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("place", ["memory", "folder"])
def test_half_precision_takes_half_the_room_and_is_close(fw, dtype, place, tmp_path):
    folder = tmp_path if place == "folder" else None
    plain, cached = both(fw, "texts", dtype=dtype, folder=folder)
    _, whole = both(fw, "texts")
    assert cached[3].counts.hits == 48
    assert 2 * cached[3]._store.nbytes == whole[3]._store.nbytes
    assert np.allclose(plain[0], cached[0], rtol=0.1)
    assert not nets.same(plain, cached)


def test_validation_inside_the_block_is_right_and_cached_too(fw):
    fw.seed(0)
    model = nets.text_net(fw)
    handle = plan_for("head | layers[-1]").apply(model)
    optimizer = handle.optimizer(fw.AdamW, lr=1e-2)
    rows = np.arange(4)

    def validate():
        model.eval()
        with fw.no_grad():
            return nets.run_net(fw, model, rows, 12).numpy()

    with handle.cached() as run:
        for _ in range(3):
            model.train()
            result = nets.run_net(fw, model, rows, 12)
            fw.nn.functional.cross_entropy(result, fw.tensor(nets.LABELS[rows])).backward()
            optimizer.step()
            fw.clear(optimizer)
            inside = validate()
    assert (inside == validate()).all()
    assert (run.counts.misses, run.counts.hits) == (8, 16)


def test_new_samples_are_misses_and_give_right_results(fw):
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = plan_for("head | last").apply(model)
    model.eval()
    noise = np.random.default_rng(5).standard_normal((3, 4, 3, 16, 16)).astype("float32")
    want = [model(fw.tensor(batch)).detach().numpy() for batch in noise]
    with handle.cached() as run:
        got = [model(fw.tensor(batch)).detach().numpy() for batch in noise]
    assert all((a == b).all() for a, b in zip(want, got, strict=True))
    assert (run.counts.misses, run.counts.hits) == (12, 0)


def test_samples_that_are_new_in_each_epoch_are_warned_of(fw):
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = plan_for("head | last").apply(model)
    draw = np.random.default_rng(5)

    def epoch(number):
        handle.step(epoch=number)
        model(fw.tensor(draw.standard_normal((4, 3, 16, 16)).astype("float32")))

    with handle.cached():
        epoch(0)
        epoch(1)
        with pytest.warns(UnifreezeWarning, match="in epoch 1 0 rows were given back, and 4"):
            epoch(2)


def test_a_batch_of_one_row_works(fw):
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = plan_for("head | last").apply(model)
    model.eval()
    batch = fw.tensor(nets.IMAGES[:1])
    want = model(batch).detach().numpy()
    with handle.cached() as run:
        got = [model(batch).detach().numpy() for _ in range(3)]
    assert all((want == g).all() for g in got)
    assert run.counts.hits == 2


def test_after_the_block_nothing_is_left_behind(fw):
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = plan_for("head | last").apply(model)
    model(fw.tensor(nets.IMAGES[:4]))  # the plan itself watches the first pass
    modules = handle._in_force.backend.walk(model).modules
    before = [sorted(vars(module)) for module in modules]
    with handle.cached():
        model(fw.tensor(nets.IMAGES[:4]))
    assert [sorted(vars(module)) for module in modules] == before


def test_an_error_inside_the_block_leaves_nothing_behind(fw):
    fw.seed(0)
    model = nets.residual_net(fw)
    handle = plan_for("head | last").apply(model)

    def fails():
        with handle.cached():
            model(fw.tensor(nets.IMAGES[:4]))
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert "forward" not in vars(model)


def test_a_deeper_thaw_keeps_rows_of_the_new_boundary(fw):
    fw.seed(0)
    model = nets.text_net(fw)
    phases = uf.FreezePlan.from_yaml(
        "unifreeze: 1\ndropout: off\nphases:\n"
        "- {name: head, rules: [{only: head}]}\n"
        '- {name: top, at: {epoch: 2}, add: [{train: "layers[-1]"}]}\n'
    )
    start, results = nets.values_of(model), []
    for use in (False, True):
        fw.load(model, {name: fw.tensor(value) for name, value in start.items()})
        handle = phases.apply(model)

        def batches(epoch, handle=handle):
            handle.step(epoch=epoch)
            return nets.text_batches(epoch)

        block = handle.cached if use else None
        results.append(nets.train(fw, model, handle, batches, epochs=4, cached=block))
        handle.remove()
    assert nets.same(*results)
    assert (results[1][3].counts.misses, results[1][3].counts.hits) == (48, 48)


def test_where_the_budget_ends_training_goes_on_and_says_so(fw):
    with pytest.warns(UnifreezeWarning, match="the budget of 1.5 KiB is used up"):
        plain, cached = both(fw, "texts", budget=1500)
    assert nets.same(plain, cached)
    assert "stopped keeping rows: the budget" in str(cached[3])


def test_where_reading_takes_longer_than_computing_the_cache_is_given_up(fw, monkeypatch):
    monkeypatch.setattr(given_back, "MEASURED", 0.0)
    read = Replaying.call

    def slow(self, *call):
        self.seconds += 100.0
        return read(self, *call)

    monkeypatch.setattr(Replaying, "call", slow)
    plain, cached = both(fw, "images")
    assert nets.same(plain, cached)
    assert (cached[3].counts.hits, cached[3].counts.uncached) == (8, 40)
    assert "given up: reading a row takes" in str(cached[3])


@pytest.mark.parametrize("budget", ["much", "-3", "20 apples"])
def test_a_budget_is_a_number_of_bytes(fw, budget):
    handle = plan_for("head").apply(nets.text_net(fw))
    with pytest.raises(uf.UnifreezeError, match="is not a number of bytes"):
        handle.cached(budget=budget)


def test_a_dtype_is_one_of_three(fw):
    handle = plan_for("head").apply(nets.text_net(fw))
    with pytest.raises(uf.UnifreezeError, match="is not one of 'float32'"):
        handle.cached(dtype="int8")


def test_a_block_works_once(fw):
    handle = plan_for("head").apply(nets.text_net(fw))
    block = handle.cached()
    with block, pytest.raises(CacheError, match="in a cached block already"), handle.cached():
        pass
    with pytest.raises(CacheError, match="used already"), block:
        pass


def test_a_run_is_shown_before_and_after(fw):
    handle = plan_for("head").apply(nets.text_net(fw))
    block = handle.cached()
    assert "0 rows" in str(block)
    assert "0 given back" in repr(block) or "CachedRun" in repr(block)


def test_no_warning_comes_from_a_usual_run(fw):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnifreezeWarning)
        both(fw, "images")
