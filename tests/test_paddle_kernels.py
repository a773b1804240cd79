"""PaddlePaddle kernels that cannot cope with a frozen parameter, and their cures.

Rules B, C, D and G are those of the opening table of the facts about PaddlePaddle; a layer norm on
the CPU, which passes gradient on as if its frozen weight were one, belongs beside them.
"""

from __future__ import annotations

import copy
import inspect
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from paddle import nn

import unifreeze as uf
from tests.support.kits.paddle_layers import (
    BELOW,
    RECIPES,
    Above,
    bits,
    build,
    check_same_gradients,
    floats,
    freeze_paths,
    gradients,
    inputs_of,
    own_parameters,
    weighted,
)
from tests.support.rounding import check_same
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend

pytestmark = pytest.mark.usefixtures("double")
HERE = Path(__file__).parent

PAIRED = (
    "BatchNorm", "BatchNorm1D", "BatchNorm2D", "BatchNorm3D",
    "InstanceNorm1D", "InstanceNorm2D", "InstanceNorm3D",
)  # fmt: skip
RECURRENT = {
    "LSTM": lambda **more: nn.LSTM(3, 4, **more),
    "GRU": lambda **more: nn.GRU(3, 4, **more),
    "SimpleRNN": lambda **more: nn.SimpleRNN(3, 4, **more),
}

# Without its cure PReLU kills the process, so it is tested in a process of its own.
IN_PROCESS = [name for name in RECIPES if name != "PReLU"]


def has_input_to_train(name):
    return "float" in str(inputs_of(name)[0].dtype)


def modes(name):
    # In inference mode Paddle passes no gradient through a recurrent network, frozen or not.
    return ("train",) if name in RECURRENT else ("train", "eval")


def frozen_sets(name):
    """What to freeze: each parameter, all but each, all, and what is below, alone or too."""
    own = own_parameters(name)
    sets = [{path} for path in own]
    if 2 < len(own) <= 8:
        sets += [set(own) - {path} for path in own]
    if has_input_to_train(name):
        sets += [set(own), {BELOW}]
        if len(own) > 1:
            sets += [{BELOW, path} for path in own]
    return sets


def run_alone(code):
    """Run code in a process of its own, as some failures kill it."""
    folders = f"import sys; sys.path.insert(0, {str(HERE.parent)!r})\n"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", folders + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# Every layer -------------------------------------------------------------------------------------


def test_every_layer_of_paddle_that_makes_parameters_is_tried():
    """So that a layer of a later release is not forgotten."""
    found = set()
    for name, cls in inspect.getmembers(nn, inspect.isclass):
        if issubclass(cls, nn.Layer) and cls.__name__ == name:
            bases = [base for base in cls.__mro__ if base.__module__.startswith("paddle.nn")]
            makers = [base.__init__ for base in bases if "__init__" in vars(base)]
            if any("create_parameter" in maker.__code__.co_names for maker in makers):
                found.add(name)
    # A list and a dictionary compute nothing, spectral norm trains nothing, and the synchronised
    # batch norm has no CPU kernel.
    without = {"ParameterList", "ParameterDict", "SpectralNorm", "SyncBatchNorm"}
    assert found - without - set(RECIPES) == set()


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", IN_PROCESS)
def test_what_trains_gets_the_gradient_it_gets_when_nothing_is_frozen(name, precision):
    """B, C, D: any one parameter frozen, any one left, all of them, and what is below."""
    paddle.set_default_dtype(precision)
    for mode in modes(name):
        for frozen in frozen_sets(name):
            model = build(name)
            getattr(model, mode)()
            check_same_gradients(model, frozen, inputs_of(name))


