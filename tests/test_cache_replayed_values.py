"""What a replay gives to live code: tensors in memory of their own, stand-ins, results."""

from __future__ import annotations

import inspect
import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pytest

import unifreeze as uf
from tests.support import cached_nets as nets
from unifreeze._cache.frozen_part import has_nan
from unifreeze._cache.nested_values import put_together, take_apart
from unifreeze.errors import CacheError

ROWS = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def network(fw):
    class Net(fw.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = fw.nn.Linear(6, 6), fw.nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.body(x))

    return Net()


def prepared(fw):
    model = network(fw)
    handle = uf.FreezePlan.from_yaml("unifreeze: 1\nrules: [{only: 'path:\"head\"'}]\n").apply(
        model
    )
    model(fw.tensor(ROWS))
    return model, handle, handle._in_force.backend


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0)])
def test_values_that_are_given_back_are_in_memory_of_their_own(fw, dtype, order):
    _, _, backend = prepared(fw)
    array = (ROWS[:6, :4, None] * np.arange(3)).astype(dtype).transpose(order)
    before = array.copy()
    tensor = backend.from_rows(array, fw.tensor(np.zeros(1, dtype)))
    assert backend.to_array(tensor).dtype == dtype
    assert np.array_equal(backend.to_array(tensor), before)
    if fw.name == "torch":
        assert [n * array.itemsize for n in tensor.stride()] == list(array.strides)
    tensor[0] = tensor[1]
    assert np.array_equal(array, before)


def test_a_type_that_numpy_lacks_is_given_back(fw):
    _, _, backend = prepared(fw)
    half = fw.lib.bfloat16 if fw.name == "torch" else "bfloat16"
    like = fw.tensor(ROWS).to(dtype=half)
    tensor = backend.from_rows(backend.to_array(like), like)
    assert tensor.dtype == like.dtype
    assert backend.payload(tensor).data.tobytes() == backend.payload(like).data.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    "values",
    [[1, 2], [math.nan, 1], [math.inf, 1], [math.inf, -math.inf], [math.inf, math.nan], []],
)
def test_nan_is_seen_and_infinite_values_are_not_taken_for_it(fw, dtype, values):
    _, _, backend = prepared(fw)
    tensor = fw.tensor(np.array(values, "float32")).to(dtype=getattr(fw.lib, dtype))
    assert has_nan(backend, {"a": [fw.tensor(ROWS), tensor]}) is any(map(math.isnan, values))


def test_nan_is_seen_in_eight_bits():
    import torch

    fw = nets.framework_of("torch")
    _, _, backend = prepared(fw)
    narrow = torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn)
    assert has_nan(backend, narrow)
    assert not has_nan(backend, narrow[:1])


def test_a_stand_in_made_in_inference_mode_serves_in_training():
    import torch

    fw = nets.framework_of("torch")
    _, _, backend = prepared(fw)
    like = torch.zeros(1)
    with torch.inference_mode():
        backend.placeholder((2, 3), like, 4.0)
    weight = torch.ones(3, requires_grad=True)
    (backend.placeholder((2, 3), like, 4.0) * weight).sum().backward()
    assert weight.grad.tolist() == [8, 8, 8]


def test_what_is_done_to_one_stand_in_is_not_done_to_others():
    fw = nets.framework_of("torch")  # in Paddle they are one object for each shape
    _, _, backend = prepared(fw)
    first = backend.placeholder((2, 3), fw.tensor(ROWS), math.nan)
    first.requires_grad_(True)
    second = backend.placeholder((2, 3), fw.tensor(ROWS), math.nan)
    assert not second.requires_grad
    assert backend.to_array(backend.placeholder((2,), fw.tensor(ROWS), 1.0)).tolist() == [1, 1]


@dataclass
class Output(OrderedDict):
    """A result as libraries write it: a dictionary whose items are attributes, too."""

    hidden: object = None
    pooled: object = None

    def __post_init__(self):
        for name in ("hidden", "pooled"):
            if getattr(self, name) is not None:
                super().__setitem__(name, getattr(self, name))

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)


def results():
    from paddlenlp.transformers.model_outputs import BaseModelOutputWithPooling as PaddleNLP
    from transformers.modeling_outputs import BaseModelOutputWithPooling as Transformers

    names = ("last_hidden_state", "pooler_output")
    return [(Output, ("hidden", "pooled")), (PaddleNLP, names), (Transformers, names)]


def test_results_of_libraries_are_put_together_as_they_were(fw):
    for form, (first, second) in results():
        a, b, c = (fw.tensor(ROWS[:n]) for n in (1, 2, 3))
        value = form(**{first: a, second: b})
        value.note = "kept"
        tensors, taken = take_apart(value, fw.lib.is_tensor)
        assert [id(t) for t in tensors] == [id(a), id(b)]
        again = put_together(taken, [b, c])
        assert type(again) is form
        assert list(again) == [first, second]
        assert again[first] is getattr(again, first) is b
        assert again[second] is getattr(again, second) is c
        assert vars(again).keys() == vars(value).keys()
        again[first] = a
        third = put_together(taken, [c, c])
        assert third[first] is third[second] is c
        assert (again[first], value[first], value[second]) == (a, a, b)


def hooks(fw, model):
    """Return, by what they are called, functions that put a hook around the frozen layer."""
    found = {}
    owners = [("layer", model.body)]
    if fw.name == "torch":
        from torch.nn.modules import module as of_all

        owners.append(("every layer", of_all))
    for owner, target in owners:
        for name in filter(re.compile("register_.*forward.*_hook$").match, dir(target)):
            put = getattr(target, name)
            taken = [p for p in inspect.signature(put).parameters if p != "hook"]
            for values in product((False, True), repeat=len(taken)):
                settings = dict(zip(taken, values, strict=True))
                found[f"{owner} {name} {settings}"] = partial(put, **settings)
    return found


def test_a_hook_is_found_at_the_next_step_in_whichever_way_it_is_put_on(fw):
    names = list(hooks(fw, network(fw)))
    assert len(names) > 4
    for name in names:
        model, handle, _ = prepared(fw)
        with handle.cached() as run:
            for _ in range(3):
                model(fw.tensor(ROWS))
            assert run.counts.hits == 16
            removed = hooks(fw, model)[name](lambda *_, **__: None)
            try:
                with pytest.raises(CacheError, match="hook around its forward pass"):
                    model(fw.tensor(ROWS))
            finally:
                removed.remove()
