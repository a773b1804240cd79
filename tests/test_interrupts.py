"""Ctrl-C at any line of apply, step, remove and load_state_dict: as before, or as after."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from pathlib import Path

import paddle
import pytest
import torch

from unifreeze import FreezePlan
from unifreeze._identity import WeakIdentityDict
from unifreeze._modules.live_models import _no_collections
from unifreeze._protocol.uninterrupted import uninterrupted

ROOT = Path(__file__).parent.parent
OURS = (f"{ROOT}/unifreeze/", f"{ROOT}/backends/")


class TorchSide:
    """A model of six parameters in PyTorch."""

    @staticmethod
    def build():
        torch.manual_seed(0)
        norm = torch.nn.BatchNorm1d(4)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), norm, torch.nn.Linear(4, 2))

    @staticmethod
    def layers(model):
        return model.named_modules()

    @staticmethod
    def flags(model):
        return [parameter.requires_grad for parameter in model.parameters()]

    @staticmethod
    def optimizer(handle):
        return handle.optimizer(torch.optim.SGD, lr=0.1)


class PaddleSide:
    """The same in Paddle."""

    @staticmethod
    def build():
        paddle.seed(0)
        norm = paddle.nn.BatchNorm1D(4)
        return paddle.nn.Sequential(paddle.nn.Linear(3, 4), norm, paddle.nn.Linear(4, 2))

    @staticmethod
    def layers(model):
        return model.named_sublayers(include_self=True)

    @staticmethod
    def flags(model):
        return [not parameter.stop_gradient for parameter in model.parameters()]

    @staticmethod
    def optimizer(handle):
        return handle.optimizer(paddle.optimizer.SGD, learning_rate=0.1)


SIDES = (TorchSide, PaddleSide)


def looks(side, model):
    """Flags, modes, guards and hooks of a model, as plain data that can be compared."""
    rows = {"flags": side.flags(model)}
    for path, layer in side.layers(model):
        rows[path, "mode"] = layer.training
        for name, value in vars(layer).items():
            if name.endswith(("hooks", "hooks_always_called")) and isinstance(value, dict):
                rows[path, name] = sorted(type(hook).__name__ for hook in value.values())
            elif type(value).__module__.startswith("unifreeze"):
                rows[path, name] = type(value).__name__
            elif name in ("_use_global_stats", "dropout", "train", "forward"):
                rows[path, name] = value if isinstance(value, bool | float) else str(type(value))
    return rows


class Interrupt:
    """Raises KeyboardInterrupt at one line of the library, the first time it is run."""

    def __init__(self, place=None):
        self.place, self.lines = place, {}

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        return self.line

    def line(self, frame, event, _):
        if event == "line":
            place = (frame.f_code.co_filename, frame.f_lineno)
            self.lines.setdefault(place, None)
            if place == self.place:
                self.place = None
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.line

    def run(self, call):
        """Call a function; return whether it was interrupted."""
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False


HEAD = FreezePlan().only("2")
PHASES = FreezePlan.from_yaml(
    "unifreeze: 1\nphases:\n"
    "  - {name: head, rules: [{only: '2'}]}\n"
    "  - {name: norm, at: {epoch: 1}, rules: [{only: '1 | 2'}]}\n"
)


def first_plan(side, model):
    """Return what applies a plan to a model without one."""
    return lambda: HEAD.apply(model)


def second_plan(side, model):
    """Return what applies another plan to a model under one."""
    model.handle_kept = FreezePlan().freeze("0").apply(model)
    return lambda: HEAD.apply(model)


def next_phase(side, model):
    """Return what enters the next phase."""
    handle = PHASES.apply(model)
    model.handle_kept = handle, side.optimizer(handle)
    handle.step(epoch=0)
    return lambda: handle.step(epoch=1)


def end(side, model):
    """Return what ends a plan."""
    handle = HEAD.apply(model)
    return handle.remove


def loaded(side, model):
    """Return what loads a state of another phase."""
    handle = PHASES.apply(model)
    model.handle_kept = handle, side.optimizer(handle)
    early = handle.state_dict()
    handle.step(epoch=1)
    return lambda: handle.load_state_dict(early)


WAYS = (first_plan, second_plan, next_phase, end, loaded)


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", SIDES)
def test_an_interrupt_at_any_line_leaves_a_model_as_before_or_as_after(side, way, every, caplog):
    caplog.set_level("WARNING")
    way(side, side.build())()  # what is imported and built once is not a part of it
    model = side.build()
    call = way(side, model)
    before = looks(side, model)
    tracer = Interrupt()
    tracer.run(call)
    after = looks(side, model)
    assert before != after
    wrong, interrupted, ends = [], 0, {"before": 0, "after": 0}
    for place in [*tracer.lines][::every]:
        model = side.build()
        call = way(side, model)
        assert looks(side, model) == before
        interrupted += Interrupt(place).run(call)
        now = looks(side, model)
        if now in (before, after):
            ends["before" if now == before else "after"] += 1
        else:
            odd = [key for key in now if now[key] not in (before.get(key), after.get(key))]
            mixed = [key for key in now if now[key] != after.get(key)]
            wrong.append(f"{Path(place[0]).name}:{place[1]} {odd or mixed}")
        assert gc.isenabled()
        model = call = None
    said = f"{len(tracer.lines)} lines, {interrupted} interrupts, {ends}"
    print(f"{way.__name__} ({side.__name__}): {said}")
    assert not wrong, "\n".join(wrong)
    assert interrupted > 200 / every


@pytest.mark.parametrize("side", SIDES)
def test_after_an_interrupted_plan_another_one_works(side):
    tracer = Interrupt()
    first_plan(side, side.build())()
    tracer.run(first_plan(side, side.build()))
    for place in list(tracer.lines)[:: len(tracer.lines) // 40]:
        model = side.build()
        Interrupt(place).run(first_plan(side, model))
        handle = FreezePlan().freeze("0").apply(model)
        assert side.flags(model)[:2] == [False, False]
        handle.verify()
        handle.remove()


def test_ctrl_c_waits_for_the_end_of_a_block():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    done = []

    def block():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the rest"]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_collections_run_again_once_the_last_of_two_threads_is_done():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with _no_collections():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with _no_collections():
        thread.start()
        assert inside.wait(60)
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_a_weak_collection_may_lose_objects_while_it_is_walked():
    class Model:
        pass

    models = [Model() for _ in range(100)]
    names = WeakIdentityDict()
    for number, model in enumerate(models):
        names[model] = number
    walked = 0
    for model in names:
        walked += 1
        models.clear()
        del model
        gc.collect()
    assert walked
