"""Loops that run parts or branches of a model: its order of layers is not taken as seen."""

import gc
import warnings
import weakref

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from unifreeze.errors import OrderError, UnifreezeWarning

ROWS = np.random.default_rng(0).standard_normal((4, 4)).astype("float32")
HEAD = uf.FreezePlan().only("head")


class TorchNet(torch.nn.Module):
    """A network whose output layer is registered before all others."""

    def __init__(self):
        super().__init__()
        self.ending = torch.nn.Linear(4, 3)
        self.entry, self.pool = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def features(self, x):
        return self.pool(self.entry(x).tanh()).tanh()

    def forward(self, x, only=False):
        return self.features(x) if only else self.ending(self.features(x))


class PaddleNet(paddle.nn.Layer):
    """The same in Paddle."""

    def __init__(self):
        super().__init__()
        self.ending = paddle.nn.Linear(4, 3)
        self.entry, self.pool = paddle.nn.Linear(4, 4), paddle.nn.Linear(4, 4)

    features, forward = TorchNet.features, TorchNet.forward


class TorchStraight(torch.nn.Module):
    """It is registered as it runs, but for a layer in its middle that never does."""

    def __init__(self):
        super().__init__()
        self.entry, self.idle = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.pool, self.ending = torch.nn.Linear(4, 4), torch.nn.Linear(4, 3)

    features, forward = TorchNet.features, TorchNet.forward


class PaddleStraight(paddle.nn.Layer):
    """The same in Paddle."""

    def __init__(self):
        super().__init__()
        self.entry, self.idle = paddle.nn.Linear(4, 4), paddle.nn.Linear(4, 4)
        self.pool, self.ending = paddle.nn.Linear(4, 4), paddle.nn.Linear(4, 3)

    features, forward = TorchNet.features, TorchNet.forward


class TorchHolder(torch.nn.Module):
    """It does nothing but hold a network, as trainers' modules do."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


class PaddleHolder(paddle.nn.Layer):
    """The same in Paddle."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    forward = TorchHolder.forward


class Torch:
    holder = TorchHolder
    net, straight, together = TorchNet, TorchStraight, torch.nn.ModuleDict
    sgd, wrapped = torch.optim.SGD, torch.nn.Sequential
    rows = staticmethod(lambda: torch.tensor(ROWS))
    modules = staticmethod(lambda net: list(net.modules()))
    after = "_forward_hooks"


class Paddle:
    holder = PaddleHolder
    net, straight, together = PaddleNet, PaddleStraight, paddle.nn.LayerDict
    sgd, wrapped = paddle.optimizer.SGD, paddle.nn.Sequential
    rows = staticmethod(lambda: paddle.to_tensor(ROWS))
    modules = staticmethod(lambda net: [net, *net.sublayers()])
    after = "_forward_post_hooks"


@pytest.fixture(params=[Torch, Paddle], ids=["torch", "paddle"])
def side(request):
    return request.param


def watched(side, net):
    return any(getattr(module, side.after) for module in side.modules(net))


def step(optimizer, loss):
    loss.sum().backward()
    optimizer.step()
    (optimizer.zero_grad if hasattr(optimizer, "zero_grad") else optimizer.clear_grad)()


def warned(work):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
    return [str(one.message) for one in seen if isinstance(one.message, UnifreezeWarning)]


PHASED = uf.FreezePlan.from_yaml("{unifreeze: 1, phases: [{name: top, rules: [{only: head}]}]}")


@pytest.mark.parametrize("plan", [HEAD, PHASED], ids=["plain", "phases"])
def test_a_loop_that_calls_parts_is_warned_once_at_the_first_step(side, plan):
    net = side.net()
    handle = plan.apply(net)
    optimizer = handle.optimizer(side.sgd, lr=0.1)
    said = warned(lambda: step(optimizer, net.ending(net.features(side.rows()))))
    assert len(said) == 1
    assert "own forward pass has not run" in said[0]
    assert "batch=" in said[0]
    assert "order: as_described" in said[0]
    assert not warned(lambda: step(optimizer, net.ending(net.features(side.rows()))))
    for text in (str(handle.verify()), str(handle.report())):
        assert "no forward pass has shown their order" in text
    assert not handle.verify().ordered


def test_an_optimizer_built_elsewhere_is_looked_at_once_it_was_checked(side):
    net = side.net()
    handle = HEAD.apply(net)
    kept = net.pool.parameters()
    optimizer = side.sgd(kept, 0.1) if side is Torch else side.sgd(0.1, parameters=kept)
    handle.check_optimizer(optimizer)
    handle.check_optimizer(optimizer)
    assert len(warned(lambda: step(optimizer, net.features(side.rows())))) == 1


