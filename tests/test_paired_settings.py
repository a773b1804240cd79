"""Settings in which paired layers differ, and optimizers: all of them, and of the right layers."""

from __future__ import annotations

from functools import partial

import numpy as np
import paddle
import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.pairs.ported import scramble
from unifreeze._evidence import check_step
from unifreeze._experiments.sketch import without_copies
from unifreeze._numerics.projections import Sketch
from unifreeze._ports.pairing.layer_settings import (
    LayerRow,
    compare_settings,
    default_rows,
    layers_alike,
)
from unifreeze._protocol import load_backend
from unifreeze.errors import PairingError

ROWS = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
WORDS = np.random.default_rng(1).integers(0, 11, (3, 5))
EVERYTHING = uf.FreezePlan().train("all")


def torch_default(name):
    """What an optimizer of PyTorch that was told nothing says of itself."""
    group = getattr(torch.optim, name)([torch.zeros(1, requires_grad=True)]).param_groups[0]
    return {
        "default learning rate": group["lr"],
        "default momentum": group.get("momentum"),
        "default smoothing": group.get("alpha", group.get("rho")),
        "default epsilon": group.get("eps"),
    }


def paddle_default(name):
    """What an optimizer of Paddle that was told nothing says of itself."""
    weight = paddle.create_parameter([1], "float32")
    given = {"learning_rate": 0.01} if name in ("RMSProp", "Adagrad") else {}
    made = getattr(paddle.optimizer, name)(parameters=[weight], **given)
    return {
        "default learning rate": made.get_lr(),
        "default momentum": getattr(made, "_momentum", None),
        "default smoothing": getattr(made, "_rho", None),
        "default epsilon": getattr(made, "_epsilon", None),
    }


DEFAULTS = {
    one: (partial(torch_default, one.split()[0]), partial(paddle_default, other))
    for one, other in {
        "SGD with momentum": "Momentum",
        "Adamax": "Adamax",
        "RMSprop": "RMSProp",
        "Adagrad": "Adagrad",
        "Adadelta": "Adadelta",
    }.items()
}


def compared():
    sides = (default_rows(load_backend(name)) for name in ("torch", "paddle"))
    one, other = sides
    return compare_settings(one, other, [(row.path, row.path) for row in one])


def test_optimizers_with_other_defaults_are_listed():
    found = {(path, d.setting): (d.one, d.other) for d in compared() for path, _ in d.layers}
    for (name, setting), values in found.items():
        if setting != "update rule":
            ours, theirs = DEFAULTS[name]
            assert values == (ours()[setting], theirs()[setting])
    assert {name for name, _ in found} == DEFAULTS.keys()


GRADIENTS = np.random.default_rng(0).standard_normal((4, 6)) * 10.0 ** -np.arange(6)
SHARED = {
    "SGD with momentum": ({"momentum": 0.9}, {"momentum": 0.9}),
    "RMSprop": ({"alpha": 0.9}, {"rho": 0.9}),
    "Adadelta": ({"rho": 0.9}, {"rho": 0.9}),
    "AdamW": ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
}
"""Settings to give both, where a default differs; besides the rate and epsilon."""


def steps_in_torch(optimizer, **settings):
    weight = nn.Parameter(torch.ones(6, dtype=torch.float64))
    made = optimizer([weight], lr=0.01, **settings)
    for row in GRADIENTS:
        weight.grad = torch.tensor(row)
        made.step()
    return weight.detach().numpy() - 1


def steps_in_paddle(optimizer, **settings):
    weight = paddle.create_parameter([6], "float64")
    weight.set_value(np.ones(6))
    made = optimizer(learning_rate=0.01, parameters=[weight], **settings)
    for row in GRADIENTS:
        (weight * paddle.to_tensor(row)).sum().backward()
        made.step()
        made.clear_grad()
    return weight.numpy() - 1


def test_optimizers_that_step_otherwise_under_equal_settings_are_listed():
    from unifreeze_paddle._settings import OPTIMIZERS as THERE
    from unifreeze_torch._settings import OPTIMIZERS as HERE

    differ = set()
    for name, optimizer in HERE.items():
        ours, theirs = SHARED.get(name, ({}, {}))
        if name != "SGD with momentum":
            ours, theirs = ours | {"eps": 1e-2}, theirs | {"epsilon": 1e-2}
        one, other = steps_in_torch(optimizer, **ours), steps_in_paddle(THERE[name], **theirs)
        if np.abs((one - other) / one).max() > 1e-3:
            differ.add(name)
    rules = [row for row in compared() if row.setting == "update rule"]
    assert {path for row in rules for path, _ in row.layers} == differ == {"RMSprop", "Adamax"}
    assert (
        "update rule: epsilon beside the root and epsilon under the root in RMSprop"
        in "\n".join(map(str, rules))
    )


