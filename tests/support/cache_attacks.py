"""Small networks and training loops that a careless cache would train wrongly, in both frameworks.

Each is a function of a framework that returns an `Attack`.
"""

from __future__ import annotations

import random
import threading
import weakref
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


# What is left behind by frozen modules, and read later


def stash_in_a_dictionary(fw):
    def body(n, x):
        n.kept["h"] = n.a(x)
        return n.b(n.kept["h"])

    inner = module(fw, body, a=line(fw), b=line(fw))
    inner.kept = {}
    return Attack(net(fw, lambda n, x: n.head(n.body(x) + n.body.kept["h"]), body=inner))


def stash_in_a_list(fw):
    def body(n, x):
        n.kept.append(n.a(x))
        return n.b(n.kept[-1])

    inner = module(fw, body, a=line(fw), b=line(fw))
    inner.kept = []
    return Attack(net(fw, lambda n, x: n.head(n.body(x) + n.body.kept[-1]), body=inner))


def stash_outside_of_the_model(fw):
    kept = {}

    def body(n, x):
        kept["h"] = n.a(x)
        return n.b(kept["h"])

    inner = module(fw, body, a=line(fw), b=line(fw))
    return Attack(net(fw, lambda n, x: n.head(n.body(x) + kept["h"]), body=inner))


def stash_out_of_sight(fw):
    """A frozen module leaves something where nobody would look."""
    kept = threading.local()

    def body(n, x):
        kept.h = n.a(x)
        return n.b(kept.h)

    inner = module(fw, body, a=line(fw), b=line(fw))
    return Attack(net(fw, lambda n, x: n.head(n.body(x) + kept.h), body=inner))


def stash_in_the_model(fw):
    """A frozen module writes to the model, and live code reads it there."""

    def body(n, x):
        y = n.a(x)
        n.places[0].noted = y
        return n.b(y)

    inner = module(fw, body, a=line(fw), b=line(fw))
    model = net(fw, lambda n, x: n.head(n.body(x) + n.noted), body=inner)
    inner.places = weakref.WeakValueDictionary({0: model})
    return Attack(model)


def view_of_the_input(fw):
    """A frozen module returns a part of its input, which live code changes in place."""

    def forward(n, x):
        y = n.body(x)
        y.add_(n.a(x))
        return n.head(y + x)

    body = module(fw, lambda n, x: x[:, :W])
    return Attack(net(fw, forward, body=body, a=line(fw)))


def same_tensor_twice(fw):
    """A frozen module returns one tensor under two names, and live code writes to one of them."""

    def body(n, x):
        y = n.a(x)
        return y, y

    def forward(n, x):
        a, b = n.body(x)
        a.add_(b)
        return n.head(b)

    return Attack(net(fw, forward, body=module(fw, body, a=line(fw))))


def largest_of_the_batch(fw):
    """Only the rows with the largest values of the batch are changed."""

    def body(n, x):
        y = n.a(x)
        return fw.lib.where(y >= y.max(), y + 1, y)

    return Attack(body_and_head(fw, module(fw, body, a=line(fw))))


def chance_in_the_live_part(fw):
    """Dropout behind the frozen part draws the same numbers with a cache as without."""

    def forward(n, x):
        return n.head(n.drop(n.body(n.noise(x) * 0 + x)))

    nn = fw.nn
    return Attack(net(fw, forward, body=line(fw), drop=nn.Dropout(0.5), noise=nn.Dropout(0.5)))


def layers_by_the_step(fw):
    """The model skips a frozen layer in its first passes, which it counts."""

    def forward(n, x):
        n.passes += 1
        x = n.a(x)
        return n.head(n.b(x) if n.passes > 5 else x)

    model = net(fw, forward, a=line(fw), b=line(fw))
    model.passes = 0
    return Attack(model)


def table_made_at_first_use(fw):
    """A frozen module makes a table when it first runs, which live code reads."""

    def body(n, x):
        if n.table is None:
            n.table = fw.tensor(np.ones(W, "float32")) * 3
        return n.a(x) * n.table

    inner = module(fw, body, a=line(fw))
    inner.table = None
    model = net(fw, lambda n, x: n.head(n.body(x) + n.body.table), body=inner)
    return Attack(model)


