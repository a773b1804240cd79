"""The page of `explain --html` in a real browser: mouse, keyboard, both schemes, wide and narrow.

It needs Chromium, and fails without it: `make pages`.
"""

import re

import pytest

from tests.support.browser import Browser
from tests.support.pages import TIED, hostile_page, page_of, text_net
from unifreeze._plan import FreezePlan

pytestmark = pytest.mark.browser
WINDOWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture
def page(browser, tmp_path):
    """Open the page of a plan with three phases; returns how to open others."""

    def write(html, **window):
        (tmp_path / "report.html").write_text(html, encoding="utf-8")
        browser.open(tmp_path / "report.html", **window)
        assert browser.complaints() == []

    write(page_of())
    return write


def text(browser, selector):
    return browser.run(f"document.querySelector({selector!r}).innerText")


def count(browser, selector):
    return browser.run(f"document.querySelectorAll({selector!r}).length")


def contrast(one, other):
    """The ratio that WCAG 2 defines, of two colours as `rgb(…)`."""

    def light(colour):
        shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_the_page_fits_and_can_be_read(page, browser, width, scheme):
    page(page_of(), width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    shown = "[...document.querySelectorAll('.map svg')].filter(s => s.clientWidth)"
    assert browser.run(f"{shown}.map(s => s.dataset.layout)") == [
        "wide" if width > 700 else "narrow"
    ]
    assert 0.9 * width < browser.run(f"{shown}[0].getBoundingClientRect().width") <= width
    style = "getComputedStyle(document.querySelector({!r})).{}"
    back = browser.run(style.format("body", "backgroundColor"))
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    for selector in ("body", ".counts", ".row.heads", ".about"):
        ink = browser.run(style.format(selector, "color"))
        assert contrast(ink, back) >= 4.5, selector
    ink = browser.run(style.format(".map text", "fill"))
    for look in "fhtn":
        fill = browser.run(
            "(r => { const e = document.querySelector('.leaves rect'); const old = "
            f"e.getAttribute('class'); e.setAttribute('class', 'uf-{look}'); const f = "
            "getComputedStyle(e).fill; e.setAttribute('class', old); return f })()"
        )
        assert contrast(ink, fill) >= 4.5, look


def test_the_slider_enters_a_phase_by_keyboard(page, browser):
    before = count(browser, ".map .wide .leaves .uf-n")
    browser.run("document.querySelector('#phase').focus()")
    browser.press("ArrowRight")
    assert text(browser, "output") == "2 of 3: top, at epoch 5, rate 0.0001"
    assert "41,802 of 76,802 values train" in text(browser, ".counts")
    assert "rule 2: train: blocks[-2:]" in text(browser, ".rules")
    assert count(browser, ".map .wide .leaves .uf-n") > before == 0
    assert browser.run("document.querySelector('#phase').getAttribute('aria-valuetext')")
    browser.press("End")
    assert text(browser, "output").startswith("3 of 3: all")
    assert count(browser, ".map .leaves .uf-f, .map .leaves .uf-h") == 0


def test_a_click_into_the_timeline_enters_that_phase(page, browser):
    browser.click(".timeline svg", at=(0.55, 0.4))
    assert text(browser, "output").startswith("2 of 3: top")
    assert browser.run("[...document.querySelectorAll('.uf-cover')].map(c => "
                       "c.classList.contains('now'))") == [False, True, False]  # fmt: skip


def test_the_map_is_walked_by_arrow_keys(page, browser):
    browser.run("document.querySelector('.map').focus()")
    browser.press("Home")
    assert text(browser, ".about").startswith("conv1 · 1 parameter, 216 values · frozen")
    assert "frozen by rule 1 (only: head)" in text(browser, ".about")
    browser.press("ArrowRight")
    assert text(browser, ".about").startswith("bn1")
    assert "statistics hold still" in text(browser, ".about")
    browser.press("ArrowDown")
    assert text(browser, ".about").startswith("layer1.0.")
    browser.press("ArrowUp")
    assert text(browser, ".about").startswith("conv1")
    browser.press("End")
    assert text(browser, ".about").startswith("fc · 2 parameters, 330 values · trainable")
    browser.press("Enter")
    assert browser.run("document.activeElement.innerText").startswith("fc.weight")
    assert count(browser, "details[open]") == 1


def test_the_mouse_shows_what_a_box_is(page, browser):
    browser.click(".map .wide .leaves rect:last-child")
    assert text(browser, ".about").startswith("fc · 2 parameters")
    assert browser.run("document.querySelector('.wide .chosen').getAttribute('width') > 0")


def test_a_search_finds_by_either_name_and_marks_the_map(page, browser):
    browser.press("/")
    browser.write("layer4 conv1")
    assert text(browser, ".found") == "2 of 62 parameters"
    assert "layer4.0.conv1.weight" in text(browser, ".results")
    assert "frozen by rule 1 (only: head)" in text(browser, ".results")
    assert count(browser, ".wide .leaves .hit") == 2
    assert not browser.run("document.querySelector('.units').checkVisibility()")
    browser.press("Escape")
    assert text(browser, ".found") == ""
    assert browser.run("document.querySelector('.units').checkVisibility()")
    browser.write("head/linear.0/bias")
    assert text(browser, ".found") == "1 of 62 parameters"
    assert text(browser, ".results").startswith("fc.bias")


def test_a_search_that_finds_nothing_says_so(page, browser):
    browser.press("/")
    browser.write("no such layer")
    assert text(browser, ".found") == "0 of 62 parameters"
    assert count(browser, ".results .row") == 0


def test_a_unit_unfolds_to_its_parameters_and_follows_the_phase(page, browser):
    browser.click("details.unit:last-of-type summary")
    assert browser.run("document.querySelector('details[open]').innerText.split('\\n')[0]")
    assert count(browser, "details[open] div.row") == 2
    assert "trainable by rule 1 (only: head)" in text(browser, "details[open]")
    browser.run("enter(2)")
    assert "trainable by rule 4 (train: all)" in text(browser, "details[open]")


def test_every_control_is_reached_by_tab(page, browser):
    reached = []
    for _ in range(8):
        browser.press("Tab")
        reached.append(browser.run("document.activeElement.className || document.activeElement.id"))
    assert reached[:4] == ["phase", "timeline scroll", "map", "search"]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outline) == "solid"


