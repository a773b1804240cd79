"""Models as they are named on the command line: found, called, and refused with the reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.command_line import FOUR
from unifreeze._cli.find_model import load_model
from unifreeze.errors import TargetError, UnknownFrameworkError

ROOT = Path(__file__).resolve().parents[2]
PLACES = os.pathsep.join(map(str, [ROOT, ROOT / "backends"]))


def test_a_factory_takes_literals(cli, four_blocks):
    code, out, _ = cli("show", "four_blocks:net(8, blocks=2)")
    assert code == 0
    assert f"{(1 + 2 * 2) * (8 * 8 + 8) + 8 * 2 + 2} values" in out
    assert "blocks: 2 blocks in 1 stage" in out


def test_a_module_in_the_current_folder_is_found(four_blocks):
    model, backend = load_model("four_blocks:net")
    assert type(model).__name__ == "Net"
    assert backend.name == "torch"


def test_a_model_that_is_there_already_is_not_called(four_blocks):
    model, _ = load_model("four_blocks:ready")
    assert model is sys.modules["four_blocks"].ready


def test_a_seed_decides_a_models_values(four_blocks):
    def weights(seed):
        return load_model("four_blocks:net", seed=seed)[0].head.weight.detach()

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


LATE = """
def net():
    from tests.support import cached_nets

    return cached_nets.residual_net(cached_nets.framework_of({!r}))
"""
SUM = """
from unifreeze._cli.find_model import load_model

model, backend = load_model("late:net", seed=3)
print([float(backend.to_array(tensor).sum()) for tensor in backend.walk(model).tensors])
"""


def test_a_seed_decides_for_a_framework_that_the_factory_imports(framework, tmp_path):
    (tmp_path / "late.py").write_text(LATE.format(framework))
    printed = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SUM], cwd=tmp_path, text=True, check=True,
            env={**os.environ, "PYTHONPATH": PLACES}, capture_output=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert printed[0] == printed[1] != ""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nosuch:net", "there is no module 'nosuch'"),
        ("tests.support.kits.nosuch:net", "there is no module 'tests.support.kits.nosuch'"),
        ("torch.nosuch:net", "there is no module 'torch.nosuch'"),
        ("four_blocks:nett", "did you mean 'net'?"),
        ("four_blocks", "names no model"),
        ("four_blocks:", "names no model"),
        (":net", "names no model"),
        ("four_blocks:net(", "names no model"),
        ("four_blocks:net.left", "names no model"),
        ("four_blocks:net(width=open)", "are not literals"),
        ("four_blocks:net(**{'width': 2})", "are not literals"),
        ("four_blocks:net(height=2)", "does not build: TypeError"),
        ("four_blocks:broken", "does not build: RuntimeError: no weights today"),
    ],
)
def test_a_target_that_is_no_model_says_why(four_blocks, target, said):
    with pytest.raises(TargetError, match=said.replace("(", r"\(").replace("?", r"\?")):
        load_model(target)


def test_a_module_that_fails_on_import_says_why(tmp_path):
    (tmp_path / "four_blocks.py").write_text("1 / 0")
    with pytest.raises(TargetError, match="cannot be imported: ZeroDivisionError"):
        load_model(FOUR)


def test_what_is_no_model_lists_the_backends():
    with pytest.raises(UnknownFrameworkError, match=r"no backend claims a builtins\.dict"):
        load_model("builtins:dict")


def test_targets_end_a_command_with_exit_code_two(cli, head):
    code, out, err = cli("explain", head, "nosuch:net")
    assert (code, out) == (2, "")
    assert err.startswith("Error: TargetError: nosuch:net: there is no module 'nosuch'")
