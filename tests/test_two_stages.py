"""All rows are kept first; then training goes on with the frozen weights out of memory."""

import copy
import re

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze.errors import CacheError

PLAN = 'unifreeze: 1\ndropout: off\nrules: [{only: "head | last"}]\n'


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def built(fw, plan=PLAN, make=nets.residual_net):
    fw.seed(0)
    model = make(fw)
    model.train()
    return model, uf.FreezePlan.from_yaml(plan).apply(model)


def image_data(fw, size=8):
    return [fw.tensor(nets.IMAGES[n : n + size]) for n in range(0, len(nets.IMAGES), size)]


def training(fw, model, handle, *, first=None, epochs=3):
    """Train in a cached block; `first` is called in it before training."""
    run = []

    def block():
        run.append(handle.cached())
        made = run[0]
        enter = made.__enter__

        class Entered:
            def __enter__(self):
                enter()
                if first is not None:
                    first(made)
                return made

            def __exit__(self, *error):
                return made.__exit__(*error)

        return Entered()

    return nets.train(fw, model, handle, nets.image_batches, epochs=epochs, cached=block)


def values_here(handle, path):
    backend = handle._in_force.backend
    tensor = backend.objects(handle.model)[path]
    return backend.has_values(tensor) and not np.isnan(backend.to_array(tensor)).any()


DROPPED = "stages.0.conv1.weight"


def test_after_filling_every_row_is_given_back(fw):
    plain = training(fw, *built(fw))
    cached = training(fw, *built(fw), first=lambda run: run.fill(image_data(fw)))
    assert nets.same(plain, cached)
    assert (cached[3].counts.misses, cached[3].counts.hits) == (24, 72)


def test_training_with_frozen_weights_out_of_memory_gives_the_same_bits(fw):
    plain = training(fw, *built(fw))
    model, handle = built(fw)
    bytes_of = []

    def first(run):
        run.fill(image_data(fw))
        bytes_of.append(run.drop_frozen())
        assert not values_here(handle, DROPPED)
        assert "frozen weights are out of memory" in str(run)

    cached = training(fw, model, handle, first=first)
    assert nets.same(plain, cached)
    assert bytes_of[0] > 4 * model.stages[0].conv1.weight.numel().__int__()
    assert values_here(handle, DROPPED)
    handle.verify()


def test_verify_counts_what_is_out_of_memory_as_not_checked(fw):
    model, handle = built(fw)
    every = handle.verify()
    with handle.cached() as run:
        run.fill(image_data(fw))
        run.drop_frozen()
        left = handle.verify()
        assert left.unchecked > 5
        assert left.parameters + left.unchecked == every.parameters
        assert "have no values here" in str(left)
        run.restore_frozen()
        assert handle.verify()._replace(unseen=every.unseen) == every
    assert model is handle.model


@pytest.mark.parametrize("given", [False, True])
def test_with_a_file_of_the_weights_none_is_written(fw, given, tmp_path):
    model, handle = built(fw)
    file = None
    if given and fw.name == "torch":
        file = tmp_path / "model.pt"
        fw.lib.save(model.state_dict(), file)
    elif given:
        file = tmp_path / "model.pdparams"
        fw.lib.save(model.state_dict(), str(file))
    rows = tmp_path / "rows"
    with handle.cached(rows) as run:
        run.fill(image_data(fw))
        run.drop_frozen(file=file)
        assert len(list(rows.glob("frozen-*.safetensors"))) == (not given)
    assert values_here(handle, DROPPED)
    assert not list(rows.glob("frozen-*.safetensors"))
    handle.verify()


def test_a_file_of_other_weights_is_refused(fw, tmp_path):
    other, _ = built(fw)
    fw.seed(5)
    other = nets.residual_net(fw)
    file = tmp_path / ("other.pt" if fw.name == "torch" else "other.pdparams")
    fw.lib.save(other.state_dict(), str(file))
    _, handle = built(fw)
    with handle.cached() as run:
        run.fill(image_data(fw))
        with pytest.raises(CacheError, match="holds other values"):
            run.drop_frozen(file=file)
        with pytest.raises(CacheError, match="cannot read"):
            run.drop_frozen(file=tmp_path / "none.safetensors")
    assert values_here(handle, DROPPED)


def test_dropping_is_refused_while_rows_may_be_missing(fw):
    model, handle = built(fw)
    data = image_data(fw)
    with handle.cached() as run:
        with pytest.raises(CacheError, match="no rows are kept yet"):
            run.drop_frozen()
        for batch in data[:2]:
            model(batch)
        with pytest.raises(CacheError, match="16 rows are kept, and 0 were given back since"):
            run.drop_frozen()
        with pytest.raises(CacheError, match="16 of 24 rows are kept"):
            run.drop_frozen(rows=24)
        for batch in data[:2]:
            model(batch)
        run.drop_frozen()