def test_names_that_look_like_markup_do_nothing(page, browser):
    page(hostile_page())
    assert browser.run("window.hurt === undefined")
    assert count(browser, "script") == 2
    browser.press("/")
    browser.write("hurt")
    assert "window.hurt=1" in text(browser, ".results")
    browser.run("enter(1)")
    assert browser.run("window.hurt === undefined")
    assert browser.complaints() == []


def test_a_plan_without_phases_is_a_page_without_a_slider(page, browser):
    page(page_of(plan=FreezePlan().only("head")))
    assert count(browser, "#phase") == 0
    browser.press("/")
    browser.write("fc")
    assert text(browser, ".found") == "2 of 62 parameters"


def test_a_tied_tensor_is_found_by_each_name(page, browser):
    page(page_of(text_net(), TIED))
    browser.press("/")
    browser.write("cls.decoder.weight")
    assert "text.embeddings.word_embeddings.weight = cls.decoder.weight" in text(
        browser, ".results"
    )


def test_without_a_script_the_page_still_says_what_it_can(page, browser, tmp_path):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=(tmp_path / "report.html").resolve().as_uri())
        browser.wait("document.readyState === 'complete' && document.title !== ''")
        assert browser.run("document.documentElement.dataset.ready === undefined")
        assert "need JavaScript" in text(browser, "main")
        assert count(browser, ".map .wide .leaves .uf-t") == 1
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
