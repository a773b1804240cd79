"""docs/en/pictures.md: its code runs, and its pictures are the ones that this code draws.

After a change that is meant, `python tests/test_pictures_page.py` draws them anew; look at them.
"""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from examples.torchvision_on_cpu import import_torchvision  # noqa: E402

PAGE = (ROOT / "docs" / "en" / "pictures.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "examples" / "quickstart" / "pictures.py"
PICTURES = ROOT / "docs" / "pictures"


def draw(folder):
    """Run the script of the page, as `python pictures.py FOLDER` does."""
    import_torchvision()
    arguments, sys.argv = sys.argv, [str(SCRIPT), str(folder)]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        sys.argv = arguments


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder)
    return folder


def test_the_code_that_is_shown_is_the_file():
    shown = re.search(r"<!-- examples/quickstart/pictures.py -->\n```python\n(.*?)```", PAGE, re.S)
    code = SCRIPT.read_text(encoding="utf-8")
    assert shown[1] == re.sub(r'\A""".*?"""\n+', "", code, flags=re.S)


@pytest.mark.parametrize("name", re.findall(r"\(../pictures/(.*?)\)", PAGE))
def test_a_picture_is_as_the_code_draws_it(drawn, name):
    assert (PICTURES / name).read_text("utf-8") == (drawn / name).read_text("utf-8")


def test_the_page_shows_three_pictures_and_the_options_that_are_there(drawn):
    assert (
        len(re.findall(r"!\[.+\]\(../pictures/.*\.svg\)", PAGE)) == len(list(drawn.iterdir())) == 3
    )
    assert "--html report.html" in PAGE
    assert "make pages" in PAGE


if __name__ == "__main__":
    draw(PICTURES)