def test_dropping_is_refused_where_the_budget_has_ended(fw):
    _, handle = built(fw)
    with handle.cached(budget=16_000) as run:
        with pytest.warns(uf.errors.UnifreezeWarning, match="used up"):
            run.fill(image_data(fw))
        with pytest.raises(CacheError, match=r"no more can be: the budget of 15.6 KiB"):
            run.drop_frozen(rows=10)


def test_a_row_that_is_not_kept_is_an_error_while_weights_are_out(fw):
    model, handle = built(fw)
    with handle.cached() as run:
        run.fill(image_data(fw))
        run.drop_frozen()
        with pytest.raises(CacheError, match=r"not all rows are kept, and .* out of memory"):
            model(fw.tensor(nets.IMAGES[:4] + 1))
        with fw.no_grad(), pytest.raises(CacheError, match="runs in a way for which no rows"):
            model(fw.tensor(nets.IMAGES[:4]))
        run.restore_frozen()
        model(fw.tensor(nets.IMAGES[:4] + 1))


def test_a_state_dict_has_all_values(fw):
    model, handle = built(fw)
    want = nets.values_of(model)
    with handle.cached() as run:
        run.fill(image_data(fw))
        run.drop_frozen()
        got = nets.values_of(model)
        assert values_here(handle, DROPPED)
    assert all((want[name] == got[name]).all() for name in want)


def test_what_was_trained_is_saved_with_its_base(fw, tmp_path):
    _, handle = built(fw)
    handle.save_trained(tmp_path / "a.safetensors")
    with handle.cached() as run:
        run.fill(image_data(fw))
        run.drop_frozen()
        handle.save_trained(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_copy_of_the_model_is_refused_while_weights_are_out(fw):
    model, handle = built(fw)
    with handle.cached() as run:
        run.fill(image_data(fw))
        run.drop_frozen()
        with pytest.raises(CacheError, match="cannot be copied"):
            copy.deepcopy(model)
        run.restore_frozen()
        copy.deepcopy(model)


def test_a_phase_that_begins_brings_the_weights_back(fw):
    plan = (
        "unifreeze: 1\ndropout: off\nphases:\n- {name: head, rules: [{only: head}]}\n"
        '- {name: top, at: {epoch: 2}, add: [{train: "last"}]}\n'
    )
    results = []
    for drops in (False, True):
        model, handle = built(fw, plan)
        first = (lambda run: (run.fill(image_data(fw)), run.drop_frozen())) if drops else None

        def batches(epoch, handle=handle):
            handle.step(epoch=epoch)
            return nets.image_batches(epoch)

        optimizer = handle.optimizer(fw.AdamW, lr=1e-2)
        with handle.cached() as run:
            if first is not None:
                first(run)
            losses = []
            for epoch in range(4):
                for rows, length in batches(epoch):
                    result = nets.run_net(fw, model, rows, length)
                    loss = fw.nn.functional.cross_entropy(result, fw.tensor(nets.LABELS[rows]))
                    loss.backward()
                    optimizer.step()
                    fw.clear(optimizer)
                    losses.append(float(loss))
                assert values_here(handle, DROPPED) == (not drops or epoch >= 2)
        results.append((losses, nets.values_of(model)))
    assert results[0][0] == results[1][0]


def test_an_error_in_the_block_brings_the_weights_back(fw):
    _, handle = built(fw)

    def fails():
        with handle.cached() as run:
            run.fill(image_data(fw))
            run.drop_frozen()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert values_here(handle, DROPPED)


def test_weights_that_other_code_reads_stay(fw):
    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = fw.nn.Linear(16, 16), fw.nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.body(x)) + self.body.weight.sum()

    fw.seed(0)
    model = Net()
    handle = uf.FreezePlan().only('path:"head"').apply(model)
    batch = fw.tensor(np.ones((4, 16), "float32"))
    with handle.cached() as run:
        run.fill([batch])
        with pytest.raises(CacheError, match="code outside of their modules reads them"):
            run.drop_frozen()


def test_a_layer_that_also_runs_behind_the_boundary_stays(fw):
    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared = fw.nn.Linear(16, 16), fw.nn.Linear(16, 16)
            self.head = fw.nn.Linear(16, 16)

        def forward(self, x):
            return self.shared(self.head(self.shared(self.first(x))))

    fw.seed(0)
    model = Net()
    handle = uf.FreezePlan().only('path:"head"').apply(model)
    batch = fw.tensor(np.ones((4, 16), "float32"))
    with handle.cached() as run:
        run.fill([batch])
        run.drop_frozen()
        assert not values_here(handle, "first.weight")
        assert values_here(handle, "shared.weight")
        model(batch)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "there is no batch"),
        (7, "what is 7|is 7, and should be"),
        ([{"pictures": 1}], "does not run on batch 1.*a dictionary of 'pictures'"),
        ([(np.ones((2, 3, 16, 16), "float32"), 1, 2)], "a tuple of 3"),
    ],
)
def test_data_that_does_not_fit_is_refused(fw, data, said):
    _, handle = built(fw)
    with handle.cached() as run, pytest.raises(uf.UnifreezeError) as error:
        run.fill(data)
    assert re.search(said, " ".join(str(error.value).split()))


