"""A faster prefix gives right results or is refused; its rows are never taken for exact ones."""

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache import faster_prefix
from unifreeze._cache.folders import groups_in
from unifreeze.errors import ArgumentError, CacheError, UnifreezeWarning

EPS = 2.0**-8
"""How much bfloat16 rounds a number, relative to it."""
W = 16
HEAD = "unifreeze: 1\nrules: [{only: 'path:\"head\"'}]\n"
ROWS = np.random.default_rng(0).standard_normal((64, W)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 2, 64)
KINDS = [("torch", "bfloat16"), ("torch", "compile"), ("paddle", "inference")]
ALLOWED = {"bfloat16": 16 * EPS, "compile": 1e-4, "inference": 1e-4}
NETS = {
    "images": (nets.residual_net, nets.image_batches, "head | last"),
    "texts": (nets.text_net, nets.text_batches, "head | layers[-1]"),
}

QUICK = KINDS[0], "texts"
BY_COMPILER = "torch", "compile", "C++"
"""The same, compiled to C++, which takes a minute."""


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(kind))
def way(request, monkeypatch):
    """A framework, and a faster prefix that it has; compiled to C++ only where that is said."""
    name, kind, *by = request.param
    if kind == "compile" and not by:
        import torch

        real = torch.compile
        monkeypatch.setattr(torch, "compile", lambda fn: real(fn, backend="eager"))
    return nets.framework_of(name), kind


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def kind_of(fw):
    return "bfloat16" if fw.name == "torch" else "inference"


def small(fw, body=None, *, seed=0):
    """A frozen body, a linear layer 16 wide, and a head."""
    fw.seed(seed)

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.body = fw.nn.Linear(W, W) if body is None else body
            self.head = fw.nn.Linear(W, 2)

        def forward(self, x):
            return self.head(self.body(x))

    return Net()


def steps(fw, model, handle, run, batches):
    """Train in a block that has begun; return the losses."""
    optimizer = handle.optimizer(fw.AdamW, lr=1e-2)
    losses = []
    for rows in batches:
        result = model(fw.tensor(ROWS[rows]))
        loss = fw.nn.functional.cross_entropy(result, fw.tensor(LABELS[rows]))
        loss.backward()
        optimizer.step()
        fw.clear(optimizer)
        losses.append(float(loss))
    return losses


def batches_of(size, count=None):
    rows = [range(n, min(n + size, 64)) for n in range(0, 64, size)]
    return [list(r) for r in rows][:count]


def close(first, second, kind):
    a, b = np.asarray(first), np.asarray(second)
    return np.abs(a - b).max() <= ALLOWED[kind] * np.abs(a).max()


@pytest.mark.parametrize(
    ("way", "net"),
    [
        # One is enough for each change; all of them take a minute.
        pytest.param(kind, net, marks=() if (kind, net) == QUICK else pytest.mark.slow)
        for kind in (*KINDS, BY_COMPILER)
        for net in NETS
    ],
    indirect=["way"],
)
def test_an_epoch_gives_the_losses_of_the_modules_up_to_rounding(way, net):
    fw, kind = way
    build, batches, rule = NETS[net]
    results = {}
    for prefix in ("exact", kind):
        fw.seed(0)
        model = build(fw)
        plan = f'unifreeze: 1\nrules: [{{only: "{rule}"}}]\ndropout: off\n'
        handle = uf.FreezePlan.from_yaml(plan).apply(model)
        block = lambda h=handle, p=prefix: h.cached(prefix=p)  # noqa: E731
        results[prefix] = nets.train(fw, model, handle, batches, epochs=2, cached=block)
        handle.verify()
    run = results[kind][3]
    half = len(results[kind][0]) // 2
    assert close(results["exact"][0][:half], results[kind][0][:half], kind)
    assert (run.counts.misses, run.counts.hits) == (24, 24)
    assert f"prefix: {kind}, " in str(run)
    if kind == "bfloat16":
        assert EPS / 16 < run._known.faster.gap < 8 * EPS
        assert not nets.same(results["exact"], results[kind])


