"""What both backends share: whose decay a phase sets, guards on copies, a run in a trainer."""

import paddle
import pytest
import torch

import unifreeze as uf
from unifreeze._handle.trainer_run import LastCallback, TrainerRun
from unifreeze._modules.guards_on_copies import CopiedGuard
from unifreeze._modules.optimizer_rules import OWN_DECAY, refuse_lbfgs, takes_phase_decay
from unifreeze.errors import OptimizerError, ScheduleError


class Layer:
    def __init__(self, **trainable):
        self.trainable, self.reset = trainable, False

    def named_parameters(self):
        return list(self.trainable.items())


class Guard(CopiedGuard):
    def trains(self, parameter):
        return parameter

    def is_reset(self):
        return self.module.reset


@pytest.mark.parametrize(
    ("groups", "default", "taken"),
    [
        ([{"decay": 0.1}, {"decay": 0.0}], None, [True, False]),
        ([{"decay": 0.0}, {"decay": 0.0}], None, [True, True]),
        ([{"decay": 0.1, OWN_DECAY: True}, {"decay": 0.1}], None, [False, True]),
        ([{}, {"decay": 0.1}], None, [False, True]),
        ([{}, {"decay": 0.0}], 0.1, [True, False]),
    ],
)
def test_a_phase_sets_the_decay_of_groups_that_have_one(groups, default, taken):
    assert takes_phase_decay(groups, "decay", default) == taken


def test_optimizers_that_move_frozen_parameters_are_refused():
    class Directions:
        pass

    class Derived(Directions):
        pass

    refuse_lbfgs(Layer, Directions)
    with pytest.raises(OptimizerError, match="moves frozen ones"):
        refuse_lbfgs(Derived, Directions)


def copy_of(guard):
    twin = Guard.__new__(Guard)
    twin.__dict__.update(guard.__getstate__())
    return twin


def test_a_guard_on_a_copy_knows_what_was_frozen_when_it_was_copied():
    original = Guard(Layer(scale=False, shift=True), copied=False)
    twin = copy_of(original)
    assert not original.copied
    assert twin.copied
    assert twin.measured
    assert not twin.is_thawed()
    twin.module.trainable["scale"] = True
    assert twin.is_thawed()
    assert copy_of(twin).frozen == ("scale",)


def test_a_guard_on_a_copy_that_gathered_nothing_is_not_measured():
    layer = Layer(scale=False)
    layer.reset = True
    assert not copy_of(Guard(layer, copied=False)).measured


class Plan:
    def apply(self, model, *, batch, keep_values):
        return (model, batch, keep_values)


def test_a_run_without_a_model_has_no_plan_in_force():
    run = TrainerRun(Plan(), batch=None, keep_values=True)
    with pytest.raises(ScheduleError, match="no model yet"):
        _ = run.in_force
    run.apply_to("model")
    assert run.in_force == ("model", None, True)


def test_the_last_callback_leaves_the_list_when_it_has_looked():
    class Look:
        taken = 0

        def take(self):
            self.taken += 1

    run = TrainerRun(Plan(), batch=None, keep_values=False)
    run.last_look = Look()
    callbacks = ["a callback"]
    run.call_last(callbacks, LastCallback)
    assert len(callbacks) == 2
    callbacks[-1].take_last_look("arguments", of="the trainer")
    assert callbacks == ["a callback"]
    assert run.last_look.taken == 1


def test_looking_for_a_largest_norm_computes_no_weight():
    """The weight of a table under a spectral norm is computed when it is asked for, and moves."""
    table = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Embedding(5, 3))
    model = torch.nn.Sequential(table, torch.nn.Linear(3, 2))
    vectors = {name: value.clone() for name, value in model.state_dict().items()}
    uf.FreezePlan().freeze('path:"1"').apply(model)
    assert all(torch.equal(value, vectors[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("nn", [torch.nn, paddle.nn], ids=["torch", "paddle"])
def test_a_table_without_a_weight_is_not_asked_for_one(nn):
    class Factored(nn.Embedding):
        def __init__(self):
            super().__init__(5, 4)
            del self.weight
            self.low, self.high = nn.Linear(2, 5), nn.Linear(4, 2)

    model = nn.Sequential(Factored(), nn.Linear(4, 2))
    handle = uf.FreezePlan().freeze('path:"1"').apply(model)
    assert handle.resolution.counts()[0] < handle.resolution.counts()[1]