@pytest.mark.parametrize("cured", ["batch", "as_described", "a pass", "no count"])
def test_nothing_is_said_where_the_order_is_known_or_does_not_matter(side, cured):
    net = side.straight()
    plan = uf.FreezePlan().only('path:"pool"') if cured == "no count" else HEAD
    plan = plan.with_order("as_described") if cured == "as_described" else plan
    handle = plan.apply(net, batch=ROWS if cured == "batch" else None)
    if cured == "a pass":
        net(side.rows())
    optimizer = handle.optimizer(side.sgd, lr=0.1)
    assert not warned(lambda: step(optimizer, net.ending(net.features(side.rows()))))
    if cured != "a pass":
        assert handle.verify().ordered


def test_nothing_is_said_once_the_plan_was_removed_or_replaced(side):
    net = side.net()
    handle = HEAD.apply(net)
    optimizer = handle.optimizer(side.sgd, lr=0.1)
    handle.remove()
    assert not warned(lambda: step(optimizer, net.ending(net.features(side.rows()))))
    optimizer = HEAD.apply(net).optimizer(side.sgd, lr=0.1)
    HEAD.apply(net, batch=ROWS)
    assert not warned(lambda: step(optimizer, net.ending(net.features(side.rows()))))


def test_a_first_pass_that_takes_a_branch_leaves_the_rest_open(side):
    net = side.net()
    handle = HEAD.apply(net)
    net(side.rows(), only=True)
    assert "2 parameters have not run yet: ending.weight" in str(handle.verify())
    with pytest.raises(OrderError, match=r"as executed, 2 train: ending\.weight"):
        net(side.rows())


def test_what_never_runs_is_not_waited_for_for_ever(side):
    net = side.straight()
    handle = HEAD.apply(net)
    for _ in range(4):
        assert watched(side, net)
        assert not handle.verify().ordered
        net(side.rows())
    assert not watched(side, net)
    assert handle.verify().ordered
    assert "never ran while the order of layers was watched: idle.weight" in str(handle.report())
    handle.reapply()
    assert not watched(side, net)


def test_a_part_deep_inside_is_seen_by_its_own_pass(side):
    net = side.wrapped(side.wrapped(side.straight(), side.net()), side.straight())
    handle = uf.FreezePlan().freeze("head in 0.1").apply(net)
    with pytest.raises(OrderError, match="ending"):
        net[0][1](side.rows())
    assert not handle.verify().ordered


def test_a_part_that_a_plan_counts_in_is_seen_by_its_own_pass(side):
    nets = side.together({"gen": side.net(), "disc": side.straight()})
    handle = uf.FreezePlan().only("head in gen").apply(nets)
    with pytest.raises(OrderError, match=r"as executed, 2 train: gen\.ending\.weight"):
        nets["gen"](side.rows())
    handle.remove()
    handle = uf.FreezePlan().only("head in disc").apply(nets)
    nets["gen"](side.rows())
    assert not handle.verify().ordered
    for _ in range(4):
        nets["disc"](side.rows())
    assert handle.verify().ordered
    assert not watched(side, nets)


def test_a_wrapper_whose_forward_is_passed_by_is_no_loss(side):
    net = side.holder(side.net())
    HEAD.apply(net)
    with pytest.raises(OrderError):
        net.model(side.rows())
    with pytest.raises(OrderError):
        net(side.rows())
    straight = side.holder(side.straight())
    handle = HEAD.apply(straight)
    for run in (straight, straight.model) * 2:
        run(side.rows())
    assert not watched(side, straight)
    assert handle.verify().ordered


def test_a_batch_that_runs_a_branch_is_told_what_it_never_ran(side):
    batch = {"x": ROWS, "only": True}
    notices = HEAD.resolve(side.net(), batch=batch).notices
    assert any("never ran 2 parameters" in one and "ending.weight" in one for one in notices)
    assert not any("never ran" in one for one in HEAD.resolve(side.net(), batch=ROWS).notices)
    named = uf.FreezePlan().only('path:"pool"').resolve(side.net(), batch=batch)
    assert not any("never ran" in one for one in named.notices)


def test_neither_the_watch_nor_the_optimizer_keeps_a_model_alive(side):
    net = side.net()
    handle = HEAD.apply(net)
    optimizer = handle.optimizer(side.sgd, lr=0.1)
    gone = weakref.ref(net)
    del net, handle
    gc.collect()
    assert gone() is None
    assert optimizer is not None


def test_of_several_models_each_that_counts_is_awaited(side):
    student, teacher = side.straight(), side.straight()
    handle = uf.FreezePlan().only("head").apply({"student": student, "teacher": teacher})
    student(side.rows())
    assert not handle.verify().ordered
    for _ in range(4):
        student(side.rows())
        teacher(side.rows())
    assert handle.verify().ordered
    assert not watched(side, student)
    assert not watched(side, teacher)
