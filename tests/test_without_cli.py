"""The library without `typer` and `rich`, which only the command needs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITHOUT = "import sys\nfor name in ('rich', 'typer', 'click'): sys.modules[name] = None\n"
MODEL = {
    "torch": """
from torch import nn, ones
from torch.optim import SGD
def make(): return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
""",
    "paddle": """
from paddle import nn, ones
from paddle.optimizer import SGD
def make(): return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
""",
}
WORK = """
import unifreeze as uf
model = make()
plan = uf.FreezePlan().only("head")
print(plan.resolve(model))
handle = plan.apply(model)
print(handle.verify())
print(handle.report())

def train(model, handle):
    optimizer = handle.optimizer(SGD, RATE=0.1)
    model(ones([3, 2])).sum().backward()
    optimizer.step()

def evaluate(model):
    return {"loss": 1.0}

sys.stderr.isatty = lambda: True  # where a bar would be shown
plans = {"head": plan, "全部": uf.FreezePlan().train("all")}
print(uf.compare_plans(plans, make, train, evaluate))
loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
assert not loaded & {"rich", "typer", "click"}
"""


def run(code, *words):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT + code, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_plans_reports_and_comparisons_need_neither(framework):
    rate = {"torch": "lr", "paddle": "learning_rate"}[framework]
    done = run(MODEL[framework] + WORK.replace("RATE", rate))
    assert done.returncode == 0, done.stderr
    assert "2 of 4 parameters trainable" in done.stdout
    assert "全部" in done.stdout


@pytest.mark.parametrize(
    "start", ["from unifreeze.__main__ import main; main()", "import runpy; RUN"]
)
def test_the_command_says_how_to_install_what_it_needs(start):
    done = run(start.replace("RUN", "runpy.run_module('unifreeze', run_name='__main__')"), "show")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "Error: the command unifreeze needs typer, which is not installed\n"
        "  hint: pip install 'unifreeze[cli]'\n"
    )


def test_another_missing_package_is_not_mistaken_for_the_extra():
    done = run(
        "sys.modules['lark'] = None\nfor name in ('rich', 'typer', 'click'):\n"
        "    del sys.modules[name]\nfrom unifreeze.__main__ import main; main()"
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "unifreeze[cli]" not in done.stderr


def test_the_command_is_the_one_that_says_so():
    import tomllib

    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert table["scripts"] == {"unifreeze": "unifreeze.__main__:main"}
    assert {line.partition(">")[0] for line in table["optional-dependencies"]["cli"]} == {
        "rich",
        "typer",
    }
