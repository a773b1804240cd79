"""Recipes for suites are whole, and judging them finds what is wrong; `make suites` trains them."""

import json
import re
from pathlib import Path

import paddle
import pytest
import yaml
from paddle import nn

import unifreeze as uf
from examples.suites.moved import Moved, stop_gradient_after
from tests.support import suites
from tests.support.suites import RECIPES, ROOT, SUITES, fault_of

FOLDERS = sorted(folder.name for folder in RECIPES.iterdir() if (folder / "train.py").is_file())
PACKAGES = (ROOT / "ci" / "zoo_packages.sh").read_text(encoding="utf-8")
PAGE = (RECIPES / "README.md").read_text(encoding="utf-8")


def test_every_folder_is_a_suite():
    assert sorted(SUITES) == FOLDERS


@pytest.mark.parametrize("suite", FOLDERS)
def test_a_recipe_is_a_plan_a_configuration_and_three_lines(suite):
    folder = RECIPES / suite
    assert uf.FreezePlan.load(folder / "plan.yaml").document()["rules"]
    (configuration,) = [*folder.glob("*.yml"), *folder.glob("*.json")]
    text = configuration.read_text(encoding="utf-8")
    text = re.sub(r"!\w+ ", "", text)  # PaddleDetection's names of classes
    assert json.loads(text) if configuration.suffix == ".json" else yaml.safe_load(text)
    program = (folder / "train.py").read_text(encoding="utf-8")
    lines = [r"= (PLAN|uf\.FreezePlan\.load\(.*\))\.apply\(", r"handle\.verify\(\)"]
    lines.append(r"handle\.(check_optimizer|optimizer)\(")
    for line in lines:
        assert re.search(line, program)


@pytest.mark.parametrize("suite", FOLDERS)
def test_the_page_names_the_release_that_is_installed(suite):
    (release,) = re.findall(rf"\b{SUITES[suite]}==([\d.]+)", PACKAGES)
    assert f"| `{suite}` | `{SUITES[suite]}=={release}` |" in PAGE
    assert f"{suite} ({SUITES[suite]} {release})" in PAGE


def shown(suite):
    """What the page shows of a recipe."""
    (lines,) = re.findall(rf"^{suite} \(.*\)\n((?:  .*\n)+)", PAGE, re.M)
    return re.sub("^  ", "", lines, flags=re.M)


@pytest.mark.parametrize("suite", [suite for suite in FOLDERS if suite != "deepmd"])
def test_what_the_page_shows_would_pass(suite):
    assert fault_of(suite, shown(suite)) == ""


def test_what_is_wrong_with_a_recipe_is_said():
    good = shown("paddleseg")
    assert "verify()" in fault_of("paddleseg", good.replace("unchanged", "changed"))
    assert "nothing is said" in fault_of("paddleseg", good.replace("a plan: ", "the plan: "))
    for wrong in (
        "1 of 138 weights, 0 of 68",
        "0 of 138 weights, 2 of 68",
        "0 of 0 weights, 0 of 68",
    ):
        output = good.replace("0 of 138 weights, 0 of 68", wrong)
        assert "did not hold" in fault_of("paddleseg", output)
    assert "moved nothing" in fault_of("paddleseg", good.replace("68 of 68", "0 of 68"))
    assert "moved nothing" in fault_of("paddleseg", good.replace("138 of 138", "0 of 138"))
    held = "unchanged: 44 frozen parameters, 2 held state tensors\n"
    assert "verify()" in fault_of("deepmd", held)
    assert "not compared" in fault_of("deepmd", held * 2)
    assert fault_of("deepmd", held * 2 + "the same parameters train in both") == ""


def test_a_recipe_that_cannot_start_fails_and_one_without_time_is_named(monkeypatch, capsys):
    monkeypatch.setattr(suites, "command", lambda *_: ["false"])
    arguments = ["suites", "paddleseg", "--packages", "nowhere"]
    monkeypatch.setattr("sys.argv", arguments)
    assert suites.main() == 1
    assert "FAILED: exit code 1" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*arguments, "--budget", "0"])
    assert suites.main() == 0
    assert "paddleseg: NOT RUN" in capsys.readouterr().out
    monkeypatch.setattr(suites, "command", lambda *_: ["sleep", "60"])
    monkeypatch.setattr("sys.argv", [*arguments, "--budget", "1"])
    assert suites.main() == 0
    assert "paddleseg: NOT RUN" in capsys.readouterr().out


class Net(nn.Layer):
    """A backbone with a norm, which returns a list as those of suites do, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = (
            nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1D(4)),
            nn.Linear(4, 2),
        )
        self.backbone.register_forward_post_hook(lambda _layer, _inputs, x: [x])

    def forward(self, x):
        return self.head(self.backbone(x)[0])


def train(net, optimizer):
    for _ in range(2):
        net(paddle.randn([8, 4])).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()


@pytest.mark.parametrize(("after_steps", "weights"), [(0, 0), (1, 4)])
def test_the_advice_holds_weights_from_the_start_only_and_never_statistics(after_steps, weights):
    net = Net()
    optimizer = paddle.optimizer.Momentum(0.1, parameters=net.parameters(), weight_decay=0.1)
    moved = Moved(net.backbone, after_steps=after_steps)
    with stop_gradient_after(net.backbone, after_steps=after_steps):
        train(net, optimizer)
    assert str(moved) == f"{weights} of 4 weights, 2 of 2 statistics moved"


def test_a_plan_holds_both():
    net = Net()
    optimizer = paddle.optimizer.Momentum(0.1, parameters=net.parameters(), weight_decay=0.1)
    train(net, optimizer)
    moved = Moved(net.backbone)
    handle = uf.FreezePlan.load(RECIPES / "paddleseg" / "plan.yaml").apply(net)
    handle.check_optimizer(optimizer)
    train(net, optimizer)
    handle.verify()
    assert str(moved) == "0 of 4 weights, 0 of 2 statistics moved"


def test_the_packages_are_searched_for_releases(tmp_path):
    (tmp_path / "suites" / "deepmd_kit-3.2.0.dist-info").mkdir(parents=True)
    assert suites.release("deepmd", Path(tmp_path)) == "deepmd-kit 3.2.0"
