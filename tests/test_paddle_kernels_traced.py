"""PaddlePaddle: the cures of kernels under `to_static`, traced whole, and exported.

Rules C, D and M are those of the opening table of the facts about PaddlePaddle.
"""

from __future__ import annotations

import copy

import paddle
import pytest

import unifreeze as uf
from tests.support.kits.paddle_layers import (
    BELOW,
    LENDING,
    build,
    freeze_paths,
    gradients,
    inputs_of,
    own_parameters,
)
from tests.support.rounding import check_same
from unifreeze.errors import UnsupportedPlanError

pytestmark = pytest.mark.usefixtures("double")

STATIC = {
    "BatchNorm1D": {"layer.weight"},
    "InstanceNorm2D": {"layer.bias"},
    "LayerNorm": {"layer.weight"},
    "LSTM": {"layer.weight_ih_l0"},
    "InstanceNorm1D": {BELOW},
}


@pytest.fixture
def static_shapes(monkeypatch):
    """Trace for the very shapes that are seen.

    All models here share one forward, whose shapes Paddle would else take for varying, which its
    own instance norm and PReLU cannot be traced with.
    """
    monkeypatch.setenv("SOT_ALLOW_DYNAMIC_SHAPE", "False")


def static_gradients(name, full_graph, *, plan_first):
    """Gradients with the layer traced, and those of an unfrozen layer that is not."""
    frozen = STATIC[name]
    model = build(name)
    expected = gradients(copy.deepcopy(model), *inputs_of(name))
    if plan_first:
        freeze_paths(frozen).apply(model)
        traced = paddle.jit.to_static(model, full_graph=full_graph)
    else:
        traced = paddle.jit.to_static(model, full_graph=full_graph)
        if not full_graph:
            gradients(traced, *inputs_of(name))
        freeze_paths(frozen).apply(model)
    for _ in range(2):
        found = gradients(traced, *inputs_of(name))
    return found, {path: None if path in frozen else g for path, g in expected.items()}


@pytest.mark.parametrize("plan_first", [True, False])
@pytest.mark.parametrize("name", STATIC)
@pytest.mark.usefixtures("static_shapes")
def test_the_cures_hold_under_to_static(name, plan_first):
    """M: as it is by default, the plan applied before or after the first trace."""
    check_same(*static_gradients(name, None, plan_first=plan_first))


@pytest.mark.parametrize("plan_first", [True, False])
@pytest.mark.parametrize("name", ["BatchNorm1D", "InstanceNorm2D", "LayerNorm", "LSTM"])
def test_the_cures_hold_when_the_program_is_traced_whole(name, plan_first):
    """M: `full_graph=True`, called for the first time after the plan was applied."""
    check_same(*static_gradients(name, True, plan_first=plan_first))


@pytest.mark.usefixtures("static_shapes")
@pytest.mark.parametrize("name", ["LayerNorm", "LSTM", "BatchNorm1D"])
def test_gradient_flows_through_a_traced_model_frozen_for_a_while(name):
    """C, M: as for a discriminator, on every other step."""
    model = build(name)
    expected = gradients(copy.deepcopy(model), *inputs_of(name))
    traced = paddle.jit.to_static(model)
    for _ in range(3):
        found = gradients(traced, *inputs_of(name))
        check_same(found[BELOW], expected[BELOW])
        assert all(found[path] is not None for path in own_parameters(name))
        with uf.frozen(model.layer):
            found = gradients(traced, *inputs_of(name))
        check_same(found[BELOW], expected[BELOW])
        assert all(found[path] is None for path in own_parameters(name))


@pytest.mark.parametrize("name", ["PReLU", "InstanceNorm1D"])
def test_what_a_whole_program_cannot_do_is_refused_with_the_cure(name):
    """D, M: traced whole, the layer would crash the process or fail."""
    model = build(name)
    freeze_paths({BELOW}).apply(model)
    traced = paddle.jit.to_static(model, full_graph=True)
    with pytest.raises(UnsupportedPlanError, match="call to_static without full_graph"):
        traced(*inputs_of(name))


@pytest.mark.parametrize("name", ["BatchNorm2D", "InstanceNorm2D", "LayerNorm", "LSTM", "PReLU"])
def test_a_model_under_a_plan_can_be_exported(name, tmp_path):
    model = build(name)
    freeze_paths([LENDING.get(name, BELOW)]).apply(model)
    model.eval()
    inputs = inputs_of(name)
    specs = [paddle.static.InputSpec(x.shape, str(x.dtype).removeprefix("paddle.")) for x in inputs]
    paddle.jit.save(model, str(tmp_path / "model"), input_spec=specs)
    outputs = paddle.jit.load(str(tmp_path / "model"))(*inputs), model(*inputs)
    loaded, expected = (out[0] if isinstance(out, tuple | list) else out for out in outputs)
    check_same(loaded, expected)


def test_a_guard_caught_in_a_trace_does_nothing_once_the_plan_is_removed():
    """Something that wrapped the guarded forward may outlive the plan."""
    for name, frozen in LENDING.items():
        model = build(name)
        expected = gradients(copy.deepcopy(model), *inputs_of(name))
        handle = freeze_paths([frozen]).apply(model)
        guarded = model.layer.forward
        model.layer.forward = lambda *args, guarded=guarded: guarded(*args)
        handle.remove()
        found = gradients(model, *inputs_of(name))
        check_same(found, expected)
