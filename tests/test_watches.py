"""The hooks of a watch: deaf on copies, gone once they are of no use, harmless under compilers."""

import copy
import pickle
import warnings
from functools import partial

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.kits import paddle_nets, torch_nets
from tests.support.rounding import check_same
from unifreeze.errors import UnifreezeWarning
from unifreeze_paddle import _forward_watches as paddle_watches
from unifreeze_torch import _forward_watches as torch_watches

NEVER = "the schedule was never told of an epoch or step"
PLAN = uf.FreezePlan.from_yaml(
    "{unifreeze: 1, phases: [{name: head, rules: [{only: head}]}, "
    "{name: all, at: {epoch: 1}, add: [{train: all}]}]}"
)


class Side:
    """What a test does in one framework."""

    def __init__(self, nets, watches, after):
        self.nets, self.on_forward, self.after = nets, watches.on_forward, after

    def build(self):
        torch.manual_seed(0)  # Paddle's Stack is seeded by itself
        return self.nets.Stack()

    def kept(self, module):
        """How many hooks stand around a module's forward pass."""
        own = vars(module)
        names = ("_forward_pre_hooks", self.after, f"{self.after}_always_called")
        return [len(own[name]) for name in names]


SIDES = {
    "torch": Side(torch_nets, torch_watches, "_forward_hooks"),
    "paddle": Side(paddle_nets, paddle_watches, "_forward_post_hooks"),
}


class Heard:
    """A watch that writes down what it hears; it may stop itself."""

    def __init__(self, stops_at=""):
        self.heard, self.stop, self.stops_at = [], lambda: None, stops_at

    def say(self, what):
        self.heard.append(what)
        if what == self.stops_at:
            self.stop()

    def begins(self):
        self.say("begins")

    def ends(self, *, complete):
        self.say("ends" if complete else "fails")

    def followed(self):
        self.say("followed")


@pytest.fixture(params=list(SIDES))
def side(request):
    return SIDES[request.param]


def watched(side, stops_at=""):
    model, watch = side.build(), Heard(stops_at)
    watch.stop = side.on_forward(model, watch)
    return model, watch


def outcome(side, model, batch):
    return np.asarray(model(batch).detach().numpy())


def wrong(side):
    return side.nets.rows(width=2)


def test_a_watch_hears_each_pass_until_it_is_stopped(side):
    model, watch = watched(side)
    rows = side.nets.rows()
    model(rows)
    with pytest.raises(Exception, match=r"."):
        model(wrong(side))
    model(rows)
    assert watch.heard == ["begins", "ends", "begins", "fails", "begins", "ends"]
    watch.stop()
    assert side.kept(model) == [0, 0, 0]
    model(rows)
    assert len(watch.heard) == 6


@pytest.mark.parametrize("moment", ["begins", "ends", "fails"])
@pytest.mark.parametrize("others", [False, True], ids=["alone", "among others"])
def test_a_watch_may_stop_itself_at_any_moment(side, moment, others):
    model, watch = watched(side, moment)
    calls = []
    if others:  # a user's own, before and behind ours
        model.register_forward_pre_hook(lambda *_: calls.append("before"))
        after = "register_forward_hook" if side is SIDES["torch"] else "register_forward_post_hook"
        getattr(model, after)(lambda *_: calls.append("after"))
    rows = side.nets.rows()
    if moment == "fails":
        with pytest.raises(Exception, match=r"."):
            model(wrong(side))
        calls.clear()
    model(rows)
    assert watch.heard == {"begins": ["begins"], "ends": ["begins", "ends"]}.get(
        moment, ["begins", "fails"]
    )
    assert side.kept(model) == [int(others), int(others), 0]
    assert calls == (["before", "after"] if others else [])
    watch.stop()  # a second time, and nothing comes of it
    model(rows)


@pytest.mark.parametrize("first", [True, False], ids=["the first stops", "the second stops"])
def test_several_watches_do_not_know_of_each_other(side, first):
    model = side.build()
    watches = [Heard("ends" if first else ""), Heard("" if first else "ends")]
    for watch in watches:
        watch.stop = side.on_forward(model, watch)
    rows = side.nets.rows()
    model(rows)
    assert side.kept(model) == [1, 1, 1]
    model(rows)
    stopped, other = watches if first else reversed(watches)
    assert stopped.heard == ["begins", "ends"]
    assert other.heard == ["begins", "ends"] * 2
    other.stop()
    assert side.kept(model) == [0, 0, 0]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_deaf_and_drop_the_hooks_when_they_run(side, way):
    model, watch = watched(side)
    twin, rows = way(model), side.nets.rows()
    before = outcome(side, side.build(), rows)
    assert np.array_equal(outcome(side, twin, rows), before)
    assert not watch.heard
    assert side.kept(twin) == [0, 0, 0]
    assert vars(twin).keys() == vars(side.build()).keys()
    model(rows)
    assert watch.heard == ["begins", "ends"]


def test_a_copy_that_was_loaded_may_be_watched_in_turn(side):
    model, first = watched(side)
    twin = pickle.loads(pickle.dumps(model))
    second = Heard()
    second.stop = side.on_forward(twin, second)
    rows = side.nets.rows()
    twin(rows)
    assert (first.heard, second.heard) == ([], ["begins", "ends"])
    second.stop()
    assert side.kept(twin) == [0, 0, 0]


