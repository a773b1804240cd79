"""Every plan under examples/ decides, in both frameworks, what its golden file says.

After a change that is meant, `python -m tests.golden_plans --write`, and read the difference.
"""

import pytest
from golden_plans import EXAMPLES, GOLDEN, PLANS, build, golden, golden_path, load, section, title
from zoo import FRAMEWORKS

import unifreeze as uf

FILES = sorted(str(file.relative_to(EXAMPLES)) for file in EXAMPLES.rglob("*.yaml"))
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
    resolution = uf.resolve(load(plan), build(network, framework))
    assert section(plan, network, resolution) == golden(plan)[title(network)]


@pytest.mark.parametrize("plan", FILES)
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


@pytest.mark.parametrize("plan", [plan for plan in FILES if plan.startswith("recipes/")])
def test_the_page_of_the_recipes_shows_each_rule_as_it_stands_in_the_file(plan):
    rules = [str(rule) for rule in load(plan).rules]
    page = (EXAMPLES / "recipes" / "README.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if f"| `{plan.partition('/')[2]}` |" in line)
    assert f"`{rules[0]}`" in row.replace("\\|", "|").replace('"', "")
