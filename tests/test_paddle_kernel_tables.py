"""What layers must lend is the same for all of them at once as layer by layer."""

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn.quant.quant_layers import MovingAverageAbsMaxScale

import unifreeze as uf
from unifreeze._protocol import load_backend
from unifreeze_paddle import _half_frozen_layers as lending
from unifreeze_paddle._kernel_tables import kernel_tables


class Borrows(nn.Layer):
    """Gives the parameters of a norm inside it to a kernel itself."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.scale = self.create_parameter([4])

    def forward(self, x):
        return nn.functional.layer_norm(x * self.scale, [4], self.inner.weight, self.inner.bias)


class Root(nn.Layer):
    """Layers of all sorts that may need help, some of them twice, and some that never do."""

    def __init__(self):
        super().__init__()
        shared = nn.LayerNorm(4)
        self.parts = nn.LayerList(
            [
                nn.LayerNorm(4),
                nn.LayerNorm(4, bias_attr=False),
                nn.LayerNorm(4, weight_attr=False, bias_attr=False),
                shared,
                nn.BatchNorm1D(4),
                nn.BatchNorm1D(4, weight_attr=False),
                nn.InstanceNorm1D(4),
                nn.LSTM(4, 4, 2, direction="bidirect"),
                nn.GRU(4, 4),
                nn.PReLU(),
                nn.HSigmoidLoss(4, 6),
                MovingAverageAbsMaxScale(),
                Borrows(nn.LayerNorm(4)),
                Borrows(shared),
                nn.Linear(4, 4),
                nn.Dropout(0.5),
            ]
        )


@pytest.fixture(scope="module")
def walk():
    paddle.seed(0)
    model = Root()
    walk = load_backend("paddle").walk(model)
    walk.keeps = model  # a walk does not keep its model alive
    return walk


def one_by_one(walk, trainable):
    flags = trainable.tolist()
    return {
        number: lending.needs(walk.module(number), walk.tree.numbers, flags)
        for cls, numbers in walk.by_class.items()
        for number in numbers
        if lending.may_need(cls)
    }


def at_once(tables, trainable, changed=None):
    return {n: needs for table in tables for n, needs in table.needs(trainable, changed)}


def test_every_layer_that_may_need_help_is_in_one_table(walk):
    numbers = [n for table in kernel_tables(walk) for n in table.layers.tolist()]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) == one_by_one(walk, np.ones(len(walk.tensors), bool)).keys()
    assert len(numbers) > 12


def test_needs_are_those_of_each_layer_by_itself_under_any_flags(walk):
    tables, draw = kernel_tables(walk), np.random.default_rng(0)
    seen = set()
    for share in (0.0, 0.1, 0.5, 0.9, 1.0) * 20:
        trainable = draw.random(len(walk.tensors)) < share
        needs = at_once(tables, trainable)
        assert needs == one_by_one(walk, trainable)
        seen |= set(needs.values())
    assert len(seen) > 20


def test_after_a_change_the_layers_with_changed_parameters_are_looked_at_and_no_others(walk):
    tables, draw = kernel_tables(walk), np.random.default_rng(1)
    trainable = draw.random(len(walk.tensors)) < 0.5
    needs = at_once(tables, trainable)
    for _ in range(100):
        changed = draw.random(len(walk.tensors)) < 0.05
        trainable = trainable ^ changed
        again = at_once(tables, trainable, changed)
        assert len(again) < len(needs)
        needs.update(again)
        assert needs == one_by_one(walk, trainable)


def test_a_plan_helps_the_same_layers_whether_it_comes_first_or_after_another():
    rules = ["norm", "parts[3:9]", "weight", "parts[-4:]", "bias"]
    paddle.seed(0)
    model = Root()
    for first in rules:
        for second in rules:
            uf.FreezePlan().freeze(first).apply(model)
            after = uf.FreezePlan().freeze(second).apply(model)
            backend = load_backend("paddle")
            found = backend.get_guards(backend.walk(model))
            after.remove()
            fresh = Root()
            uf.FreezePlan().freeze(second).apply(fresh)
            assert backend.get_guards(backend.walk(fresh)) == found
