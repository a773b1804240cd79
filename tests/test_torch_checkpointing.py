"""PyTorch: reentrant checkpointing above a frozen prefix is refused, other checkpointing is not.

Rule R10 is that of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)

import unifreeze as uf
from tests.support.kits.torch_nets import Stack, backward, seeded
from tests.support.torch_descriptions import encoder_builder
from unifreeze import FreezePlan
from unifreeze.errors import UnsupportedPlanError


@pytest.fixture(scope="module")
def make_encoder():
    return encoder_builder()


def starved(model, handle):
    """Trainable parameters that one backward pass gives no gradient."""
    model.train()
    model(torch.arange(4)[None]).logits.square().sum().backward()
    return {finding.subject for finding in handle.check_gradients()}


def checkpoint_reentrantly(model):
    """Switch it on, and take off the hook for inputs, which transformers 5 puts on by itself."""
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.get_input_embeddings()._forward_hooks.clear()


def test_reentrant_checkpointing_above_frozen_embeddings_is_refused(make_encoder):
    """R10: no layer would get a gradient, and the loss would look normal."""
    model = make_encoder()
    checkpoint_reentrantly(model)
    with pytest.raises(UnsupportedPlanError, match="checkpoint with use_reentrant=False"):
        uf.freeze(model, "embeddings")
    assert all(p.requires_grad for p in model.parameters())


def test_the_default_of_transformers_4_is_known_to_be_reentrant(make_encoder):
    """R10"""
    model = make_encoder()
    model.gradient_checkpointing_enable()
    if version("transformers").startswith("4."):
        with pytest.raises(UnsupportedPlanError, match="reentrant"):
            uf.freeze(model, "embeddings")
    else:
        assert starved(model, uf.freeze(model, "embeddings")) == set()


@pytest.mark.parametrize(
    "cure", ["not reentrant", "inputs require gradient", "switched off", "prefix trains"]
)
def test_checkpointing_is_accepted_wherever_gradients_arrive(cure, make_encoder):
    """R10"""
    model = make_encoder()
    model.gradient_checkpointing_enable({"use_reentrant": cure != "not reentrant"})
    plan = FreezePlan().freeze("embeddings")
    if cure == "inputs require gradient":
        model.enable_input_require_grads()
    if cure == "switched off":
        model.gradient_checkpointing_disable()
    if cure == "prefix trains":
        plan = FreezePlan().freeze("blocks[0]")
    handle = uf.apply(plan, model)
    assert starved(model, handle) == set()


def test_the_hook_for_inputs_counts_only_while_it_is_there(make_encoder):
    """R10"""
    model = make_encoder()
    checkpoint_reentrantly(model)
    model.enable_input_require_grads()
    model.disable_input_require_grads()
    assert not model.get_input_embeddings()._forward_hooks
    with pytest.raises(UnsupportedPlanError, match="reentrant"):
        uf.freeze(model, "embeddings")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointing_switched_on_after_the_plan_shows_in_the_gradients(make_encoder):
    """R10: too late to refuse, so the look at the gradients names every layer."""
    model = make_encoder()
    handle = uf.freeze(model, "embeddings")
    checkpoint_reentrantly(model)
    expected = {name for name, _ in model.named_parameters() if ".encoder.layer." in name}
    assert starved(model, handle) == expected


@pytest.mark.parametrize("implementation", CheckpointImpl)
def test_a_reentrant_checkpoint_wrapper_above_a_frozen_prefix_is_refused(implementation):
    """R10"""
    model = seeded(Stack)
    model.blocks[1] = checkpoint_wrapper(model.blocks[1], checkpoint_impl=implementation)
    if implementation is CheckpointImpl.REENTRANT:
        with pytest.raises(UnsupportedPlanError, match=r"blocks\.1: reentrant"):
            uf.freeze(model, "stem | blocks[0]")
        uf.freeze(model, "stem")  # the first block trains, so gradients arrive
    else:
        handle = uf.freeze(model, "stem | blocks[0]")
        backward(model)
        assert handle.check_gradients() == ()
