"""Which way round a matrix is stored: by what a layer is, declares or does, never by its name."""

from itertools import product

import numpy as np
import paddle
import pytest
import torch
from torch import nn

import unifreeze as uf
from unifreeze._evidence import check_parity
from unifreeze._modules.orientation import declared_turned
from unifreeze._protocol import Batch, load_backend

ROWS = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
IN, OUT = 5, 3
CALLED = ("Linear", "Dense", "MyLinear", "FusedDense", "Gate")
DECLARED = (None, ("in_features", "out_features"), ("nx", "nf"), ("_in_features", "_out_features"))
LAYOUTS = ("in by out", "out by in")


def torch_layer(called, layout, declared):
    """A home-made linear layer of PyTorch's, under any class name."""

    def init(self):
        torch.nn.Module.__init__(self)
        shape = (IN, OUT) if layout == "in by out" else (OUT, IN)
        self.weight = torch.nn.Parameter(torch.rand(shape) + 0.1)
        for name, size in zip(declared or (), (IN, OUT), strict=False):
            setattr(self, name, size)

    def forward(self, x):
        return x @ (self.weight if layout == "in by out" else self.weight.T)

    return type(called, (torch.nn.Module,), {"__init__": init, "forward": forward})()


def paddle_layer(called, layout, declared):
    """The same of Paddle's."""

    def init(self):
        paddle.nn.Layer.__init__(self)
        shape = [IN, OUT] if layout == "in by out" else [OUT, IN]
        self.weight = self.create_parameter(shape)
        for name, size in zip(declared or (), (IN, OUT), strict=False):
            setattr(self, name, size)

    def forward(self, x):
        return x @ (self.weight if layout == "in by out" else self.weight.T)

    return type(called, (paddle.nn.Layer,), {"__init__": init, "forward": forward})()


LAYERS = {"torch": torch_layer, "paddle": paddle_layer}


def network(framework, layer):
    if framework == "torch":
        return torch.nn.Sequential(torch.nn.Linear(IN, IN), layer)
    return paddle.nn.Sequential(paddle.nn.Linear(IN, IN), layer)


def neutral(framework, layer, batch=None):
    """The neutral shape of a layer's matrix, and whether anything told it."""
    model = network(framework, layer)
    spec = load_backend(framework).describe(model, Batch.of(batch) if batch is not None else None)
    (number,) = [n for n, p in enumerate(spec.parameters) if p.path == "1.weight"]
    return spec.neutral_shape(number)


@pytest.mark.parametrize("framework", LAYERS)
@pytest.mark.parametrize(("called", "layout", "declared"), list(product(CALLED, LAYOUTS, DECLARED)))
def test_a_home_made_layer_is_read_as_it_declares_itself(framework, called, layout, declared):
    layer = LAYERS[framework](called, layout, declared)
    shape, told = neutral(framework, layer)
    assert told == (declared is not None)
    assert shape == ((OUT, IN) if told else tuple(layer.weight.shape))


@pytest.mark.parametrize("framework", LAYERS)
@pytest.mark.parametrize(("called", "layout"), list(product(CALLED[:4], LAYOUTS)))
def test_or_as_a_forward_pass_shows_it(framework, called, layout):
    layer = LAYERS[framework](called, layout, None)
    assert neutral(framework, layer, ROWS) == ((OUT, IN), True)


@pytest.mark.parametrize(
    ("one", "other", "declared"), list(product(LAYOUTS, LAYOUTS, (None, DECLARED[1])))
)
@pytest.mark.parametrize("called", ["Linear", "Dense"])
def test_parity_holds_whichever_way_two_home_made_layers_store_their_matrix(
    called, one, other, declared
):
    models = (
        network("torch", torch_layer(called, one, declared)),
        network("paddle", paddle_layer(called, other, declared)),
    )
    plan = uf.FreezePlan().only('at:"net/linear.0"')
    report = check_parity(plan, *models, batch=ROWS)
    assert report.holds, report


def test_a_layer_of_the_framework_and_a_home_made_one_are_one_network():
    for layout in LAYOUTS:
        home = network("paddle", paddle_layer("Linear", layout, None))
        report = check_parity(uf.FreezePlan().freeze('at:"net/linear.0"'),
                              network("torch", torch.nn.Linear(IN, OUT, bias=False)),
                              home, batch=ROWS)  # fmt: skip
        assert report.holds, report


@pytest.mark.parametrize(("one", "other"), list(product(LAYOUTS, LAYOUTS)))
def test_what_never_runs_and_declares_nothing_may_be_stored_either_way(one, other):
    models = []
    for framework, layout in (("torch", one), ("paddle", other)):
        base = torch.nn.Module if framework == "torch" else paddle.nn.Layer

        class Net(base):
            def __init__(self, framework=framework, layout=layout, base=base):
                base.__init__(self)
                self.body = network(framework, LAYERS[framework]("Linear", "in by out", None))
                self.idle = LAYERS[framework]("Linear", layout, None)

            def forward(self, x):
                return self.body(x)

        models.append(Net())
    report = check_parity(uf.FreezePlan().freeze("params[:1]"), *models, batch=ROWS)
    (clause,) = [c for c in report.clauses if c.name == "parameters"]
    assert clause.holds, report


