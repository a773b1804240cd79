"""Layers registered in another order than they run in: found by the first whole forward pass."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.pairs import PAIRS
from tests.support.shuffled import PLANS, try_model
from unifreeze._cli.find_model import read_batch
from unifreeze._protocol import Batch
from unifreeze.errors import OrderError

ROWS = np.random.default_rng(0).standard_normal((4, 4)).astype("float32")


class TorchNet(torch.nn.Module):
    """A network whose output layer is registered before its blocks."""

    def __init__(self):
        super().__init__()
        self.answer = torch.nn.Linear(4, 3)
        self.layers = torch.nn.ModuleList([TorchBlock() for _ in range(3)])
        self.entry = torch.nn.Linear(4, 4)

    def forward(self, x, fail=False):
        x = self.entry(x)
        for layer in self.layers:
            x = layer(x)
        if fail:
            raise ZeroDivisionError
        return self.answer(x)


class TorchBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)

    def forward(self, x):
        return x + self.down(self.up(x).tanh())


class PaddleNet(paddle.nn.Layer):
    """The same in Paddle."""

    def __init__(self):
        super().__init__()
        self.answer = paddle.nn.Linear(4, 3)
        self.layers = paddle.nn.LayerList([PaddleBlock() for _ in range(3)])
        self.entry = paddle.nn.Linear(4, 4)

    def forward(self, x, fail=False):
        x = self.entry(x)
        for layer in self.layers:
            x = layer(x)
        if fail:
            raise ZeroDivisionError
        return self.answer(x)


class PaddleBlock(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.up, self.down = paddle.nn.Linear(4, 8), paddle.nn.Linear(8, 4)

    def forward(self, x):
        return x + self.down(paddle.tanh(self.up(x)))


class Torch:
    net, sgd = TorchNet, torch.optim.SGD
    rows = staticmethod(lambda: torch.tensor(ROWS))
    hooks = staticmethod(
        lambda net: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())
    )
    copies = staticmethod(lambda net: [copy.deepcopy(net), pickle.loads(pickle.dumps(net))])
    together = staticmethod(torch.nn.ModuleDict)


class Paddle:
    net, sgd = PaddleNet, paddle.optimizer.SGD
    rows = staticmethod(lambda: paddle.to_tensor(ROWS))
    hooks = staticmethod(
        lambda net: sum(
            len(m._forward_post_hooks) + len(m._forward_pre_hooks) for m in [net, *net.sublayers()]
        )
    )
    copies = staticmethod(lambda net: [copy.deepcopy(net)])
    together = staticmethod(paddle.nn.LayerDict)


@pytest.fixture(params=[Torch, Paddle], ids=["torch", "paddle"])
def side(request):
    return request.param


HEAD = uf.FreezePlan().only("head")


def test_the_first_pass_says_that_the_order_was_wrong_and_names_both_sets_and_the_cures(side):
    net = side.net()
    handle = HEAD.apply(net)
    assert set(handle.resolution.trainable_paths) == {"entry.weight", "entry.bias"}
    with pytest.raises(OrderError) as caught:
        net(side.rows())
    text = str(caught.value)
    assert "as registered, 2 train: entry.weight, entry.bias" in text
    assert "as executed, 2 train: answer.weight, answer.bias" in text
    assert "batch=" in text
    assert "order: as_described" in text


def test_the_error_comes_back_until_the_plan_is_mended(side):
    net = side.net()
    handle = HEAD.apply(net)
    for _ in range(2):
        with pytest.raises(OrderError):
            net(side.rows())
    HEAD.apply(net, batch=ROWS)
    net(side.rows())
    with pytest.raises(uf.UnifreezeError, match="no longer in force"):
        handle.verify()


def test_a_batch_decides_by_execution_and_nothing_is_watched(side):
    net = side.net()
    handle = HEAD.apply(net, batch=ROWS)
    assert set(handle.resolution.trainable_paths) == {"answer.weight", "answer.bias"}
    assert not side.hooks(net)
    net(side.rows())


def test_order_as_described_is_taken_as_it_is(side):
    net = side.net()
    plan = HEAD.with_order("as_described")
    assert uf.FreezePlan.from_yaml(plan.to_yaml()) == plan
    handle = plan.apply(net)
    assert not side.hooks(net)
    net(side.rows())
    assert handle.verify().parameters == 14


@pytest.mark.parametrize(
    "plan",
    [
        uf.FreezePlan().freeze("path:'entry'"),
        uf.FreezePlan().freeze("bias"),
        uf.FreezePlan().freeze("linear & size(> 20)"),
        uf.FreezePlan().freeze('type:"*Block"'),
    ],
)
def test_a_plan_that_counts_nothing_watches_nothing(side, plan):
    net = side.net()
    plan.apply(net)
    assert not side.hooks(net)


def test_where_both_orders_agree_the_watch_ends_with_the_first_pass(side):
    net = side.net()
    handle = uf.FreezePlan().freeze("blocks[:1]").apply(net)
    assert side.hooks(net)
    net(side.rows())
    assert not side.hooks(net)
    handle.verify()
    handle.reapply()
    assert not side.hooks(net)


def test_the_watch_changes_no_output_and_no_gradient(side):
    net = side.net()
    expected = net(side.rows())
    uf.FreezePlan().freeze("blocks[:1]").apply(net)
    for _ in range(2):
        result = net(side.rows())
        np.testing.assert_array_equal(result.detach().numpy(), expected.detach().numpy())
    result.sum().backward()
    assert net.entry.weight.grad is not None
    assert net.layers[0].up.weight.grad is None


def test_passes_of_a_part_and_passes_that_fail_do_not_count(side):
    net = side.net()
    HEAD.apply(net)
    net.entry(side.rows())
    net.layers[0](side.rows())
    with pytest.raises(ZeroDivisionError):
        net(side.rows(), fail=True)
    with pytest.raises(OrderError):
        net(side.rows())


def test_a_plan_that_is_removed_watches_no_more(side):
    net = side.net()
    HEAD.apply(net).remove()
    assert not side.hooks(net)
    net(side.rows())


def test_a_copy_is_not_watched(side):
    net = side.net()
    HEAD.apply(net)
    for other in side.copies(net):
        other(side.rows())
        assert not side.hooks(other)
    with pytest.raises(OrderError):
        net(side.rows())


def test_looking_at_the_model_is_not_its_first_pass(side):
    net = side.net()
    handle = HEAD.apply(net)
    plan = HEAD.resolve(net, batch=ROWS)
    assert set(plan.trainable_paths) == {"answer.weight", "answer.bias"}
    assert side.hooks(net)
    handle.verify()
    with pytest.raises(OrderError):
        net(side.rows())


def test_a_later_phase_that_rests_on_the_order_is_told_in_the_first_pass(side):
    plan = uf.FreezePlan.from_yaml(
        "{unifreeze: 1, phases: [{name: all, rules: [{train: all}]}, "
        "{name: top, at: {epoch: 1}, rules: [{only: head}]}]}"
    )
    net = side.net()
    handle = plan.apply(net)
    handle.optimizer(side.sgd, lr=0.1)
    handle.step(epoch=0)
    with pytest.raises(OrderError, match="phase 'top': layers run in another order"):
        net(side.rows())


def test_a_learning_rate_by_depth_rests_on_the_order_too(side):
    net = side.net()
    uf.FreezePlan().train("all").with_group("all", layer_decay=0.5).apply(net)
    with pytest.raises(OrderError, match="another learning rate"):
        net(side.rows())


def test_each_of_several_models_is_looked_at_in_its_own_first_pass(side):
    student, teacher = side.net(), side.net()
    plan = uf.FreezePlan().freeze("teacher").freeze("student").train("head in student")
    plan.apply({"student": student, "teacher": teacher})
    teacher(side.rows())
    with pytest.raises(OrderError, match=r"student\.answer\.weight"):
        student(side.rows())


def test_a_model_inside_another_is_looked_at_when_it_runs(side):
    net = side.net()
    HEAD.apply(net)
    side.together({"inner": net})
    with pytest.raises(OrderError):
        net(side.rows())


def test_a_pass_without_gradient_counts(side):
    net = side.net()
    HEAD.apply(net)
    net.eval()
    guard = torch.no_grad() if side is Torch else paddle.no_grad()
    with guard, pytest.raises(OrderError):
        net(side.rows())


def test_under_a_compiler_verify_says_that_the_order_was_not_seen():
    net = TorchNet()
    handle = HEAD.apply(net)
    compiled = torch.compile(net, backend="eager")
    compiled(torch.tensor(ROWS))
    assert "a compiler runs them" in str(handle.verify())
    torch._dynamo.reset()
    with pytest.raises(OrderError):
        net(torch.tensor(ROWS))


def test_a_model_with_a_compiled_part_is_not_recorded():
    net = TorchNet()
    net.layers[0] = torch.compile(net.layers[0], backend="eager")
    handle = HEAD.apply(net)
    net(torch.tensor(ROWS))
    assert not handle.verify().ordered
    assert HEAD.apply(net, batch=ROWS).verify().ordered
    torch._dynamo.reset()


def test_under_to_static_verify_says_that_the_order_was_not_seen():
    net = PaddleNet()
    handle = HEAD.apply(net)
    static = paddle.jit.to_static(net)
    static(paddle.to_tensor(ROWS))
    assert not handle.verify().ordered


def test_a_parameter_that_is_put_in_during_the_first_pass_stays():
    class Late(TorchNet):
        def forward(self, x, fail=False):
            if not hasattr(self, "late"):
                self.late = torch.nn.Parameter(torch.zeros(3))
            return super().forward(x) + self.late

    net = Late()
    uf.FreezePlan().freeze("blocks[:1]").apply(net)
    net(torch.tensor(ROWS))
    assert "late" in dict(net.named_parameters())


QUICK = ("bert", "ernie", "albert", "gpt2", "t5", "opt", "mpnet", "distilbert")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_networks_registered_in_shuffled_order_are_never_silently_wrong(name):
    """`python -m tests.support.shuffled` tries all of the zoo."""
    pair = PAIRS[name]
    for seed, target in enumerate((pair.torch, pair.paddle)):
        counts, wrong = try_model(target, read_batch(list(pair.batch)) or Batch(), seed)
        assert not wrong
        assert counts["right"] + counts["told"] + counts["refused"] == len(PLANS)


def test_a_tied_tensor_is_counted_where_it_first_runs_whatever_name_is_registered_first(side):
    net = side.net()
    net.answer = side.net().entry
    net.answer.weight = net.entry.weight
    resolution = uf.FreezePlan().freeze("params[:1]").resolve(net, batch=side.rows())
    assert resolution.frozen_paths == ("answer.weight",), "the name registered first"
