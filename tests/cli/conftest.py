"""What the tests of the command line can use: commands, plan files, models and records."""

import json
import sys

import pytest

from tests.support.command_line import TOY_FOLDER
from unifreeze._cli import main
from unifreeze._evidence import make_record
from unifreeze._plan import FreezePlan
from unifreeze._protocol import ProbeConfig, registry

TOYS = ("toynet", "unifreeze_toynet", "toy_framework", "four_blocks")

FOUR_BLOCKS = """
from torch import nn

class Block(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Linear(width, width), nn.Linear(width, width))

class Net(nn.Module):
    def __init__(self, width=4, *, blocks=4):
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 2)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = Net(), Net()

net, two_runs = Net, Two

def broken():
    raise RuntimeError("no weights today")

ready = net()
"""


@pytest.fixture(autouse=True)
def own_process(monkeypatch, tmp_path):
    """What a command leaves behind in its process ends with the test."""
    monkeypatch.setattr(registry, "_overrides", {})
    monkeypatch.setattr(sys, "path", [TOY_FOLDER, *sys.path])
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.removeprefix("tests.support.").partition(".")[0] in TOYS:
            del sys.modules[name]


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run a command in this process; gives its exit code, and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["unifreeze", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return run


@pytest.fixture
def plan(tmp_path):
    """Write a plan file of these rules."""

    def write(*rules, **more):
        path = tmp_path / "plan.yaml"
        document = {"unifreeze": 1, "rules": [dict([rule]) for rule in rules], **more}
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.fixture
def head(plan):
    return plan(("only", "head"))


@pytest.fixture
def four_blocks(tmp_path):
    (tmp_path / "four_blocks.py").write_text(FOUR_BLOCKS)


@pytest.fixture
def saved(tmp_path, kits):
    """Write a record of a framework's plain model."""

    def save(framework, plan=None, **how):
        kit, path = kits[framework], tmp_path / f"{framework}{len(how)}.json"
        config = ProbeConfig(kit.plain.batch, **how)
        made = make_record(
            plan or FreezePlan().only("head"),
            kit.plain.make(),
            kit.backend,
            config,
            device="cpu",
            name="plain",
        )
        made.save(path)
        return path

    return save
