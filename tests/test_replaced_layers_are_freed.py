"""A layer that was replaced is freed by reapply: a handle keeps only what is in the model."""

from __future__ import annotations

import gc
import weakref

import paddle
import pytest
import torch

from unifreeze import FreezePlan


def torch_model():
    return torch.nn.Sequential(torch_layer(), torch.nn.Linear(4, 2))


def torch_layer():
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))


def paddle_model():
    return paddle.nn.Sequential(paddle_layer(), paddle.nn.Linear(4, 2))


def paddle_layer():
    return paddle.nn.Sequential(paddle.nn.Linear(4, 4), paddle.nn.BatchNorm1D(4))


@pytest.mark.parametrize("selector", ["0", "1", "0.1"])
@pytest.mark.parametrize("keep_values", [False, True])
@pytest.mark.parametrize(
    ("build", "layer"), [(torch_model, torch_layer), (paddle_model, paddle_layer)]
)
@pytest.mark.parametrize("way", ["reapply", "apply"])
def test_replaced_layers_are_freed(build, layer, selector, keep_values, way):
    model, plan = build(), FreezePlan().freeze(selector)
    handle = plan.apply(model, keep_values=keep_values)
    replaced = []
    for _ in range(4):
        replaced.append(weakref.ref(model[0]))
        model[0] = layer()
        if way == "apply":
            handle = plan.apply(model, keep_values=keep_values)
        else:
            handle.reapply()
    gc.collect()
    assert [reference() for reference in replaced] == [None] * 4
    handle.verify()
