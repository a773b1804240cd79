"""Networks of many shapes give the same bits with a cache as without, or are refused in words."""

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze.errors import CacheError

W = 16
"""A width for which kernels give a row the same bits at every place in a batch."""
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((24, W)).astype("float32")
STEPS = RNG.standard_normal((24, 7, W)).astype("float32")
IDS = RNG.integers(0, 50, (24, 5))


class Parts:
    """Makes modules of a framework."""

    def __init__(self, fw):
        self.fw, self.nn = fw, fw.nn

    def line(self, inside=W, out=W):
        return self.nn.Sequential(self.nn.Linear(inside, out), self.nn.Tanh())

    def lstm(self):
        return self.nn.LSTM(W, W, **({"batch_first": True} if self.fw.name == "torch" else {}))

    def table(self):
        return self.nn.Embedding(50, W)

    def net(self, forward, **parts):
        """A network with a head that is 3 wide; `parts` by name, `forward` gets the network."""
        head = self.nn.Linear(parts.pop("width", W), 3)

        class Net(self.fw.Module):
            def __init__(self):
                super().__init__()
                for name, part in parts.items():
                    setattr(self, name, part)
                self.head = head

            def forward(self, x):
                return forward(self, x)

        return Net()

    def lists(self):
        lines = [self.line() for _ in range(3)]

        class Lists(self.fw.Module):
            def __init__(self, fw):
                super().__init__()
                self.lines = fw.List(lines)

            def forward(self, x):
                states = []
                for line in self.lines:
                    x = line(x)
                    states.append(x)
                return {"states": states, "last": (x, None), "count": len(states)}

        return Lists(self.fw)


def two_towers(p):
    return p.net(lambda n, x: n.head(p.fw.cat([n.a(x), n.b(x * 2)], 1)),
                 a=p.line(), b=p.line(), width=2 * W), ROWS  # fmt: skip


def skip(p):
    def forward(n, x):
        y = n.a(x)
        return n.head(n.d(n.c(n.b(y))) + y)

    return p.net(forward, **{name: p.line() for name in "abcd"}), ROWS


def shared_layer(p):
    return p.net(lambda n, x: n.head(n.a(n.a(n.a(x)))), a=p.line()), ROWS


def shared_with_what_trains(p):
    return p.net(lambda n, x: n.head(n.a(n.b(n.a(x)))), a=p.line(), b=p.line()), ROWS


def recurrent(p):
    return p.net(lambda n, x: n.head(n.a(x)[0][:, -1]), a=p.lstm()), STEPS


def recurrent_state(p):
    """The state has its rows on the second axis."""
    return p.net(lambda n, x: n.head(n.a(x)[1][0][-1]), a=p.lstm()), STEPS


def lists_of_outputs(p):
    def forward(n, x):
        result = n.a(x)
        return n.head(result["last"][0] + result["states"][0])

    return p.net(forward, a=p.lists()), ROWS


def glue_that_reads(p):
    def forward(n, x):
        y = n.a(x)
        return n.head(y * 2 + n.b(y))

    return p.net(forward, a=p.line(), b=p.line()), ROWS


def glue_in_place(p):
    def forward(n, x):
        y = n.a(x)
        z = n.c(y)
        y.add_(z)
        return n.head(y)

    return p.net(forward, a=p.line(), c=p.line()), ROWS


def glue_over_the_batch(p):
    def forward(n, x):
        y = n.b(n.a(x))
        return n.head(y - y.mean(0))

    return p.net(forward, a=p.line(), b=p.line()), ROWS


