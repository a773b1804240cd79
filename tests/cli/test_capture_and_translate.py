"""`capture` and `translate` on the command line: what they write, print and refuse."""

import json
import sys
from importlib import import_module

import numpy as np
import pytest
import torch

import unifreeze as uf
from unifreeze._plan import FreezePlan
from unifreeze._protocol import registry

NETS = """
from torch import nn
import paddle

class Block(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 4), nn.Linear(4, 4))

class Net(nn.Module):
    def __init__(self, *, frozen=0):
        super().__init__()
        self.body = nn.ModuleList(Block() for _ in range(4))
        self.fc = nn.Linear(4, 2)
        for parameter in self.body[:frozen].parameters():
            parameter.requires_grad = False

    def forward(self, x):
        for layer in self.body:
            x = layer(x)
        return self.fc(x)

class Cut(Net):
    def forward(self, x):
        return self.fc(super().forward(x)[:, :1].detach().expand(-1, 4))

class PaddleBlock(paddle.nn.Sequential):
    def __init__(self):
        super().__init__(paddle.nn.Linear(4, 4), paddle.nn.Linear(4, 4))

class PaddleNet(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.trunk = paddle.nn.LayerList([PaddleBlock() for _ in range(4)])
        self.out = paddle.nn.Linear(4, 2)

    def forward(self, x):
        for layer in self.trunk:
            x = layer(x)
        return self.out(x)
"""


@pytest.fixture(autouse=True)
def own_process(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_overrides", {})
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "carried_nets.py").write_text(NETS, encoding="utf-8")
    yield
    sys.modules.pop("carried_nets", None)


def test_capture_prints_a_plan_that_loads(cli):
    code, out, _ = cli("capture", "carried_nets:Net(frozen=3)")
    assert code == 0
    assert FreezePlan.from_yaml(out) == FreezePlan().freeze("blocks[:3]")
    assert "# freezes 12 parameters, 120 values: body.0, body.1, body.2" in out


def test_capture_writes_a_file_and_json(cli, tmp_path):
    code, out, _ = cli("capture", "carried_nets:Net(frozen=3)", "-o", "plan.yaml")
    assert (code, out) == (0, "1 rule; written to plan.yaml\n")
    assert FreezePlan.load("plan.yaml") == FreezePlan().freeze("blocks[:3]")
    code, out, _ = cli("capture", "carried_nets:Net(frozen=3)", "--native", "--json", "-")
    assert code == 0
    assert json.loads(out)["plan"]["rules"] == [{"freeze": "body[:3]"}]


def test_capture_with_a_batch_sees_what_is_cut_off(cli):
    code, out, _ = cli("capture", "carried_nets:Cut", "--batch", "float32[2,4]", "--json", "-")
    assert code == 0
    assert json.loads(out)["plan"]["rules"] == [{"only": "head"}]
    assert "something cuts the gradient" in json.loads(out)["notes"][0]


def test_translate_says_it_neutrally_and_in_the_other_names(cli):
    FreezePlan().freeze("body[0:3]").save("plan.yaml")
    models = ("--from", "carried_nets:Net", "--to", "carried_nets:PaddleNet")
    code, out, _ = cli("translate", "plan.yaml", *models)
    assert code == 0
    assert FreezePlan.from_yaml(out) == FreezePlan().freeze("blocks[:3]")
    code, out, _ = cli("translate", "plan.yaml", *models, "--native", "-o", "theirs.yaml")
    assert code == 0
    assert FreezePlan.load("theirs.yaml") == FreezePlan().freeze("trunk[:3]")


def test_translate_refuses_what_cannot_be_used(cli):
    FreezePlan().freeze("nowhere").save("plan.yaml")
    code, _, error = cli("translate", "plan.yaml", "--from", "carried_nets:Net", "--to", "x:y")
    assert code == 2
    assert "there is no module 'x'" in error
    models = ("--from", "carried_nets:Net", "--to", "carried_nets:PaddleNet")
    code, _, error = cli("translate", "plan.yaml", *models)
    assert code == 2
    assert "'nowhere' matches none" in error


@pytest.fixture
def paired(tmp_path):
    """The file of the two networks' pairing."""
    nets = import_module("carried_nets")
    pairing = uf.pair(nets.Net(), nets.PaddleNet(), batch=np.ones((2, 4), "float32"))
    pairing.save(tmp_path / "pairing.json")
    return "pairing.json"


def test_capture_by_a_pairing_writes_a_selector_for_each_framework(cli, paired):
    code, out, error = cli("capture", "carried_nets:Net(frozen=3)", "--pairing", paired)
    assert code == 0, error
    plan = FreezePlan.from_yaml(out)
    assert plan.captured is None
    (rule,) = plan.rules
    assert [name for name, _ in rule.choice] == ["paddle", "torch"]
    resolution = plan.resolve(import_module("carried_nets").PaddleNet())
    assert {path.split(".")[1] for path in resolution.frozen_paths} == {"0", "1", "2"}


def test_a_captured_plan_says_what_it_came_to(cli):
    code, out, _ = cli("capture", "carried_nets:Net(frozen=3)")
    assert code == 0
    assert 'captured:\n  framework: "torch"\n  order: "registration"\n' in out
    code, out, _ = cli("capture", "carried_nets:Net(frozen=3)", "--batch", "float32[2,4]")
    assert code == 0
    assert "order:" not in out


def test_translate_by_a_pairing_and_in_order_of_execution(cli, paired):
    FreezePlan().freeze("body.1.0").save("plan.yaml")
    models = ("--from", "carried_nets:Net", "--to", "carried_nets:PaddleNet")
    for more in (("-p", paired), ("--batch", "float32[2,4]"), ("-p", paired, "--native")):
        code, out, error = cli("translate", "plan.yaml", *models, *more)
        assert code == 0, error
        resolution = FreezePlan.from_yaml(out).resolve(
            import_module("carried_nets").PaddleNet(),
            batch=np.ones((2, 4), "float32") if "--batch" in more else None,
        )
        assert resolution.frozen_paths == ("trunk.1.0.weight", "trunk.1.0.bias")


def test_a_pairing_of_other_models_cannot_be_used(cli, tmp_path):
    two = [torch.nn.Linear(4, 2) for _ in range(2)]
    uf.pair(*two, batch=np.ones((2, 4), "float32")).save(tmp_path / "other.json")
    code, _, error = cli("capture", "carried_nets:Net(frozen=3)", "-p", "other.json")
    assert code == 2
    assert "the pairing is not of this model" in error