def test_data_that_fails_on_its_way_is_named(fw):
    def data():
        yield nets.IMAGES[:4]
        raise OSError("no more pictures")

    _, handle = built(fw)
    with handle.cached() as run, pytest.raises(CacheError, match="fails at batch 2: OSError"):
        run.fill(data())


# The second stage without the frozen weights ----------------------------------------------------


def without_frozen_values(fw, start):
    """The model whose frozen weights were never in memory, with the values of what trains."""
    live = {name: value for name, value in start.items() if name.split(".")[0] in ("last", "head")}
    if fw.name == "torch":
        with fw.lib.device("meta"):
            model = nets.residual_net(fw)
        for part in (model.last, model.head):
            part.to_empty(device="cpu")
        model.load_state_dict({k: fw.tensor(v) for k, v in live.items()}, strict=False)
        return model
    with fw.lib.LazyGuard():
        model = nets.residual_net(fw)
    for part in (model.last, model.head):
        for parameter in part.parameters():
            parameter.initialize()
    state = model.state_dict()
    for name, value in live.items():
        state[name].set_value(fw.tensor(value))
    return model


def first_stage(fw, folder, make=nets.residual_net):
    model, handle = built(fw, make=make)
    start = nets.values_of(model)
    plain = training(fw, model, handle)
    model, handle = built(fw, make=make)
    with handle.cached(folder) as run:
        run.fill(image_data(fw))
    return start, plain


def second_stage(fw, model, folder, plan=PLAN):
    handle = uf.FreezePlan.from_yaml(plan).apply(model)
    optimizer = handle.optimizer(fw.AdamW, lr=1e-2)
    fw.seed(3)
    losses = []
    with handle.cached(folder) as run:
        for epoch in range(3):
            model.train()
            for rows, length in nets.image_batches(epoch):
                result = nets.run_net(fw, model, rows, length)
                loss = fw.nn.functional.cross_entropy(result, fw.tensor(nets.LABELS[rows]))
                loss.backward()
                optimizer.step()
                fw.clear(optimizer)
                losses.append(float(loss))
    handle.verify()
    return losses, run


def test_frozen_weights_need_never_be_in_memory(fw, tmp_path):
    start, plain = first_stage(fw, tmp_path)
    model = without_frozen_values(fw, start)
    losses, run = second_stage(fw, model, tmp_path)
    assert losses == plain[0]
    assert (run.counts.hits, run.counts.misses, run.counts.uncached) == (72, 0, 0)
    assert "out of memory" in str(run)
    for name, value in nets.values_of(model.last).items():
        assert (value == plain[2][f"last.{name}"]).all()


def test_without_values_only_rows_that_are_kept_will_do(fw, tmp_path):
    start, _ = first_stage(fw, tmp_path / "rows")
    model = without_frozen_values(fw, start)
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    model.train()
    with handle.cached(tmp_path / "rows") as run:
        with pytest.raises(CacheError, match=r"not all rows are kept, and .* out of memory"):
            model(fw.tensor(nets.IMAGES[:8] + 1))
        with pytest.raises(CacheError, match="inputs of this form are new"):
            model(fw.tensor(nets.IMAGES[:8, :, :12, :12]))
        with pytest.raises(CacheError, match="was so when the block began"):
            run.restore_frozen()
        with fw.no_grad(), pytest.raises(CacheError, match="runs in a way for which no rows"):
            model(fw.tensor(nets.IMAGES[:8]))
    for place in (tmp_path / "other", None):
        with handle.cached(place), pytest.raises(CacheError, match=r"rows .*out of memory"):
            model(fw.tensor(nets.IMAGES[:8]))


def test_rows_of_another_structure_are_not_taken(fw, tmp_path):
    start, _ = first_stage(fw, tmp_path, make=lambda fw: nets.residual_net(fw, width=16))
    model = without_frozen_values(fw, start={})
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    model.train()
    with handle.cached(tmp_path), pytest.raises(CacheError, match="of another type or shape"):
        model(fw.tensor(nets.IMAGES[:8]))
    assert start


def test_rows_of_two_models_of_one_structure_are_not_mixed_up(fw, tmp_path):
    first_stage(fw, tmp_path)
    fw.seed(7)
    other = nets.residual_net(fw)
    other.train()
    with uf.FreezePlan.from_yaml(PLAN).apply(other).cached(tmp_path) as run:
        run.fill(image_data(fw))
    model = without_frozen_values(fw, start={})
    handle = uf.FreezePlan.from_yaml(PLAN).apply(model)
    model.train()
    with handle.cached(tmp_path), pytest.raises(CacheError, match="rows of 2 models"):
        model(fw.tensor(nets.IMAGES[:8]))


def test_outside_of_the_block_nothing_is_filled_or_dropped(fw):
    _, handle = built(fw)
    run = handle.cached()
    for call in (lambda: run.fill(image_data(fw)), run.drop_frozen):
        with pytest.raises(CacheError, match="outside of the block"):
            call()
