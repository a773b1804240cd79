"""Random layers that neither a tensor nor a result pairs: compared where their place is certain."""

import numpy as np
import paddle
import pytest
import torch
from torch import nn

import unifreeze as uf
from unifreeze._evidence import check_step
from unifreeze._ports.pairing.layer_settings import LayerRow
from unifreeze._ports.pairing.random_layers import compare_random_layers
from unifreeze._protocol import load_backend

SIZE, HEADS, LENGTH = 8, 2, 5
ROWS = np.random.default_rng(0).standard_normal((3, LENGTH, SIZE)).astype("float32")
EVERYTHING = uf.FreezePlan().train("all")


def parts(framework):
    """What both ports are written with."""
    if framework == "torch":
        return nn.Module, nn.Linear, nn.LayerNorm, nn.Dropout, nn.ModuleList, torch.softmax
    functional = paddle.nn.functional
    return (
        paddle.nn.Layer,
        paddle.nn.Linear,
        paddle.nn.LayerNorm,
        paddle.nn.Dropout,
        paddle.nn.LayerList,
        lambda x, dim: functional.softmax(x, axis=dim),
    )


def with_modules(framework, rates):
    """A port with a dropout in each attention, which runs; `rates` has two for each block."""
    module, linear, norm, dropout, modules, softmax = parts(framework)

    class Attention(module):
        def __init__(self, rate):
            super().__init__()
            self.value, self.key = linear(SIZE, SIZE), linear(SIZE, SIZE)
            self.query = linear(SIZE, SIZE)
            if rate is not None:
                self.drop = dropout(rate)
            self.has_drop = rate is not None

        def forward(self, x):
            v, k, q = self.value(x), self.key(x), self.query(x)
            shape = [x.shape[0], x.shape[1], HEADS, SIZE // HEADS]
            q, k, v = (t.reshape(shape).swapaxes(1, 2) for t in (q, k, v))
            weights = softmax((q / (SIZE // HEADS) ** 0.5) @ k.swapaxes(-1, -2), -1)
            if self.has_drop:
                weights = self.drop(weights)
            return (weights @ v).swapaxes(1, 2).reshape([x.shape[0], x.shape[1], SIZE])

    class Block(module):
        def __init__(self, first, second):
            super().__init__()
            self.one, self.one_out = Attention(first), linear(SIZE, SIZE)
            self.two, self.two_out = Attention(second), linear(SIZE, SIZE)
            self.norm = norm(SIZE)

        def forward(self, x):
            x = x + self.one_out(self.one(x))
            return self.norm(x + self.two_out(self.two(x)))

    class Net(module):
        def __init__(self):
            super().__init__()
            self.blocks = modules([Block(*pair) for pair in rates])
            self.head = linear(SIZE, 3)

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    return Net()


def with_numbers(framework, rates):
    """The same port with the framework's attention, which holds a number."""
    module, linear, norm, _, modules, _ = parts(framework)

    def attention(rate):
        if framework == "torch":
            return nn.MultiheadAttention(SIZE, HEADS, dropout=rate, batch_first=True)
        return paddle.nn.MultiHeadAttention(SIZE, HEADS, dropout=rate)

    class Layer(module):
        def __init__(self, first, second):
            super().__init__()
            self.first, self.second = attention(first), attention(second)
            self.norm = norm(SIZE)

        def forward(self, x):
            for layer in (self.first, self.second):
                y = layer(x, x, x)
                x = x + (y[0] if isinstance(y, tuple) else y)
            return self.norm(x)

    class Net(module):
        def __init__(self):
            super().__init__()
            self.stack = modules([Layer(*pair) for pair in rates])
            self.out = linear(SIZE, 3)

        def forward(self, x):
            for layer in self.stack:
                x = layer(x)
            return self.out(x)

    return Net()


SAME = ((0.1, 0.2), (0.1, 0.2))
CASES = {
    "equal": (SAME, SAME, set(), set()),
    "a rate differs": (
        ((0.1, 0.2), (0.1, 0.3)),
        SAME,
        {(0.3, 0.2, "blocks.1.two.drop", "stack.1.second")},
        set(),
    ),
    "the number is zero": (
        SAME,
        ((0.1, 0.2), (0.0, 0.2)),
        {(0.1, 0.0, "blocks.1.one.drop", "stack.1.first")},
        set(),
    ),
    "the module is missing": (((None, 0.2), (0.1, 0.2)), SAME, set(), {"stack.0.first"}),
    "two are swapped, and what runs between tells them apart": (
        ((0.2, 0.1), (0.1, 0.2)),
        SAME,
        {
            (0.2, 0.1, "blocks.0.one.drop", "stack.0.first"),
            (0.1, 0.2, "blocks.0.two.drop", "stack.0.second"),
        },
        set(),
    ),
    "a block has none": (
        ((0.1, 0.2), (None, None)),
        SAME,
        set(),
        {"stack.1.first", "stack.1.second"},
    ),
}
RUNS = [
    *((case, "torch", "paddle") for case in CASES),
    *((case, "paddle", "torch") for case in CASES),
    ("a rate differs", "torch", "torch"),
    ("a rate differs", "paddle", "paddle"),
]


@pytest.mark.parametrize(("case", "first", "second"), RUNS)
def test_a_dropout_in_an_attention_is_compared_with_the_number_of_the_other_port(
    case, first, second
):
    ours, theirs, differences, alone = CASES[case]
    one, other = with_modules(first, ours), with_numbers(second, theirs)
    if first == "paddle":  # in the other direction, too
        one, other = other, one
        differences = {(b, a, y, x) for a, b, x, y in differences}
    report = check_step(EVERYTHING, one, other, batch=ROWS)
    rates = [row for row in report.differences if row.setting == "attention dropout"]
    assert {(d.one, d.other, *paths) for d in rates for paths in d.layers} == differences
    assert {text.split(" in ")[1].split(" of ")[0] for text in report.alone} == alone


LINEAR = {"layer": "linear"}


def rows(*layers):
    """Rows of layers by path: a number is the rate of a dropout; a list, that of an attention."""
    made = []
    for text, rate in layers:
        path, ran = text.removesuffix("?"), not text.endswith("?")
        if rate is None:
            settings = LINEAR
        elif isinstance(rate, list):
            settings = {"layer": "attention", "attention dropout": rate[0]}
        else:
            settings = {"layer": "dropout", "dropout": rate}
        made.append(LayerRow(path, settings if ran else settings | {"ran": False}))
    return made


PAIRS = [("a.x", "b.x"), ("a.y", "b.y"), ("a.z", "b.z")]
ATTENTION = [("b.at", [0.1]), ("b.at.x", None), ("b.at.y", None), ("b.z", None)]
INNER = [("a.x", "b.at.x"), ("a.y", "b.at.y"), ("a.z", "b.z")]
PLACES = {
    "inside": ([("a.x", None), ("a.d", 0.1), ("a.y", None), ("a.z", None)], set()),
    "before its first layer": (
        [("a.d", 0.1), ("a.x", None), ("a.y", None), ("a.z", None)],
        {"a.d", "b.at"},
    ),
    "after its last layer": (
        [("a.x", None), ("a.y", None), ("a.d", 0.1), ("a.z", None)],
        {"a.d", "b.at"},
    ),
    "at the end": ([("a.x", None), ("a.y", None), ("a.z", None), ("a.d", 0.1)], {"a.d", "b.at"}),
    "in a module that never runs": (
        [("a.x", None), ("a.y", None), ("a.z", None), ("a.d?", 0.1)],
        set(),
    ),
    "two, and one number": (
        [("a.x", None), ("a.c", 0.1), ("a.d", 0.1), ("a.y", None), ("a.z", None)],
        {"a.c", "a.d", "b.at"},
    ),
    "and one that does nothing": (
        [("a.x", None), ("a.c", 0.0), ("a.d", 0.1), ("a.y", None), ("a.z", None)],
        set(),
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_what_runs_around_a_dropout_says_which_it_is(case):
    layers, alone = PLACES[case]
    for backwards in (False, True):
        sides = rows(*layers), rows(*ATTENTION)
        pairs = INNER
        if backwards:
            sides, pairs = sides[::-1], [(b, a) for a, b in pairs]
        found = compare_random_layers(*sides, pairs)
        assert not found.differences
        assert {row.path for side in found.alone for row in side} == alone


NEAR = [("b.at", [0.1]), ("b.more", [0.2]), ("b.x", None), ("b.y", None), ("b.z", None)]


@pytest.mark.parametrize(
    ("rates", "differ", "alone"),
    [
        ((0.1, 0.2), [], 0),
        ((0.2, 0.1), [], 4),
        ((0.1, 0.3), [(0.3, 0.2)], 0),
        ((0.2, 0.3), [], 4),
    ],
    ids=["equal", "in another order", "one differs", "shifted"],
)
def test_two_in_one_place_are_compared_unless_their_order_is_uncertain(rates, differ, alone):
    layers = [("a.c", rates[0]), ("a.d", rates[1]), ("a.x", None), ("a.y", None), ("a.z", None)]
    found = compare_random_layers(rows(*layers), rows(*NEAR), PAIRS)
    assert [(row.one, row.other) for row in found.differences] == differ
    assert sum(map(len, found.alone)) == alone


def test_two_modules_that_ran_have_been_compared_by_what_they_return():
    layers = [("x", None), ("drop", 0.1), ("y", None)]
    found = compare_random_layers(rows(*layers), rows(*layers), [("x", "x"), ("y", "y")])
    assert [[row.path for row in side] for side in found.alone] == [["drop"], ["drop"]]


def test_branches_may_run_in_another_order():
    """Two towers, each with an attention: the second port runs them the other way round."""
    pairs = [(f"{t}.{n}", f"{t}.{n}") for t in "ab" for n in "xyz"]
    one = [
        row
        for t, rate in (("a", 0.1), ("b", 0.2))
        for row in ((f"{t}.x", None), (f"{t}.d", rate), (f"{t}.y", None), (f"{t}.z", None))
    ]
    other = [
        row
        for t, rate in (("b", [0.3]), ("a", [0.1]))
        for row in ((f"{t}", rate), (f"{t}.x", None), (f"{t}.y", None), (f"{t}.z", None))
    ]
    found = compare_random_layers(rows(*one), rows(*other), pairs)
    assert [row[:4] for row in found.differences] == [
        ("attention dropout", 0.2, 0.3, (("b.d", "b"),))
    ]
    assert found.alone == ((), ())


def test_a_path_in_both_models_may_be_two_layers():
    """Two attentions that swapped their names are put side by side, and nothing is taken twice."""
    one = rows(
        ("a", [0.1]), ("a.x", None), ("a.y", None), ("b", [0.2]), ("b.x", None), ("b.y", None)
    )
    pairs = [(f"{t}.{n}", f"{u}.{n}") for t, u in ("ab", "ba") for n in "xy"]
    other = rows(
        ("b", [0.1]), ("b.x", None), ("b.y", None), ("a", [0.3]), ("a.x", None), ("a.y", None)
    )
    found = compare_random_layers(one, other, pairs)
    assert [row[:4] for row in found.differences] == [
        ("attention dropout", 0.2, 0.3, (("b", "a"),))
    ]
    assert found.alone == ((), ())


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_ernie_of_both_libraries_has_counterparts_of_its_attention_dropouts(rate):
    from tests.support.porting_errors import models

    one, other, batch = models("ERNIE")
    pairing = uf.pair(one, other, batch=batch)
    one.ernie.encoder.layer[1].attention.self.dropout.p = rate
    report = check_step(EVERYTHING, one, other, batch=batch, pairing=pairing)
    assert not report.alone
    rates = [(d.one, d.other, d.layers) for d in report.differences if "dropout" in d.setting]
    layers = (("ernie.encoder.layer.1.attention.self.dropout", "ernie.encoder.layers.1.self_attn"),)
    assert rates == ([(0.3, 0.1, layers)] if rate == 0.3 else [])


def drop_path(framework, rate):
    """A network with a layer of its own that skips a branch, and a linear layer."""
    module, linear = parts(framework)[:2]

    class OurDropPath(module):
        def __init__(self):
            super().__init__()
            self.drop_prob = rate

        def forward(self, x):
            return x

    class Net(module):
        def __init__(self):
            super().__init__()
            self.fc, self.path, self.out = linear(SIZE, 6), OurDropPath(), linear(6, 3)

        def forward(self, x):
            return self.out(self.path(self.fc(x)))

    return Net()


@pytest.mark.parametrize(
    ("rates", "differ"),
    [
        ((0.1, 0.1), set()),
        ((float(np.float32(0.1)), 0.1), set()),
        ((0.1, 0.2), {(0.1, 0.2)}),
        ((None, 0.2), {(0.0, 0.2)}),
    ],
)
def test_layers_that_skip_branches_are_compared(rates, differ):
    one, other = drop_path("torch", rates[0]), drop_path("paddle", rates[1])
    report = check_step(EVERYTHING, one, other, batch=ROWS)
    assert {(row.one, row.other) for row in report.differences} == differ
    assert not report.alone


def test_both_backends_read_the_rate_of_layers_that_skip_branches():
    for framework in ("torch", "paddle"):
        settings = load_backend(framework).layer_settings(drop_path(framework, 0.3))
        assert settings["path"] == {"layer": "drop path", "drop path": 0.3}
        odd = drop_path(framework, "often")
        assert "path" not in load_backend(framework).layer_settings(odd)
