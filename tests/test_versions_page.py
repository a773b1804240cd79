"""The page of supported versions agrees with CI's pins and the package's classifiers."""

import re
import tomllib

import pytest

from tests.support.doc_pages import CHINESE, ENGLISH, ROOT

PAGES = [folder / "versions.md" for folder in (ENGLISH, CHINESE)]
PACKAGES = {
    "PyTorch": "torch",
    "PaddlePaddle": "paddlepaddle",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "PaddleNLP": "paddlenlp",
    "PEFT": "peft",
    "accelerate": "accelerate",
    "Lightning": "lightning",
    "NumPy": "numpy",
}
FULLY = {"en": "tested, 20", "zh": "已测试"}


def rows(page):
    """The cells of each line of the tables, without heads."""
    lines = re.findall(r"^\| (.+) \|$", page.read_text("utf-8"), re.M)
    return [re.split(r" ?\| ?", line) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_what_is_called_tested_is_what_ci_installs(page):
    pins = dict(re.findall(r"^(\S+)==(\S+)", (ROOT / "ci" / "constraints.txt").read_text(), re.M))
    tested = {
        row[0]: row[1]
        for row in rows(page)
        if row[0] in PACKAGES and row[2].startswith(FULLY[page.parent.name])
    }
    assert tested == {name: pins[package] for name, package in PACKAGES.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_pythons_of_the_package_are_tested_and_no_others(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [name.rpartition(" ")[2] for name in project["classifiers"] if ":: 3." in name]
    dated = [row[0] for row in rows(page) if re.fullmatch(r"3\.\d+", row[0])]
    assert dated == declared
    assert all("20" in row[1] for row in rows(page) if row[0] in declared)


def test_both_languages_name_the_same_releases_and_days():
    def figures(page):
        return [re.findall(r"\d+(?:[.-]\d+)+", " ".join(row)) for row in rows(page)]

    assert figures(PAGES[0]) == figures(PAGES[1])