def slices(p):
    def forward(n, x):
        y = n.a(x)
        return n.head(n.b(p.fw.cat([y[:, W // 2 :], y[:, : W // 2]], 1)))

    return p.net(forward, a=p.line(), b=p.line()), ROWS


def masks(p):
    def forward(n, x):
        y = n.b(n.a(x))
        return n.head(p.fw.lib.where(y > 0, y, y * 0))

    return p.net(forward, a=p.line(), b=p.line()), ROWS


def table_used_twice(p):
    def forward(n, ids):
        return n.head(n.b(n.a(ids).mean(1)) @ n.a.weight[:W])

    return p.net(forward, a=p.table(), b=p.line()), IDS


def merged_axes(p):
    """Rows and steps share an axis inside the frozen part."""

    def forward(n, x):
        y = n.b(n.a(x).reshape([-1, W]))
        return n.head(y.reshape([x.shape[0], 7, W]).mean(1))

    return p.net(forward, a=p.line(), b=p.line()), STEPS


def same_for_all_rows(p):
    """A position table has no axis of rows."""

    def forward(n, x):
        places = p.fw.tensor(np.arange(7))
        return n.head(n.b(n.a(x) + n.table(places)).mean(1))

    return p.net(forward, a=p.line(), b=p.line(), table=p.table()), STEPS


NETS = [
    two_towers, skip, shared_layer, shared_with_what_trains, recurrent, recurrent_state,
    lists_of_outputs, glue_that_reads, glue_in_place, glue_over_the_batch, slices, masks,
    table_used_twice, merged_axes, same_for_all_rows,
]  # fmt: skip


def batches_of(epoch, *, mixed):
    """The rows of each batch: mixed anew in each epoch, or the same batches in another order."""
    rows = np.random.default_rng(epoch if mixed else 0).permutation(24).reshape(3, 8)
    return rows[np.random.default_rng(epoch).permutation(3)]


def place_matters(fw, model, data):
    """Whether kernels of this processor give a row other bits at another place in a batch.

    Those of recurrent layers do on processors without AVX-512.
    """
    head, model.head = model.head, fw.nn.Identity()
    seen = []
    for epoch in range(3):
        found = {}
        for rows in batches_of(epoch, mixed=True):
            result = model(fw.tensor(data[rows])).detach().numpy()  # other kernels under no_grad
            found.update({int(n): row.tobytes() for n, row in zip(rows, result, strict=True)})
        seen.append(found)
    model.head = head
    return seen.count(seen[0]) < len(seen)


def trained(fw, model, data, rule, *, cached, mixed=True):
    handle = uf.FreezePlan.from_yaml(f"unifreeze: 1\nrules: [{{only: '{rule}'}}]\n").apply(model)
    optimizer = handle.optimizer(fw.AdamW, lr=1e-2)
    model.train()
    found = []

    def epochs():
        for epoch in range(3):
            for rows in batches_of(epoch, mixed=mixed):
                labels = fw.tensor(rows % 3)
                loss = fw.nn.functional.cross_entropy(model(fw.tensor(data[rows])), labels)
                loss.backward()
                grads = [p.grad for p in model.parameters()]
                found.append(
                    (float(loss), [g if g is None else g.numpy().tobytes() for g in grads])
                )
                optimizer.step()
                fw.clear(optimizer)

    if cached:
        with handle.cached() as run:
            epochs()
        assert run.counts.hits == 48
    else:
        epochs()
    handle.verify()
    handle.remove()
    return found, {name: v.tobytes() for name, v in nets.values_of(model).items()}


@pytest.mark.parametrize("rule", ['path:"head"', 'path:"head" | path:"b"'])
@pytest.mark.parametrize("make", NETS)
def test_a_network_gives_the_same_bits_or_is_refused(framework, make, rule):
    fw = nets.framework_of(framework)
    fw.seed(0)
    model, data = make(Parts(fw))
    if '"b"' in rule and not hasattr(model, "b"):
        rule = 'path:"head"'
    start, mixed = nets.values_of(model), not place_matters(fw, model, data)
    plain = trained(fw, model, data, rule, cached=False, mixed=mixed)
    fw.load(model, {name: fw.tensor(value) for name, value in start.items()})
    assert trained(fw, model, data, rule, cached=True, mixed=mixed) == plain


def test_what_has_no_frozen_start_is_refused(framework):
    fw = nets.framework_of(framework)
    model, data = skip(Parts(fw))
    with pytest.raises(CacheError, match=r"a\.0\.weight is trainable"):
        trained(fw, model, data, 'path:"head" | path:"a"', cached=True)
