"""README.md as the package index shows it, by `ci/index_readme.py`, which runs at each build."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES, FILES = "https://example.org/blob", "https://example.org/raw"
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def hook():
    place = importlib.util.spec_from_file_location("index_readme", ROOT / "ci" / "index_readme.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def targets(text):
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def test_with_an_address_every_link_is_absolute_and_leads_to_a_file(hook):
    text = hook.for_the_index(README, pages=PAGES, files=FILES)
    assert len(targets(text)) == len(targets(README)) > 10
    for target in targets(text):
        base = FILES if target.startswith(FILES) else PAGES
        path = target.removeprefix(f"{base}/").partition("#")[0]
        assert (ROOT / path).exists(), target
    assert f"({FILES}/docs/pictures/freeze-map.svg)" in text
    assert hook.relative_links(text) == []


def test_without_an_address_links_are_words(hook):
    text = hook.for_the_index(README)
    assert targets(text) == []
    assert hook.relative_links(text) == []
    assert "![" not in text
    assert "[Getting started]" not in text
    assert "Getting started says which packages" in text


def test_only_links_are_changed(hook):
    text = hook.for_the_index(README)
    assert re.findall(r"^```.*?^```$", text, re.M | re.S) == re.findall(
        r"^```.*?^```$", README, re.M | re.S
    )
    code = "```python\nrows[0](one)\n```\n`x[1](y)`, [a](b.md), [c](https://d.e), [f](#g)"
    plain = "```python\nrows[0](one)\n```\n`x[1](y)`, a, [c](https://d.e), [f](#g)"
    assert hook.for_the_index(code) == plain
    assert hook.relative_links(code) == ["b.md"]


def test_links_that_were_left_are_found(hook):
    assert len(hook.relative_links(README)) == len(targets(README))