def test_a_pass_within_a_pass_is_heard_too(side):
    model, watch = watched(side)
    rows, own = side.nets.rows(), model.stem.forward
    depth = []

    def within(x):
        if not depth:
            depth.append(1)
            model(rows)
        return own(x)

    model.stem.forward = within
    model(rows)
    assert watch.heard == ["begins", "begins", "ends", "ends"]


# Compilers, exporters and tracers.


def twice(run, batch):
    return [np.asarray(run(batch).detach().numpy()) for _ in range(2)]


def torch_ways():
    compiled = partial(torch.compile, backend="eager", fullgraph=True)

    def in_place(model):
        model.compile(backend="eager", fullgraph=True)
        return model

    return {
        "compile": compiled,
        "compile in place": in_place,
        "compile around": lambda model: compiled(lambda x: model(x)),
        "compile with breaks": lambda model: torch.compile(lambda x: model(x), backend="eager"),
    }


def torch_exports(rows):
    return {
        "script": torch.jit.script,
        "script a copy": lambda model: torch.jit.script(copy.deepcopy(model)),
        "script what holds it": lambda model: torch.jit.script(torch.nn.Sequential(model)),
        "trace": lambda model: torch.jit.trace(model, rows),
        "export": lambda model: torch.export.export(model, (rows,)).module(),
        "strict export": lambda model: torch.export.export(model, (rows,), strict=True).module(),
        "fx": torch.fx.symbolic_trace,
    }


def paddle_ways():
    def around(full_graph, model):
        def run(x):
            return model(x)

        return paddle.jit.to_static(run, full_graph=full_graph)

    return {
        "to_static": partial(paddle.jit.to_static, full_graph=False),
        "whole to_static": partial(paddle.jit.to_static, full_graph=True),
        "to_static around": partial(around, False),
        "whole to_static around": partial(around, True),
    }


def product_warnings(work):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = work()
    return made, [str(w.message) for w in seen if isinstance(w.message, UnifreezeWarning)]


def check_trained_way(side, way, *, evaluated=True):
    """Under a compiler the warning comes once, and what is computed is what it would be."""
    torch._dynamo.reset()
    model, twin, rows = side.build(), side.build(), side.nets.rows()
    batch = rows.numpy()  # so that the order of layers is known, and not watched
    handle, other = PLAN.apply(model, batch=batch), PLAN.apply(twin, batch=batch)
    other.step(epoch=0)
    run = way(model)
    model.eval()
    with torch.no_grad(), paddle.no_grad():
        _, told = product_warnings(lambda: twice(run if evaluated else model, rows))
    assert not told
    model.train()
    made, told = product_warnings(lambda: twice(run, rows))
    assert len(told) == 1
    assert NEVER in told[0]
    handle.step(epoch=0)
    made += twice(run, rows)
    assert side.kept(model) == [0, 0, 0]
    twin.train()
    wanted = outcome(side, twin, rows)
    for one in made:
        check_same(one, wanted)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", torch_ways())
def test_what_torch_compiles_warns_once_and_computes_the_same(name):
    check_trained_way(SIDES["torch"], torch_ways()[name])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", paddle_ways())
def test_what_paddle_makes_static_warns_once_and_computes_the_same(name):
    # Paddle traces a function around a model once, for whatever mode the model is in later.
    evaluated = name != "whole to_static around"
    check_trained_way(SIDES["paddle"], paddle_ways()[name], evaluated=evaluated)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", torch_exports(None))
def test_what_torch_exports_does_not_train_and_is_the_same(name):
    torch._dynamo.reset()
    side = SIDES["torch"]
    model, rows = side.build().eval(), side.nets.rows()
    wanted = outcome(side, model, rows)
    PLAN.apply(model)
    made, told = product_warnings(lambda: twice(torch_exports(rows)[name](model), rows))
    assert not told
    for one in made:
        check_same(one, wanted)


@pytest.mark.usefixtures("double")
def test_what_paddle_saves_for_inference_does_not_train_and_is_the_same(tmp_path):
    side = SIDES["paddle"]
    model, rows = side.build(), side.nets.rows()
    model.eval()
    wanted = outcome(side, model, rows)
    PLAN.apply(model)

    def saved():
        spec = [paddle.static.InputSpec([None, 6], "float64")]
        paddle.jit.save(model, str(tmp_path / "net"), input_spec=spec)
        return twice(paddle.jit.load(str(tmp_path / "net")), rows)

    made, told = product_warnings(saved)
    assert not told
    for one in made:
        check_same(one, wanted)


def test_a_compiled_watch_hears_that_it_is_followed_and_of_no_pass():
    torch._dynamo.reset()
    side = SIDES["torch"]
    model, watch = watched(side)
    run = torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(3):
        run(side.nets.rows())
    assert watch.heard == ["followed"]


def test_a_replica_of_data_parallel_is_heard():
    side = SIDES["torch"]
    model, watch = watched(side)
    replica = model._replicate_for_data_parallel()
    replica.stem, replica.blocks, replica.head = model.stem, model.blocks, model.head
    replica(side.nets.rows())
    assert watch.heard == ["begins", "ends"]
    watch.stop()
    assert side.kept(model) == side.kept(replica) == [0, 0, 0]
