"""Quantisers and observers under a frozen layer, listed from both frameworks' namespaces.

For each: after freezing and `train()`, what the layer computes is what an unfrozen copy computes in
inference mode, and nothing of it moves; or the plan is refused, because the range moves in any mode
or has seen nothing; or it is an observer, whose own notes change nothing that is computed.
"""

from __future__ import annotations

import copy
import inspect
import pkgutil
import warnings
from importlib import import_module

import numpy as np
import paddle
import pytest
import torch

from tests.support.kits import paddle_layers, torch_nets
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend
from unifreeze.errors import UnsupportedPlanError

WIDTH = 128
PLAN = FreezePlan().freeze('path:"0"')
BATCHES = [
    (5.0 if n == 4 else 1.0)
    * np.random.default_rng(n).standard_normal((WIDTH, WIDTH)).astype("float32")
    for n in range(5)
]
"""The last is much wider, so that a range that moves, moves."""


def classes(base, roots):
    """Every module class that some packages define, by its dotted name."""
    found = {}
    for root in roots:
        package = import_module(root)
        names = [info.name for info in pkgutil.walk_packages(package.__path__, f"{root}.")]
        for name in [root, *names]:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    module = import_module(name)
            except ImportError:  # parts for hardware or tools that are not here
                continue
            for cls in vars(module).values():
                if not (inspect.isclass(cls) and issubclass(cls, base)) or inspect.isabstract(cls):
                    continue
                if cls.__module__.startswith(tuple(roots)):
                    found[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return found


def outcome(model, run, bits, spoil):
    """Freeze the first layer, train on, and say what came of it.

    Args:
        model: A layer with a quantiser, and a head; warmed up or not.
        run: Runs the first layer of a model on a batch.
        bits: Gives the bits of all parameters and buffers of a model's first layer.
        spoil: Writes nonsense into some of those.
    """
    twin = copy.deepcopy(model)
    try:
        handle = PLAN.apply(model)
    except UnsupportedPlanError as error:
        return "refused", str(error), twin
    twin.eval()
    before = bits(model)
    for batch in BATCHES:
        expected = run(twin, batch)
        model.train()
        np.testing.assert_array_equal(run(model, batch), expected)
    handle.verify()
    after = bits(model)
    if after == before:
        return "held", "", twin
    # What it has written down meanwhile must be of no account.
    expected = [run(model, batch) for batch in BATCHES]
    spoil(model, {name for name in before if after.get(name) != before[name]})
    for batch, output in zip(BATCHES, expected, strict=True):
        np.testing.assert_array_equal(run(model, batch), output)
    return "only looks", "", twin


def moves_in_any_mode(twin, run, bits):
    twin.eval()
    before = bits(twin)
    for batch in BATCHES:
        run(twin, batch)
    return bits(twin) != before


# PyTorch -----------------------------------------------------------------------------------------


class TorchLayer(torch.nn.Module):
    def __init__(self, quantiser):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        self.quantiser = quantiser

    def forward(self, x):
        return self.quantiser(x) @ self.weight


TORCH = classes(torch.nn.Module, ("torch.ao.quantization",))
ao = torch.ao.quantization
NO_QUANTISERS = {
    "torch.ao.quantization._correct_bias.MeanShadowLogger": "compares two models' outputs",
    "torch.ao.quantization.fx.graph_module.FusedGraphModule": "a traced network",
    "torch.ao.quantization.fx.graph_module.ObservedGraphModule": "a traced network",
    "torch.ao.quantization.fx.graph_module.ObservedStandaloneGraphModule": "a traced network",
    "torch.ao.quantization.fx.graph_module.QuantizedGraphModule": "a traced network",
    "torch.ao.quantization._DerivedObserverOrFakeQuantize": "takes other observers' ranges",
    "torch.ao.quantization.fx._equalize._WeightEqualizationObserver": "looks at weights alone",
}
"""Classes that are not put into a layer to quantise or observe what passes through."""


def torch_builds(cls):
    """Ways to make a class, the first that works."""
    yield cls
    yield lambda: cls(observer=ao.MovingAverageMinMaxObserver)
    yield lambda: cls(observer=ao.default_fixed_qparams_range_0to1_observer)
    yield lambda: cls(1.0 / 256.0, 0)
    yield lambda: cls(torch.nn.Identity())


def torch_quantiser(cls):
    for build in torch_builds(cls):
        try:
            made = build()
            made(torch.zeros(2, WIDTH))
        except (TypeError, AssertionError, AttributeError, ValueError):
            continue
        return build()
    raise AssertionError(f"{cls} is made in no way")


def torch_run(model, batch):
    with torch.no_grad():
        return model[0](torch.from_numpy(batch)).numpy()


def torch_bits(model):
    return torch_nets.bits(model[0])


def torch_spoil(model, names):
    tensors = dict([*model[0].named_parameters(), *model[0].named_buffers()])
    with torch.no_grad():
        for name in names:
            tensors[name].fill_(7)


def torch_model(cls):
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, 2)
    return torch.nn.Sequential(TorchLayer(torch_quantiser(cls)), head)