def ids_of_positions(fw):
    """The number of tokens before each token is counted over the whole batch."""

    def forward(n, ids):
        places = (ids > 0).astype("int64") if fw.name == "paddle" else (ids > 0).long()
        return n.head(n.a(n.table(places.cumsum(0) % 50)).mean(1))

    return Attack(net(fw, forward, a=line(fw), table=fw.nn.Embedding(50, W)), IDS)


def stash_read_by_the_loop(fw):
    """The loss reads what a frozen module left in a list."""

    def body(n, x):
        n.kept.append(n.a(x))
        return n.b(n.kept[-1])

    inner = module(fw, body, a=line(fw), b=line(fw))
    inner.kept = []
    model = net(fw, lambda n, x: n.head(n.body(x)), body=inner)

    def loss(model, x):
        stashed = model.body.kept[-1]
        return (model.head(stashed) ** 2).mean()

    return Attack(model, loss=loss)


def input_changed_in_place(fw):
    """A frozen module writes into the input, which the loss reads."""

    def body(n, x):
        x.add_(fw.tensor(np.float32(0.5)))
        return n.a(x)

    model = body_and_head(fw, module(fw, body, a=line(fw)))

    def loss(model, x):
        return (model.head(x) ** 2).mean()

    return Attack(model, loss=loss)


def list_of_losses(fw):
    """A live module appends to a list, which the loop sums and empties."""

    def forward(n, x):
        y = n.head(n.body(x))
        n.losses.append((y**2).mean())
        return y

    model = net(fw, forward, body=line(fw))
    model.losses = []

    def loss(model, x):
        total = sum(model.losses)
        model.losses.clear()
        return total

    return Attack(model, loss=loss)


def counter_in_live_code(fw):
    """The model counts its passes, and its temperature depends on the count."""

    def forward(n, x):
        n.passes += 1
        return n.head(n.body(x)) / n.passes

    model = net(fw, forward, body=line(fw))
    model.passes = 0
    return Attack(model)


def counter_in_a_list(fw):
    def forward(n, x):
        n.passes[0] += 1
        return n.head(n.body(x)) / n.passes[0]

    model = net(fw, forward, body=line(fw))
    model.passes = [0]
    return Attack(model)


def hook_that_collects(fw):
    """The user's hook on the head collects what it sees; the loss sums all of it."""
    model = net(fw, lambda n, x: n.head(n.body(x)), body=line(fw))
    seen = []

    def look(layer, inputs, outputs):
        seen.append((outputs**2).mean())

    take = getattr(model.head, "register_forward_post_hook", None)
    (take or model.head.register_forward_hook)(look)

    def loss(model, x):
        total = sum(seen)
        seen.clear()
        return total

    return Attack(model, loss=loss)


def hook_that_changes(fw):
    """The user's hook on the head changes what it returns."""
    model = net(fw, lambda n, x: n.head(n.body(x)), body=line(fw))
    take = getattr(model.head, "register_forward_post_hook", None)
    (take or model.head.register_forward_hook)(lambda layer, inputs, outputs: outputs * 2)
    return Attack(model)


# What trains, or changes, without gradient


def index_from_what_trains(fw):
    """A frozen table is read at the index that a trained layer finds."""

    def forward(n, x):
        index = n.judge(x).argmax(-1)
        return n.head(n.table(index)) + n.judge(x)

    model = net(fw, forward, judge=fw.nn.Linear(W, 3), table=fw.nn.Embedding(3, W))
    return Attack(model, rule='path:"head" | path:"judge"')


def moving_average_in_forward(fw):
    """A frozen copy follows the trained layer in each forward pass."""

    def forward(n, x):
        with fw.no_grad():
            new = n.slow.weight * 0.9 + n.fast.weight * 0.1
            n.slow.weight.copy_(new) if fw.name == "torch" else n.slow.weight.set_value(new)
        return n.head(n.body(x) + n.slow(x) + n.fast(x))

    model = net(fw, forward, slow=fw.nn.Linear(W, W), fast=fw.nn.Linear(W, W), body=line(fw))
    return Attack(model, rule='path:"head" | path:"fast"')


def scale_set_by_the_loop(fw):
    """A plain number of a frozen module is changed between steps."""
    body = module(fw, lambda n, x: n.a(x) * n.scale, a=line(fw))
    body.scale = 1.0

    def each(model, step):
        model.body.scale = 1.0 if step < 4 else 2.0

    return Attack(body_and_head(fw, body), each=each)


