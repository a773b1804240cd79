"""PyTorch: tied and shared tensors, modules in two places, models that hold themselves.

The rules R5, R6 and R12 are those of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.kits.torch_nets import Stack, bits, moved, rows, seeded
from tests.support.torch_descriptions import described, names, train
from unifreeze import FreezePlan
from unifreeze.errors import FrozenDriftError, TieConflictError


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.middle = nn.Linear(6, 6)
        self.output = nn.Linear(6, 9, bias=False)
        self.output.weight = self.table.weight

    def forward(self, ids):
        return self.output(torch.tanh(self.middle(self.table(ids))))


@pytest.mark.parametrize("name", ["table", "output", "table.weight", "output.weight"])
def test_a_tied_tensor_is_frozen_by_any_of_its_names(name):
    """R6: PyTorch's own listing shows only the first."""
    model = Tied()
    handle = uf.freeze(model, f'path:"{name}"')
    assert not model.table.weight.requires_grad
    assert handle.verify().parameters == 1
    (parameter,) = [p for p in described(model) if p.aliases]
    assert (parameter.path, parameter.aliases) == ("table.weight", ("output.weight",))


def test_two_decisions_for_a_tied_tensor_are_refused_and_cured_by_a_rule_on_tied():
    """R6"""
    plan = FreezePlan().freeze("table | middle.weight").train("output | middle.bias")
    with pytest.raises(TieConflictError, match=r"table\.weight and output\.weight are one tensor"):
        plan.resolve(Tied())
    frozen = plan.freeze("tied").resolve(Tied())
    assert set(frozen.frozen_paths) == {"table.weight", "middle.weight"}
    trained = plan.train("tied").resolve(Tied())
    assert set(trained.frozen_paths) == {"middle.weight"}


def test_a_tie_that_a_load_has_cut_into_two_objects_over_one_memory_is_seen():
    """R6: `load_state_dict(assign=True)` makes two parameters of one."""
    model = Tied()
    handle = uf.freeze(model, "table")
    model.load_state_dict(model.state_dict(), assign=True)
    assert model.table.weight is not model.output.weight
    assert model.table.weight.data_ptr() == model.output.weight.data_ptr()
    with pytest.raises(FrozenDriftError, match=r"table\.weight: replaced"):
        handle.verify()
    with pytest.raises(TieConflictError, match="share memory"):
        uf.apply(FreezePlan().freeze("table").train("output"), model)
    again = uf.freeze(model, "table | output")
    assert not model.output.weight.requires_grad
    again.verify()


def test_a_tie_that_a_load_has_cut_altogether_is_two_parameters():
    """R6"""
    model = Tied()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    uf.apply(FreezePlan().freeze("table").train("output"), model)
    assert not model.table.weight.requires_grad
    assert model.output.weight.requires_grad


def test_a_tie_survives_a_deep_copy():
    """R6"""
    model = copy.deepcopy(Tied())
    uf.freeze(model, "output")
    assert not model.table.weight.requires_grad


class Pair(nn.Module):
    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = nn.Parameter(one), nn.Parameter(other)


def base():
    return torch.zeros(4, 4)


SHARING = {
    "a view of rows": (lambda t: (t[:2], t), True),
    "an alias": (lambda t: (t.detach(), t), True),
    "a transposed view": (lambda t: (t.t(), t[3]), True),
    "a column and the rows it runs through": (lambda t: (t[:, :1], t[2:]), True),
    "every second value": (lambda t: (t.reshape(-1)[::2], t[3]), True),
    "halves": (lambda t: (t[:2], t[2:]), False),
    "neighbouring values": (lambda t: (t.reshape(-1)[3], t.reshape(-1)[4]), False),
    "an empty view": (lambda t: (t[:0], t), False),
    "copies": (lambda t: (t.clone(), t), False),
}


@pytest.mark.parametrize("views", SHARING)
def test_different_decisions_are_refused_exactly_where_memory_is_shared(views):
    """R6: training the one would move the other."""
    make, shared = SHARING[views]
    model = Pair(*make(base()))
    plan = FreezePlan().freeze("one")
    if shared:
        with pytest.raises(TieConflictError, match="one and other share memory"):
            plan.resolve(model)
        uf.apply(FreezePlan().freeze("all"), model).verify()
    else:
        assert plan.resolve(model).trainable_paths == ("other",)


def test_a_module_in_two_places_answers_to_both_paths():
    """R6"""
    shared = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    for path in ("first", "second"):
        model = nn.ModuleDict({"first": shared, "second": shared, "head": nn.Linear(6, 2)})
        handle = uf.freeze(model, path)
        model.train()
        before = bits(model)
        model.second(model.first(rows()))
        assert not moved(model, before)
        assert handle.verify().parameters == 4
        handle.remove()
        assert shared[1].training
        assert "train" not in vars(shared[1])


def test_a_model_that_holds_itself_is_walked_once():
    """R5"""
    model = seeded(Stack)
    plain = names(seeded(Stack))
    model.blocks[0].owner = model
    assert names(model) == plain
    uf.freeze(model, "blocks[0]")
    assert not model.blocks[0].first.weight.requires_grad


def test_a_parameter_of_the_root_itself_is_not_forgotten():
    """R5"""

    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6))
            self.stack = Stack()

        def forward(self, x):
            return self.stack(x * self.scale)

    model = seeded(Loose)
    handle = uf.freeze(model, "scale | stack.stem")
    before = bits(model)
    train(handle, model)
    assert not {"scale", "stack.stem.weight"} & moved(model, before)
    handle.verify()


def test_a_plan_follows_the_live_tree():
    """R12: not a listing made earlier."""
    model = seeded(Stack)
    first = FreezePlan().freeze("blocks").resolve(model)
    model.blocks.append(copy.deepcopy(model.blocks[0]))
    second = FreezePlan().freeze("blocks").resolve(model)
    assert set(second.frozen_paths) - set(first.frozen_paths) == {
        name for name, _ in model.named_parameters() if name.startswith("blocks.2")
    }
