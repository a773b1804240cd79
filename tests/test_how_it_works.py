"""The diagram in docs/en/how-it-works.md shows the calls that are made, no more and no fewer."""

import re
from pathlib import Path

import pytest

from tests.support import ways

PAGE = ways.PAGE.read_text(encoding="utf-8")


def test_the_diagram_is_what_a_trace_shows():
    assert ways.drawn(PAGE) == ways.traced()


def test_the_page_names_every_folder():
    for folder in (ways.ROOT / "unifreeze").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"`{folder.name}`" in PAGE, folder


def test_a_call_that_is_not_drawn_is_seen():
    def way() -> None:
        ways.uf.FreezePlan().freeze("head")

    assert (ways.USER, "_plan") in ways.calls(way)
    assert not ways.calls(lambda: None)


def test_the_page_is_where_it_says():
    assert Path("docs/en/how-it-works.md") == ways.PAGE.relative_to(ways.ROOT)


@pytest.mark.parametrize(
    "page",
    ["CONTRIBUTING.md", "backends/README.md", "docs/en/how-it-works.md", "docs/en/python.md"],
)
def test_files_that_a_page_names_exist(page):
    text = (ways.ROOT / page).read_text(encoding="utf-8")
    named = {Path(name).name for name in re.findall(r"`([\w/*.-]+\.(?:py|lark|sh))`", text)}
    folders = ("unifreeze", "backends", "tests", "ci", "examples")
    known = {file.name for folder in folders for file in (ways.ROOT / folder).rglob("*.*")}
    assert named <= known, named - known