@pytest.mark.parametrize("name", IN_PROCESS)
def test_frozen_bits_stay_through_steps_and_the_rest_moves(name):
    own = own_parameters(name)
    model = build(name)
    handle = freeze_paths(own[:1]).apply(model)
    optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters(), weight_decay=0.1)
    before = bits(model)
    for _ in range(2):
        weighted(model(*inputs_of(name))).backward()
        optimizer.step()
        optimizer.clear_grad()
    handle.verify()
    after = bits(model)
    assert after[own[0]] == before[own[0]]
    trained = own[1:] or [BELOW] * has_input_to_train(name)
    assert all(after[path] != before[path] for path in trained)


def test_prelu_right_above_what_is_frozen_trains_and_does_not_crash():
    """D: without the cure the process dies."""
    done = run_alone("""
        from tests.support.kits.paddle_layers import build, check_same_gradients, inputs_of
        for mode in ("train", "eval"):
            for frozen in ({"below.0"}, {"layer._weight"}):
                model = build("PReLU")
                getattr(model, mode)()
                check_same_gradients(model, frozen, inputs_of("PReLU"))
        print("same gradients")
    """)
    assert done.returncode == 0, done.stderr[-500:]
    assert "same gradients" in done.stdout


# The traps are there: if one of these fails, Paddle has been cured and the guard can go ----------


@pytest.mark.parametrize("name", PAIRED)
def test_without_the_cure_a_half_frozen_norm_gives_no_gradient(name):
    """B"""
    weight, bias = own_parameters(name)
    model = build(name)
    dict(model.named_parameters())[weight].stop_gradient = True
    assert gradients(model, *inputs_of(name))[bias] is None


@pytest.mark.parametrize("name", RECURRENT)
def test_without_the_cure_a_recurrent_network_with_a_frozen_weight_fails(name):
    """C"""
    model = build(name)
    model.layer.weight_ih_l0.stop_gradient = True
    with pytest.raises(ValueError, match="nullptr"):
        gradients(model, *inputs_of(name))


@pytest.mark.parametrize("name", ["InstanceNorm2D", "HSigmoidLoss"])
def test_without_the_cure_a_layer_right_above_what_is_frozen_fails(name):
    """D"""
    model = build(name)
    model.below[0].stop_gradient = True
    with pytest.raises(ValueError, match="nullptr"):
        gradients(model, *inputs_of(name))


def test_without_the_cure_prelu_right_above_what_is_frozen_kills_the_process():
    """D"""
    done = run_alone("""
        from tests.support.kits.paddle_layers import build, gradients, inputs_of
        model = build("PReLU")
        model.below[0].stop_gradient = True
        gradients(model, *inputs_of("PReLU"))
    """)
    assert done.returncode == -signal.SIGSEGV, done.stderr[-500:]


def test_without_the_cure_a_frozen_layer_norm_passes_a_wrong_gradient():
    expected = gradients(build("TransformerEncoderLayer"), *inputs_of("TransformerEncoderLayer"))
    model = build("TransformerEncoderLayer")
    model.layer.norm2.weight.stop_gradient = True
    found = gradients(model, *inputs_of("TransformerEncoderLayer"))
    path = "layer.linear1.weight"
    assert np.abs(found[path] - expected[path]).max() > 0.01


# Statistics held while scale or bias train -------------------------------------------------------


@pytest.mark.parametrize("name", PAIRED[:4])
@pytest.mark.parametrize("half", [0, 1])
def test_a_half_frozen_norm_with_held_statistics_trains_as_in_inference_mode(name, half):
    """B, G: `hold_all` holds the statistics though the other half trains."""
    frozen = own_parameters(name)[half]
    model = build(name)
    model.layer._mean.set_value(floats(3))
    model.layer._variance.set_value(np.abs(floats(3)) + 0.5)
    reference = copy.deepcopy(model)
    reference.eval()
    expected = gradients(reference, *inputs_of(name))
    plan = FreezePlan().freeze(f'path:"{frozen}"').with_norm_stats("hold_all")
    handle = plan.apply(model)
    model.train()
    before = bits(model)
    found = gradients(model, *inputs_of(name))
    assert found[frozen] is None
    check_same(found, {**expected, frozen: None})
    assert bits(model) == before
    assert handle.verify().states == 2


