"""Rows of a table train while the others keep every bit, in both frameworks."""

import copy
import pickle

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.table_rows import (
    OLD,
    SIDES,
    WORDS,
    batch,
    clear,
    loss,
    model,
    plan,
    put,
    train,
    values,
)
from unifreeze.errors import FrozenDriftError, OptimizerError


@pytest.fixture(params=SIDES)
def side(request):
    return SIDES[request.param]


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def tied(request):
    return request.param


def adamw(side):
    return torch.optim.AdamW if side is torch else paddle.optimizer.AdamW


ELEMENTWISE = {
    "torch": {
        "SGD": {"weight_decay": 0.1},
        "SGD with momentum": {"momentum": 0.9, "weight_decay": 0.1},
        "Adam": {"weight_decay": 0.1}, "AdamW": {"weight_decay": 0.5}, "NAdam": {},
        "RAdam": {"weight_decay": 0.1}, "Adamax": {}, "RMSprop": {"momentum": 0.9},
        "Adagrad": {"weight_decay": 0.1}, "Adadelta": {"weight_decay": 0.1}, "Rprop": {},
        "ASGD": {"weight_decay": 0.1},
    },
    "paddle": {
        "SGD": {"weight_decay": 0.1}, "Momentum": {"weight_decay": 0.1},
        "Adam": {"weight_decay": 0.1}, "AdamW": {"weight_decay": 0.5}, "NAdam": {}, "RAdam": {},
        "Adamax": {"weight_decay": 0.1}, "RMSProp": {"momentum": 0.9}, "Adagrad": {},
        "Adadelta": {"weight_decay": 0.1}, "Rprop": {}, "ASGD": {},
    },
}  # fmt: skip
CASES = [(name, key) for name, rows in ELEMENTWISE.items() for key in rows]


def optimizer_class(side, name):
    return getattr(torch.optim if side is torch else paddle.optimizer, name.split()[0])


def build(side, cls, net, **settings):
    """An optimizer as users build it, over everything."""
    if side is torch:
        return cls(net.parameters(), lr=0.05, **settings)
    return cls(learning_rate=0.05, parameters=net.parameters(), **settings)


@pytest.mark.parametrize(("framework", "name"), CASES)
@pytest.mark.parametrize("own", [False, True], ids=["of the handle", "of the user"])
def test_old_rows_keep_every_bit_under_each_optimizer(framework, name, own):
    """Momentum and moments exist before the plan, and decay goes on."""
    side = SIDES[framework]
    net = model(side, tied=True)
    settings = {"batch_num": 2} if (framework, name) == ("paddle", "ASGD") else {}
    settings |= ELEMENTWISE[framework][name]
    cls = optimizer_class(side, name)
    optimizer = build(side, cls, net, **settings)
    train(side, net, optimizer, range(3))
    handle = plan(tied=True).apply(net)
    if not own:
        settings.pop("batch_num", None)
        optimizer = handle.optimizer(cls, lr=0.05, **settings)
    before = values(net.word_embeddings.weight)
    train(side, net, optimizer, range(3, 9))
    after = values(net.word_embeddings.weight)
    assert after[:OLD].tobytes() == before[:OLD].tobytes()
    assert (after[OLD:] != before[OLD:]).any(axis=1).all()
    assert handle.verify().rows == OLD
    handle.remove()
    train(side, net, optimizer, range(9, 12))
    if own:
        assert (values(net.word_embeddings.weight)[:OLD] != before[:OLD]).any()


def reference(side, net, optimizer, rows, steps):
    """A run that trains everything, where old rows get no gradient, by hand."""
    table = net.word_embeddings.weight
    for step in steps:
        loss(net, batch(side, step)).backward()
        gradient = values(table.grad)
        gradient[:rows] = 0
        if side is torch:
            table.grad = torch.tensor(gradient)
        else:
            table.grad = paddle.to_tensor(gradient)
        old = values(table)[:rows]
        optimizer.step()
        clear(optimizer)
        whole = values(table)
        whole[:rows] = old
        put(side, table, whole)