SETTINGS = {
    "batch norm": (
        lambda: (nn.BatchNorm2d(4, eps=1e-3), paddle.nn.BatchNorm2D(4)),
        {("epsilon", 1e-3, 1e-5), ("running variance", "unbiased", "biased")},
    ),
    "instance norm": (
        lambda: (nn.InstanceNorm2d(4), paddle.nn.InstanceNorm2D(4)),
        {("affine", False, True)},
    ),
    "dropout": (
        lambda: (nn.Dropout(0.5), paddle.nn.Dropout(0.5, mode="downscale_in_infer")),
        {("dropout mode", "upscale_in_train", "downscale_in_infer")},
    ),
    "dropout share": (
        lambda: (nn.Dropout(0.5), paddle.nn.Dropout(0.2)),
        {("dropout", 0.5, 0.2)},
    ),
    "padded row": (
        lambda: (nn.Embedding(5, 3, padding_idx=1), paddle.nn.Embedding(5, 3, padding_idx=1)),
        {("padding row", "as stored", "zeros")},
    ),
    "padding on one side": (
        lambda: (nn.Embedding(5, 3, padding_idx=1), paddle.nn.Embedding(5, 3)),
        {("padding_idx", 1, None)},
    ),
    "average pool": (
        lambda: (nn.AvgPool2d(2, padding=1), paddle.nn.AvgPool2D(2, padding=1)),
        {("padded cells", "counted", "left out")},
    ),
    "average pool without padding": (
        lambda: (nn.AvgPool2d(2, ceil_mode=True), paddle.nn.AvgPool2D(2)),
        {("ceil_mode", True, False)},
    ),
    "conv": (
        lambda: (
            nn.Conv2d(3, 4, 3, padding=1),
            paddle.nn.Conv2D(3, 4, 3, padding=1, padding_mode="reflect"),
        ),
        {("padding_mode", "zeros", "reflect")},
    ),
    "gelu": (
        lambda: (nn.GELU(), paddle.nn.GELU(approximate=True)),
        {("activation", "gelu", "gelu (tanh)")},
    ),
    "hard sigmoid": (
        lambda: (nn.Hardsigmoid(), paddle.nn.Hardsigmoid()),
        {("slope", 1 / 6, 0.1666667)},
    ),
    "leaky relu": (lambda: (nn.LeakyReLU(), paddle.nn.LeakyReLU()), set()),
    "layer norm": (lambda: (nn.LayerNorm(4), paddle.nn.LayerNorm(4)), set()),
    "group norm": (lambda: (nn.GroupNorm(2, 4), paddle.nn.GroupNorm(2, 4)), set()),
    "attention": (
        lambda: (nn.MultiheadAttention(4, 2), paddle.nn.MultiHeadAttention(4, 2, dropout=0.1)),
        {("attention dropout", 0.0, 0.1)},
    ),
    "transformer layer": (
        lambda: (
            nn.TransformerEncoderLayer(4, 2, 8, norm_first=True, activation="gelu"),
            paddle.nn.TransformerEncoderLayer(4, 2, 8),
        ),
        {("norms", "before", "after"), ("activation", "gelu", "relu")},
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_differ_are_listed(case):
    make, expected = SETTINGS[case]
    rows = []
    for framework, layer in zip(("torch", "paddle"), make(), strict=True):
        holder = {"torch": nn.Sequential, "paddle": paddle.nn.Sequential}[framework](layer)
        found = load_backend(framework).layer_settings(holder)
        rows.append([LayerRow("0", found["0"])])
    found = compare_settings(*rows, [("0", "0")])
    assert {difference[:3] for difference in found} == expected
    assert all(difference.effect for difference in found)


class TorchBlock(nn.Module):
    """Dropout after the first layer and after the second."""

    def __init__(self, shares):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 3)
        self.drops = nn.ModuleDict({name: nn.Dropout(share) for name, share in shares.items()})

    def drop(self, name, x):
        return self.drops[name](x) if name in self.drops else x

    def forward(self, x):
        inner = self.drop("inner", self.up(self.drop("first", x)).relu())
        return self.drop("last", self.down(inner))


class PaddleBlock(paddle.nn.Layer):
    def __init__(self, shares):
        super().__init__()
        self.down, self.up = paddle.nn.Linear(8, 3), paddle.nn.Linear(6, 8)
        made = {name: paddle.nn.Dropout(shares[name]) for name in reversed(shares)}
        self.drops = paddle.nn.LayerDict(made)

    def drop(self, name, x):
        return self.drops[name](x) if name in self.drops else x

    def forward(self, x):
        inner = self.drop("inner", paddle.nn.functional.relu(self.up(self.drop("first", x))))
        return self.drop("last", self.down(inner))


DROPS = {
    "alike": ({"first": 0.1, "last": 0.2}, {"first": 0.1, "last": 0.2}, set()),
    "one that does nothing besides": (
        {"first": 0.1, "last": 0.1},
        {"first": 0.1, "inner": 0.0, "last": 0.1},
        set(),
    ),
    "as many, in other places": ({"first": 0.1, "inner": 0.3}, {"inner": 0.3, "last": 0.1}, set()),
    "another share in one place": (
        {"first": 0.1, "inner": 0.0, "last": 0.2},
        {"first": 0.1, "last": 0.3},
        {(0.2, 0.3, "drops.last", "drops.last")},
    ),
    "none there": (
        {"first": 0.1, "inner": 0.3},
        {"first": 0.0, "inner": 0.3},
        {(0.1, 0.0, "drops.first", "drops.first")},
    ),
}


ALONE = {
    "as many, in other places": {
        "dropout 0.1 in drops.first of torch: no layer of paddle is in its place",
        "dropout 0.1 in drops.last of paddle: no layer of torch is in its place",
    }
}
"""What a report says of dropouts that it could not compare: the other port may have a function."""


@pytest.mark.parametrize("case", DROPS)
def test_dropouts_are_compared_with_those_in_the_same_place(case):
    ours, theirs, expected = DROPS[case]
    report = check_step(EVERYTHING, TorchBlock(ours), PaddleBlock(theirs), batch=ROWS)
    found = {(d.one, d.other, *pair) for d in report.differences for pair in d.layers}
    assert found == expected
    assert set(report.alone) == ALONE.get(case, set())


def rows(*settings):
    return [
        LayerRow(f"{number}", {"layer": "dropout", "dropout": p})
        for number, p in enumerate(settings)
    ]


def sketches(*numbers):
    return {str(place): Sketch(number, (number,) * 8) for place, number in enumerate(numbers)}.get


def test_of_several_layers_in_one_place_those_that_are_set_alike_are_paired_first():
    pairs = layers_alike((rows(0.1, 0.3), sketches(1.0, 1.0)), (rows(0.3, 0.1), sketches(1.0, 1.0)))
    assert set(pairs) == {("0", "1"), ("1", "0")}


def test_what_is_unclear_is_not_paired():
    two, three = (
        (rows(0.1, 0.2), sketches(1.0, 1.0)),
        (rows(0.3, 0.4, 0.5), sketches(1.0, 1.0, 1.0)),
    )
    assert not list(layers_alike(two, three))
    assert not list(layers_alike((rows(0.1), sketches(1.0)), (rows(0.1), sketches(2.0))))


def test_ernie_of_both_libraries_has_no_dropout_that_differs():
    from examples.torchvision_on_cpu import import_torchvision

    import_torchvision()
    from paddlenlp.transformers import ErnieConfig as PaddleConfig
    from paddlenlp.transformers import ErnieForSequenceClassification as PaddleErnie
    from transformers import ErnieConfig, ErnieForSequenceClassification

    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "type_vocab_size": 2}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 20}
    one = ErnieForSequenceClassification(ErnieConfig(**sizes, num_labels=2))
    other = PaddleErnie(PaddleConfig(**sizes, num_labels=2))
    assert (
        other.ernie.encoder.layers[0].dropout.p == 0
    )  # inside the feed-forward: none in the other
    batch = {"input_ids": np.random.default_rng(0).integers(1, 50, (4, 12))}
    pairing = uf.pair(one, other, batch=batch)
    found = check_step(uf.FreezePlan().only("head"), one, other, batch=batch, pairing=pairing)
    assert "dropout" not in {row.setting for row in found.differences}
    other.ernie.encoder.layers[1].dropout2.p = 0.4
    found = check_step(uf.FreezePlan().only("head"), one, other, batch=batch, pairing=pairing)
    (row,) = [row for row in found.differences if row.setting == "dropout"]
    assert row.layers == (
        ("ernie.encoder.layer.1.output.dropout", "ernie.encoder.layers.1.dropout2"),
    )


