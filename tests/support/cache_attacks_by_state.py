"""Networks and loops that a careless cache would train wrongly because of what lies around outputs.

Something is left behind in Python, or changes without gradient.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np

from tests.support.cache_attacks import (
    IDS,
    Attack,
    W,
    body_and_head,
    buffer,
    line,
    module,
    net,
)

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


ATTACKS = [
    stash_in_a_dictionary, stash_in_a_list, stash_outside_of_the_model, stash_out_of_sight,
    stash_in_the_model, view_of_the_input, same_tensor_twice, largest_of_the_batch,
    chance_in_the_live_part, layers_by_the_step, table_made_at_first_use, ids_of_positions,
    stash_read_by_the_loop, input_changed_in_place, list_of_losses, counter_in_live_code,
    counter_in_a_list, hook_that_collects, hook_that_changes, index_from_what_trains,
    moving_average_in_forward, scale_set_by_the_loop, scale_of_the_model_set_by_the_loop,
    tensor_attribute_changed, setting_in_a_list, setting_in_an_object,
    buffer_of_the_model_set_by_the_loop, buffer_behind_the_boundary_set_by_the_loop,
    hook_put_on_later, function_replaced,
]  # fmt: skip
