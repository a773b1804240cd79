"""Every plan under examples/ decides, in both frameworks, what its golden file says.

After a change that is meant, `python -m tests.support.golden_plans --write`, and read the diff.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.golden_plans import (
    EXAMPLES,
    GOLDEN,
    PLANS,
    build,
    golden,
    golden_path,
    load,
    section,
    title,
)
from tests.support.zoo import FRAMEWORKS

ROOT = Path(__file__).resolve().parent.parent
PORTS = sorted(folder.name for folder in EXAMPLES.glob("port_*"))
EVERY = sorted(str(file.relative_to(EXAMPLES)) for file in EXAMPLES.rglob("*.yaml"))
FILES = [
    file
    for file in EVERY
    if file.partition("/")[0]
    not in (*PORTS, "quickstart", "several_processes", "suites", "trainers")
]
CASES = [(plan, network) for plan, networks in PLANS.items() for network in networks]


def test_every_plan_has_networks_and_a_golden_file_and_no_file_is_left_over():
    assert FILES
    assert sorted(PLANS) == FILES
    kept = {str(file.relative_to(GOLDEN).with_suffix(".yaml")) for file in GOLDEN.rglob("*.txt")}
    assert kept == set(FILES)


@pytest.mark.parametrize("plan", FILES)
def test_a_golden_file_shows_the_networks_its_plan_is_for(plan):
    assert list(golden(plan)) == [title(network) for network in PLANS[plan]]
    assert golden_path(plan).read_text(encoding="utf-8").endswith("\n")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("plan", "network"), CASES, ids=lambda value: str(value))
def test_a_plan_decides_what_its_golden_file_says(plan, network, framework):
    model = build(network, framework)
    assert section(plan, network, model) == golden(plan)[title(network)]


@pytest.mark.parametrize("plan", EVERY)
def test_a_plan_file_begins_with_a_line_on_when_to_use_it(plan):
    first, second = (EXAMPLES / plan).read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert second == "unifreeze: 1"


@pytest.mark.parametrize("plan", FILES)
def test_the_page_of_a_folder_lists_its_plans(plan):
    file = EXAMPLES / plan
    page = (file.parent / "README.md").read_text(encoding="utf-8")
    assert f"| `{file.name}` |" in page


def first_of(phases):
    """What a plan with phases begins with: a generator, or the first rule of its first phase."""
    made, rules = phases[0].generator, phases[0].rules
    return (
        str(rules[0]) if made is None else re.sub(r"\B([A-Z])", r"_\1", type(made).__name__).lower()
    )


@pytest.mark.parametrize("plan", [plan for plan in FILES if plan.startswith("recipes/")])
def test_the_page_of_the_recipes_shows_each_rule_as_it_stands_in_the_file(plan):
    rules = [str(rule) for rule in load(plan).rules] or [first_of(load(plan).phases)]
    page = (EXAMPLES / "recipes" / "README.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if f"| `{plan.partition('/')[2]}` |" in line)
    assert f"`{rules[0]}`".replace('"', "") in row.replace("\\|", "|").replace('"', "")


def port(name, *settings):
    """Run a full port as its page says, with few steps."""
    command = [sys.executable, "-W", "ignore", "-m", f"examples.{name}.port", *settings]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def check_port(name, steps, folder, *settings):
    done = port(name, "--steps", str(steps), "--out", str(folder), *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("holds", "FAILS"))]
    assert [line.partition(" ")[0] for line in lines] == ["holds"] * 6
    assert (folder / "losses.png").read_bytes().startswith(b"\x89PNG")
    rows = (folder / "losses.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == steps + 1
    return rows


def test_ernie_goes_to_transformers_is_trained_and_comes_back(tmp_path):
    rows = check_port("port_ernie", 12, tmp_path)
    assert rows[0] == "step,paddle,torch"
    assert {file.name for file in tmp_path.iterdir()} >= {"trained.pt", "trained_and_back.pdparams"}


@pytest.mark.slow
def test_resnet_goes_to_paddle_is_trained_and_comes_back(tmp_path):
    rows = check_port("port_resnet", 12, tmp_path)
    assert rows[0] == "step,torch,paddle"
    assert {file.name for file in tmp_path.iterdir()} >= {"trained.pdparams", "trained_and_back.pt"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "direction"),
    [("port_ernie", "torch-to-paddle"), ("port_resnet", "paddle-to-torch")],
)
def test_a_port_goes_the_other_way_too(name, direction, tmp_path):
    check_port(name, 12, tmp_path, "--direction", direction)


@pytest.mark.parametrize("name", PORTS)
def test_the_page_of_a_port_shows_its_plan_its_picture_and_six_checks_that_hold(name):
    page = (ROOT / "docs" / "en" / f"{name.replace('_', '-')}.md").read_text(encoding="utf-8")
    assert (EXAMPLES / name / "plan.yaml").read_text(encoding="utf-8") in page
    (output,) = re.findall(r"```text\n(.*?)```", page, re.S)
    assert output.count("\nholds ") == 6
    assert "FAILS" not in output
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert (ROOT / "docs" / "en" / picture).exists()
