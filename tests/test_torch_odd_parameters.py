"""PyTorch: parameters without gradient, of integers, computed, lazy, or without values.

The rules R5 and R12 are those of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as old_weight_norm

import unifreeze as uf
from tests.support.kits.torch_nets import Stack, bits, moved, rows, seeded
from tests.support.torch_descriptions import Odd, described, train
from unifreeze import FreezePlan
from unifreeze.errors import FixedParameterError, FrozenDriftError, UnsupportedPlanError

# Odd parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_a_parameter_without_gradient_is_left_and_everything_else_is_written(dtype):
    """PyTorch's own `requires_grad_(True)` stops at it, half-way through the model."""
    model = Odd(torch.ones(3, dtype=dtype))
    model.requires_grad_(False)
    with pytest.raises(RuntimeError, match="floating point"):
        model.requires_grad_(True)
    assert not model.last.weight.requires_grad
    model.requires_grad_(False)
    handle = uf.apply(FreezePlan().train("all"), model)
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert not model.odd.requires_grad
    assert any("odd" in notice for notice in handle.resolution.notices)
    handle.verify()
    with uf.frozen(model):
        assert not model.first.weight.requires_grad
    assert model.first.weight.requires_grad


def test_a_rule_that_names_a_parameter_without_gradient_is_refused():
    with pytest.raises(FixedParameterError, match="int64 tensor has no gradient"):
        FreezePlan().freeze("first").train("odd").resolve(Odd(torch.arange(3)))


class Quantised(torch.Tensor):
    """Says it is float32 and stores integers, as quantised tensors of add-on libraries do."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, context, size, stride):
        return cls(inner["codes"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].codes, args[0].scale)
        raise NotImplementedError(str(function))


def test_a_tensor_that_stores_integers_cannot_be_trained_and_its_bytes_are_watched():
    model = Odd(Quantised(torch.ones(3, dtype=torch.int8), torch.ones(1)))
    with pytest.raises(FixedParameterError, match="stores quantised integers"):
        FreezePlan().freeze("first").train("odd").resolve(model)
    handle = uf.freeze(model, "first")
    handle.verify()
    model.odd.codes[1] = 2
    with pytest.raises(FrozenDriftError, match="odd: moved"):
        handle.verify()


def test_a_layer_that_has_yet_to_see_a_batch_can_be_frozen_and_trained():
    model = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.LazyLinear(2))
    handle = uf.freeze(model, 'path:"0" | path:"1"')
    weight = model[0].weight
    assert not weight.requires_grad
    handle.verify()
    model.train()
    model(rows()).sum().backward()
    assert model[0].weight is weight
    assert weight.grad is None
    assert model[2].weight.grad is not None
    with pytest.raises(FrozenDriftError, match=r"0\.weight: filled \(it had no values when"):
        handle.verify()
    handle.rebase()
    assert handle.verify().parameters == 4
    handle.remove()
    assert all(p.requires_grad for p in model.parameters())


def test_a_description_follows_a_cast_and_a_first_batch():
    """R12: neither puts a new object anywhere."""
    model = nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 2))
    assert described(model)[0].shape == ()
    model(rows())
    assert described(model)[0].shape == (6, 6)
    assert FreezePlan().freeze("size(> 30)").resolve(model).frozen_paths == ("0.weight",)
    model[1].double()
    assert [p.dtype for p in described(model)] == ["float32"] * 2 + ["float64"] * 2


def normed(which):
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    return which(model[0]), model


ORIGINALS = {
    "parametrized weight_norm": (
        parametrizations.weight_norm,
        {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
    ),
    "parametrized spectral_norm": (
        parametrizations.spectral_norm,
        {"0.parametrizations.weight.original"},
    ),
    "orthogonal": (parametrizations.orthogonal, {"0.parametrizations.weight.original"}),
    "weight_norm": (old_weight_norm, {"0.weight_g", "0.weight_v"}),
    "prune": (lambda layer: prune.random_unstructured(layer, "weight", 0.5), {"0.weight_orig"}),
}


@pytest.mark.parametrize("way", ORIGINALS)
def test_a_computed_weight_is_frozen_by_freezing_what_it_is_computed_from(way):
    """R5"""
    make, originals = ORIGINALS[way]
    model = seeded(lambda: normed(make)[1])
    handle = uf.freeze(model, 'weight & path:"0"')
    assert set(handle.resolution.frozen_paths) == originals
    train(handle, model)
    handle.verify()
    assert model[0].bias.grad is not None
    layers = {(p.owner, p.kind, p.name.rpartition("/")[0]) for p in described(model)}
    assert layers == {("0", "linear", "net/linear.0"), ("1", "linear", "head/linear.0")}


def test_a_parameter_that_is_no_leaf_is_refused():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    model[0]._parameters["weight"] = nn.Parameter(torch.ones(6, 6)) * 2
    with pytest.raises(UnsupportedPlanError, match=r"0\.weight: it is computed"):
        uf.freeze(model, 'path:"1"')


def test_what_was_made_in_inference_mode_can_be_frozen_and_given_back():
    with torch.inference_mode():
        body = nn.Linear(6, 6)
    model = nn.Sequential(body, nn.Linear(6, 2))
    handle = uf.freeze(model, 'path:"0"')
    train(handle, model)
    handle.verify()
    handle.remove()
    assert body.weight.requires_grad


def test_training_what_was_made_frozen_in_inference_mode_is_refused():
    with torch.inference_mode():
        body = nn.Linear(6, 6).requires_grad_(False)
    model = nn.Sequential(body, nn.Linear(6, 2))
    with pytest.raises(UnsupportedPlanError, match="made in inference mode"):
        uf.apply(FreezePlan().freeze('path:"1"').train('path:"0"'), model)
    assert model[1].weight.requires_grad


# Models without values -------------------------------------------------------------------------


def test_a_model_on_the_meta_device_takes_the_plan_of_the_real_one():
    """R12"""
    with torch.device("meta"):
        model = Stack()
    plan = FreezePlan().only("head | blocks[-1:]").freeze("norm")
    handle = uf.apply(plan, model)
    assert handle.resolution.frozen_paths == plan.resolve(Stack()).frozen_paths
    assert not model.stem.weight.requires_grad
    assert str(handle) == str(uf.apply(plan, Stack()))
    handle.verify()


def test_a_meta_model_that_gets_its_values_is_taken_in_by_reapply():
    """R12: materialising puts new parameters in."""
    with torch.device("meta"):
        model = Stack()
    handle = uf.freeze(model, "blocks")
    model.to_empty(device="cpu")
    model.load_state_dict(seeded(Stack).state_dict())
    with pytest.raises(FrozenDriftError, match="replaced"):
        handle.verify()
    handle.reapply()
    handle.rebase()
    before = bits(model)
    train(handle, model)
    assert not any(name.startswith("blocks") for name in moved(model, before))
    handle.verify()
