"""Rows that stay keep every bit under programs that do unusual things, or a message says why."""

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.table_rows import OLD, SIDES, batch, loss, model, plan, put, train, values
from unifreeze.errors import FrozenDriftError, OptimizerError, ResolveError


@pytest.fixture(params=SIDES)
def side(request):
    return SIDES[request.param]


def table_of(net):
    return values(net.word_embeddings.weight)


def old_rows_are(net, wanted):
    return table_of(net)[:OLD].tobytes() == wanted[:OLD].tobytes()


def failing(side, net):
    """An optimizer of a user's own that decays all values, and raises in the middle when told."""
    when = set()

    class InTorch(torch.optim.Optimizer):
        def __init__(self, params, lr=0.05):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            for group in self.param_groups:
                for p in (p for p in group["params"] if p.grad is not None):
                    p.data.mul_(0.9).add_(p.grad, alpha=-group["lr"])
                    if "now" in when:
                        raise KeyboardInterrupt

    class InPaddle(paddle.optimizer.SGD):
        def _append_optimize_op(self, block, pair):
            with paddle.no_grad():
                pair[0].set_value(pair[0] * 0.9)
            if "now" in when:
                raise KeyboardInterrupt
            return super()._append_optimize_op(block, pair)

    if side is torch:
        return InTorch(net.parameters()), when
    return InPaddle(0.05, parameters=net.parameters()), when


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_step_that_is_interrupted_leaves_no_row_moved_and_nothing_to_undo(side, scheduled):
    """What is loaded after it is not taken for what the step has left half-way."""
    net = model(side, tied=True)
    optimizer, when = failing(side, net)
    if scheduled and side is torch:  # it wraps the `step` of this optimizer
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    handle = plan(tied=True).apply(net)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1) if side is torch else None
    other = sgd or paddle.optimizer.SGD(0.1, parameters=net.parameters())
    train(side, net, optimizer, range(2))
    before = table_of(net)
    loss(net, batch(side, 0)).backward()
    when.add("now")
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert old_rows_are(net, before)
    assert (table_of(net)[OLD:] != before[OLD:]).any()
    handle.verify()
    when.clear()
    for number, taken in enumerate((optimizer, other, other, optimizer)):
        loaded = before + number + 1
        put(side, net.word_embeddings.weight, loaded)
        taken.step()
        assert old_rows_are(net, loaded), number
        assert (table_of(net)[OLD:] != loaded[OLD:]).any(), number
    with pytest.raises(FrozenDriftError, match="moved"):
        handle.verify()


def test_a_step_that_goes_on_after_the_step_of_its_class_is_seen_to_its_end(side):
    """It decays all values itself, behind the update that it inherits."""
    if side is torch:

        class Decays(torch.optim.SGD):
            def step(self, closure=None):
                super().step(closure)
                for p in self.param_groups[0]["params"]:
                    p.data.mul_(0.9)

    else:

        class Decays(paddle.optimizer.SGD):
            def step(self):
                super().step()
                with paddle.no_grad():
                    for p in self._parameter_list:
                        p.set_value(p * 0.9)

    net = model(side, tied=True)
    handle = plan(tied=True).apply(net)
    before = table_of(net)
    tables = [net.word_embeddings.weight]
    optimizer = Decays(tables, 0.1) if side is torch else Decays(0.1, parameters=tables)
    for step in range(3):
        loss(net, batch(side, step)).backward()
        optimizer.step()
        assert old_rows_are(net, before)
    assert (table_of(net)[OLD:] != before[OLD:]).any(axis=1).all()
    handle.verify()


def test_optimizers_of_paddle_with_a_step_of_their_own_are_looked_at():
    """They move parameters without the method that the others share."""

    class Ratio(paddle.optimizer.SGD):
        def step(self):
            with paddle.no_grad():
                for p in self._parameter_list:
                    if p.grad is not None:
                        p.set_value(p - 0.01 * p.norm() * p.grad)

    class Decays(paddle.optimizer.SGD):
        def step(self):
            with paddle.no_grad():
                for p in self._parameter_list:
                    if p.grad is not None:
                        p.set_value(0.9 * p - 0.01 * p.grad)

    def closure():
        value = loss(net, batch(paddle, 0))
        value.backward()
        return value

    net = model(paddle, tied=True)
    tables = [net.word_embeddings.weight]
    lbfgs = paddle.optimizer.LBFGS(parameters=tables, max_iter=2)
    lbfgs.step(closure)
    plan(tied=True).apply(net)
    before = table_of(net)
    with pytest.raises(OptimizerError, match="LBFGS"):
        lbfgs.step(closure)
    loss(net, batch(paddle, 0)).backward()
    with pytest.raises(OptimizerError, match="moves each row by what is in the others"):
        Ratio(0.1, parameters=tables).step()
    assert table_of(net).tobytes() == before.tobytes()
    assert paddle.is_grad_enabled()
    Decays(0.1, parameters=tables).step()
    assert old_rows_are(net, before)
    assert (table_of(net)[OLD:] != before[OLD:]).any(axis=1).all()


def test_a_table_that_shares_memory_with_another_parameter_is_refused(side):
    """Gradients and steps of the other reach its rows."""
    net = model(side, tied=False)
    if side is torch:
        net.lm_head.weight = torch.nn.Parameter(net.word_embeddings.weight.data)
    else:
        net.word_embeddings.weight._share_buffer_to(net.lm_head.weight)
    with pytest.raises(ResolveError, match=r"shares memory with lm_head\.weight") as caught:
        plan(tied=False).apply(net)
    assert caught.value.hint


def test_a_table_that_grew_in_place_is_told_as_that():
    net = model(torch, tied=False)
    handle = plan(tied=False).apply(net)
    table = net.word_embeddings.weight
    table.data = torch.cat([table.data, torch.ones(3, table.shape[1])])
    with pytest.raises(FrozenDriftError, match=r"resized \(shape \[12, 4\] to \[15, 4\]\)"):
        handle.verify()
    handle.reapply()
    (rows,) = handle.resolution.rows
    assert (rows.start, rows.stop) == (OLD, 15)
    before = table_of(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.5)
    train(torch, net, optimizer, range(4))
    moved = (table_of(net) != before).any(axis=1)
    assert np.flatnonzero(moved).tolist() == list(range(OLD, 15))
    handle.verify()


@pytest.mark.parametrize("rule", ["rows", "whole", "frozen"])
def test_a_tie_that_others_undo_is_told(side, rule):
    """A new head stands under a name that the plan decided, and trains."""
    net = model(side, tied=True)
    chosen = {"rows": plan(tied=True), "whole": uf.FreezePlan().train("all")}
    handle = chosen.get(rule, uf.FreezePlan().only("middle")).apply(net)
    tied = net.lm_head.weight
    if side is torch:
        net.lm_head.weight = torch.nn.Parameter(tied.detach().clone())
    else:
        net.lm_head.weight = net.lm_head.create_parameter(tied.shape)
    with pytest.raises(FrozenDriftError, match=r"lm_head\.weight: replaced") as caught:
        handle.check_flags()
    assert [drift.path for drift in caught.value.drifts] == ["lm_head.weight"]
    if rule == "whole":
        handle.verify()
    else:
        with pytest.raises(FrozenDriftError, match=r"lm_head\.weight: new"):
            handle.verify()
    net.lm_head.weight = tied
    handle.check_flags()
    handle.verify()
