"""What the README shows is what the examples say, and what they print."""

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import unifreeze as uf

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = ROOT / "examples" / "quickstart"


def block_after(marker):
    found = re.search(re.escape(marker) + r"\n```\w+\n(.*?)```", README, re.S)
    assert found, f"the README has no block after {marker}"
    return found[1]


def code_of(file):
    """A program without its first docstring."""
    return re.sub(r'\A""".*?"""\n+', "", file.read_text(encoding="utf-8"), flags=re.S)


def output_of(file):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(file), run_name="__main__")
    return out.getvalue()


@pytest.fixture
def torchvision():
    from examples.torchvision_on_cpu import import_torchvision

    return import_torchvision()


def test_the_readme_shows_the_quickstart_and_what_it_prints(torchvision):
    file = QUICKSTART / "torch_resnet.py"
    assert block_after("<!-- examples/quickstart/torch_resnet.py -->") == code_of(file)
    shown = block_after("<!-- output of examples/quickstart/torch_resnet.py -->")
    assert shown == output_of(file)


def test_the_readme_shows_a_run_with_phases(torchvision):
    file = QUICKSTART / "torch_phases.py"
    plan = (QUICKSTART / "phases.yaml").read_text(encoding="utf-8")
    assert block_after("<!-- examples/quickstart/phases.yaml -->") == plan
    assert block_after("<!-- examples/quickstart/torch_phases.py -->") == code_of(file)
    assert block_after("<!-- output of examples/quickstart/torch_phases.py -->") == output_of(file)


def test_the_readme_shows_a_generator_as_a_timeline():
    file = QUICKSTART / "generators.yaml"
    assert block_after("<!-- examples/quickstart/generators.yaml -->") == file.read_text("utf-8")
    said = f"explain examples/quickstart/{file.name} paddle.vision.models:resnet18"
    command = [sys.executable, "-W", "ignore", "-m", "unifreeze", *said.split()]
    # Readline, which pytest imports, gives children a COLUMNS that os.environ does not have.
    plain = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=plain)
    lines = run.stdout.partition("\n\n")[0].splitlines()
    shown = block_after(f"<!-- output of unifreeze {said} -->").splitlines()
    assert [line.rstrip() for line in lines] == shown


def cells(table):
    """The words of each line, and its numbers that no two machines agree on."""
    lines = [re.split(r"\s{2,}", line) for line in table.splitlines()]
    return [[*line[:3], line[-1]] for line in lines], [line[3:-1] for line in lines[2:]]


@pytest.fixture
def threads():
    import torch

    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def test_the_readme_shows_a_comparison_of_plans(threads):
    file = ROOT / "examples" / "compare" / "compare_torch.py"
    assert code_of(file).endswith(
        "\n\n" + block_after("<!-- examples/compare/compare_torch.py -->")
    )
    shown, measured = cells(block_after("<!-- output of examples/compare/compare_torch.py -->"))
    words, again = cells(output_of(file))
    assert words == shown
    for (accuracy, _), (other, seconds) in zip(measured, again, strict=True):
        assert float(accuracy.split()[0]) == pytest.approx(float(other.split()[0]), abs=0.03)
        assert float(seconds.split()[0]) > 0


def test_a_comparison_counts_the_same_in_paddle():
    shown, _ = cells(block_after("<!-- output of examples/compare/compare_torch.py -->"))
    words, measured = cells(output_of(ROOT / "examples" / "compare" / "compare_paddle.py"))
    assert words[1:] == shown[1:]
    assert len(measured) == 3


def test_the_readme_shows_a_plan_to_start_from(torchvision):
    file = QUICKSTART / "torch_suggest.py"
    assert block_after("<!-- examples/quickstart/torch_suggest.py -->") == code_of(file)
    assert block_after("<!-- output of examples/quickstart/torch_suggest.py -->") == output_of(file)


def test_the_readme_shows_what_was_trained_as_a_file(torchvision):
    file = QUICKSTART / "save_trained.py"
    assert block_after("<!-- examples/quickstart/save_trained.py -->") == code_of(file)
    assert block_after("<!-- output of examples/quickstart/save_trained.py -->") == output_of(file)


def test_the_readme_shows_how_weights_are_carried_over(torchvision):
    file = QUICKSTART / "port_resnet.py"
    assert block_after("<!-- examples/quickstart/port_resnet.py -->") == code_of(file)
    assert block_after("<!-- output of examples/quickstart/port_resnet.py -->") == output_of(file)


def test_the_quickstart_prints_the_same_counts_in_paddle(torchvision):
    one = output_of(QUICKSTART / "torch_resnet.py").splitlines()
    other = output_of(QUICKSTART / "paddle_resnet.py").splitlines()
    assert one[:-1] == other[:-1]
    assert one[-1].startswith("unchanged: 149 frozen parameters, 159")
    assert other[-1].startswith("unchanged: 149 frozen parameters, 106"), "Paddle has no counters"


def test_the_plan_in_the_readme_loads():
    plan = re.search(r"```yaml\n(unifreeze: 1.*?)```", README, re.S)[1]
    loaded = uf.FreezePlan.from_yaml(plan)
    assert [rule.verb for rule in loaded.rules] == ["only", "freeze"]
    assert len(loaded.groups) == 3


def test_every_selector_in_the_readme_parses():
    table = re.search(r"\| selector \| selects \|\n(.*?)\n\n", README, re.S)[1]
    selectors = [
        text
        for row in table.splitlines()[1:]
        for text in re.findall(r"`([^`]+)`", row.replace("\\|", "|").split(" | ")[0])
    ]
    assert len(selectors) > 40
    for text in selectors:
        uf.Selector(text.replace("…", "x"))


def test_every_command_in_the_readme_exists():
    usage = subprocess.run(
        [sys.executable, "-m", "unifreeze", "--help"], capture_output=True, text=True, check=True
    ).stdout
    section = README.split("## On the command line")[1].split("## Parity")[0]
    for command in set(re.findall(r"unifreeze (\w+)", section)):
        assert re.search(rf"\b{command}\b", usage), command


def test_every_file_the_readme_names_is_there():
    for name in re.findall(r"`((?:examples|tests|backends|ci)/[\w./-]+)`", README):
        assert (ROOT / name).exists(), name


def test_the_readme_has_each_trainer_and_its_program():
    section = README.split("### In a trainer")[1].split("## Choosing")[0]
    programs = (ROOT / "examples" / "trainers").glob("*.py")
    assert set(re.findall(r"`(\w+\.py)`", section)) == {file.name for file in programs}
    for name in re.findall(r"`(unifreeze_\w+\.trainers\.\w+)\.FreezeCallback", section):
        assert (ROOT / "backends" / Path(*name.split("."))).with_suffix(".py").is_file()
