"""What cannot be cached is refused with the module and the cure; what changes a weight is found."""

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache import given_back
from unifreeze._cache.trial_passes import TRIAL_ROWS, Trial
from unifreeze.errors import CacheError, UnifreezeWarning


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


ROWS = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")


def tower(fw, frozen, *, between=None):
    """A frozen module and a linear head; `between` is what the model does between them."""

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.body = frozen
            self.head = fw.nn.Linear(6, 2)

        def forward(self, x):
            x = self.body(x)
            return self.head(x if between is None else between(self, x))

    return Net()


def module(fw, forward, **parts):
    """A module with parts and a forward function."""

    class Made(fw.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, *args, **kwargs):
            return forward(self, *args, **kwargs)

    return Made()


def linear(fw):
    return fw.nn.Linear(6, 6)


HEAD = "unifreeze: 1\nrules: [{only: 'path:\"head\"'}]\n"


def run(fw, model, batch=ROWS, *, plan=HEAD, times=1):
    handle = uf.FreezePlan.from_yaml(plan).apply(model)
    model.train()
    with handle.cached() as block:
        for _ in range(times):
            result = model(fw.tensor(batch))
    return block, result


def run_often(model, batch, times=9):
    for _ in range(times):
        model(batch)


def refused(fw, model, *said, **how):
    with pytest.raises(CacheError) as error:
        run(fw, model, **how)
    assert all(text in str(error.value) for text in said), str(error.value)
    assert "hint" in str(error.value)


def test_dropout_in_a_frozen_module_is_refused(fw):
    body = fw.nn.Sequential(linear(fw), fw.nn.Dropout(0.5), linear(fw))
    refused(fw, tower(fw, body), "body.1 (Dropout)", "depends on chance", "dropout: off")


def test_dropout_right_before_what_trains_just_runs(fw):
    model = module(
        fw, lambda self, x: self.head(self.drop(self.body(x))),
        body=linear(fw), drop=fw.nn.Dropout(0.5), head=fw.nn.Linear(6, 2),
    )  # fmt: skip
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    model.train()
    results = []
    with handle.cached() as block:
        for _ in range(3):
            fw.seed(7)
            results.append(model(fw.tensor(ROWS)).detach().numpy())
        fw.seed(8)
        other = model(fw.tensor(ROWS)).detach().numpy()
    assert (results[0] == results[2]).all()
    assert not (results[0] == other).all()
    assert "outputs of: body" in str(block)


def test_a_draw_without_effect_is_refused(fw):
    body = module(fw, lambda self, x: self.a(x) + 0 * fw.lib.rand([1]), a=linear(fw))
    refused(fw, tower(fw, body), "body (Made)", "depends on chance")


def test_running_statistics_that_move_are_refused(fw):
    class Norm(fw.BatchNorm1D):
        """It takes the statistics of the batch only to move its own."""

        def forward(self, x):
            with fw.no_grad():
                fw.BatchNorm1D.forward(self, x)
            return x * 2

    body = fw.nn.Sequential(linear(fw), Norm(6))
    plan = HEAD + "norm_stats: update\n"
    refused(fw, tower(fw, body), "changes in each forward pass", "norm_stats: hold", plan=plan)


def test_statistics_of_the_batch_are_refused(fw):
    body = fw.nn.Sequential(linear(fw), fw.BatchNorm1D(6))
    plan = HEAD + "norm_stats: update\n"
    refused(fw, tower(fw, body), "body", "norm_stats: hold", plan=plan)


def test_what_depends_on_other_rows_is_refused(fw):
    body = module(fw, lambda self, x: self.a(x) - self.a(x).mean(0), a=linear(fw))
    refused(fw, tower(fw, body), "body (Made)", "depends on other rows")


def test_a_hook_is_refused(fw):
    seen = []
    body = linear(fw)

    def look(layer, inputs, outputs):
        seen.append(1)

    take = getattr(body, "register_forward_post_hook", None) or body.register_forward_hook
    take(look)
    refused(fw, tower(fw, body), "body has a hook", "look", "take the hook off")


