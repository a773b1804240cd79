"""PaddlePaddle: the cure of a kernel changes nothing on its layer, alone or beside other machinery.

Rules B, C, D and N are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import copy
import pickle

import paddle
import pytest
from paddle import nn
from paddle.distributed.fleet.utils import recompute

import unifreeze as uf
from tests.support.kits.paddle_layers import (
    LENDING,
    Above,
    build,
    check_same_gradients,
    floats,
    freeze_paths,
    gradients,
    inputs_of,
    weighted,
)
from tests.support.rounding import check_same, nudged
from unifreeze import FreezePlan

pytestmark = pytest.mark.usefixtures("double")


# What lending does not touch ---------------------------------------------------------------------


@pytest.fixture(params=LENDING)
def lending(request):
    """A model with a layer that lends: the model, its input and what is frozen."""
    model = build(request.param)
    frozen = LENDING[request.param]
    freeze_paths([frozen]).apply(model)
    return model, inputs_of(request.param), frozen


def test_names_and_parameter_objects_are_the_same_before_and_after_forward(lending):
    model, inputs, _ = lending
    before = list(model.named_parameters()), list(model.state_dict().items())
    weighted(model(*inputs)).backward()
    after = list(model.named_parameters()), list(model.state_dict().items())
    for old, new in zip(before, after, strict=True):
        assert [name for name, _ in old] == [name for name, _ in new]
        assert all(a is b for (_, a), (_, b) in zip(old, new, strict=True))


def test_applying_changes_no_name_and_no_parameter_object():
    model = build("BatchNorm2D")
    before = list(model.named_parameters()), list(model.state_dict())
    freeze_paths(["layer.weight"]).apply(model)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in before[0]]
    pairs = zip(model.parameters(), (tensor for _, tensor in before[0]), strict=True)
    assert all(a is b for a, b in pairs)
    assert list(model.state_dict()) == before[1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_parameter_is_back_in_place_when_forward_raises(error):
    class Broken(nn.BatchNorm1D):
        def forward(self, x):
            assert self.weight is not weight
            raise error("in the middle")

    model = Above(Broken(3))
    weight = model.layer.weight
    freeze_paths(["layer.weight"]).apply(model)
    with pytest.raises(error, match="in the middle"):
        model(paddle.to_tensor(floats(6, 3)))
    assert model.layer.weight is weight
    assert weight.stop_gradient


def test_a_recurrent_network_has_its_weights_back_when_forward_raises():
    model = nn.LSTM(3, 4)
    weights = list(model._all_weights)
    with pytest.raises(Exception, match=r"."), uf.frozen(model):
        model(paddle.to_tensor(floats(2, 5, 7), stop_gradient=False))
    assert all(a is b for a, b in zip(model._all_weights, weights, strict=True))
    assert model.weight_ih_l0 is weights[0]


def test_nothing_is_lent_under_no_grad(lending):
    model, inputs, frozen = lending
    seen = []
    leaf = frozen.removeprefix("layer.")
    original = dict(model.named_parameters())[frozen]
    model.layer.register_forward_post_hook(lambda *_: None)
    inner = type(model.layer).forward

    def forward(layer, *args):
        seen.append(layer._parameters[leaf] is original)
        return inner(layer, *args)

    type(model.layer).forward, kept = forward, inner
    try:
        with paddle.no_grad():
            outputs = model(*inputs)
        model(*inputs)
    finally:
        type(model.layer).forward = kept
    assert seen == [True, False]
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    assert first.stop_gradient


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_of_the_layer_is_cured_on_its_own(lending, copied):
    model, inputs, frozen = lending
    if copied is pickled and isinstance(model.layer, nn.LSTM):
        # Paddle cannot pickle it: its dropout state is on no device.
        copied = copy.deepcopy
    expected = gradients(model, *inputs)
    twin = copied(model)
    for tensor in model.parameters():
        tensor.clear_gradient(False)
    found = gradients(twin, *inputs)
    assert found[frozen] is None
    check_same(found, expected)
    assert all(tensor.grad is None for tensor in model.parameters())
    assert not {id(t) for t in twin.parameters()} & {id(t) for t in model.parameters()}


def test_removing_the_plan_leaves_no_trace_on_the_layer():
    for name, frozen in LENDING.items():
        model = build(name)
        before = {key: str(value) for key, value in vars(model.layer).items()}
        freeze_paths([frozen]).apply(model).remove()
        assert {key: str(value) for key, value in vars(model.layer).items()} == before


def test_a_parameter_thawed_by_hand_gets_its_gradient():
    """The guard must not lend what trains, whoever set the flag."""
    for name, frozen in LENDING.items():
        model = build(name)
        expected = gradients(copy.deepcopy(model), *inputs_of(name))
        freeze_paths([frozen]).apply(model)
        dict(model.named_parameters())[frozen].stop_gradient = False
        check_same(gradients(model, *inputs_of(name)), expected)


def test_an_argument_may_be_given_by_name():
    """D: the tensor to attach is the floating one, wherever it stands."""
    paddle.seed(3)
    layer, head = nn.Linear(4, 4), nn.HSigmoidLoss(4, 6)
    model = nn.LayerDict({"layer": layer, "loss": head})
    x, label = inputs_of("HSigmoidLoss")
    weighted(head(layer(x), label)).backward()
    expected = head.weight.grad.numpy()
    FreezePlan().freeze("layer").apply(model)
    head.weight.clear_gradient(False)
    weighted(head(label=label, input=layer(x))).backward()
    check_same(head.weight.grad, expected)


# Beside other machinery --------------------------------------------------------------------------


MIXED = {**LENDING, "TransformerEncoderLayer": "layer.norm2.weight"}


@pytest.mark.parametrize("name", ["BatchNorm2D", "LayerNorm", "LSTM", "TransformerEncoderLayer"])
def test_the_cures_hold_in_mixed_precision(name):
    """B, C"""
    paddle.set_default_dtype("float32")
    inputs = inputs_of(name)

    def mixed(model, inputs):
        with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
            outputs = model(*inputs)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        weighted(first.astype("float32")).backward()
        live = model.named_parameters()
        return {path: None if p.grad is None else p.grad.numpy() for path, p in live}

    model, frozen = build(name), MIXED[name]
    freeze_paths([frozen]).apply(model)
    expected = mixed(build(name), inputs)
    near = mixed(build(name), [paddle.to_tensor(nudged(x.numpy(), 2.0**-8)) for x in inputs])
    check_same(mixed(model, inputs), {**expected, frozen: None}, near=near)
    assert any(gradient is not None for path, gradient in expected.items() if path != frozen)


class Recomputed(Above):
    """Above, with the layer's forward pass run again in the backward pass."""

    def __init__(self, above, *, reentrant):
        nn.Layer.__init__(self)
        self.below, self.layer, self.reentrant = above.below, above.layer, reentrant

    def forward(self, x):
        return recompute(self.layer, x * self.below[0], use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["BatchNorm2D", "LayerNorm", "TransformerEncoderLayer"])
def test_the_cures_hold_in_recomputation(name, reentrant):
    """B, N: there the forward pass runs without gradient first, and with it later."""
    model = Recomputed(build(name), reentrant=reentrant)
    check_same_gradients(model, {MIXED[name]}, inputs_of(name))