def test_rows_of_one_way_are_never_given_back_as_those_of_another(way, tmp_path):
    fw, kind = way
    counts = {}
    for number, prefix in enumerate(("exact", kind, "exact", kind)):
        model = small(fw)
        handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
        with handle.cached(tmp_path, prefix=prefix) as run:
            steps(fw, model, handle, run, batches_of(8))
        counts[number] = run.counts.misses, run.counts.hits, run.counts.uncached
    assert counts[0] == counts[1] == (64, 0, 0)
    # The first batch is looked at, and one is compared.
    assert counts[2] == counts[3] == (8, 48, 8)
    groups = {group.manifest.prefix: group for group in groups_in(tmp_path)}
    assert set(groups) == {"exact", kind}
    assert groups["exact"].rows == groups[kind].rows == 64
    assert groups["exact"].manifest.exact.startswith("where")
    assert groups[kind].manifest.exact.startswith("no: what the frozen part returns differs by up")


def test_a_model_without_frozen_weights_takes_rows_of_its_own_way_alone(tmp_path):
    import torch

    fw = nets.framework_of("torch")
    model = small(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    with handle.cached(tmp_path, prefix="bfloat16") as run:
        run.fill([torch.tensor(ROWS[rows]) for rows in batches_of(8)])
    for prefix in ("exact", "bfloat16"):
        with torch.device("meta"):
            bare = small(fw)
        bare.head.to_empty(device="cpu").load_state_dict(model.head.state_dict())
        handle = uf.FreezePlan.from_yaml(HEAD).apply(bare)
        with handle.cached(tmp_path, prefix=prefix) as run:
            if prefix == "exact":
                with pytest.raises(CacheError, match="no rows are kept"):
                    bare(torch.tensor(ROWS[:8]))
            else:
                bare(torch.tensor(ROWS[:8]))
                assert run.counts.hits == 8
        handle.remove()


@pytest.mark.parametrize("budget", [10**9, 1], ids=["room", "no room"])
def test_rows_that_never_repeat_all_run_in_the_faster_way(way, budget, monkeypatch):
    fw, kind = way
    model = small(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    ran = count_runs(handle, monkeypatch)
    with handle.cached(prefix=kind, budget=budget) as run:
        if budget == 1:
            with pytest.warns(UnifreezeWarning, match="no more rows"):
                model(fw.tensor(ROWS[:8]))
        else:
            model(fw.tensor(ROWS[:8]))
        before = len(ran)
        losses = steps(fw, model, handle, run, batches_of(8)[1:])
    assert len(ran) - before == 7
    assert run.counts.hits == 0
    plain = small(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(plain)
    assert close(steps(fw, plain, handle, None, batches_of(8)[1:]), losses, kind)


def count_runs(handle, monkeypatch, change=lambda result, number: result):
    """Return a list that grows with each call of a fast function, whose result may be changed."""
    backend, ran = handle._in_force.backend, []
    make = backend.faster_forward

    def counting(*args):
        fast = make(*args)

        def run(*inputs, **named):
            ran.append(1)
            return change(fast(*inputs, **named), len(ran))

        return run

    monkeypatch.setattr(backend, "faster_forward", counting, raising=False)
    return ran


def in_place(fw, weight):
    with fw.no_grad():
        weight.mul_(1.5) if fw.name == "torch" else weight.scale_(1.5)


def through_data(fw, weight):
    if fw.name == "torch":
        weight.detach().numpy()[0] = 7
    else:
        weight.value().get_tensor().set(weight.numpy() * 1.5, fw.lib.CPUPlace())


def by_value(fw, weight):
    with fw.no_grad():
        weight.copy_(weight * 1.5) if fw.name == "torch" else weight.set_value(weight.numpy() * 1.5)


@pytest.mark.parametrize("change", [in_place, through_data, by_value])
def test_a_weight_that_changes_in_secret_is_found(way, change):
    fw, kind = way
    model = small(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    with handle.cached(prefix=kind) as run:
        steps(fw, model, handle, run, batches_of(8, 2))
        change(fw, model.body.weight)
        with pytest.raises(CacheError, match=r"body\.weight is frozen, and has changed"):
            # Two frozen tensors, which are looked at in turn.
            steps(fw, model, handle, run, batches_of(8)[2:5])


class Scaled:
    """Makes a frozen module that has a setting, and that looks at its mode."""

    def __new__(cls, fw):
        class Module(fw.Module):
            def __init__(self):
                super().__init__()
                self.line, self.scale = fw.nn.Linear(W, W), 1.0

            def forward(self, x):
                y = self.line(x) * self.scale
                return y + 1.0 if self.training else y

        return Module()


def test_a_setting_that_is_changed_stops_the_run_or_counts(way):
    fw, kind = way
    fw.seed(0)
    model = small(fw, Scaled(fw))
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    batch = fw.tensor(ROWS[:8])
    with handle.cached(prefix=kind) as run:
        first = model(batch).numpy() if fw.name == "paddle" else model(batch).detach().numpy()
        model.body.scale = 3.0
        if kind == "inference":  # what was exported has the old setting
            with pytest.raises(CacheError, match="changes what body"):
                model(fw.tensor(ROWS[8:16]))
        else:
            model(fw.tensor(ROWS[8:16]))
        with pytest.raises(CacheError, match=r"body\.scale was changed|differs from what it"):
            model(batch)
    assert run.counts.hits == 0
    assert np.isfinite(first).all()


def test_modes_have_rows_and_functions_of_their_own(way):
    fw, kind = way
    model = small(fw, Scaled(fw))
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    results = {}
    for prefix in ("exact", kind):
        with handle.cached(prefix=prefix) as run:
            for mode in ("train", "eval", "train", "eval"):
                getattr(model, mode)()
                with fw.no_grad():
                    got = model(fw.tensor(ROWS[:8])).numpy()
                assert close(results.setdefault(mode, got), got, kind)
        assert (run.counts.misses, run.counts.hits) == (16, 16)
    assert not close(results["train"], results["eval"], kind)


def test_a_norm_that_is_switched_to_training_is_refused(way):
    fw, kind = way
    body = fw.nn.Sequential(fw.nn.Linear(W, W), fw.BatchNorm1D(W))
    model = small(fw, body)
    handle = uf.FreezePlan.from_yaml(HEAD + "norm_stats: update\n").apply(model)
    model.eval()
    with handle.cached(prefix=kind) as run:
        model(fw.tensor(ROWS[:8]))
        body[1].train()
        with pytest.warns(UnifreezeWarning, match="from here on nothing is cached"):
            model(fw.tensor(ROWS[8:16]))
    assert "not cached" in str(run)


def test_batches_of_other_sizes_and_lengths_are_compared_anew(way):
    fw, kind = way
    fw.seed(0)
    model = nets.text_net(fw)
    handle = uf.FreezePlan.from_yaml(
        'unifreeze: 1\nrules: [{only: "head | layers[-1]"}]\ndropout: off\n'
    ).apply(model)
    model.eval()
    forms = [(4, 12), (4, 8), (3, 8), (2, 12), (4, 5), (1, 12)]
    want = [nets.run_net(fw, model, np.arange(n), length).numpy(force=True) if fw.name == "torch"
            else nets.run_net(fw, model, np.arange(n), length).numpy()
            for n, length in forms]  # fmt: skip
    with handle.cached(prefix=kind) as run:
        for (n, length), expected in zip(forms, want, strict=True):
            got = nets.run_net(fw, model, np.arange(n), length)
            got = got.detach().numpy() if fw.name == "torch" else got.numpy()
            assert close(expected, got, kind)
        # Of (1, 12) and (2, 12) all rows are there already, and (3, 8) too.
        assert run._known.faster._compared == 3
    assert "run by their modules" not in str(run)


@pytest.mark.parametrize("name", ["torch", "paddle"])
def test_dictionaries_and_named_inputs_reach_frozen_modules(name):
    fw = nets.framework_of(name)

    class Body(fw.Module):
        def __init__(self):
            super().__init__()
            self.line = fw.nn.Linear(W, W)

        def forward(self, parts, *, factor=1.0, extra=None):
            y = self.line(parts["x"]) * factor
            return {"y": y, "same": parts["mask"]} if extra is None else {"y": y + extra}

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = Body(), fw.nn.Linear(W, 2)

        def forward(self, *, batch):
            a = self.body({"x": batch["x"], "mask": batch["mask"]}, factor=2.0)
            b = self.body({"x": batch["x"], "mask": batch["mask"]}, extra=batch["x"])
            return self.head(a["y"] * a["same"] + b["y"])

    fw.seed(0)
    model = Net()
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    mask = (ROWS > 0).astype("float32")
    batch = {"x": fw.tensor(ROWS[:8]), "mask": fw.tensor(mask[:8])}
    with fw.no_grad():
        want = model(batch=batch).numpy()
        with handle.cached(prefix=kind_of(fw)) as run:
            for _ in range(2):
                assert close(want, model(batch=batch).numpy(), kind_of(fw))
    assert (run.counts.misses, run.counts.hits) == (8, 8)


# Refusals


def test_a_way_of_the_other_framework_is_refused_with_its_cure(fw):
    handle = uf.FreezePlan.from_yaml(HEAD).apply(small(fw))
    if fw.name == "torch":
        with pytest.raises(CacheError, match=r"paddle\.inference[\s\S]*prefix=\"compile\""):
            handle.cached(prefix="inference")
    else:
        with pytest.raises(CacheError, match=r"is of PyTorch[\s\S]*prefix=\"inference\""):
            handle.cached(prefix="compile")
        with pytest.raises(CacheError, match=r"on the CPU[\s\S]*bfloat16[\s\S]*inference"):
            handle.cached(prefix="bfloat16")
    with pytest.raises(ArgumentError, match="'quick' is not one of"):
        handle.cached(prefix="quick")


@pytest.mark.parametrize("name", ["torch", "paddle"])
def test_a_way_that_computes_something_else_is_refused(name, monkeypatch):
    fw = nets.framework_of(name)
    model = small(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    factor = 1.3 if fw.name == "torch" else 1.0001
    count_runs(handle, monkeypatch, lambda result, _: result * factor)
    with (
        handle.cached(prefix=kind_of(fw)),
        pytest.raises(CacheError, match=r"changes what body \(Linear\) returns.*is allowed"),
    ):
        model(fw.tensor(ROWS[:8]))


def test_a_layer_that_cannot_be_exported_is_refused():
    fw = nets.framework_of("paddle")

    class Body(fw.Module):
        def __init__(self):
            super().__init__()
            self.line = fw.nn.Linear(W, W)

        def forward(self, x):
            return self.line(x) + float(np.asarray(x.numpy()).shape[1])

    model = small(fw, Body())
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    with (
        handle.cached(prefix="inference"),
        pytest.raises(CacheError, match=r"cannot run body \(Body\)[\s\S]*leave prefix out"),
    ):
        model(fw.tensor(ROWS[:8]))


def test_without_a_compiler_the_refusal_says_what_is_needed(monkeypatch):
    import torch

    def broken(fn):
        def run(*args):
            raise RuntimeError("No working C++ compiler found in config\nmore lines")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    fw = nets.framework_of("torch")
    model = small(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    with (
        handle.cached(prefix="compile"),
        pytest.raises(CacheError, match=r"No working C\+\+ compiler found in config\n.*g\+\+"),
    ):
        model(torch.tensor(ROWS[:8]))


def test_a_form_that_fails_later_runs_by_its_modules_and_is_told(way, monkeypatch):
    fw, kind = way
    model = small(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    count_runs(handle, monkeypatch, lambda r, _: r * 1.5 if r.shape[0] == 5 else r)
    with handle.cached(prefix=kind) as run:
        model(fw.tensor(ROWS[:8]))
        with pytest.warns(UnifreezeWarning, match="run by their modules, and are not kept"):
            model(fw.tensor(ROWS[8:13]))
        model(fw.tensor(ROWS[8:13]))
        model(fw.tensor(ROWS[:8]))
    assert (run.counts.misses, run.counts.hits, run.counts.uncached) == (8, 8, 10)
    assert f"not by prefix: prefix='{kind}' changes what body" in str(run)


def test_a_way_that_drifts_is_found_by_a_later_comparison(way, monkeypatch):
    fw, kind = way
    monkeypatch.setattr(faster_prefix, "COMPARE_EVERY", 4)
    model = small(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    count_runs(handle, monkeypatch, lambda result, number: result * (1.5 if number > 5 else 1))
    with handle.cached(prefix=kind) as run, pytest.raises(CacheError, match="it did not before"):
        steps(fw, model, handle, run, batches_of(8))


def test_copies_of_weights_are_let_go_with_the_weights_and_at_the_end(way):
    fw, kind = way
    model = small(fw)
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    with handle.cached(prefix=kind) as run:
        fast = run._known.faster._fast
        run.fill([fw.tensor(ROWS[:8])])
        assert fast
        run.drop_frozen()
        assert not fast
        model(fw.tensor(ROWS[:8]))
        run.restore_frozen()
        model(fw.tensor(ROWS[8:16]))
        assert fast
    assert not fast
    assert (run.counts.misses, run.counts.hits) == (16, 8)


def test_phases_begin_with_functions_of_their_own(way):
    fw, kind = way
    body = fw.nn.Sequential(fw.nn.Linear(W, W), fw.nn.Linear(W, W))
    model = small(fw, body)
    plan = uf.FreezePlan.from_yaml(
        "unifreeze: 1\nphases:\n"
        '  - {name: a, rules: [{only: \'path:"head" | path:"body.1"\'}]}\n'
        "  - {name: b, at: {epoch: 1}, rules: [{only: 'path:\"head\"'}]}\n"
    )
    handle = plan.apply(model)
    with handle.cached(prefix=kind) as run:
        for epoch in range(2):
            handle.step(epoch=epoch)
            steps(fw, model, handle, run, batches_of(8))
        got = model(fw.tensor(ROWS[:8]))
    want = model(fw.tensor(ROWS[:8]))
    got, want = (t.detach().numpy() if fw.name == "torch" else t.numpy() for t in (got, want))
    assert close(want, got, kind)
    handle.verify()


@pytest.mark.parametrize("name", ["torch", "paddle"])
def test_a_form_whose_replay_differs_is_told_with_the_reason(name):
    """Code between modules reads something else for longer inputs: no form of these is kept."""
    fw = nets.framework_of(name)

    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = fw.nn.Linear(W, W), fw.nn.Linear(W, W)
            self.head = fw.nn.Linear(W, 2)

        def forward(self, x):
            y = self.a(x)
            z = self.b(y)
            return self.head(z + y if x.shape[1] > 4 else z)

    fw.seed(0)
    model = Net()
    handle = uf.FreezePlan.from_yaml(HEAD).apply(model)
    texts = np.random.default_rng(0).standard_normal((8, 6, W)).astype("float32")
    with handle.cached() as run:
        model(fw.tensor(texts[:, :4]))
        model(fw.tensor(texts))
    assert "not cached: with kept outputs, output 0 differs by" in str(run)
