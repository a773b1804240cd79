"""PyTorch: every change of a tensor's bits is seen, and nothing else.

The rules R3 and R11 are those of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import copy

import pytest
import torch

import unifreeze as uf
from tests.support.kits.torch_nets import Stack, seeded
from tests.support.torch_descriptions import Odd, backend
from unifreeze import FreezePlan
from unifreeze.errors import FrozenDriftError


def ones(dtype):
    return torch.arange(1, 7).float().to(dtype)


TENSORS = {
    "float32": ones(torch.float32),
    "float64": ones(torch.float64),
    "bfloat16": ones(torch.bfloat16),
    "float16": ones(torch.float16),
    "float8_e4m3fn": ones(torch.float8_e4m3fn),
    "float8_e5m2": ones(torch.float8_e5m2),
    "float8_e8m0fnu": ones(torch.float8_e8m0fnu),
    "complex64": ones(torch.complex64),
    "no axis": torch.tensor(1.5),
    "transposed": ones(torch.float32).reshape(2, 3).t(),
    "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "every second": ones(torch.float32)[::2],
    "conjugated": ones(torch.complex64).conj(),
    "negated": ones(torch.complex64).conj().imag,
    "sparse": torch.eye(3).to_sparse(),
    "not a number": torch.full((3,), torch.nan),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("keep_values", [False, True], ids=["bound", "exact"])
def test_a_tensor_of_any_kind_is_seen_to_hold_and_seen_to_move(kind, keep_values):
    """R3"""
    tensor = TENSORS[kind]
    plan = FreezePlan().freeze("odd")
    model = Odd(tensor, trainable=True)
    handle = uf.apply(plan, model, keep_values=keep_values)
    assert handle.verify().parameters == 1
    if kind != "sparse":  # PyTorch cannot copy such a parameter
        prints = [backend.fingerprint(m, ["odd"])["odd"] for m in (model, copy.deepcopy(model))]
        assert prints[0].bits == prints[1].bits
    other = torch.zeros(tensor.shape) if tensor.dim() else torch.tensor(9.0)
    model.odd.data = other.to(tensor.dtype) if kind != "sparse" else other.to_sparse()
    with pytest.raises(FrozenDriftError, match="odd: moved"):
        handle.verify()


CHANGES = {
    "the sign of a zero": (torch.zeros(4), lambda p: p.data.neg_()),
    "one lowest bit": (torch.ones(4), lambda p: p.data[2:3].view(torch.int32).add_(1)),
    "another nan": (torch.full((4,), torch.nan), lambda p: p.data[:1].view(torch.int32).add_(1)),
    "two values swapped": (torch.arange(4.0), lambda p: p.data.copy_(p.data[[1, 0, 2, 3]])),
    "two values changed alike": (torch.ones(4), lambda p: p.data[:2].mul_(2)),
    "a uniform decay": (torch.ones(64), lambda p: p.data.mul_(0.99)),
    "nothing but the shape": (torch.ones(4), lambda p: setattr(p, "data", p.data.view(2, 2))),
    "a write past autograd": (torch.ones(4), lambda p: p.data.numpy().__setitem__(0, 2.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_bits_is_seen(change):
    """R3: by none of these do `_version`, `torch.hash_tensor` and `torch.equal` all stumble."""
    values, write = CHANGES[change]
    model = Odd(values.clone(), trainable=True)
    handle = uf.freeze(model, "odd")
    write(model.odd)
    with pytest.raises(FrozenDriftError, match=r"odd: (?:moved|resized)"):
        handle.verify()


def test_a_value_that_is_not_a_number_is_no_false_alarm():
    """R3: `torch.equal` says that it differs from itself."""
    model = Odd(torch.tensor([torch.nan, torch.inf, -0.0]), trainable=True)
    assert uf.freeze(model, "odd").verify().parameters == 1


def test_a_fused_optimizer_is_seen_where_the_version_counter_is_not_raised():
    """R3, R11"""
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    weight = model.stem.weight
    version = weight._version
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], 0.1, fused=True).step()
    assert weight._version == version
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved"):
        handle.verify()
