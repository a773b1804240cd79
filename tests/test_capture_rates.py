"""What has a learning rate of 0 is frozen in effect, whatever its flag says, and captured so."""

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf

ROWS = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")


def paddle_net(*still):
    """Two linear layers; those of `still` have a rate of their own, which is 0."""

    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            for name, width in (("body", 6), ("head", 3)):
                rate = paddle.ParamAttr(learning_rate=0.0) if name in still else None
                layer = paddle.nn.Linear(6, width, weight_attr=rate, bias_attr=rate)
                setattr(self, name, layer)

        def forward(self, x):
            return self.head(paddle.tanh(self.body(x)))

    return Net()


def torch_net():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.nn.Linear(6, 6), torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.body(x)))

    return Net()


def moved(model, optimizer):
    """Names of what two steps of the optimizer move, bit by bit."""
    before = {name: np.array(t.detach().numpy()) for name, t in model.named_parameters()}
    is_torch = isinstance(model, torch.nn.Module)
    for _ in range(2):
        model(torch.tensor(ROWS) if is_torch else paddle.to_tensor(ROWS)).square().mean().backward()
        optimizer.step()
        (optimizer.zero_grad if is_torch else optimizer.clear_grad)()
    after = {name: t.detach().numpy() for name, t in model.named_parameters()}
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


def test_what_paddle_gives_no_rate_is_captured_as_frozen_and_so_it_is():
    model = paddle_net("body")
    found = uf.capture(model)
    trains = set(found.plan.resolve(model).trainable_paths)
    optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters(), weight_decay=0.1)
    assert moved(model, optimizer) == trains == {"head.weight", "head.bias"}
    assert "2 parameters require gradients and have a learning rate of 0" in found.notes[0]
    assert "ParamAttr(learning_rate=0)" in found.notes[0]
    other = torch_net()
    found.plan.apply(other)
    assert {n for n, p in other.named_parameters() if p.requires_grad} == trains


def test_a_group_without_a_rate_is_captured_as_frozen_in_both_frameworks():
    one, other = torch_net(), paddle_net()
    groups = [
        {"params": list(one.body.parameters()), "lr": 0.0, "weight_decay": 0.1},
        {"params": list(one.head.parameters())},
    ]
    theirs = [
        {"params": other.body.parameters(), "learning_rate": 0.0},
        {"params": other.head.parameters()},
    ]
    optimizers = (
        torch.optim.AdamW(groups, lr=0.1),
        paddle.optimizer.AdamW(0.1, parameters=theirs),
    )
    for model, optimizer in zip((one, other), optimizers, strict=True):
        found = uf.capture(model, optimizer=optimizer)
        trains = set(found.plan.resolve(model).trainable_paths)
        assert moved(model, optimizer) == trains == {"head.weight", "head.bias"}


def test_the_beginning_of_a_warm_up_freezes_nothing():
    model = torch_net()
    groups = [{"params": list(model.body.parameters())}, {"params": list(model.head.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, [lambda step: step / 4, lambda step: 1.0]
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.1]
    assert str(uf.capture(model, optimizer=optimizer).plan.rules[0]) == "train: all"
    optimizer.step()
    scheduler.step()
    assert str(uf.capture(model, optimizer=optimizer).plan.rules[0]) == "train: all"


def test_an_optimizer_without_any_rate_says_nothing():
    model = torch_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = uf.capture(model, optimizer=optimizer)
    assert str(found.plan.rules[0]) == "train: all"
    assert "beginning of a schedule" in found.notes[0]


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_a_rate_that_is_not_0_freezes_nothing(rate):
    model = paddle_net()
    for tensor in model.body.parameters():
        tensor.optimize_attr["learning_rate"] = rate
    assert str(uf.capture(model).plan.rules[0]) == "train: all"
