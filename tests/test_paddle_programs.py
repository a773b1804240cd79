"""Saved and static programs in PaddlePaddle: read right, or refused in plain words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from paddle import nn

import unifreeze as uf
from tests.support.kits.paddle_layers import bits
from tests.support.saved_program import Net, loaded, rows
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend
from unifreeze.errors import DescriptionError, TargetError, UnsupportedPlanError

ROOT = Path(__file__).resolve().parent.parent
BACKEND = load_backend("paddle")


def statistics_of(net):
    return [t.numpy().tobytes() for n, t in net.named_parameters() if n.endswith(STATISTICS)]


STATISTICS = ("_mean", "_variance")


def test_statistics_of_a_loaded_program_are_no_parameters(tmp_path):
    net, layer = loaded(tmp_path)
    spec, live = BACKEND.describe(layer), BACKEND.objects(layer)
    counted = sum(p.values for p in spec.parameters)
    assert counted == sum(p.size for n, p in net.named_parameters() if not n.endswith(STATISTICS))
    states = {state.role for state in spec.states}
    assert states == {"mean", "var"}
    found = sorted(live[state.path].numpy().tobytes() for state in spec.states)
    assert found == sorted(statistics_of(net))


@pytest.mark.parametrize("plan", ["all", 'path:"param_0"'], ids=["whole", "in part"])
def test_a_loaded_program_trains_what_the_plan_says(tmp_path, plan):
    _, layer = loaded(tmp_path)
    model = nn.LayerDict({"body": layer, "head": nn.Linear(2, 1)})
    layer.train()
    text = "body" if plan == "all" else 'path:"body.param_0"'
    handle, before = FreezePlan().train("all").freeze(text).apply(model), bits(model)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model.train()
        model["head"](model["body"](rows())).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    moved = {name for name, value in bits(model).items() if value != before[name]}
    trained = set(handle.resolution.trainable_paths)
    assert moved == trained
    assert {"head.weight", "head.bias"} <= trained
    handle.verify()


def test_a_loaded_program_that_would_give_no_gradient_is_refused(tmp_path):
    """Within a model it is not switched over with the rest."""
    _, layer = loaded(tmp_path)
    model = nn.LayerDict({"body": layer, "head": nn.Linear(2, 1)})
    model.train()
    model["head"](layer(rows())).sum().backward()
    assert all(parameter.grad is None for parameter in layer.parameters())
    with pytest.raises(UnsupportedPlanError, match=r"body: .*gives no gradient.*call train\(\)"):
        FreezePlan().train("all").freeze('path:"body.param_0"').apply(model)
    FreezePlan().freeze("body").apply(model)


def test_what_trains_all_of_a_loaded_program_leaves_its_statistics_alone(tmp_path):
    _, layer = loaded(tmp_path)
    found = {n: p.stop_gradient for n, p in layer.named_parameters()}
    handle = uf.apply(FreezePlan().train("all"), layer)
    assert {n: p.stop_gradient for n, p in layer.named_parameters()} == found
    handle.remove()
    uf.freeze(layer, "all")
    assert all(p.stop_gradient for p in layer.parameters())


OLD_FORMAT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
import paddle
from tests.support.saved_program import loaded
from unifreeze import FreezePlan
from unifreeze._protocol import load_backend
from unifreeze.errors import UnsupportedPlanError

net, layer = loaded(Path({folder!r}))
assert type(layer).__name__ == "TranslatedLayer"
spec = load_backend("paddle").describe(layer)
assert len(spec) == 8 and len(spec.states) == 4, (len(spec), len(spec.states))
try:
    FreezePlan().freeze("all").apply(layer)
except UnsupportedPlanError as error:
    print(error)
FreezePlan().freeze("all").with_norm_stats("update").apply(layer).remove()
model = paddle.nn.LayerDict({{"body": layer, "head": paddle.nn.Linear(2, 1)}})
layer.eval()
handle = FreezePlan().only("path:\\"head\\"").apply(model)
before = [p.numpy().tobytes() for p in layer.parameters()]
model.train()
model["head"](layer(paddle.randn([5, 4]))).sum().backward()
assert before == [p.numpy().tobytes() for p in layer.parameters()]
print(handle.verify())
"""


def test_a_program_of_the_old_format_that_would_move_statistics_is_refused(tmp_path):
    """Its own `train()` switches it over; a model's around it leaves it as it is."""
    code = OLD_FORMAT.format(root=str(ROOT), folder=str(tmp_path))
    script = tmp_path / "run.py"
    script.write_text(code)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FLAGS_enable_pir_api": "0"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "its saved program updates its statistics" in run.stdout
    assert "unchanged: 8 frozen parameters" in run.stdout


# What is no model ---------------------------------------------------------------------------------


@pytest.fixture
def static():
    paddle.enable_static()
    yield
    paddle.disable_static()


def test_a_static_program_is_refused_in_plain_words(static):
    program = paddle.static.Program()
    with pytest.raises(DescriptionError, match=r"static program has no layers[^\0]*dynamic mode"):
        uf.freeze(program, "all")
    with pytest.raises(DescriptionError, match="static program"):
        FreezePlan().only("head").apply(paddle.static.default_main_program())


def test_a_layer_built_in_static_mode_is_refused_in_plain_words(static):
    with paddle.static.program_guard(paddle.static.Program(), paddle.static.Program()):
        net = Net()
        with pytest.raises(DescriptionError, match=r"variable of a static program[^\0]*disable_st"):
            uf.freeze(net, "all")


@pytest.mark.parametrize(
    "given", [lambda: paddle.zeros([2]), lambda: paddle.optimizer.lr.StepDecay(0.1, 3)], ids=str
)
def test_what_is_no_layer_of_paddle_is_refused(given):
    with pytest.raises(TargetError, match=r"is not a model[^\0]*paddle\.nn\.Layer"):
        uf.freeze(given(), "all")


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.body(x))


def test_what_is_no_module_of_pytorch_is_refused():
    exported = torch.export.export(TorchNet(), (torch.zeros(2, 4),))
    for given in (exported, torch.zeros(2), torch.optim.SGD(TorchNet().parameters(), 0.1)):
        with pytest.raises(TargetError, match=r"is not a model[^\0]*torch\.nn\.Module"):
            uf.freeze(given, "all")
    handle = uf.freeze(exported.module(), 'path:"body"')
    assert handle.resolution.counts() == (8, 23)
    assert np.all(np.asarray(handle.resolution.spec.found))
