"""`check_flags()` and `verify()` name flags, modes and objects that others have switched."""

import paddle
import pytest
import torch

import unifreeze as uf
from unifreeze.errors import FrozenDriftError, UnifreezeError

SIDES = {"torch": torch, "paddle": paddle}
HEAD = 'path:"head"'


@pytest.fixture(params=SIDES)
def side(request):
    return SIDES[request.param]


def network(side):
    nn = side.nn
    norm = nn.BatchNorm1d if side is torch else nn.BatchNorm1D
    parts = {"stem": nn.Linear(4, 6), "norm": norm(6), "middle": nn.Linear(6, 6)}
    parts["head"] = nn.Linear(6, 3)
    model = nn.Sequential()
    for name, part in parts.items():
        setattr(model, name, part)
    model.train()
    return model


def switch(side, tensor, *, trainable):
    if side is torch:
        tensor.requires_grad = trainable
    else:
        tensor.stop_gradient = not trainable


def parameter(side, layer):
    if side is torch:
        return torch.nn.Parameter(layer.bias.detach().clone())
    return layer.create_parameter([3], is_bias=True)


def wake(side, norm):
    if side is torch:
        norm.training = True
    else:
        norm._use_global_stats = False


def unhook(side, norm):
    if side is torch:
        del norm.__dict__["train"]
        norm.train()
    else:
        norm._forward_pre_hooks.pop("unifreeze")


def grown(side, model):
    model.head = side.nn.Linear(6, 5)


WRITES = {
    "a frozen flag on": (
        lambda side, model: switch(side, model.stem.weight, trainable=True),
        {("stem.weight", "thawed")},
    ),
    "a trainable flag off": (
        lambda side, model: switch(side, model.head.bias, trainable=False),
        {("head.bias", "switched off")},
    ),
    "all flags on": (
        lambda side, model: [switch(side, p, trainable=True) for p in model.parameters()],
        {(name, "thawed") for name in ("stem.weight", "stem.bias", "norm.weight", "norm.bias",
                                       "middle.weight", "middle.bias")},
    ),
    "a held norm's mode": (lambda side, model: wake(side, model.norm), {("norm", "released")}),
    "what holds a norm": (lambda side, model: unhook(side, model.norm), {("norm", "released")}),
    "a trainable parameter replaced": (
        lambda side, model: setattr(model.head, "bias", parameter(side, model.head)),
        {("head.bias", "replaced")},
    ),
    "a trainable layer replaced": (
        grown, {("head.weight", "replaced"), ("head.bias", "replaced")}
    ),
    "a frozen layer taken out": (
        lambda side, model: setattr(model, "stem", side.nn.Identity()),
        {("stem.weight", "missing"), ("stem.bias", "missing")},
    ),
}  # fmt: skip
"""What others do, and what is then told."""
OF_VERIFY = {"thawed", "switched off", "released"}
"""Kinds that `verify` names in the same words; a head put in anew is no drift of its own."""


def told(check):
    try:
        check()
    except FrozenDriftError as error:
        return {(drift.path, drift.kind): drift.detail for drift in error.drifts}, str(error)
    return {}, ""


@pytest.mark.parametrize("write", WRITES)
def test_what_others_switch_is_named(side, write):
    model = network(side)
    handle = uf.FreezePlan().only(HEAD).apply(model)
    handle.check_flags()
    change, wanted = WRITES[write]
    change(side, model)
    found, text = told(handle.check_flags)
    assert set(found) == wanted, text
    whole, _ = told(handle.verify)
    kinds = {row: detail for row, detail in found.items() if row[1] in OF_VERIFY}
    assert kinds.items() <= whole.items()
    handle.reapply()
    handle.check_flags()


def test_the_error_says_what_the_plan_says(side):
    model = network(side)
    handle = uf.FreezePlan().only(HEAD).apply(model)
    switch(side, model.head.weight, trainable=False)
    switch(side, model.stem.weight, trainable=True)
    found, text = told(handle.check_flags)
    assert found["head.weight", "switched off"].endswith('trainable by rule 1 (only: path:"head")')
    assert found["stem.weight", "thawed"].endswith('frozen by rule 1 (only: path:"head")')
    assert "2 tensors or layers are not as the plan wrote them" in text
    assert "handle.reapply()" in text


def test_what_the_plan_leaves_as_found_is_told_too(side):
    model = network(side)
    handle = uf.freeze(model, 'path:"stem"')
    switch(side, model.head.bias, trainable=False)
    found, _ = told(handle.check_flags)
    assert found == {("head.bias", "switched off"): "its flag says frozen; trainable: as found"}


def test_loops_that_change_modes_as_usual_are_not_told(side):
    model = network(side)
    handle = uf.FreezePlan().only(HEAD).apply(model)
    for _ in range(2):
        model.eval()
        handle.check_flags()
        model.train()
        handle.check_flags()
        with uf.frozen(model):
            handle.check_flags()
            handle.verify()
        with uf.frozen(model, "head"):
            handle.check_flags()
    copied = uf.FreezePlan().only(HEAD).apply(network(side))
    copied.check_flags()


def test_phases_and_other_plans_are_what_was_written(side):
    model = network(side)
    plan = (
        uf.FreezePlan()
        .phase("head", rules={"only": HEAD})
        .phase("norms", at={"epoch": 1}, add={"train": "norm"})
    )
    handle = plan.apply(model)
    cls = side.optim.SGD if side is torch else side.optimizer.SGD
    handle.optimizer(cls, lr=0.1)
    for epoch in range(2):
        handle.step(epoch=epoch)
        handle.check_flags()
    part = uf.FreezePlan().train("all").apply(model.stem)
    handle.check_flags()
    part.check_flags()
    switch(side, model.stem.bias, trainable=False)
    assert set(told(part.check_flags)[0]) == {("bias", "switched off")}
    assert told(handle.check_flags)[0] == {}
    part.remove()
    handle.check_flags()
    handle.remove()
    with pytest.raises(UnifreezeError, match="no longer in force"):
        handle.check_flags()


def test_a_recurrent_layer_that_is_held_is_looked_at(side):
    """Its dropout is turned off, and its mode is not."""
    model = side.nn.Sequential()
    add = model.add_module if side is torch else model.add_sublayer
    add("lstm", side.nn.LSTM(4, 4, num_layers=2, dropout=0.5))
    add("head", side.nn.Linear(4, 2))
    handle = uf.FreezePlan().only(HEAD).with_dropout("off").apply(model)
    handle.check_flags()
    if side is torch:
        model.lstm.dropout = 0.5
    else:
        model.lstm._forward_pre_hooks.pop("unifreeze")
    assert set(told(handle.check_flags)[0]) == {("lstm", "released")}
