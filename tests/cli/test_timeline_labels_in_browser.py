"""The labels of the page's timeline stay in view, in a real browser: `make pages`."""

import pytest

from tests.support.browser import Browser
from tests.support.pages import page_of
from tests.support.trees import linear, module, norm, spec
from unifreeze._plan import FreezePlan

pytestmark = pytest.mark.browser
LONG = "a_name_that_is_much_longer_than_a_telephone_is_wide_at_any_size"
GRADUAL = FreezePlan().phase("down", gradual_unfreezing={"every": {"epochs": 2}})
PAGES = {
    "three phases": page_of(),
    "ten phases": page_of(plan=GRADUAL),
    "a long name": page_of(
        spec(module("Net", **{LONG: linear(8, 8)}, norm=norm(8), head=linear(8, 2))),
        FreezePlan()
        .phase("first", rules={"only": "head"})
        .phase("all", at={"epoch": 1}, add={"train": "all"}),
    ),
}
LABELS = """[...document.querySelectorAll('.timeline .labels span')].map(label => {
  const box = label.getBoundingClientRect(), y = (box.top + box.bottom) / 2;
  const seen = document.elementFromPoint(box.left + 2, y) === label;
  const cells = [...document.querySelectorAll('.timeline svg rect[class^="uf-"]')]
    .map(cell => cell.getBoundingClientRect())
    .filter(cell => cell.height && cell.height < 23 && cell.top <= y && y <= cell.bottom);
  return {text: label.title, shown: label.innerText, seen, left: box.left, right: box.right,
          cells: cells.length};
})"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture(params=PAGES)
def open_page(request, browser, tmp_path):
    (tmp_path / "report.html").write_text(PAGES[request.param], encoding="utf-8")

    def open_(**window):
        browser.open(tmp_path / "report.html", **window)
        assert browser.complaints() == []

    return open_


def scroll(browser, share):
    timeline = "document.querySelector('.timeline')"
    browser.run(f"{timeline}.scrollLeft = {share} * {timeline}.scrollWidth")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_stay_in_view_beside_their_rows(open_page, browser, width, scheme):
    open_page(width=width, scheme=scheme)
    for share in (0, 0.4, 1):
        scroll(browser, share)
        labels = browser.run(LABELS)
        assert labels[-1]["text"] == "learning rate"
        for label in labels:
            assert label["seen"], label
            assert 0 <= label["left"] < label["right"] < 0.45 * width, label
        assert all(label["cells"] for label in labels[:-1])
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_the_column_of_a_phase_that_is_entered_is_not_behind_the_labels(open_page, browser):
    open_page(width=390)
    count = browser.run("document.querySelectorAll('.uf-cover').length")
    for phase in [*range(count), *reversed(range(count))]:
        browser.run(f"enter({phase})")
        column = browser.run(
            "(c => ({left: c.left, right: c.right}))"
            "(document.querySelector('.uf-cover.now').getBoundingClientRect())"
        )
        edge = browser.run("document.querySelector('.labels').getBoundingClientRect().right")
        assert column["right"] > edge + 20
        assert column["left"] < 390 - 20
        if column["right"] - column["left"] < 390 - edge - 20:
            assert edge - 1 <= column["left"]
            assert column["right"] <= 390