@pytest.mark.parametrize("steps", [500])
def test_five_hundred_steps_with_decay_saved_and_resumed(side, tied, steps, tmp_path):
    """New rows are those of a run by hand, bit for bit, and old rows those of the beginning."""
    net, twin = model(side, tied=tied), model(side, tied=tied)
    handle = plan(tied=tied).apply(net)
    before = values(net.word_embeddings.weight)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    optimizer = handle.optimizer(adamw(side), **settings)
    half = steps // 2
    train(side, net, optimizer, range(half))
    saved = {name: values(tensor) for name, tensor in net.state_dict().items()}
    state, run = copy.deepcopy(optimizer.state_dict()), handle.state_dict()
    handle.save_trained(tmp_path / "rows.safetensors")

    resumed = model(side, tied=tied)
    again = plan(tied=tied).apply(resumed)
    for name, tensor in resumed.state_dict().items():
        put(side, tensor, saved[name])
    again.load_state_dict(run)
    other = again.optimizer(adamw(side), **settings)
    (other.load_state_dict if side is torch else other.set_state_dict)(state)
    train(side, resumed, other, range(half, steps))
    again.verify()

    train(side, net, optimizer, range(half, steps))
    handle.verify()
    trained = [twin.word_embeddings.weight] + ([] if tied else [twin.lm_head.weight])
    by_hand = (
        torch.optim.AdamW(trained, **settings)
        if side is torch
        else paddle.optimizer.AdamW(0.01, parameters=trained, weight_decay=0.1)
    )
    reference(side, twin, by_hand, OLD, range(steps))
    table = values(net.word_embeddings.weight)
    assert table[:OLD].tobytes() == before[:OLD].tobytes()
    for name, tensor in twin.state_dict().items():
        assert values(tensor).tobytes() == values(net.state_dict()[name]).tobytes(), name
        assert values(tensor).tobytes() == values(resumed.state_dict()[name]).tobytes(), name

    third = model(side, tied=tied)
    uf.load_trained(third, tmp_path / "rows.safetensors")
    assert (
        values(third.word_embeddings.weight).tobytes() == saved["word_embeddings.weight"].tobytes()
    )


def test_clipping_counts_no_gradient_of_old_rows(side):
    net, twin = model(side, tied=True), model(side, tied=True)
    handle = plan(tied=True).apply(net)
    loss(net, batch(side, 0)).backward()
    gradient = values(net.word_embeddings.weight.grad)
    assert not gradient[:OLD].any()
    assert gradient[OLD:].any()
    handle.check_gradients()
    loss(twin, batch(side, 0)).backward()
    assert (values(twin.word_embeddings.weight.grad)[OLD:] == gradient[OLD:]).all()
    clip = side.nn.utils.clip_grad_norm_
    norm = float(clip(net.parameters(), 1e-3))
    assert norm == pytest.approx(float(np.linalg.norm(gradient)), rel=1e-5)


def test_gradients_add_up_and_a_stale_one_loses_its_old_rows(side):
    net = model(side, tied=True)
    loss(net, batch(side, 0)).backward()
    plan(tied=True).apply(net)
    table = net.word_embeddings.weight
    first = values(table.grad)
    assert not first[:OLD].any()
    loss(net, batch(side, 1)).backward()
    both = values(table.grad)
    assert not both[:OLD].any()
    assert (both[OLD:] != first[OLD:]).any()


@pytest.mark.parametrize("lazy", [False, True])
def test_sparse_gradients(side, lazy):
    net = model(side, tied=False, sparse=True)
    handle = plan(tied=False).apply(net)
    before = values(net.word_embeddings.weight)
    if side is torch:
        table = [net.word_embeddings.weight]
        cls = torch.optim.SparseAdam if lazy else torch.optim.SGD
        optimizer = cls(table, lr=0.1)
    else:
        optimizer = paddle.optimizer.Adam(
            0.1, parameters=net.parameters(), lazy_mode=lazy, weight_decay=None
        )
    train(side, net, optimizer, range(6))
    after = values(net.word_embeddings.weight)
    assert after[:OLD].tobytes() == before[:OLD].tobytes()
    assert (after[OLD:] != before[OLD:]).all(axis=1).any()
    handle.verify()