def warmed(model, run):
    model.train()
    for batch in BATCHES[:3]:
        run(model, batch)
    return model


def switched(model, *calls):
    for module in model.modules():
        for call in calls:
            if hasattr(module, call):
                getattr(module, call)()
    return model


TORCH_STATES = {
    "fresh": lambda m: m,
    "fresh, not observing": lambda m: switched(m, "disable_observer"),
    "warmed up": lambda m: warmed(m, torch_run),
    "warmed up, not observing": lambda m: switched(warmed(m, torch_run), "disable_observer"),
    "warmed up, learning": lambda m: switched(warmed(m, torch_run), "enable_param_learning"),
    "observing alone": lambda m: switched(m, "disable_fake_quant"),
    "passing through": lambda m: switched(m, "disable_fake_quant", "disable_observer"),
}


@pytest.mark.parametrize("state", TORCH_STATES)
@pytest.mark.parametrize("name", sorted(set(TORCH) - set(NO_QUANTISERS)))
def test_every_quantiser_of_pytorch_is_held_refused_or_only_looks(name, state):
    model = TORCH_STATES[state](torch_model(TORCH[name]))
    before = [p.requires_grad for p in model.parameters()]
    found, why, twin = outcome(model, torch_run, torch_bits, torch_spoil)
    if found != "refused":
        return
    assert before == [p.requires_grad for p in model.parameters()]
    if "observed nothing" in why:
        assert state.startswith("fresh")
    else:
        assert "in any mode" in why
        assert moves_in_any_mode(twin, torch_run, torch_bits)


def test_all_that_is_left_out_of_the_list_is_there():
    assert set(NO_QUANTISERS) < set(TORCH)
    assert len(TORCH) > 20


@pytest.mark.parametrize("name", ["FakeQuantize", "FusedMovingAvgObsFakeQuantize"])
def test_a_quantiser_that_has_seen_something_can_be_frozen_and_holds(name):
    """The cure that the refusal names."""
    model = torch_model(getattr(ao, name))
    with pytest.raises(UnsupportedPlanError, match="disable_observer"):
        PLAN.apply(model)
    switched(warmed(model, torch_run), "disable_observer")
    assert outcome(model, torch_run, torch_bits, torch_spoil)[0] == "held"