def test_a_counter_in_a_frozen_module_is_refused(fw):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return self.a(x)

    refused(fw, tower(fw, module(fw, forward, a=linear(fw))), "'calls'", "in each forward pass")


def test_a_key_value_cache_is_refused(fw):
    class Memory:
        def __init__(self):
            self.kept = []

    def forward(self, x):
        memory = Memory()
        return self.head(self.body(x, memory))

    def keep(self, x, memory):
        memory.kept.append(self.a(x))
        return memory.kept[-1]

    model = module(fw, forward, body=module(fw, keep, a=linear(fw)), head=fw.nn.Linear(6, 2))
    refused(fw, model, "body (Made) changes an object", "Memory", "use_cache=False")


def test_an_object_as_input_is_refused(fw):
    model = module(fw, lambda self, x, what: self.head(self.body(x)),
                   body=linear(fw), head=fw.nn.Linear(6, 2))  # fmt: skip
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    with handle.cached(), pytest.raises(CacheError, match="which cannot be compared"):
        model(fw.tensor(ROWS), object())


def test_a_trainable_first_layer_leaves_nothing_to_cache_and_is_named(fw):
    model = nets.text_net(fw)
    handle = uf.FreezePlan().only("embeddings | head").apply(model)
    model.eval()
    with handle.cached(), pytest.raises(CacheError) as error:
        model(fw.tensor(nets.IDS[:4]))
    assert "nothing can be cached" in str(error.value)
    assert "embeddings.words.weight is trainable" in str(error.value)


def test_a_model_that_does_not_run_on_fewer_rows_is_refused(fw):
    def forward(self, x):
        if x.shape[0] % 8:
            raise ValueError("eight rows, please")
        return self.head(self.body(x))

    model = module(fw, forward, body=linear(fw), head=fw.nn.Linear(6, 2))
    refused(fw, model, "does not run on the first rows", "eight rows, please")


def test_outputs_that_are_cut_by_the_longest_row_are_not_kept(fw):
    def forward(self, ids):
        longest = int((ids > 0).sum(-1).max())
        return self.head(self.body(ids[:, :longest]).mean(1))

    model = module(fw, forward, body=fw.nn.Embedding(9, 6), head=fw.nn.Linear(6, 2))
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    long, short = np.ones((4, 5), "int64"), np.ones((4, 5), "int64") * 2
    short[:, 3:] = 0
    with handle.cached() as block:
        got = [model(fw.tensor(ids)).detach().numpy() for ids in (long, short, long, short)]
    want = [model(fw.tensor(ids)).detach().numpy() for ids in (long, short, long, short)]
    assert all((g == w).all() for g, w in zip(got, want, strict=True))
    assert (block.counts.hits, block.counts.uncached) == (4, 8)


# What gradient does not reach, and yet trains


def test_a_frozen_module_behind_a_detached_live_one_runs_live(fw):
    model = module(
        fw, lambda self, x: self.head(self.judge(self.maker(self.body(x)).detach())),
        body=linear(fw), maker=linear(fw), judge=linear(fw), head=fw.nn.Linear(6, 2),
    )  # fmt: skip
    plan = 'unifreeze: 1\nrules: [{only: \'path:"head" | path:"maker"\'}]\n'
    block, _ = run(fw, model, plan=plan, times=2)
    assert "outputs of: body" in str(block)
    assert "judge" not in str(block)


def test_a_trainable_module_that_runs_without_gradient_is_not_kept(fw):
    def forward(self, x):
        with fw.no_grad():
            y = self.slow(x)
        return self.head(self.body(x) + y)

    model = module(fw, forward, slow=linear(fw), body=linear(fw), head=fw.nn.Linear(6, 2))
    plan = 'unifreeze: 1\nrules: [{only: \'path:"head" | path:"slow"\'}]\n'
    block, _ = run(fw, model, plan=plan, times=2)
    assert "outputs of: body" in str(block)
    assert "slow" not in str(block)


