"""Runs of plans with phases: a plan from its phases, and its states saved and loaded."""

import io

import numpy as np
import paddle
import torch

import unifreeze as uf
from tests.support.sides import ROWS, Torch

HEAD = "{name: head, rules: [{only: head}], lr: 0.1}"


def plan(*phases, more=""):
    rows = "".join(f"\n  - {phase}" for phase in phases)
    return uf.FreezePlan.from_yaml(f"unifreeze: 1\n{more}\nphases:{rows}\n")


def started(side, text, **settings):
    model = side.build()
    handle = text.apply(model, batch=ROWS)
    return model, handle, side.sgd(handle, **settings)


def saved(side, thing):
    """Return a state as it comes back from a file."""
    buffer = io.BytesIO()
    if side is Torch:
        torch.save(thing.state_dict(), buffer)
        return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    paddle.save(thing.state_dict(), buffer)
    return paddle.load(io.BytesIO(buffer.getvalue()))


def load(side, thing, state):
    (thing.load_state_dict if side is Torch else thing.set_state_dict)(state)


WARM = '{name: top, at: {step: 2}, add: [{train: "blocks[-1]"}], warmup: {steps: 4, divisor: 5}}'

ALL = "{name: all, rules: [{train: all}], lr: 0.1}"


def everything(model):
    """Parameters, running statistics and counters."""
    return {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}
