"""Small networks and training loops that a careless cache would train wrongly, in both frameworks.

Each is a function of a framework that returns an `Attack`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

W = 16
DRAW = np.random.default_rng(0)
ROWS = DRAW.standard_normal((24, W)).astype("float32")
STEPS = DRAW.standard_normal((24, 7, W)).astype("float32")
IDS = DRAW.integers(1, 50, (24, 5))


class Attack(NamedTuple):
    """A network, its data, and what the loop does besides the usual.

    Attributes:
        model: The network; `head` is what trains.
        data: One row for each example.
        each: Called before each step with the model and the number of the step.
        loss: Called after each forward pass with the model and its input; added to the loss.
        call: Calls the model on the rows of the data with some numbers.
        rule: What trains.
    """

    model: Any
    data: Any = ROWS
    each: Callable[[Any, int], None] | None = None
    loss: Callable[[Any, Any], Any] | None = None
    call: Callable[[Any, Any], Any] | None = None
    rule: str = 'path:"head"'


def line(fw, inside=W, out=W):
    return fw.nn.Sequential(fw.nn.Linear(inside, out), fw.nn.Tanh())


def module(fw, forward, **parts):
    class Made(fw.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, *args, **kwargs):
            return forward(self, *args, **kwargs)

    return Made()


def net(fw, forward, *, width=W, **parts):
    return module(fw, forward, **parts, head=fw.nn.Linear(width, 3))


def body_and_head(fw, body):
    return net(fw, lambda n, x: n.head(n.body(x)), body=body)


def buffer(fw, owner, name, values):
    owner.register_buffer(name, fw.tensor(np.asarray(values, "float32")))


# Outputs that depend on more than their own row


def causal_over_rows(fw):
    """The first axis is time: a row depends on the rows before it."""
    lstm = fw.nn.LSTM(W, W) if fw.name == "torch" else fw.nn.LSTM(W, W, time_major=True)
    data = ROWS.copy()
    data[::3] = 0
    return Attack(net(fw, lambda n, x: n.head(n.a(x.unsqueeze(1))[0][:, 0]), a=lstm), data)


def place_in_the_batch(fw):
    """A row gets the vector of its place in the batch."""

    def forward(n, x):
        return n.head(n.a(x + n.table(fw.tensor(np.arange(int(x.shape[0]))))))

    return Attack(net(fw, forward, a=line(fw), table=fw.nn.Embedding(50, W)))


def cumulative_sum(fw):
    body = module(fw, lambda n, x: n.a(x).cumsum(0), a=line(fw))
    return Attack(body_and_head(fw, body))


def neighbour(fw):
    """A row is mixed with the next one, but for the last."""

    def forward(n, x):
        y = n.a(x)
        return y + fw.cat([y[1:] * 0.5, y[:1] * 0], 0)

    return Attack(body_and_head(fw, module(fw, forward, a=line(fw))))


def large_batches_are_centred(fw):
    def forward(n, x):
        y = n.a(x)
        return y - y.mean(0) if x.shape[0] > 6 else y

    return Attack(body_and_head(fw, module(fw, forward, a=line(fw))))


def packed_rows(fw):
    """Padding is taken out, so a row has as many entries as it has tokens."""

    def forward(n, ids):
        tokens = n.table(ids)
        packed = n.a(tokens[ids > 0])
        sums, place = [], 0
        for count in (ids > 0).sum(-1).tolist():
            sums.append(packed[place : place + count].mean(0))
            place += count
        return n.head(fw.lib.stack(sums))

    data = IDS.copy()
    data[:, 4] = 0
    for row in range(8, 24):
        data[row, 3 + row % 2 * 2 :] = 0
        data[row, 3 : 3 + row % 2 * 2] = 7
    return Attack(net(fw, forward, a=line(fw), table=fw.nn.Embedding(50, W)), data)


def number_of_the_batch(fw):
    """A frozen module returns a Python number that is of the whole batch."""

    def body(n, x):
        y = n.a(x)
        return y, round(float(y.abs().max()), 3)

    def forward(n, x):
        y, scale = n.body(x)
        return n.head(y * scale)

    return Attack(net(fw, forward, body=module(fw, body, a=line(fw))))


def number_for_rare_rows(fw):
    """The number is the same for most batches."""

    def body(n, x):
        y = n.a(x)
        return y, int(x.max()) > 50

    def forward(n, x):
        y, rare = n.body(x)
        return n.head(-y if rare else y)

    data = ROWS.copy()
    data[[9, 20], 0] = 99
    return Attack(net(fw, forward, body=module(fw, body, a=line(fw))), data)


def scalar_of_the_batch(fw):
    def body(n, x):
        y = n.a(x)
        return y, fw.floats((x.max() > 50).reshape([1]))

    def forward(n, x):
        y, rare = n.body(x)
        return n.head(y + rare)

    data = ROWS.copy()
    data[[9, 20], 0] = 99
    return Attack(net(fw, forward, body=module(fw, body, a=line(fw))), data)


def table_among_the_inputs(fw):
    """An input with as many rows as the batch is looked up by another input."""

    def forward(n, x, picks):
        return n.head(n.a(x[picks]))

    order = np.random.default_rng(4).permutation(24)

    def call(model, rows):
        picks = np.arange(len(rows))
        picks[4:] = picks[4:][::-1]
        return model(fw.tensor(ROWS[order[rows]]), fw.tensor(picks))

    return Attack(net(fw, forward, a=line(fw)), call=call)


# Chance that a single other seed does not show


def rare_chance_in_python(fw):
    """A frozen layer is left out now and then, by Python's own generator."""

    def forward(n, x):
        return n.a(x) if random.random() < 0.8 else x

    return Attack(body_and_head(fw, module(fw, forward, a=line(fw))))