def scale_of_the_model_set_by_the_loop(fw):
    """A plain number of the model itself is changed between steps."""
    model = net(fw, lambda n, x: n.head(n.a(x * n.scale)), a=line(fw))
    model.scale = 1.0

    def each(model, step):
        model.scale = 1.0 if step < 4 else 2.0

    return Attack(model, each=each)


def tensor_attribute_changed(fw):
    """A tensor that is not registered is written to between steps."""
    body = module(fw, lambda n, x: n.a(x) * n.held[0], a=line(fw))
    body.held = [fw.tensor(np.ones(W, "float32"))]

    def each(model, step):
        if step == 4:
            model.body.held[0].add_(fw.tensor(np.ones(W, "float32")))

    return Attack(body_and_head(fw, body), each=each)


def setting_in_a_list(fw):
    body = module(fw, lambda n, x: n.a(x) * n.sizes[0], a=line(fw))
    body.sizes = [1.0]

    def each(model, step):
        model.body.sizes[0] = 1.0 if step < 4 else 2.0

    return Attack(body_and_head(fw, body), each=each)


def setting_in_an_object(fw):
    class Settings:
        scale = 1.0

    body = module(fw, lambda n, x: n.a(x) * n.settings.scale, a=line(fw))
    body.settings = Settings()

    def each(model, step):
        model.body.settings.scale = 1.0 if step < 4 else 2.0

    return Attack(body_and_head(fw, body), each=each)


def buffer_of_the_model_set_by_the_loop(fw):
    """State of the model itself feeds a frozen layer, and the loop writes to it."""
    model = net(fw, lambda n, x: n.head(n.a(x * n.scale)), a=line(fw))
    buffer(fw, model, "scale", np.ones(W))

    def each(model, step):
        if step == 4:
            new = model.scale * 2
            model.scale.copy_(new) if fw.name == "torch" else model.scale.set_value(new)

    return Attack(model, each=each)


def buffer_behind_the_boundary_set_by_the_loop(fw):
    """State that only live code reads may change as it likes."""
    model = net(fw, lambda n, x: n.head(n.a(x) * n.scale), a=line(fw))
    buffer(fw, model, "scale", np.ones(W))

    def each(model, step):
        new = model.scale * 1.1
        model.scale.copy_(new) if fw.name == "torch" else model.scale.set_value(new)

    return Attack(model, each=each)


def hook_put_on_later(fw):
    """The loop puts a hook that doubles on a layer inside a frozen block."""
    body = fw.nn.Sequential(line(fw), line(fw))

    def each(model, step):
        if step == 4:
            layer = model.body[0]
            take = getattr(layer, "register_forward_post_hook", None)
            (take or layer.register_forward_hook)(lambda layer, inputs, outputs: outputs * 2)

    return Attack(body_and_head(fw, body), each=each)


def function_replaced(fw):
    """The loop gives a frozen module another function."""
    body = module(fw, lambda n, x: n.act(n.a(x)), a=line(fw))
    body.act = fw.lib.sin

    def each(model, step):
        if step == 4:
            model.body.act = fw.lib.cos

    return Attack(body_and_head(fw, body), each=each)


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
    chance_around_a_frozen_layer, stash_in_a_dictionary, stash_in_a_list,
    stash_outside_of_the_model, stash_out_of_sight, stash_in_the_model, view_of_the_input,
    same_tensor_twice, largest_of_the_batch, chance_in_the_live_part, layers_by_the_step,
    table_made_at_first_use, ids_of_positions,
    stash_read_by_the_loop, input_changed_in_place, list_of_losses,
    counter_in_live_code, counter_in_a_list, hook_that_collects, hook_that_changes,
    index_from_what_trains, moving_average_in_forward, scale_set_by_the_loop,
    scale_of_the_model_set_by_the_loop, tensor_attribute_changed, setting_in_a_list,
    setting_in_an_object, buffer_of_the_model_set_by_the_loop,
    buffer_behind_the_boundary_set_by_the_loop, hook_put_on_later, function_replaced,
    gate_on_large_values, gate_on_small_values, branch_on_rare_values,
]  # fmt: skip
