"""PaddlePaddle: running statistics are no parameters, and those of a frozen norm hold still.

Rules A, G and M are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import paddle
import pytest
from paddle import nn

from tests.support.kits.paddle_layers import bits, build, floats, gradients
from tests.support.kits.paddle_nets import Stack, loss_of, moved, statistics, train
from tests.support.paddle_descriptions import BACKEND
from tests.support.rounding import check_same
from unifreeze import FreezePlan
from unifreeze._evidence import make_record
from unifreeze._protocol import Batch, ProbeConfig

NORMS = {
    "BatchNorm1D": (nn.BatchNorm1D, (6, 3)),
    "BatchNorm2D": (nn.BatchNorm2D, (4, 3, 2, 2)),
    "BatchNorm3D": (nn.BatchNorm3D, (4, 3, 2, 2, 2)),
    "BatchNorm": (nn.BatchNorm, (4, 3, 2, 2)),
}


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.fixture(params=NORMS)
def norm(request):
    """A model of one norm and a head: the model, and a forward pass in training mode."""
    cls, shape = NORMS[request.param]
    model = nn.LayerDict({"body": cls(3), "head": nn.Linear(2, 2)})

    def run(each):
        each.train()
        return each["body"](paddle.to_tensor(floats(*shape)))

    return model, run


# Statistics are no parameters --------------------------------------------------------------------


@pytest.mark.parametrize("cls", [*(cls for cls, _ in NORMS.values()), nn.SyncBatchNorm])
def test_statistics_are_in_no_count_and_no_list_of_parameters(cls):
    """A: Paddle holds them among the parameters."""
    model = nn.LayerDict({"body": cls(3), "head": nn.Linear(2, 2)})
    spec = BACKEND.describe(model)
    assert {p.path for p in spec.parameters} == {
        "body.weight", "body.bias", "head.weight", "head.bias",
    }  # fmt: skip
    assert {(s.path, s.role) for s in spec.states} == {
        ("body._mean", "mean"),
        ("body._variance", "var"),
    }
    handle = FreezePlan().freeze("body").apply(model)
    assert handle.resolution.counts() == (6, 12)
    assert str(handle).startswith("trainable params: 6 || all params: 12 ")
    assert set(BACKEND.read(model)) == {p.path for p in spec.parameters}
    assert handle.groups()[0].paths == ("head.weight", "head.bias")


def test_statistics_are_in_no_list_of_parameters_of_a_record():
    """A"""
    config = ProbeConfig(Batch.of(floats(8, 6)))
    plan = FreezePlan().only("head")
    record = make_record(plan, Stack(), BACKEND, config, device="cpu", name="stack")
    assert not [row for row in record.parameters if "norm" in row.path and "_" in row.path]
    assert {row.path for row in record.states} == set(statistics(Stack()))
    assert {row.name for row in record.states} == {
        f"blocks.{n}/norm.0/{role}" for n in (0, 1) for role in ("mean", "var")
    }


def test_training_everything_leaves_statistics_as_they_were():
    """A: and freezing everything counts none of them."""
    model = Stack()
    FreezePlan().freeze("all").apply(model)
    handle = FreezePlan().train("all").apply(model)
    assert handle.resolution.counts() == (255, 255)
    for block in model.blocks:
        assert block.norm._mean.stop_gradient
        assert block.norm._variance.stop_gradient


def test_statistics_reach_no_optimizer():
    model = Stack()
    handle = FreezePlan().train("all").apply(model)
    held = {id(t) for b in model.blocks for t in (b.norm._mean, b.norm._variance)}
    given = {id(t) for group in handle.param_groups() for t in group["params"]}
    assert not held & given
    assert len(given) == 16


# Statistics of a frozen norm ---------------------------------------------------------------------


def test_without_a_plan_the_statistics_of_a_frozen_norm_move(norm):
    """G: so that the next test can fail; freezing the parameters alone is not enough."""
    model, run = norm
    for parameter in model["body"].parameters():
        parameter.stop_gradient = True
    before = statistics(model)
    run(model)
    assert statistics(model) != before


def test_the_statistics_of_a_frozen_norm_hold_still(norm):
    """G: whatever mode the training loop asks for, under no_grad too."""
    model, run = norm
    handle = FreezePlan().freeze("body").apply(model)
    before = statistics(model)
    run(model)
    model["body"].train()
    run(model)
    with paddle.no_grad():
        run(model)
    assert statistics(model) == before
    assert handle.verify().states == 2


@pytest.mark.usefixtures("double")
def test_a_held_norm_computes_in_training_what_it_computes_in_inference(norm):
    """G: outputs and the gradients of its input."""
    name = type(norm[0]["body"]).__name__
    shape, model = NORMS[name][1], build(name)
    for tensor in (model.layer._mean, model.layer.weight):
        tensor.set_value(floats(3))
    model.layer._variance.set_value(np.abs(floats(3)) + 0.5)
    reference = copy.deepcopy(model)
    reference.eval()
    FreezePlan().freeze("layer").apply(model)
    model.train()
    x = paddle.to_tensor(floats(*shape))
    check_same(model(x), reference(x))
    check_same(gradients(model, x)["below.0"], gradients(reference, x)["below.0"])


def test_statistics_hold_through_train_called_on_a_part_of_the_model():
    """G: `Layer.train` never calls a sublayer's own `train`, but its flags reach everywhere."""
    model = Stack()
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=0.1, weight_decay=0.1)
    train(model, optimizer)
    model.blocks[0].train()
    model.blocks[0].norm.train()
    model.eval()
    train(model, optimizer)
    handle.verify()
    assert np.abs(model.blocks[1].norm._mean.numpy()).max() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_statistics_hold_on_a_copy(norm, copied):
    model, run = norm
    FreezePlan().freeze("body").apply(model)
    twin = copied(model)
    before = statistics(twin)
    run(twin)
    assert statistics(twin) == before