def rare_chance_in_numpy(fw):
    def forward(n, x):
        return n.a(x) if np.random.random() < 0.5 else x

    return Attack(body_and_head(fw, module(fw, forward, a=line(fw))))


def chance_around_a_frozen_layer(fw):
    def forward(n, x):
        x = n.a(x)
        return n.head(n.b(x) if random.random() < 0.8 else x)

    return Attack(net(fw, forward, a=line(fw), b=line(fw)))


# Values that decide which outputs are read


def gate_on_large_values(fw):
    """Outputs of a skipped layer are read by a comparison that is false for most rows."""

    def forward(n, x):
        a = n.a(x)
        b = n.b(a)
        gate = fw.floats(a.mean(-1, keepdim=True) > 0.9)
        return n.head(b + gate)

    data = ROWS.copy()
    model = net(fw, forward, a=fw.nn.Linear(W, W), b=line(fw))
    data[8:] *= 40
    return Attack(model, data)


def gate_on_small_values(fw):
    def forward(n, x):
        a = n.a(x)
        b = n.b(a)
        gate = (
            fw.floats(a.abs().max(-1, keepdim=True) < 0.6)
            if fw.name == "paddle"
            else (fw.floats(a.abs().max(-1, keepdim=True)[0] < 0.6))
        )
        return n.head(b + gate)

    data = ROWS.copy()
    data[8:] *= 0.01
    return Attack(net(fw, forward, a=fw.nn.Linear(W, W), b=line(fw)), data)


def branch_on_rare_values(fw):
    """Python takes another way for rare batches, and reads what is not kept."""

    def forward(n, x):
        a = n.a(x)
        b = n.b(a)
        return n.head(a if float(x.max()) > 50 else b)

    data = ROWS.copy()
    data[[9, 20], 0] = 99
    return Attack(net(fw, forward, a=line(fw), b=line(fw)), data)


ATTACKS = [
    causal_over_rows, place_in_the_batch, cumulative_sum, neighbour, large_batches_are_centred,
    packed_rows, number_of_the_batch, number_for_rare_rows, scalar_of_the_batch,
    table_among_the_inputs, rare_chance_in_python, rare_chance_in_numpy,
    chance_around_a_frozen_layer, gate_on_large_values, gate_on_small_values,
    branch_on_rare_values,
]  # fmt: skip