def test_a_matrix_of_another_shape_is_still_found():
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(IN, OUT + 1))

        def forward(self, x):
            return x @ self.weight

    Wide.__name__ = "Linear"
    report = check_parity(
        uf.FreezePlan().freeze('at:"net/linear.0"'),
        network("torch", Wide()),
        network("paddle", paddle.nn.Linear(IN, OUT, bias_attr=False)),
        batch=ROWS,
    )
    (finding,) = next(c for c in report.clauses if c.name == "parameters").findings
    assert f"has shape [{OUT + 1}, {IN}] as 1.weight and [{OUT}, {IN}] as 1.weight" in str(finding)


# Layers of the frameworks -------------------------------------------------------------------


def paddle_own():
    from paddle.incubate.nn import FusedLinear

    nn, compat = paddle.nn, paddle.compat.nn
    found = {
        "nn.Linear": nn.Linear(IN, OUT, bias_attr=False),
        "compat.nn.Linear": compat.Linear(IN, OUT, bias=False),
        "FusedLinear": FusedLinear(IN, OUT, bias_attr=False),
        "FusedLinear, turned": FusedLinear(IN, OUT, bias_attr=False, transpose_weight=True),
    }
    return {name: (layer, "paddle") for name, layer in found.items()}


def torch_own():
    from transformers.pytorch_utils import Conv1D

    return {
        "torch.nn.Linear": (torch.nn.Linear(IN, OUT, bias=False), "torch"),
        "transformers' Conv1D": (Conv1D(OUT, IN), "torch"),
    }


OWN = (
    "nn.Linear",
    "compat.nn.Linear",
    "FusedLinear",
    "FusedLinear, turned",
    "torch.nn.Linear",
    "transformers' Conv1D",
)


@pytest.mark.parametrize("name", OWN)
def test_a_layer_of_the_framework_is_known_by_what_it_is(name):
    layer, framework = {**paddle_own(), **torch_own()}[name]
    assert neutral(framework, layer) == ((OUT, IN), True)


def test_a_layer_of_a_subclass_is_as_its_base():
    class Gate(paddle.nn.Linear):
        """Called after nothing."""

    assert neutral("paddle", Gate(IN, OUT)) == ((OUT, IN), True)


@pytest.mark.parametrize("kind", ["Linear", "compat"])
def test_parity_holds_with_paddles_own_layer_of_either_layout(kind):
    layer = paddle.compat.nn.Linear(IN, OUT) if kind == "compat" else paddle.nn.Linear(IN, OUT)
    report = check_parity(
        uf.FreezePlan().only("head"),
        network("torch", torch.nn.Linear(IN, OUT)),
        network("paddle", layer),
        batch=ROWS,
    )
    assert report.holds, report


def test_two_layers_of_one_class_and_shape_may_declare_opposite_sizes():
    class Linear(torch.nn.Module):
        def __init__(self, fan_in, fan_out, *, turned):
            super().__init__()
            self.in_features, self.out_features = fan_in, fan_out
            shape = (fan_in, fan_out) if turned else (fan_out, fan_in)
            self.weight = torch.nn.Parameter(torch.rand(shape))

    model = torch.nn.Sequential(Linear(IN, OUT, turned=True), Linear(OUT, IN, turned=False))
    spec = load_backend("torch").describe(model)
    assert [p.shape for p in spec.parameters] == [(IN, OUT)] * 2
    assert [p.neutral_shape for p in spec.parameters] == [(OUT, IN), (IN, OUT)]


@pytest.mark.parametrize(
    ("sizes", "shape", "turned"),
    [
        ({"in_features": 5, "out_features": 3}, (5, 3), True),
        ({"in_features": 5, "out_features": 3}, (3, 5), False),
        ({"in_features": 5, "out_features": 3}, (5, 4), None),
        ({"in_features": 5, "out_features": 5}, (5, 5), None),
        ({"in_features": 5, "out_features": 3, "nx": 3, "nf": 5}, (5, 3), None),
        ({"in_features": 5}, (5, 3), None),
        ({"in_features": 5, "out_features": 3}, (3, 5, 1), None),
    ],
)
def test_declared_sizes_must_fit_the_shape_and_agree(sizes, shape, turned):
    assert declared_turned(type("Anything", (), {})(), shape) is None
    layer = type("Anything", (), {})()
    vars(layer).update(sizes)
    assert declared_turned(layer, shape) is turned


class TorchOtherWay(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.1)

    def forward(self, x):
        return x @ self.weight + self.bias


class PaddleOtherWay(paddle.nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.weight = self.create_parameter([outputs, inputs])

    def forward(self, x):
        return paddle.matmul(x, self.weight, transpose_y=True) + self.bias


@pytest.mark.parametrize("one", [nn.Linear, TorchOtherWay])
@pytest.mark.parametrize("other", [paddle.nn.Linear, PaddleOtherWay])
def test_a_subclass_that_stores_its_matrix_the_other_way_round_is_seen(one, other):
    models = (
        nn.Sequential(one(6, 8), nn.Tanh(), nn.Linear(8, 3)),
        paddle.nn.Sequential(other(6, 8), paddle.nn.Tanh(), paddle.nn.Linear(8, 3)),
    )
    batch = np.ones((2, 6), "float32")
    report = uf.check_parity(uf.FreezePlan().only("head"), *models, batch=batch)
    assert report.holds, str(report)
