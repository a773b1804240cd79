"""PyTorch: once a plan is removed, everything is as it was found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.kits.torch_nets import Block, Stack, backward, bits, seeded
from unifreeze import FreezePlan


def modes(model):
    return [module.training for module in model.modules()]


def own_attributes(model):
    return [set(vars(module)) for module in model.modules()]


def hooks(model):
    return [
        (name, len(value))
        for module in model.modules()
        for name, value in vars(module).items()
        if "hooks" in name and value is not None
    ]


BETWEEN = {
    "nothing": lambda model: None,
    "train": lambda model: model.train(),
    "eval": lambda model: model.eval(),
    "train, then eval": lambda model: model.train().eval(),
    "eval, then train": lambda model: model.eval().train(),
    "eval of one block": lambda model: model.blocks[0].eval(),
}


@pytest.mark.parametrize("dropout", ["live", "off"])
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("found", ["train", "eval"])
def test_removal_leaves_the_modes_that_the_loop_would_have_left(found, between, dropout):
    """A loop that called `eval()` meanwhile finds the model in inference mode, as without plan."""
    model, plain = seeded(Stack, dropout=0.5), seeded(Stack, dropout=0.5)
    for each in (model, plain):
        getattr(each, found)()
        each.blocks[1].norm.eval()
    handle = uf.apply(FreezePlan().freeze("blocks").with_dropout(dropout), model)
    for each in (model, plain):
        BETWEEN[between](each)
    handle.remove()
    assert modes(model) == modes(plain)


def test_removal_puts_back_flags_attributes_and_hooks():
    model = seeded(Stack)
    model.stem.weight.requires_grad_(False)
    model.blocks[0].register_forward_hook(lambda *_: None)
    flags = [p.requires_grad for p in model.parameters()]
    attributes, found = own_attributes(model), hooks(model)
    handle = uf.apply(FreezePlan().only("stem").with_dropout("off"), model)
    second = uf.apply(FreezePlan().freeze("blocks"), model)
    with pytest.raises(uf.UnifreezeError, match="no longer in force"):
        handle.remove()
    second.remove()
    assert [p.requires_grad for p in model.parameters()] == flags
    assert own_attributes(model) == attributes
    assert hooks(model) == found


def test_removal_keeps_what_was_trained():
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
    backward(model)
    optimizer.step()
    trained = bits(model)
    handle.remove()
    assert bits(model) == trained


def test_a_norm_that_its_user_holds_by_hand_is_held_by_hand_again_after_removal():
    """The well-known `norm.train = lambda mode: norm` survives a plan."""
    model = seeded(Stack)
    norm = model.blocks[0].norm.eval()
    norm.train = by_hand = lambda mode=True: norm
    handle = uf.freeze(model, "blocks")
    model.train()
    assert not norm.training
    handle.remove()
    assert vars(norm)["train"] is by_hand
    assert not model.train().blocks[0].norm.training


def test_a_class_with_a_train_of_its_own_keeps_it_under_a_plan():
    class Careful(Block):
        def train(self, mode=True):
            super().train(mode)
            self.calls = getattr(self, "calls", 0) + 1
            return self

    model = seeded(Stack)
    model.blocks = nn.ModuleList([Careful(), Careful()])
    uf.apply(FreezePlan().freeze("blocks[0]").with_dropout("off"), model)
    assert model.train() is model
    assert model.blocks[0].calls == 1
    assert not model.blocks[0].training
