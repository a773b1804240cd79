"""PyTorch: what a frozen parameter does under every optimizer, and when a plan may be applied.

The rules R1, R2, R11 … are those of the opening table of the facts about PyTorch.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import unifreeze as uf
from tests.support.kits.torch_nets import Stack, backward, bits, moved, raw, rows, seeded
from tests.support.rounding import check_same
from unifreeze import FreezePlan
from unifreeze.errors import ArgumentError, FrozenDriftError, OptimizerError

OPTIMIZERS = {
    "SGD momentum decay": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "SGD nesterov foreach": lambda p: torch.optim.SGD(
        p, 0.1, momentum=0.9, nesterov=True, foreach=True
    ),
    "SGD fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    "Adam foreach": lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, amsgrad=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.01, weight_decay=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01, weight_decay=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01, weight_decay=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.1, weight_decay=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 1.0, weight_decay=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.01, weight_decay=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "Muon": lambda p: torch.optim.Muon(p, 0.01, weight_decay=0.1),
}


@pytest.fixture(params=OPTIMIZERS)
def make_optimizer(request):
    if request.param == "Muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim has no Muon before torch 2.9")
    return OPTIMIZERS[request.param]


def matrices():
    """Three weight matrices and nothing else, because Muon takes nothing else."""
    return seeded(nn.Sequential, *(nn.Linear(6, 6, bias=False) for _ in range(3)))


def steps(model, optimizer, count):
    for number in range(count):
        optimizer.zero_grad()
        backward(model, seed=number)
        optimizer.step()


# R1: a frozen parameter has no flag and no gradient -------------------------------------------


def test_the_flag_alone_would_not_hold_a_parameter_that_has_a_gradient(make_optimizer):
    """R1: what the library is for; shows that the next test can fail."""
    model = matrices()
    optimizer = make_optimizer(model.parameters())
    steps(model, optimizer, 3)
    model[0].weight.requires_grad_(False)
    before = bits(model)
    optimizer.step()
    assert "0.weight" in moved(model, before)


def test_every_optimizer_of_torch_is_tried():
    """So that an optimizer of a later release is not forgotten."""
    optimizers = inspect.getmembers(torch.optim, inspect.isclass)
    base = torch.optim.Optimizer
    found = {name for name, cls in optimizers if issubclass(cls, base)} - {"Optimizer"}
    # Sparse Adam takes tables alone, LBFGS is refused.
    assert found - {"SparseAdam", "LBFGS"} - {name.split()[0] for name in OPTIMIZERS} == set()


def test_a_frozen_parameter_keeps_every_bit_under_every_optimizer(make_optimizer):
    """R1: with momentum, decay and a gradient left over, in an optimizer that holds them all."""
    model = matrices()
    optimizer = make_optimizer(model.parameters())
    steps(model, optimizer, 3)
    handle = uf.freeze(model, 'path:"0"')
    before = bits(model)
    optimizer.step()
    assert moved(model, before) == {"1.weight", "2.weight"}
    steps(model, optimizer, 3)
    assert moved(model, before) == {"1.weight", "2.weight"}
    assert handle.verify().parameters == 1


def test_a_frozen_table_keeps_every_bit_under_sparse_gradients():
    """R1"""
    model = seeded(nn.Sequential, nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2))
    optimizer = torch.optim.SparseAdam([model[0].weight], 0.1)
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    handle = uf.freeze(model, 'path:"0"')
    before = bits(model)
    optimizer.step()
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    assert not moved(model, before)
    assert handle.check_gradients() == ()


def test_applying_drops_the_gradients_of_what_it_freezes_and_no_others():
    """R1"""
    model = seeded(Stack)
    backward(model)
    kept = {name: p.grad for name, p in model.named_parameters() if name.startswith("head")}
    uf.apply(FreezePlan().only("head"), model)
    for name, parameter in model.named_parameters():
        assert parameter.grad is kept.get(name)


def test_clearing_gradients_to_zero_does_not_bring_them_back():
    """R1: a zero gradient would let momentum and decay through."""
    model = seeded(Stack)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    backward(model)
    uf.freeze(model, "blocks")
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is None for p in model.blocks.parameters())
    assert model.head.weight.grad is not None


def test_a_parameter_frozen_with_its_flag_alone_starts_afresh_when_a_plan_trains_it():
    """R1: the gradient it had before it was frozen by hand is not applied after."""
    model = seeded(Stack)
    backward(model)
    model.stem.requires_grad_(False)
    assert model.stem.weight.grad is not None
    uf.apply(FreezePlan().freeze("head").train("stem"), model)
    assert model.stem.weight.requires_grad
    assert model.stem.weight.grad is None


def test_clipping_counts_only_what_trains():
    """R1: a gradient left over would make the others smaller."""
    model = seeded(Stack)
    backward(model)
    expected = torch.stack([p.grad.norm() for p in model.head.parameters()]).norm()
    uf.apply(FreezePlan().only("head"), model)
    torch.testing.assert_close(clip_grad_norm_(model.parameters(), 1e9), expected)


# R1: when a plan takes effect ------------------------------------------------------------------


def test_a_plan_between_backward_and_step_already_holds():
    """R1"""
    model = seeded(Stack)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    steps(model, optimizer, 2)
    backward(model)
    uf.freeze(model, "blocks | stem")
    before = bits(model)
    optimizer.step()
    assert moved(model, before) == {"head.weight", "head.bias"}


def test_a_plan_between_forward_and_backward_gives_no_gradient():
    """R1"""
    model = seeded(Stack)
    loss = model(rows()).square().sum()
    uf.apply(FreezePlan().only("head"), model)
    loss.backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        "head.weight",
        "head.bias",
    }


def test_a_plan_in_the_middle_of_accumulation_drops_the_first_half_where_it_freezes():
    """R1"""
    model = seeded(Stack).eval()
    backward(model, seed=1)
    first = model.head.weight.grad.clone()
    uf.apply(FreezePlan().only("head"), model)
    backward(model, seed=1)
    assert model.stem.weight.grad is None
    torch.testing.assert_close(model.head.weight.grad, 2 * first)


@pytest.mark.parametrize(
    "region",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_a_plan_may_be_applied_and_removed_inside_any_region(region):
    """R1"""
    model = seeded(Stack)
    with region():
        handle = uf.freeze(model, "blocks")
    backward(model)
    assert model.blocks[0].first.weight.grad is None
    assert model.head.weight.grad is not None
    with region():
        handle.verify()
        handle.remove()
    backward(model)
    assert model.blocks[0].first.weight.grad is not None


@pytest.mark.usefixtures("double")
def test_gradient_flows_through_a_frozen_block_to_what_trains_below():
    """R1: freezing is not `no_grad`."""
    model, free = seeded(Stack), seeded(Stack)
    uf.apply(FreezePlan().freeze("blocks").with_norm_stats("update"), model)
    backward(model)
    backward(free)
    check_same(model.stem.weight.grad, free.stem.weight.grad)


def test_an_optimizer_inside_backward_leaves_frozen_parameters_alone():
    """R1: hooks registered before the plan stay, are silent while it holds, and fire again."""
    model = seeded(Stack).eval()
    fired = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: fired.append(name))
    handle = uf.apply(FreezePlan().only("head"), model)
    backward(model)
    assert set(fired) == {"head.weight", "head.bias"}
    handle.remove()
    backward(model)
    assert set(fired) == {name for name, _ in model.named_parameters()}


# R2: one optimizer over everything, plans flip flags -------------------------------------------


def test_freezing_keeps_the_optimizers_state_and_unfreezing_goes_on_from_it():
    """R2"""
    model = seeded(Stack)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    weight = model.stem.weight
    steps(model, optimizer, 3)
    average = raw(optimizer.state[weight]["exp_avg"])
    handle = uf.freeze(model, "stem")
    steps(model, optimizer, 2)
    assert raw(optimizer.state[weight]["exp_avg"]) == average
    assert optimizer.state[weight]["step"] == 3
    handle.remove()
    steps(model, optimizer, 1)
    assert optimizer.state[weight]["step"] == 4


SWITCHES = {
    0: FreezePlan().only("head"),
    2: FreezePlan().only("head | blocks[-1:]"),
    4: FreezePlan().freeze("norm | stem"),
    5: FreezePlan().train("all"),
}


def run_with_switches(stop=7, *, resume=None, start=0):
    """Train under changing plans; stop early and return a checkpoint, or go on from one."""
    model = seeded(Stack)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=8)
    parts = (model, optimizer, schedule)
    if resume:
        for part, state in zip(parts, resume, strict=True):
            part.load_state_dict(state)
        uf.apply(SWITCHES[max(at for at in SWITCHES if at <= start)], model)
    for number in range(start, stop):
        if number in SWITCHES:
            uf.apply(SWITCHES[number], model)
        model.train()
        optimizer.zero_grad()
        backward(model, seed=number)
        optimizer.step()
        schedule.step()
    return bits(model), [part.state_dict() for part in parts]


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_run_with_plan_switches_resumes_at_any_step_bit_for_bit(stop):
    """R2: the groups never change, so that any checkpoint and any scheduler fits."""
    whole, _ = run_with_switches()
    _, checkpoint = run_with_switches(stop)
    resumed, _ = run_with_switches(resume=checkpoint, start=stop)
    assert resumed == whole


RATES = torch.optim.lr_scheduler
SCHEDULES = {
    "LambdaLR": lambda o: RATES.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: RATES.MultiplicativeLR(o, lambda step: 0.9),
    "OneCycleLR": lambda o: RATES.OneCycleLR(o, 0.5, total_steps=8),
    "CyclicLR": lambda o: RATES.CyclicLR(o, 0.1, 0.5, step_size_up=2),
    "CosineAnnealingWarmRestarts": lambda o: RATES.CosineAnnealingWarmRestarts(o, 3),
    "SequentialLR": lambda o: RATES.SequentialLR(
        o, [RATES.ConstantLR(o, 0.3, 2), RATES.ExponentialLR(o, 0.9)], [2]
    ),
    "LinearLR": lambda o: RATES.LinearLR(o, 0.3, total_iters=4),
    "StepLR": lambda o: RATES.StepLR(o, 2),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_rates_runs_on_through_plan_switches(name):
    """R2: a plan adds no group; on a new one some schedulers fail, or get its rate wrong."""

    def rates(switches):
        model = seeded(Stack)
        groups = [{"params": model.head.parameters(), "lr": 0.2}]
        groups.append({"params": [*model.stem.parameters(), *model.blocks.parameters()]})
        optimizer = torch.optim.SGD(groups, 0.1, momentum=0.9)
        schedule, found = SCHEDULES[name](optimizer), []
        for number in range(7):
            if number in switches:
                uf.apply(switches[number], model)
            steps(model, optimizer, 1)
            schedule.step()
            found.append([group["lr"] for group in optimizer.param_groups])
        return found

    assert rates(SWITCHES) == rates({})


def test_what_a_plan_trains_again_moves_again():
    """R2"""
    model = seeded(Stack)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    uf.freeze(model, "stem")
    steps(model, optimizer, 1)
    uf.apply(FreezePlan().freeze("head").train("stem"), model)
    before = bits(model)
    steps(model, optimizer, 1)
    changed = moved(model, before)
    assert {"stem.weight", "stem.bias"} <= changed
    assert not {"head.weight", "head.bias"} & changed


# R11: optimizers that write on their own -------------------------------------------------------


def test_the_handles_optimizer_holds_what_trains_and_nothing_else():
    model = seeded(Stack)
    handle = uf.apply(FreezePlan().only("head"), model)
    optimizer = handle.optimizer(torch.optim.AdamW, lr=0.1)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.head.parameters()}
    assert len(held) == 2


def test_lbfgs_is_refused():
    """R11: its one flat state moves frozen parameters along."""
    handle = uf.freeze(seeded(Stack), "blocks")

    class Mine(torch.optim.LBFGS):
        pass

    for cls in (torch.optim.LBFGS, Mine):
        with pytest.raises(OptimizerError, match="LBFGS"):
            handle.optimizer(cls, lr=0.1)


def test_lbfgs_built_by_hand_is_caught():
    """R11"""
    model = seeded(Stack).eval()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = model(rows()).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    handle = uf.freeze(model, "stem")
    optimizer.step(closure)
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved"):
        handle.verify()


class MakesUpGradients(torch.optim.Optimizer):
    """Gives every parameter a gradient of zeros, as optimizers that synchronise ranks do."""

    def __init__(self, params, lr=0.1, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(parameter.grad, alpha=-group["lr"])


def test_an_optimizer_that_makes_up_gradients_is_caught_by_name():
    """R11"""
    model = seeded(Stack)
    optimizer = MakesUpGradients(model.parameters())
    handle = uf.freeze(model, "stem")
    backward(model)
    optimizer.step()
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    assert {drift.path for drift in caught.value.drifts} == {"stem.weight", "stem.bias"}
    assert {drift.kind for drift in caught.value.drifts} == {"moved"}
    assert "makes up gradients" in str(caught.value)


def test_an_optimizer_that_makes_up_gradients_is_harmless_when_the_handle_builds_it():
    """R11: it never sees what is frozen."""
    model = seeded(Stack)
    handle = uf.freeze(model, "stem")
    optimizer = handle.optimizer(MakesUpGradients, lr=0.1)
    backward(model)
    optimizer.step()
    handle.verify()


def test_what_is_no_optimizer_is_refused_by_name():
    handle = uf.freeze(seeded(Stack), "blocks")
    with pytest.raises(OptimizerError, match="class Linear is not a torch optimizer class"):
        handle.optimizer(nn.Linear, lr=0.1)
    for wrong in ("AdamW", torch.optim.SGD([torch.zeros(1)], 0.1)):
        with pytest.raises(ArgumentError, match="should be a class"):
            handle.optimizer(wrong, lr=0.1)