def test_code_between_modules_gets_what_it_reads(fw):
    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        return self.head(b + a.mean(-1, keepdim=True) * 2)

    model = module(fw, forward, a=linear(fw), b=linear(fw), head=fw.nn.Linear(6, 2))
    block, result = run(fw, model, times=2)
    assert "outputs of: a, b" in str(block)
    assert (model(fw.tensor(ROWS)).detach().numpy() == result.detach().numpy()).all()


def test_only_what_is_read_is_kept(fw):
    block, _ = run(fw, tower(fw, fw.nn.Sequential(*(linear(fw) for _ in range(3)))), times=2)
    assert block._store.nbytes == 8 * 6 * 4


def test_a_branch_on_values_that_no_trial_has_seen_stops_the_run(fw, monkeypatch):
    monkeypatch.setattr(given_back, "CHECK_EVERY", 2)

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        return self.head(b if float(self.level) < 0.5 else b + a)

    model = module(fw, forward, a=linear(fw), b=linear(fw), head=fw.nn.Linear(6, 2))
    model.level = 0.0
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    with handle.cached():
        model(fw.tensor(ROWS))
        model.level = 1.0
        with pytest.raises(CacheError, match="computes something else"):
            run_often(model, fw.tensor(ROWS), 3)


def test_nan_of_the_users_own_is_no_mismatch(fw):
    rows = ROWS.copy()
    rows[5] = np.nan
    _, result = run(fw, tower(fw, linear(fw)), rows, times=3)
    assert np.isnan(result.detach().numpy()[5]).all()
    assert not np.isnan(result.detach().numpy()[:5]).any()


# What changes a weight in secret


def in_place(fw, model, handle):
    with fw.no_grad():
        if fw.name == "torch":
            model.body.weight.mul_(2)
        else:
            model.body.weight.scale_(2.0)


def by_data(fw, model, handle):
    if fw.name == "torch":
        model.body.weight.data.mul_(2)
    else:
        model.body.weight.data = model.body.weight * 2


def by_array(fw, model, handle):
    if fw.name == "torch":
        model.body.weight.detach().numpy()[0] = 7
    else:
        np.from_dlpack(model.body.weight.detach())  # a view that may be read only
        model.body.weight.set_value(model.body.weight.numpy() * 7)


def by_copying(fw, model, handle):
    new = model.body.weight.detach() * 2
    with fw.no_grad():
        model.body.weight.copy_(new) if fw.name == "torch" else fw.lib.assign(
            new, model.body.weight
        )


def by_set_value(fw, model, handle):
    if fw.name == "torch":
        model.body.weight.data = model.body.weight.detach() * 2
    else:
        model.body.weight.set_value(model.body.weight * 2)


def by_loading(fw, model, handle):
    values = {name: fw.tensor(value * 2) for name, value in nets.values_of(model).items()}
    fw.load(model, values)


def optimizer_step(fw, model, *, fused):
    weight = model.body.weight
    settings = {"weight_decay": 0.1}
    if fw.name == "torch":
        weight.requires_grad_(True)
        optimizer = fw.AdamW([weight], lr=0.1, fused=fused, **settings)
        weight.grad = weight.detach() * 0 + 1
        optimizer.step()
        optimizer.zero_grad()
        weight.requires_grad_(False)
    else:
        weight.stop_gradient = False
        optimizer = fw.AdamW(0.1, parameters=[weight], **settings)
        (weight * 1).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        weight.stop_gradient = True


def by_an_optimizer(fw, model, handle):
    optimizer_step(fw, model, fused=False)


def by_a_fused_optimizer(fw, model, handle):
    optimizer_step(fw, model, fused=True)


def by_casting(fw, model, handle):
    model.body.to(fw.lib.float64) if fw.name == "torch" else model.body.to(dtype="float64")