def test_flags_that_change_for_a_while_leave_the_rows(side):
    net = model(side, tied=False)
    handle = plan(tied=False).apply(net)
    before = values(net.word_embeddings.weight)
    optimizer = build(side, adamw(side), net)
    with uf.frozen(net):
        net(batch(side, 0))
    train(side, net, optimizer, range(3))
    assert values(net.word_embeddings.weight)[:OLD].tobytes() == before[:OLD].tobytes()
    handle.reapply()
    train(side, net, optimizer, range(3))
    handle.check_flags()
    assert handle.verify().rows == OLD


def test_drift_is_named_by_row(side):
    net = model(side, tied=True)
    handle = plan(tied=True).apply(net)
    table = values(net.word_embeddings.weight)
    table[[2, 5]] += 1.0
    table[OLD:] += 1.0
    put(side, net.word_embeddings.weight, table)
    with pytest.raises(FrozenDriftError, match=rf"moved \(rows 2, 5, of the {OLD} that stay\)"):
        handle.verify()
    handle.rebase()
    assert handle.verify().rows == OLD


def test_rows_in_the_middle_and_from_the_end(side):
    for rule, trained in (
        ('rows("word_embeddings", 3:5)', [3, 4]),
        ('rows("word_embeddings", -2:)', [10, 11]),
        ('rows("word_embeddings", :2)', [0, 1]),
    ):
        net = model(side, tied=False)
        handle = plan(tied=False, rule=rule).apply(net)
        before = values(net.word_embeddings.weight)
        train(side, net, build(side, adamw(side), net), range(8))
        moved = (values(net.word_embeddings.weight) != before).any(axis=1)
        assert np.flatnonzero(moved).tolist() == trained
        assert handle.verify().rows == WORDS - len(trained)
        handle.remove()


def test_phases_change_which_rows_train(side):
    whole = (
        uf.FreezePlan()
        .phase("new", rules=[{"freeze": "all"}, {"train": 'rows("word_embeddings", 9:)'}])
        .phase("more", at={"epoch": 1}, add={"train": 'rows("word_embeddings", 6:)'})
        .phase("all", at={"epoch": 2}, add={"train": "word_embeddings"})
        .phase("none", at={"epoch": 3}, rules=[{"freeze": "all"}, {"train": "middle"}])
        .phase(
            "back",
            at={"epoch": 4},
            rules=[{"freeze": "all"}, {"train": 'rows("word_embeddings", 9:)'}],
        )
    )
    net = model(side, tied=True)
    handle = whole.apply(net)
    optimizer = handle.optimizer(adamw(side), lr=0.05, weight_decay=0.1)
    for epoch, first in enumerate([9, 6, 0, WORDS, 9]):
        handle.step(epoch=epoch)
        before = values(net.word_embeddings.weight)
        train(side, net, optimizer, range(10 * epoch, 10 * epoch + 8))
        moved = (values(net.word_embeddings.weight) != before).any(axis=1)
        assert np.flatnonzero(moved).tolist() == list(range(first, WORDS)), epoch
        handle.verify()
        handle.check_flags()


def test_a_second_plan_takes_the_table_over_and_gives_it_back(side):
    net = model(side, tied=False)
    handle = plan(tied=False).apply(net)
    second = uf.FreezePlan().train("all").apply(net.word_embeddings)
    optimizer = build(side, adamw(side), net)
    before = values(net.word_embeddings.weight)
    train(side, net, optimizer, range(4))
    assert (values(net.word_embeddings.weight) != before).any(axis=1).all()
    assert handle.verify().rows == 0
    second.remove()
    before = values(net.word_embeddings.weight)
    train(side, net, optimizer, range(4))
    assert (values(net.word_embeddings.weight)[:OLD] == before[:OLD]).all()
    assert handle.verify().rows == OLD