def test_what_an_observer_keeps_can_still_grow_after_it_was_looked_at():
    """It has no size before the first batch, and NumPy's hold on it would fix that."""
    model = torch_model(ao.PerChannelMinMaxObserver)
    handle = PLAN.apply(model)
    model.load_state_dict(model.state_dict())
    handle.verify()
    torch_run(model, BATCHES[0])
    assert model[0].quantiser.min_val.shape == (WIDTH,)


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "warmed up"])
def test_a_prepared_network_of_pytorch(warm):
    """As `prepare_qat` makes it, norms fused into convolutions included."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 1)
    ).train()
    net.qconfig = ao.get_default_qat_qconfig("fbgemm")
    fused = ao.fuse_modules_qat(net, [["0", "1", "2"]])
    model = ao.prepare_qat(fused)
    x = torch.randn(4, 2, 8, 8)
    if warm:
        for _ in range(3):
            model(x)
        switched(model, "disable_observer")
    plan = FreezePlan().freeze('path:"0"')
    if not warm:
        with pytest.raises(UnsupportedPlanError, match=r"0\.weight_fake_quant[^\0]*any mode"):
            plan.apply(model)
        return
    twin = copy.deepcopy(model).eval()
    handle, before = plan.apply(model), torch_bits(model)
    for _ in range(3):
        model.train()
        assert torch.equal(model[0](x), twin[0](x))
    assert torch_bits(model) == before
    handle.verify()


# PaddlePaddle ------------------------------------------------------------------------------------


class PaddleLayer(paddle.nn.Layer):
    def __init__(self, quantiser):
        super().__init__()
        self.weight = self.create_parameter([WIDTH, WIDTH])
        self.quantiser = quantiser

    def forward(self, x):
        return self.quantiser(x) @ self.weight


PADDLE = classes(paddle.nn.Layer, ("paddle.quantization", "paddle.nn.quant"))
NOT_ALONE = {
    "FloatFunctionalLayer", "add", "concat", "divide", "flatten", "matmul", "multiply", "reshape",
    "subtract", "transpose",
}  # fmt: skip
"""Operations as layers, without anything of their own."""
OTHERS = {
    "QuantizedColumnParallelLinear": "of several processes",
    "QuantizedRowParallelLinear": "of several processes",
}


def quanter():
    return paddle.quantization.quanters.FakeQuanterWithAbsMaxObserver(moving_rate=0.9)


def config():
    return paddle.quantization.QuantConfig(activation=quanter(), weight=quanter())


def linear():
    paddle.seed(0)
    return paddle.nn.Linear(WIDTH, WIDTH)


class As(paddle.nn.Layer):
    """A quantiser of another shape than rows of values."""

    def __init__(self, inside, there, back):
        super().__init__()
        self.inside, self.there, self.back = inside, there, back

    def forward(self, x):
        return self.back(self.inside(*self.there(x)))


def of_images(inside):
    def flat(y):
        return y.reshape([y.shape[0], WIDTH])

    return As(inside, lambda x: (x.reshape([x.shape[0], 2, 8, 8]),), flat)


def turned(inside):
    return As(inside, lambda x: (x.t(),), lambda y: y.t())


def one():
    """What a layer is configured with that is quantised by itself."""
    return paddle.quantization.config.SingleLayerConfig(activation=quanter(), weight=quanter())


def conv(cls="Conv2D"):
    paddle.seed(0)
    return getattr(paddle.nn, cls)(2, 2, 3, padding=1)


SPECIAL = {
    "FakeQuantWeightLSQPlus": lambda cls: cls(
        quant_bits=8, batch_init=4, per_channel=True, channel_num=WIDTH
    ),
    "GroupWiseWeightObserverLayer": lambda cls: turned(cls(linear())),
    "QuantedConv2D": lambda cls: of_images(cls(conv(), one())),
    "QuantedLinear": lambda cls: cls(linear(), one()),
    "QuantizedConv2D": lambda cls: of_images(cls(conv())),
    "QuantizedConv2DTranspose": lambda cls: of_images(cls(conv("Conv2DTranspose"))),
    "QuantizedMatmul": lambda cls: As(cls(linear()), lambda x: (x, paddle.eye(WIDTH)), lambda y: y),
    "LinearQuanterDequanter": lambda cls: cls(quanter()._instance(linear()), None),
}


def paddle_builds(cls):
    if special := SPECIAL.get(cls.__name__):
        yield lambda: special(cls)
        return
    scales = paddle.to_tensor([1.0])
    yield lambda: cls(linear())
    yield lambda: cls(quant_bits=8)
    yield lambda: cls(quant_bits=8, batch_init=4)
    yield lambda: cls(channel_num=WIDTH, quant_axis=1, quant_on_weight=True)
    yield lambda: cls(quant_on_weight=True)
    yield lambda: cls(scales, zero_point=paddle.to_tensor([0.0]))
    yield cls
    yield lambda: cls(quanter()._instance(linear()), linear())
    yield lambda: cls(paddle.nn.quant.Stub(quanter()), config())


def paddle_quantisers(cls):
    """Make a class in every way that works."""
    for build in paddle_builds(cls):
        try:
            made = build()
            made(paddle.zeros([WIDTH, WIDTH]))
        except (TypeError, AttributeError, AssertionError, ValueError, RuntimeError):
            continue
        yield build


def paddle_run(model, batch):
    return model[0](paddle.to_tensor(batch)).numpy()


def paddle_bits(model):
    """Of what is not scratch: buffers that are not saved come and go."""
    kept = set(model[0].state_dict())
    return {name: value for name, value in paddle_layers.bits(model[0]).items() if name in kept}


def paddle_spoil(model, names):
    tensors = dict([*model[0].named_parameters(), *model[0].named_buffers()])
    for name in names:
        tensors[name].set_value(paddle.full_like(tensors[name], 7))


PADDLE_STATES = {
    "fresh": lambda m: m,
    "warmed up": lambda m: warmed(m, paddle_run),
    "warmed up twice": lambda m: warmed(warmed(m, paddle_run), paddle_run),
}


@pytest.mark.parametrize("state", PADDLE_STATES)
@pytest.mark.parametrize("name", sorted(n for n in PADDLE if n.split(".")[-1] not in NOT_ALONE))
def test_every_quantiser_of_paddle_is_held_refused_or_only_looks(name, state):
    built = list(paddle_quantisers(PADDLE[name]))
    if name.split(".")[-1] in OTHERS:
        return
    assert built, f"{name} is made in no way"
    for build in built:
        model = paddle.nn.Sequential(PaddleLayer(build()), paddle.nn.Linear(WIDTH, 2))
        model = PADDLE_STATES[state](model)
        before = [p.stop_gradient for p in model.parameters()]
        found, why, twin = outcome(model, paddle_run, paddle_bits, paddle_spoil)
        if found != "refused":
            continue
        assert before == [p.stop_gradient for p in model.parameters()]
        if "observed nothing" in why:
            assert state == "fresh"
        else:
            assert "in any mode" in why
            assert moves_in_any_mode(twin, paddle_run, paddle_bits)


@pytest.mark.parametrize("name", ["FakeQuantActLSQPlus", "FakeQuantWeightLSQPlus"])
def test_a_range_that_is_measured_first_and_learnt_then_holds_once_it_is_measured(name):
    cls = PADDLE[f"paddle.nn.quant.lsq.{name}"]
    sizes = {"per_channel": True, "channel_num": WIDTH} if "Weight" in name else {}
    made = cls(quant_bits=8, batch_init=4, **sizes)
    model = paddle.nn.Sequential(PaddleLayer(made), paddle.nn.Linear(WIDTH, 2))
    with pytest.raises(UnsupportedPlanError, match="run 4 batches"):
        PLAN.apply(model)
    warmed(warmed(model, paddle_run), paddle_run)
    assert outcome(model, paddle_run, paddle_bits, paddle_spoil)[0] == "held"


@pytest.mark.parametrize("prepare", ["QAT", "ImperativeQuantAware"])
def test_a_freshly_quantised_network_of_paddle_is_refused_until_it_has_seen_batches(prepare):
    paddle.seed(0)
    net = paddle.nn.Sequential(paddle.nn.Linear(WIDTH, 6), paddle.nn.ReLU(), paddle.nn.Linear(6, 2))
    if prepare == "QAT":
        net = paddle.quantization.QAT(config()).quantize(net, inplace=True)
    else:
        paddle.quantization.ImperativeQuantAware().quantize(net)
    with pytest.raises(UnsupportedPlanError, match=r"observed nothing[^\0]*few batches"):
        PLAN.apply(net)
    warmed(net, lambda model, batch: model(paddle.to_tensor(batch)))
    twin = copy.deepcopy(net)
    handle, before = PLAN.apply(net), paddle_bits(net)
    twin.eval()
    net.train()
    for batch in BATCHES:
        np.testing.assert_array_equal(paddle_run(net, batch), paddle_run(twin, batch))
    net(paddle.to_tensor(BATCHES[0])).square().mean().backward()
    head = {n: p for n, p in net[2].named_parameters() if n.endswith(("weight", "bias"))}
    assert len(head) == 2
    assert all(float(p.grad.abs().sum()) > 0 for p in head.values())
    assert paddle_bits(net) == before
    handle.verify()


def test_quantisers_that_go_on_learning_are_no_matter():
    """A plan that trains a quantised layer asks nothing of it."""
    net = paddle.nn.Sequential(paddle.nn.Linear(WIDTH, 6), paddle.nn.Linear(6, 2))
    net = paddle.quantization.QAT(config()).quantize(net, inplace=True)
    FreezePlan().freeze("0.bias").apply(net)
    assert load_backend("paddle").describe(net).states