CHANGES = [
    in_place, by_data, by_array, by_copying, by_set_value, by_loading, by_an_optimizer,
    by_a_fused_optimizer, by_casting,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_changes_in_secret_is_found_at_the_next_step(fw, change):
    model = tower(fw, linear(fw))
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    batch = fw.tensor(ROWS)
    with handle.cached():
        model(batch)
        model(batch)
        change(fw, model, handle)
        with pytest.raises(CacheError, match=r"body\.weight is frozen, and has changed"):
            run_often(model, batch, 3)


def test_statistics_that_change_are_found(fw):
    model = tower(fw, fw.nn.Sequential(linear(fw), fw.BatchNorm1D(6)))
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    batch = fw.tensor(ROWS)
    with handle.cached():
        model(batch)
        norm = model.body[1]
        mean = norm.running_mean if fw.name == "torch" else norm._mean
        mean.set_value(mean + 1) if fw.name == "paddle" else mean.add_(1)
        with pytest.raises(CacheError, match="is frozen, and has changed"):
            run_often(model, batch)


def test_a_flag_that_flips_begins_anew(fw):
    model = tower(fw, fw.nn.Sequential(linear(fw), linear(fw)))
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    batch = fw.tensor(ROWS)
    with handle.cached() as block:
        model(batch)
        weight = model.body[1].weight
        weight.requires_grad_(True) if fw.name == "torch" else setattr(
            weight, "stop_gradient", False
        )
        model(batch)
        assert "outputs of: body.0" in str(block)
        model(batch)
    assert (block.counts.misses, block.counts.hits) == (16, 8)


def test_a_mode_that_flips_to_chance_is_found(fw):
    model = tower(fw, fw.nn.Sequential(linear(fw), fw.nn.Dropout(0.5)))
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    batch = fw.tensor(ROWS)
    model.eval()
    with handle.cached() as block:
        model(batch)
        model.train()
        with pytest.warns(UnifreezeWarning, match="depends on chance"):
            model(batch)
    assert block.counts.uncached == 8
    assert "not cached: body.1 (Dropout) is frozen" in str(block)


def test_a_module_that_is_replaced_begins_anew(fw):
    model = tower(fw, linear(fw))
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    batch = fw.tensor(ROWS)
    with handle.cached() as block:
        model(batch)
        model.body = linear(fw)
        for p in model.body.parameters():
            p.requires_grad_(False) if fw.name == "torch" else setattr(p, "stop_gradient", True)
        got = [model(batch).detach().numpy() for _ in range(2)]
    want = model(batch).detach().numpy()
    assert all((g == want).all() for g in got)
    assert (block.counts.misses, block.counts.hits) == (16, 8)


def test_autocast_has_rows_of_its_own():
    import torch

    fw = nets.framework_of("torch")
    model = tower(fw, linear(fw))
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    batch = fw.tensor(ROWS)
    with handle.cached() as block:
        plain = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            cast = [model(batch) for _ in range(2)]
    assert cast[1].dtype is torch.bfloat16
    assert (cast[0] == cast[1]).all()
    assert not (plain == cast[0].float()).all()
    assert (block.counts.misses, block.counts.hits) == (16, 8)


def test_the_trial_of_a_usual_model_looks_at_half_of_its_rows_where_that_is_enough(fw, monkeypatch):
    looked = []
    observe = Trial.observe

    def counted(self, *args, rows=None, **kwargs):
        looked.append(TRIAL_ROWS if rows is None else len(rows))
        return observe(self, *args, rows=rows, **kwargs)

    monkeypatch.setattr(Trial, "observe", counted)
    run(fw, tower(fw, linear(fw)))
    half = TRIAL_ROWS // 2
    # All rows; half, with other values, with other signs and another seed; the rest; beside blanks.
    assert looked == [TRIAL_ROWS, half, half, half, half, TRIAL_ROWS]