def test_copies_train_whole_and_pickles_load(side):
    net = model(side, tied=False)
    plan(tied=False).apply(net)
    twin = copy.deepcopy(net.word_embeddings)
    before = values(twin.weight)
    optimizer = build(side, adamw(side), twin)
    (twin(batch(side, 0)) ** 2).mean().backward()
    optimizer.step()
    assert (values(twin.weight) != before).any()
    if side is torch:
        assert pickle.loads(pickle.dumps(net.state_dict()))


class SignsOfMomentum(torch.optim.Optimizer):
    """An optimizer of a user's own that updates each value by itself."""

    def __init__(self, params, lr=0.01, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                    mean.mul_(0.9).add_(p.grad, alpha=0.1)
                    p.data.mul_(1 - group["lr"] * group["weight_decay"])
                    p.data.add_(mean.sign(), alpha=-group["lr"])


class TrustRatio(SignsOfMomentum):
    """One that scales its update by norms over the whole table, as LAMB and LARS do."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    ratio = p.data.norm() / p.grad.norm()
                    p.data.add_(p.grad, alpha=-group["lr"] * float(ratio))


class NeedsMore(SignsOfMomentum):
    def __init__(self, params, base):
        super().__init__(params)
        self.base = base


MIXING = {
    "trust ratio": ("torch", TrustRatio, {}),
    "Adafactor": ("torch", torch.optim.Adafactor, {}),
    "Lamb": ("paddle", paddle.optimizer.Lamb, {}),
}
if hasattr(torch.optim, "Muon"):
    MIXING["Muon"] = ("torch", torch.optim.Muon, {})


@pytest.mark.parametrize("name", MIXING)
def test_optimizers_that_mix_rows_are_refused_before_a_step(name):
    framework, cls, settings = MIXING[name]
    side = SIDES[framework]
    net = model(side, tied=True)
    handle = plan(tied=True).apply(net)
    with pytest.raises(OptimizerError, match="moves each row by what is in the others"):
        handle.optimizer(cls, lr=0.01, **settings)
    tables = [net.word_embeddings.weight]
    own = cls(tables, lr=0.01) if side is torch else cls(0.01, parameters=tables)
    before = values(tables[0])
    loss(net, batch(side, 0)).backward()
    with pytest.raises(OptimizerError, match="moves each row by what is in the others"):
        own.step()
    assert values(tables[0]).tobytes() == before.tobytes()
    handle.remove()
    own.step()


def test_a_users_own_elementwise_optimizer_is_tried_and_taken():
    net = model(torch, tied=True)
    handle = plan(tied=True).apply(net)
    before = values(net.word_embeddings.weight)
    optimizer = handle.optimizer(SignsOfMomentum, lr=0.01, weight_decay=0.3)
    train(torch, net, optimizer, range(5))
    assert values(net.word_embeddings.weight)[:OLD].tobytes() == before[:OLD].tobytes()
    handle.verify()
    other = NeedsMore([net.word_embeddings.weight], base=1)
    loss(net, batch(torch, 0)).backward()
    with pytest.raises(OptimizerError, match="cannot be tried on a small table"):
        other.step()


@pytest.mark.parametrize("framework", SIDES)
def test_the_optimizers_in_the_tables_pass_the_trial(framework):
    """What the backends take unseen updates each value by itself."""
    from unifreeze._protocol import load_backend

    held = load_backend(framework).held_rows
    side = SIDES[framework]
    for cls in held.elementwise:
        if cls.__name__ in ("LookAhead", "ModelAverage", "SparseAdam"):
            continue  # they wrap another, or take sparse gradients alone
        table = model(side, tied=False).word_embeddings
        extra = {"batch_num": 2} if (framework, cls.__name__) == ("paddle", "ASGD") else {}
        assert not held._mixes_rows(build(side, cls, table, **extra)), cls


def test_a_step_that_failed_is_undone_by_the_next():
    net = model(torch, tied=True)
    handle = plan(tied=True).apply(net)
    before = values(net.word_embeddings.weight)
    fails = []

    class Half(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            if fails:
                fails.clear()
                raise MemoryError

    optimizer = Half(net.parameters(), lr=0.1, weight_decay=0.5)
    loss(net, batch(torch, 0)).backward()
    optimizer.step()
    fails.append("once")
    with pytest.raises(MemoryError):
        optimizer.step()
    optimizer.step()
    assert values(net.word_embeddings.weight)[:OLD].tobytes() == before[:OLD].tobytes()
    handle.verify()


def test_lookahead_and_half_precision_in_paddle():
    net = model(paddle, tied=False)
    handle = plan(tied=False).apply(net)
    before = values(net.word_embeddings.weight)
    inner = paddle.optimizer.AdamW(0.05, parameters=net.parameters(), weight_decay=0.3)
    optimizer = paddle.incubate.LookAhead(inner, alpha=0.3, k=2)
    train(paddle, net, optimizer, range(6))
    assert values(net.word_embeddings.weight)[:OLD].tobytes() == before[:OLD].tobytes()
    handle.verify()


def test_a_model_under_such_a_plan_is_freed(side):
    import gc
    import weakref

    net = model(side, tied=False)
    handle = plan(tied=False).apply(net)
    train(side, net, handle.optimizer(adamw(side), lr=0.1), range(2))
    table = weakref.ref(net.word_embeddings.weight)
    del net, handle
    gc.collect()
    assert table() is None


def test_both_frameworks_train_the_same_rows():
    nets = [model(side, tied=True) for side in SIDES.values()]
    resolutions = [plan(tied=True).resolve(net) for net in nets]
    one, other = ([row._replace(number=0) for row in r.rows] for r in resolutions)
    assert one == other
    report = uf.check_parity(plan(tied=True), *nets, batch="ids=int64[3,5]<0:12>")
    report.raise_if_broken()


def test_a_loss_scaler_and_master_weights():
    """A scaler skips steps, and Paddle keeps masters of what is in half precision."""
    net = model(torch, tied=True)
    handle = plan(tied=True).apply(net)
    before = values(net.word_embeddings.weight)
    optimizer = handle.optimizer(torch.optim.AdamW, lr=0.05, weight_decay=0.2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(6):
        value = loss(net, batch(torch, step)) * (float("inf") if step == 2 else 1.0)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        clear(optimizer)
    after = values(net.word_embeddings.weight)
    assert after[:OLD].tobytes() == before[:OLD].tobytes()
    assert np.isfinite(after).all()
    assert (after[OLD:] != before[OLD:]).any(axis=1).all()
    handle.verify()


ERRORS = {
    "past the end": ('rows("word_embeddings", 12:)', "none from 12 up to 12"),
    "far past the end": ('rows("word_embeddings", 30000:)', "30000 is past its end"),
    "a stop past the end": ('rows("word_embeddings", 5:13)', "13 is past its end"),
    "before the beginning": ('rows("word_embeddings", -13:)', "-13 is past its beginning"),
    "empty": ('rows("word_embeddings", 5:5)', "none from 5 up to 5"),
    "backwards": ('rows("word_embeddings", 7:-8)', "none from 7 up to 4"),
    "all": ('rows("word_embeddings", :)', "these are all 12 rows"),
    "no table": ('rows("middle.weight", 1:)', "is not the table of an embedding"),
    "a vector": ('rows("middle.bias", 1:)', r"is of shape \[4\]"),
    "several": ('rows("all", 1:)', "rows are of one table"),
    "nothing": ('rows("no_such_table", 1:)', "matches none of"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_rows_that_are_not_there_are_errors_that_say_so(side, name):
    rule, fact = ERRORS[name]
    net = model(side, tied=False)
    flags = [
        bool(p.requires_grad if side is torch else not p.stop_gradient) for p in net.parameters()
    ]
    with pytest.raises(uf.errors.ResolveError, match=fact) as caught:
        uf.FreezePlan().only("middle").train(rule).apply(net)
    assert caught.value.hint
    assert flags == [
        bool(p.requires_grad if side is torch else not p.stop_gradient) for p in net.parameters()
    ]


def test_rules_in_other_places_are_errors(side):
    net, rule = model(side, tied=False), 'rows("word_embeddings", 9:)'
    twice = uf.FreezePlan().freeze("all").train(rule).train('rows("word_embeddings", 5:7)')
    with pytest.raises(uf.errors.ResolveError, match="rules 2 and 3 both train rows of word_emb"):
        twice.resolve(net)
    with pytest.raises(uf.errors.UndecidedRuleError, match="decides nothing"):
        uf.FreezePlan().train(rule).freeze("word_embeddings").resolve(net)
    for verb in ("freeze", "only"):
        with pytest.raises(uf.errors.PlanError, match=r"rows\(…\) stands alone"):
            getattr(uf.FreezePlan(), verb)(rule)
    with pytest.raises(uf.errors.PlanError, match=r"rows\(…\) stands alone"):
        uf.FreezePlan().with_group(rule, weight_decay=0)
    with pytest.raises(uf.errors.PlanError, match=r"rows\(…\) stands alone"):
        uf.freeze(net, rule)
    optional = uf.FreezePlan().only("middle").train('rows("nothing", 9:)', optional=True)
    assert optional.resolve(net).rows == ()


def test_a_plan_file_says_the_same(side):
    text = 'unifreeze: 1\nrules:\n  - freeze: all\n  - train: rows("word_embeddings", 9:)\n'
    read = uf.FreezePlan.from_yaml(text)
    assert read == plan(tied=True)
    assert uf.FreezePlan.from_yaml(read.to_yaml()) == read
    by_framework = (
        uf.FreezePlan()
        .only("middle")
        .train({"torch": 'rows("word_embeddings", 9:)', "paddle": 'rows("word_embeddings", -3:)'})
    )
    (rows,) = by_framework.resolve(model(side, tied=False)).rows
    assert (rows.start, rows.stop, rows.total) == (9, 12, 12)
    shown = str(by_framework.resolve(model(side, tied=False)))
    assert "rows 9 to 11 train (3 of 12), 9 rows stay as they are" in shown


def test_max_norm_and_capture_and_translate_are_refused(side):
    net = model(side, tied=False)
    setattr(net.word_embeddings, "max_norm" if side is torch else "_max_norm", 1.0)
    with pytest.raises(uf.errors.UnsupportedPlanError, match="max_norm rewrites rows that stay"):
        plan(tied=False).apply(net)
    net = model(side, tied=False)
    plan(tied=False).apply(net)
    with pytest.raises(uf.errors.PlanError, match="no flag shows it"):
        uf.capture(net)
    with pytest.raises(uf.errors.PlanError, match="are not translated"):
        uf.translate(plan(tied=False), net, model(side, tied=False))


def test_a_replaced_table_is_told_and_taken_in(side):
    net = model(side, tied=False)
    handle = plan(tied=False).apply(net)
    net.word_embeddings = side.nn.Embedding(WORDS, 4)
    with pytest.raises(FrozenDriftError, match=r"word_embeddings\.weight: replaced"):
        handle.verify()
    handle.reapply()
    before = values(net.word_embeddings.weight)
    train(side, net, build(side, adamw(side), net), range(4))
    assert values(net.word_embeddings.weight)[:OLD].tobytes() == before[:OLD].tobytes()
    assert handle.verify().rows == OLD


def test_parity_sees_other_rows():
    nets = [model(side, tied=True) for side in SIDES.values()]
    differs = (
        uf.FreezePlan()
        .freeze("all")
        .train({"torch": 'rows("word_embeddings", 9:)', "paddle": 'rows("word_embeddings", 6:)'})
    )
    report = uf.check_parity(differs, *nets, batch="ids=int64[3,5]<0:12>")
    assert report.broken == ("decisions",)
    assert "trains rows 9 to 11 alone in torch" in str(report)
