"""PaddlePaddle: running statistics and other state that training moves though no optimizer does.

Rules A and G are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn.quant.lsq import FakeQuantActLSQPlus
from paddle.quantization import QAT, QuantConfig
from paddle.quantization.base_quanter import BaseQuanter
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver

from tests.support.kits.paddle_layers import bits, build, floats, gradients
from tests.support.kits.paddle_nets import Stack, loss_of, moved, rows, statistics, train
from tests.support.rounding import check_same
from unifreeze import FreezePlan
from unifreeze._evidence import make_record
from unifreeze._protocol import Batch, ProbeConfig, load_backend
from unifreeze.errors import FixedParameterError, FrozenDriftError, UnsupportedPlanError

BACKEND = load_backend("paddle")
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


# The choices -------------------------------------------------------------------------------------

HELD = {
    "hold": {0},
    "update": set(),
    "hold_all": {0, 1},
    "by selector": {1},
}


@pytest.mark.parametrize("choice", HELD)
def test_norm_stats_says_which_statistics_hold(choice):
    policy = choice if choice in ("hold", "update", "hold_all") else [
        {"update": "norm & blocks[0]"}, {"hold": "norm & blocks[1]"},
    ]  # fmt: skip
    model = Stack()
    handle = FreezePlan().freeze("blocks[0]").with_norm_stats(policy).apply(model)
    before = bits(model)
    train(model, handle.optimizer(paddle.optimizer.SGD, lr=0.1))
    still = {n for n in (0, 1) if f"blocks.{n}.norm._mean" not in moved(model, before)}
    assert still == HELD[choice]
    assert handle.verify().states == 2 * len(HELD[choice])


def test_the_statistics_of_a_half_frozen_norm_move():
    model = Stack()
    handle = FreezePlan().freeze("norm & bias").apply(model)
    before = bits(model)
    train(model, handle.optimizer(paddle.optimizer.SGD, lr=0.1))
    assert set(statistics(model)) <= moved(model, before)


def test_a_held_statistic_that_is_written_is_seen():
    model = Stack()
    handle = FreezePlan().freeze("blocks").apply(model, keep_values=True)
    mean = model.blocks[0].norm._mean
    mean.set_value(mean + 0.5)
    with pytest.raises(FrozenDriftError, match=r"blocks\.0\.norm\._mean: moved \(by at most 0\.5"):
        handle.verify()


def test_dropout_is_live_in_frozen_blocks_unless_the_plan_turns_it_off():
    model = Stack(dropout=0.5)
    FreezePlan().freeze("blocks").apply(model)
    model.train()
    assert not np.array_equal(model(rows()).numpy(), model(rows()).numpy())
    FreezePlan().freeze("blocks").with_dropout("off").apply(model)
    np.testing.assert_array_equal(model(rows()).numpy(), model(rows()).numpy())


def test_dropout_off_reaches_only_blocks_that_are_frozen():
    model = Stack(dropout=0.5)
    FreezePlan().freeze("blocks[0]").with_dropout("off").apply(model)
    model.train()
    x = rows()
    first, second = model.blocks
    np.testing.assert_array_equal(first(x).numpy(), first(x).numpy())
    assert not np.array_equal(second(x).numpy(), second(x).numpy())


def test_dropout_off_reaches_dropout_that_is_no_layer():
    """Attention drops inside its own forward; in a frozen block that is off, too."""
    paddle.seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.5)
    model = nn.LayerDict({"body": layer, "head": nn.Linear(4, 2)})
    x = paddle.to_tensor(floats(2, 3, 4))
    layer.eval()
    expected = layer(x).numpy()
    handle = FreezePlan().freeze("body").with_dropout("off").apply(model)
    model.train()
    np.testing.assert_array_equal(layer(x).numpy(), expected)
    assert all(each.training for each in model.sublayers(include_self=True))
    handle.remove()
    assert not np.array_equal(layer(x).numpy(), expected)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("full_graph", [None, True])
def test_dropout_is_off_under_to_static(full_graph):
    """M"""
    model = Stack(dropout=0.5)
    expected = copy.deepcopy(model)
    expected.eval()
    FreezePlan().freeze("blocks").with_dropout("off").apply(model)
    traced = paddle.jit.to_static(model, full_graph=full_graph)
    traced.train()
    for _ in range(2):
        check_same(traced(rows()), expected(rows()))


@pytest.mark.usefixtures("double")
def test_a_model_with_dropout_off_can_be_exported(tmp_path):
    model = Stack(dropout=0.5)
    FreezePlan().freeze("blocks").with_dropout("off").apply(model)
    model.eval()
    spec = [paddle.static.InputSpec([8, 6], "float64")]
    paddle.jit.save(model, str(tmp_path / "model"), input_spec=spec)
    check_same(paddle.jit.load(str(tmp_path / "model"))(rows()), model(rows()))


def test_dropout_off_leaves_statistics_to_norm_stats():
    model = Stack(dropout=0.5)
    plan = FreezePlan().freeze("blocks").with_dropout("off").with_norm_stats("update")
    plan.apply(model)
    before = bits(model)
    model.train()
    loss_of(model)
    assert set(statistics(model)) <= moved(model, before)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_quiet_layer_keeps_the_mode_that_was_asked_for(mode):
    model = Stack(dropout=0.5)
    handle = FreezePlan().freeze("blocks").with_dropout("off").apply(model)
    getattr(model, mode)()
    model(rows())
    asked = mode == "train"
    assert {each.training for each in model.sublayers(include_self=True)} == {asked}
    handle.remove()
    assert {each.training for each in model.sublayers(include_self=True)} == {asked}


def test_a_quiet_layer_has_its_mode_back_when_forward_raises():
    model = Stack(dropout=0.5)
    FreezePlan().freeze("blocks").with_dropout("off").apply(model)
    model.train()
    with pytest.raises(ValueError, match=r"."):
        model.blocks[0](paddle.ones([2, 5]))
    assert model.blocks[0].first.training
    assert model.blocks[0].training


# The synchronised norm ---------------------------------------------------------------------------


class Synchronised(nn.SyncBatchNorm):
    """Has no CPU kernel, so this one computes as the plain norm does, by its own mode alone."""

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self._mean, self._variance, self.weight, self.bias, training=self.training
        )


def test_a_synchronised_norm_is_held_by_its_mode():
    """G: it ignores `use_global_stats`."""
    model = Stack(norm=Synchronised)
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    assert model.blocks[0].norm._use_global_stats is None
    before = bits(model)
    train(model, handle.optimizer(paddle.optimizer.SGD, lr=0.1))
    handle.verify()
    assert {"blocks.1.norm._mean", "blocks.1.norm._variance"} <= moved(model, before)
    assert model.blocks[0].norm.training
    handle.remove()
    before = statistics(model, "blocks.0")
    loss_of(model)
    assert statistics(model, "blocks.0") != before


@pytest.mark.usefixtures("double")
def test_a_half_frozen_synchronised_norm_trains_its_other_half():
    """B"""
    model = Stack(norm=Synchronised)
    expected = gradients(copy.deepcopy(model), rows())
    FreezePlan().freeze("norm & weight").apply(model)
    found = gradients(model, rows())
    for n in (0, 1):
        check_same(found[f"blocks.{n}.norm.bias"], expected[f"blocks.{n}.norm.bias"])


def test_a_model_converted_to_synchronised_norms_is_seen_to_have_lost_its_hold():
    """O: converting makes new layers, and only their parameters are the old ones."""
    model = Stack()
    handle = FreezePlan().freeze("blocks[0]").apply(model)
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    handle.reapply()
    assert model.blocks[0].norm._forward_pre_hooks
    assert type(model.blocks[0].norm) is nn.SyncBatchNorm
    assert not model.blocks[1].norm._forward_pre_hooks


# Other state -------------------------------------------------------------------------------------


def with_spectral_norm():
    paddle.seed(0)
    body = nn.utils.spectral_norm(nn.Linear(6, 6))
    return nn.LayerDict({"body": body, "head": nn.Linear(6, 3)})


def test_the_vectors_of_spectral_norm_hold_still_when_the_layer_is_frozen():
    model = with_spectral_norm()
    x = rows()
    handle = FreezePlan().freeze("body").apply(model)
    model.train()
    first = model["body"](x).numpy()
    np.testing.assert_array_equal(model["body"](x).numpy(), first)
    assert handle.verify().states == 2
    handle.remove()
    model["body"](x)
    assert not np.array_equal(model["body"](x).numpy(), first)


def test_the_vectors_of_spectral_norm_move_while_any_parameter_trains():
    model = with_spectral_norm()
    handle = FreezePlan().freeze("body & bias").apply(model)
    model.train()
    before = bits(model)
    model["body"](rows())
    assert {"body.weight_u", "body.weight_v"} <= moved(model, before)
    handle.verify()


def test_the_spectral_norm_layer_has_state_and_no_parameters():
    """A: its vectors are parameters to Paddle."""
    model = nn.LayerDict({"body": nn.SpectralNorm([3, 4]), "head": nn.Linear(2, 2)})
    handle = FreezePlan().train("all").apply(model)
    assert handle.resolution.counts() == (6, 6)
    assert model["body"].weight_u.stop_gradient
    assert {state.path for state in BACKEND.describe(model).states} == {
        "body.weight_u",
        "body.weight_v",
    }


def test_a_frozen_layer_under_weight_norm_keeps_both_of_its_tensors():
    paddle.seed(0)
    body = nn.utils.weight_norm(nn.Linear(6, 6))
    model = nn.Sequential(body, nn.Linear(6, 3))
    handle = FreezePlan().freeze("path:'0'").apply(model)
    assert set(handle.resolution.frozen_paths) == {"0.weight_g", "0.weight_v", "0.bias"}
    before = bits(model)
    train(model, paddle.optimizer.AdamW(0.1, parameters=model.parameters(), weight_decay=0.1))
    assert moved(model, before) == {"1.weight", "1.bias"}
    handle.verify()


# Quantisers --------------------------------------------------------------------------------------


def quantised():
    paddle.seed(0)
    quanter = FakeQuanterWithAbsMaxObserver(moving_rate=0.9)
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1D(6), nn.Linear(6, 3))
    return QAT(QuantConfig(activation=quanter, weight=quanter)).quantize(model)


def warmed():
    """A quantised model that has seen a batch; ranges that have seen nothing are refused."""
    model = quantised()
    model.train()
    model(rows())
    return model


def scales(model):
    return {name for name, _ in model.named_parameters() if "_scale" in name}


def test_the_scales_of_a_quantiser_are_state_and_never_thawed():
    """A: they are parameters to Paddle."""
    model = quantised()
    before = {name: p.stop_gradient for name, p in model.named_parameters() if "quanter" in name}
    handle = FreezePlan().train("all").apply(model)
    assert handle.resolution.counts() == (75, 75)
    spec = BACKEND.describe(model)
    assert {state.path for state in spec.states} >= scales(model)
    assert not any("_scale" in p.path for p in spec.parameters)
    after = {name: p.stop_gradient for name, p in model.named_parameters() if "quanter" in name}
    assert after == before


def test_the_scales_of_a_frozen_layer_hold_still_and_others_move():
    model = warmed()
    handle = FreezePlan().freeze("path:'0'").apply(model)
    before = bits(model)
    train(model, paddle.optimizer.SGD(0.1, parameters=model.parameters()))
    handle.verify()
    changed = moved(model, before)
    assert not {name for name in changed if name.startswith("0.")}
    assert "2.weight_quanter._scale" in changed


def test_a_copy_of_a_trained_quantised_model_has_the_same_parameters():
    """A: training sets the flags of scales, and a plan those of weights; neither says what is."""
    model = warmed()
    FreezePlan().freeze("path:'0'").apply(model)
    train(model, paddle.optimizer.SGD(0.1, parameters=model.parameters()))
    found = [p.path for p in BACKEND.describe(copy.deepcopy(model)).parameters]
    assert found == [p.path for p in BACKEND.describe(quantised()).parameters]
    assert "0.weight" in found


def test_a_quantised_linear_layer_is_a_linear_layer():
    names = [p.name for p in BACKEND.describe(quantised()).parameters]
    assert names == [
        "net/linear.0/weight", "net/linear.0/bias", "net/norm.0/weight", "net/norm.0/bias",
        "head/linear.0/weight", "head/linear.0/bias",
    ]  # fmt: skip


def test_a_quantiser_of_a_users_own_has_state_too():
    class Own(BaseQuanter):
        def __init__(self):
            super().__init__()
            self._scale = self.create_parameter([1])
            self._scale.stop_gradient = True

        def forward(self, x):
            return x

        def scales(self):
            return self._scale

        def zero_points(self):
            return None

        def quant_axis(self):
            return None

        def bit_length(self):
            return 8

    model = nn.LayerDict({"quanter": Own(), "head": nn.Linear(2, 2)})
    assert [p.path for p in BACKEND.describe(model).parameters] == ["head.weight", "head.bias"]


def test_a_scale_that_is_learned_is_a_parameter():
    quanter = FakeQuantActLSQPlus(8, batch_init=1)
    model = nn.LayerDict({"quanter": quanter, "head": nn.Linear(2, 2)})
    quanter(rows())  # until it has measured its range it is refused
    FreezePlan().freeze("quanter").apply(model)
    for each in (model, copy.deepcopy(model)):
        assert [p.path for p in BACKEND.describe(each).parameters] == [
            "quanter.s", "quanter.beta", "head.weight", "head.bias",
        ] or [p.path for p in BACKEND.describe(each).parameters] == [
            "quanter.s", "head.weight", "head.bias",
        ]  # fmt: skip


# What cannot be trained --------------------------------------------------------------------------


class WithIntegers(nn.Layer):
    """Paddle lets an integer parameter be trainable, and its optimizers fail on one."""

    def __init__(self):
        super().__init__()
        zero = nn.initializer.Constant(0)
        self.codes = self.create_parameter([3], dtype="int32", default_initializer=zero)
        self.codes.stop_gradient = True
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(x)


def test_training_everything_leaves_integers_alone_and_says_so():
    model = WithIntegers()
    handle = FreezePlan().train("all").apply(model)
    assert model.codes.stop_gradient
    assert not model.head.weight.stop_gradient
    assert any(
        "leaves codes as found (a int32 tensor has no gradient)" in notice
        for notice in handle.resolution.notices
    )
    train(model, handle.optimizer(paddle.optimizer.AdamW, lr=0.1))


def test_training_an_integer_by_name_is_an_error():
    with pytest.raises(FixedParameterError, match="codes: a int32 tensor has no gradient"):
        FreezePlan().train("path:'codes'").apply(WithIntegers())


def test_an_integer_found_trainable_can_be_frozen():
    model = WithIntegers()
    model.codes.stop_gradient = False
    handle = FreezePlan().freeze("path:'codes' | path:'head.bias'").apply(model)
    assert model.codes.stop_gradient
    handle.verify()


# Tables that rewrite themselves ------------------------------------------------------------------


def table():
    paddle.seed(0)
    return nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Linear(3, 2))


def test_a_frozen_table_with_a_largest_norm_is_refused():
    model = table()
    with pytest.raises(UnsupportedPlanError, match=r"0: max_norm rewrites(.|\n)*_max_norm = None"):
        FreezePlan().only('path:"1"').apply(model)
    assert not model[0].weight.stop_gradient
    model[0]._max_norm = None
    FreezePlan().only('path:"1"').apply(model)
    before = model[0].weight.numpy()
    model(paddle.to_tensor([[0, 1, 2]]))
    np.testing.assert_array_equal(model[0].weight.numpy(), before)


def test_a_table_with_a_largest_norm_may_train_and_a_dry_run_leaves_its_rows():
    model = table()
    before = model[0].weight.numpy()
    FreezePlan().only("head").resolve(model, batch=np.asarray([[0, 1, 2]]))
    np.testing.assert_array_equal(model[0].weight.numpy(), before)
    assert model[0]._max_norm == 0.5
    FreezePlan().freeze('path:"1"').apply(model)
