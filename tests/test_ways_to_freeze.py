"""The page on four ways to freeze says what happens, in both frameworks."""

import pytest

import unifreeze as uf
from tests.support.freezing_ways import FRAMEWORKS, PAGE, PRESSURES, WAYS, captured, outcome, page


def test_the_page_says_what_was_measured():
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_only_a_plan_holds_under_everything(framework):
    holding = {way: [outcome(framework, way, pressure) for pressure in PRESSURES] for way in WAYS}
    assert [way for way, cells in holding.items() if all(cells)] == ["a plan"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("way", WAYS)
def test_capture_makes_the_same_plan_of_each_way_in_both_frameworks(framework, way):
    wanted = uf.FreezePlan().only("head")
    found = captured(framework, way).plan
    assert found == (wanted if way == "a plan" else wanted.with_norm_stats("update"))
    bare = captured(framework, way, looking=False).plan.rules
    said = way in ("flag", "a plan")
    assert bare == (wanted if said else uf.FreezePlan().train("all")).rules