def test_a_copy_of_a_model_under_a_plan_can_be_given_another():
    model = Stack()
    FreezePlan().only("head").apply(model)
    twin = copy.deepcopy(model)
    handle = FreezePlan().train("all").apply(twin)
    before = statistics(twin)
    loss_of(twin)
    assert statistics(twin) != before
    handle.remove()
    before = statistics(twin)
    loss_of(twin)
    assert statistics(twin) == before


@pytest.mark.parametrize("full_graph", [None, True])
@pytest.mark.parametrize("plan_first", [True, False])
def test_statistics_hold_under_to_static(full_graph, plan_first):
    """G, M"""
    model = Stack()
    if not plan_first:
        traced = paddle.jit.to_static(model, full_graph=full_graph)
        if not full_graph:
            loss_of(traced).backward()
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    if plan_first:
        traced = paddle.jit.to_static(model, full_graph=full_graph)
    before = bits(model)
    train(traced, paddle.optimizer.SGD(0.1, parameters=model.parameters()))
    handle.verify()
    assert {"blocks.1.norm._mean", "blocks.1.norm._variance"} <= moved(model, before)


def test_what_to_static_captured_is_looked_at_again_at_every_plan():
    """G, M: what it captured does not notice that statistics hold, if no flag changes."""
    model = Stack()
    traced = paddle.jit.to_static(model)
    traced.train()
    held = FreezePlan().freeze("blocks")
    for plan in (held, held.with_norm_stats("update"), held):
        plan.apply(model)
        before = statistics(model)
        loss_of(traced)
        loss_of(traced)
        assert (statistics(model) == before) == (plan is held)


def test_what_to_static_captured_is_looked_at_again_when_the_plan_is_removed():
    model = Stack()
    for block in model.blocks:
        for parameter in block.parameters():
            parameter.stop_gradient = True
    traced = paddle.jit.to_static(model)
    traced.train()
    handle = FreezePlan().freeze("blocks").apply(model)
    loss_of(traced)
    handle.remove()
    before = statistics(model)
    loss_of(traced)
    assert statistics(model) != before


@pytest.mark.parametrize("found", [None, True])
def test_removing_the_plan_puts_back_what_the_norm_was_told(found):
    """G"""
    model = nn.LayerDict(
        {"body": nn.BatchNorm1D(3, use_global_stats=found), "head": nn.Linear(2, 2)}
    )
    handle = FreezePlan().freeze("body").apply(model)
    assert model["body"]._use_global_stats is True
    before = statistics(model)
    model["body"](paddle.to_tensor(floats(6, 3)))
    assert statistics(model) == before
    handle.remove()
    assert model["body"]._use_global_stats is found


def test_removing_the_plan_lets_statistics_move_again(norm):
    model, run = norm
    FreezePlan().freeze("body").apply(model).remove()
    before = statistics(model)
    run(model)
    assert statistics(model) != before


def test_a_norm_without_parameters_goes_with_its_block():
    def bare(width):
        return nn.BatchNorm1D(width, weight_attr=False, bias_attr=False)

    model = Stack(norm=bare)
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    before = statistics(model)
    loss_of(model)
    after = statistics(model)
    assert {name for name in before if before[name] != after[name]} == {
        "blocks.1.norm._mean",
        "blocks.1.norm._variance",
    }
    handle.verify()


class OwnStatistics(nn.Layer):
    """A norm of a user's own, whose statistics are among its parameters, as Paddle's own are."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.mean, self.var = (self.create_parameter([width]) for _ in range(3))
        self.bias = self.create_parameter([width], is_bias=True)
        self.mean.stop_gradient = self.var.stop_gradient = True

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.mean, self.var, self.weight, self.bias, training=self.training
        )


def test_statistics_of_a_users_own_norm_are_state_and_hold():
    """A, G"""
    model = Stack(norm=OwnStatistics)
    names = {f"blocks.{n}.norm.{leaf}" for n in (0, 1) for leaf in ("mean", "var")}
    assert {state.path for state in BACKEND.describe(model).states} >= names
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    before = {name: BACKEND.tensor(model, name) for name in names}
    loss_of(model)
    handle.verify()
    for name in names:
        same = np.array_equal(BACKEND.tensor(model, name), before[name])
        assert same == name.startswith("blocks.0"), name
    plan = FreezePlan().freeze("stem").with_norm_stats("update")
    handle = plan.apply(model)
    loss_of(model)
    handle.verify()
    FreezePlan().train("all").apply(model)
    assert model.blocks[0].norm.mean.stop_gradient


def test_a_learned_mean_and_variance_are_parameters():
    layer = nn.Linear(6, 6)
    layer.mean, layer.variance = layer.create_parameter([6]), layer.create_parameter([6])
    model = nn.Sequential(layer, nn.Linear(6, 2))
    names = FreezePlan().freeze("**.mean").resolve(model).frozen_paths
    assert names == ("0.mean",)