class TorchWords(nn.Module):
    """Adds a table of positions to every row of a batch, which the other port repeats first."""

    def __init__(self, epsilon=1e-5, tied=None):
        super().__init__()
        self.word, self.place = nn.Embedding(11, 6), nn.Embedding(9, 6)
        self.norm, self.tied = nn.LayerNorm(6, eps=epsilon), tied
        if not tied:
            self.head = nn.Linear(6, 11, bias=False)

    def forward(self, ids):
        h = self.norm(self.word(ids) + self.place(torch.arange(ids.shape[1])[None]))
        return h @ self.word.weight.T if self.tied else self.head(h)


class PaddleWords(paddle.nn.Layer):
    def __init__(self, epsilon=1e-5, tied=None):
        super().__init__()
        self.position, self.token = paddle.nn.Embedding(9, 6), paddle.nn.Embedding(11, 6)
        self.norm, self.tied = paddle.nn.LayerNorm(6, epsilon=epsilon), tied
        if not tied:
            self.out = paddle.nn.Linear(6, 11, bias_attr=False)

    def forward(self, ids):
        places = paddle.arange(ids.shape[1]).unsqueeze(0).expand(ids.shape)
        h = self.norm(self.token(ids) + self.position(places))
        return h @ self.token.weight.T if self.tied else self.out(h)