@pytest.mark.parametrize("half", [0, 1])
def test_a_half_frozen_norm_updates_its_statistics_as_an_unfrozen_one_does(half):
    model = build("BatchNorm2D")
    reference = copy.deepcopy(model)
    FreezePlan().freeze(f'path:"{own_parameters("BatchNorm2D")[half]}"').apply(model)
    for each in (model, reference):
        each.train()
        gradients(each, *inputs_of("BatchNorm2D"))
    check_same(model.layer._mean, reference.layer._mean)
    check_same(model.layer._variance, reference.layer._variance)
    assert np.abs(model.layer._mean.numpy()).max() > 0


# Recurrent networks, in every shape --------------------------------------------------------------


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"num_layers": 2},
        {"direction": "bidirect"},
        {"num_layers": 2, "direction": "bidirect"},
        {"time_major": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("trained_below", [True, False])
def test_a_recurrent_network_trains_beside_its_frozen_part(name, more, trained_below):
    """C: whole, in part, one layer of two and one direction, above what trains and what does not"""
    paddle.seed(3)
    paths = [path for path, _ in Above(RECURRENT[name](**more)).named_parameters()]
    own = [path for path in paths if path != BELOW]
    parts = [own, own[:1], own[1:], [p for p in own if "hh" in p]]
    parts += [[p for p in own if end in p] for end in ("_l0", "_l1", "reverse")]
    for part in parts:
        frozen = set(part) | (set() if trained_below else {BELOW})
        if part and frozen != {BELOW, *own}:
            model = Above(RECURRENT[name](**more))
            check_same_gradients(model, frozen, [paddle.to_tensor(floats(2, 5, 3))])


def test_a_recurrent_network_takes_states_and_lengths_that_need_gradient():
    """C: an initial state may be what gradient comes through."""
    paddle.seed(3)
    model, state = nn.GRU(3, 4), paddle.to_tensor(floats(1, 2, 4), stop_gradient=False)
    x, lengths = paddle.to_tensor(floats(2, 5, 3)), paddle.to_tensor([5, 3])
    weighted(model(x, state, lengths)).backward()
    expected = state.grad.numpy()
    state.clear_gradient(False)
    with uf.frozen(model):
        weighted(model(x, state, sequence_length=lengths)).backward()
    check_same(state.grad, expected)
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("name", ["LSTM", "LayerNorm", "BatchNorm1D", "HSigmoidLoss"])
def test_a_frozen_prefix_stays_out_of_the_gradient(name):
    """C, D: a cure must not make Paddle compute what nobody wants."""
    model = build(name)
    head = nn.Linear(2, 2)
    both = nn.LayerDict({"body": model, "head": head})
    FreezePlan().freeze("body").apply(both)
    outputs = model(*inputs_of(name))
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    assert first.stop_gradient is True


def test_dropout_off_in_a_frozen_recurrent_network_still_lets_gradient_through():
    """C: Paddle passes no gradient through a recurrent network in inference mode."""
    paddle.seed(3)
    model = Above(nn.LSTM(3, 4, num_layers=2, dropout=0.5))
    model.layer.dropout = 0.0
    expected = gradients(copy.deepcopy(model), paddle.to_tensor(floats(2, 5, 3)))[BELOW]
    model.layer.dropout = 0.5
    handle = FreezePlan().freeze("layer").with_dropout("off").apply(model)
    model.train()
    for _ in range(2):
        found = gradients(model, paddle.to_tensor(floats(2, 5, 3)))[BELOW]
        check_same(found, expected)
    assert model.layer.dropout == 0.5
    handle.remove()
    assert not np.array_equal(gradients(model, paddle.to_tensor(floats(2, 5, 3)))[BELOW], expected)


def test_dropout_stays_off_in_a_recurrent_network_that_is_frozen_for_a_while():
    paddle.seed(3)
    model = Above(nn.LSTM(3, 4, num_layers=2, dropout=0.5))
    FreezePlan().freeze("layer").with_dropout("off").apply(model)
    x = paddle.to_tensor(floats(2, 5, 3), stop_gradient=False)
    with uf.frozen(model):
        np.testing.assert_array_equal(model(x)[0].numpy(), model(x)[0].numpy())


# The same as in PyTorch --------------------------------------------------------------------------


class PaddleNet(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1D(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm1D(4)
        self.act = nn.PReLU(4)
        self.inorm = nn.InstanceNorm1D(4)
        self.rnn = nn.LSTM(4, 5)
        self.lnorm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = self.inorm(self.act(self.norm(self.conv(x))))
        x, _ = self.rnn(x.transpose([0, 2, 1]))
        return self.head(self.lnorm(x))


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm1d(4)
        self.act = torch.nn.PReLU(4)
        self.inorm = torch.nn.InstanceNorm1d(4, affine=True)
        self.rnn = torch.nn.LSTM(4, 5, batch_first=True)
        self.lnorm = torch.nn.LayerNorm(5)
        self.head = torch.nn.Linear(5, 2)

    def forward(self, x):
        x = self.inorm(self.act(self.norm(self.conv(x))))
        x, _ = self.rnn(x.transpose(1, 2))
        return self.head(self.lnorm(x))


def neutral(spec, backend, model, values):
    """Values by canonical name, in the neutral layout."""
    found = {}
    for parameter in spec.parameters:
        value = values(model, parameter.path)
        if value is not None and parameter.shape != parameter.neutral_shape:
            value = value.T
        found[parameter.name] = value
    return found


PLANS = {
    "all scales": FreezePlan().freeze("norm & weight"),
    "all shifts": FreezePlan().freeze("norm & bias"),
    "only biases": FreezePlan().only("bias"),
    "the conv": FreezePlan().freeze("conv"),
    "up to the batch norm": FreezePlan().freeze("conv | norm"),
    "up to the activation": FreezePlan().freeze("conv | norm | act"),
    "the recurrent network": FreezePlan().freeze("rnn"),
    "half of it": FreezePlan().freeze("rnn.weight_ih_l0 | lnorm"),
    "all but the conv": FreezePlan().only("conv"),
    "all but the head": FreezePlan().only("head"),
    "held statistics": FreezePlan().freeze("norm.weight").with_norm_stats("hold_all"),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_same_plan_gives_the_same_gradients_as_in_pytorch(plan):
    """B, C, D: one network, one set of weights, one batch, in both; in double precision."""
    backends = {name: load_backend(name) for name in ("torch", "paddle")}
    models = {"torch": TorchNet().double(), "paddle": PaddleNet()}
    specs = {name: backends[name].describe(models[name]) for name in models}
    rng = np.random.default_rng(5)
    for name in models:
        assert len(specs[name].parameters) == 15
    for parameter in specs["paddle"].parameters:
        value = 0.5 * rng.standard_normal(parameter.neutral_shape) + 0.2
        for name in models:
            here = next(p for p in specs[name].parameters if p.name == parameter.name)
            turned = value if here.shape == here.neutral_shape else value.T
            backends[name].assign(models[name], here.path, np.ascontiguousarray(turned))
    x, weights = floats(6, 3, 7), floats(6, 7, 2)
    for name in models:
        models[name].train()
        plan.apply(models[name])
    (models["torch"](torch.from_numpy(x)) * torch.from_numpy(weights)).sum().backward()
    (models["paddle"](paddle.to_tensor(x)) * paddle.to_tensor(weights)).sum().backward()
    found = {}
    for name, model in models.items():
        live = dict(model.named_parameters())
        found[name] = neutral(
            specs[name], backends[name], live,
            lambda live, path: None if live[path].grad is None else live[path].grad.numpy(),
        )  # fmt: skip
    assert any(gradient is not None for gradient in found["torch"].values())
    check_same(found["paddle"], found["torch"])
