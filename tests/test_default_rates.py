"""A learning rate that nobody gave: the class's own is in force, in both frameworks, and shown."""

import inspect

import paddle
import pytest
import torch

import unifreeze as uf
from tests.support.sides import SIDES, Paddle, Torch
from unifreeze.errors import OptimizerError

PLAIN = uf.FreezePlan().freeze("conv")
SCALED = PLAIN.with_group("head", lr_scale=10).with_group("norm", lr_scale=0.5)
PHASED = (
    uf.FreezePlan()
    .phase("head", rules={"only": "head"})
    .phase("all", at={"epoch": 1}, add={"train": "all"}, lr=1e-4)
)
WORDS = "no lr given"


def classes():
    """Every optimizer of both frameworks whose class has a learning rate of its own."""
    for side, module, name in (
        (Torch, torch.optim, "lr"),
        (Paddle, paddle.optimizer, "learning_rate"),
    ):
        base = torch.optim.Optimizer if side is Torch else paddle.optimizer.Optimizer
        for cls in vars(module).values():
            if inspect.isclass(cls) and issubclass(cls, base) and cls is not base:
                setting = inspect.signature(cls).parameters.get(name)
                if setting and isinstance(setting.default, float) and "LBFGS" not in cls.__name__:
                    yield side, cls, setting.default


OWN = [pytest.param(*row, id=f"{row[0].__name__}-{row[1].__name__}") for row in classes()]
REFUSED = {"Muon"}
"""What takes no vectors, and so cannot train this network."""


@pytest.mark.parametrize(("side", "cls", "default"), OWN)
def test_the_default_of_every_class_is_in_force_and_shown(side, cls, default):
    handle = SCALED.apply(side.build())
    assert WORDS not in str(handle)
    if cls.__name__ in REFUSED:
        return
    optimizer = handle.optimizer(cls)
    rates = sorted(handle.rates().values())
    assert rates == pytest.approx([default * scale for scale in (0.5, 10)])
    line = str(handle).splitlines()[1]
    assert line.startswith(f"learning rate: {default:g}, the default of {cls.__name__}; {WORDS}")
    assert f"lr x 10 = {10 * default:g}" in line
    assert line in repr(handle)
    assert WORDS in handle._repr_html_()
    del optimizer


@pytest.mark.parametrize("side", SIDES)
def test_a_rate_that_was_given_adds_no_line(side):
    handle = SCALED.apply(side.build())
    optimizer = side.sgd(handle, lr=0.1)
    assert len(str(handle).splitlines()) == 1
    assert WORDS not in handle._repr_html_()
    del optimizer


@pytest.mark.parametrize("side", SIDES)
def test_without_scales_the_line_has_the_rate_alone(side):
    handle = PLAIN.apply(side.build())
    optimizer = side.sgd(handle)
    assert str(handle).splitlines()[1] == f"learning rate: 0.001, the default of SGD; {WORDS}"
    del optimizer


@pytest.mark.parametrize("side", SIDES)
def test_a_phase_shows_the_rate_that_it_makes_of_the_default(side):
    handle = PHASED.apply(side.build())
    optimizer = side.sgd(handle)
    handle.step(epoch=0)
    assert str(handle).endswith(WORDS)
    handle.step(epoch=1)
    assert str(handle).endswith(f"{WORDS} (groups: lr x 1 = 0.0001)")
    attached = side.optimizers.SGD(**attached_settings(side, handle))
    handle.attach(attached)
    assert WORDS not in str(handle)
    del optimizer


def attached_settings(side, handle):
    if side is Torch:
        return {"params": handle.param_groups(lr=0.1), "lr": 0.1}
    return {"parameters": handle.param_groups(), "learning_rate": 0.1}


@pytest.mark.parametrize("side", SIDES)
def test_after_the_plan_has_ended_the_handle_still_prints(side):
    handle = SCALED.apply(side.build())
    optimizer = side.sgd(handle)
    handle.remove()
    assert "trainable params" in str(handle)
    del optimizer


def test_groups_of_pytorch_say_which_rate_they_scale():
    handle = SCALED.apply(Torch.build())
    with pytest.raises(OptimizerError, match="scales the learning rate") as caught:
        handle.param_groups()
    assert "lr_scale" in caught.value.hint


@pytest.mark.parametrize("side", SIDES)
def test_where_the_framework_has_no_default_the_error_asks_for_a_rate(side):
    class Own(side.optimizers.Adam):
        def __init__(self, *args, lr, **more):
            super().__init__(*args, **more)

    cls = {Torch: Own, Paddle: paddle.optimizer.RMSProp}[side]
    for plan in (PLAIN, SCALED):
        with pytest.raises(OptimizerError) as caught:
            plan.apply(side.build()).optimizer(cls)
        assert "lr=" in caught.value.hint