def test_the_first_divergence_is_no_layer_that_repeats_what_it_returns():
    with pytest.raises(PairingError) as caught:
        uf.pair(TorchWords(epsilon=1e-1), PaddleWords(), batch=WORDS)
    assert "first divergence: norm of torch returns [3, 5, 6]" in str(caught.value)
    assert "last agreement: place of torch and position of paddle" in str(caught.value)


def test_nor_one_inside_a_module_that_agrees():
    one, other = nn.Sequential(Folded(), nn.Tanh()), nn.Sequential(nn.Linear(6, 3), nn.Sigmoid())
    with pytest.raises(PairingError) as caught:
        uf.pair(one, other, batch=ROWS)
    assert "first divergence: 1 of torch" in str(caught.value)


class Folded(nn.Module):
    """Comes to the same as one linear layer, by way of something that no other port has."""

    def __init__(self):
        super().__init__()
        self.fc, self.twice = nn.Linear(6, 3), Times(2.0)

    def forward(self, x):
        return self.twice(self.fc(x)) / 2


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_repeated_values_are_seen_once():
    values = np.arange(6.0).reshape(1, 2, 3)
    assert without_copies(np.repeat(values, 4, axis=0)).shape == (1, 2, 3)
    assert without_copies(np.repeat(values[..., None], 5, axis=3)).shape == (1, 2, 3, 1)
    assert without_copies(values).shape == (1, 2, 3)


@pytest.mark.parametrize("tied", [True, False])
def test_ties_on_both_sides_or_neither_are_paired(tied):
    assert uf.pair(TorchWords(tied=tied), PaddleWords(tied=tied), batch=WORDS).certificate


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("who", ["torch", "paddle"])
def test_a_tied_table_against_an_untied_head_is_called_that(who, backwards):
    one = scramble(TorchWords(tied=who == "torch"))
    other = PaddleWords(tied=who == "paddle")
    with pytest.raises(PairingError) as caught:
        uf.pair(*((other, one) if backwards else (one, other)), batch=WORDS)
    whom = {"torch": "paddle", "paddle": "torch"}[who]
    assert f"{who} ties what {whom} holds in two tensors" in str(caught.value)
    table, parts = {
        "torch": ("word.weight", "token.weight and out.weight"),
        "paddle": ("token.weight", "word.weight and head.weight"),
    }[who]
    said = f"without partner in {who}: {table}: held once here, and twice there: "
    assert said in str(caught.value)
    assert sorted(str(caught.value).partition(said)[2].splitlines()[0].split(" and ")) == sorted(
        parts.split(" and ")
    )


def test_parity_says_what_it_compares_of_outputs():
    report = uf.check_parity(EVERYTHING, TorchBlock({}), PaddleBlock({}), batch=ROWS)
    line = next(line for line in str(report).splitlines() if "outputs" in line)
    assert line.endswith("floating outputs of the same shapes (values are not compared)")
