"""The notebooks run in both languages, and show what they printed when they were written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.run_notebook import code_of

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
ENGLISH = [file for file in NOTEBOOKS if ".zh-CN" not in file.name]


def cells_of(notebook):
    return json.loads(notebook.read_text("utf-8"))["cells"]


def chinese(notebook):
    return notebook.with_suffix(".zh-CN.ipynb")


@pytest.mark.parametrize("notebook", ENGLISH, ids=lambda file: file.stem)
def test_a_notebook_runs(notebook, tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.run_notebook", str(notebook)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(code_of(notebook))} cells ran" in run.stdout


def test_there_are_two_notebooks_in_two_languages():
    assert len(ENGLISH) == 2
    assert sorted([*ENGLISH, *map(chinese, ENGLISH)]) == NOTEBOOKS


@pytest.mark.parametrize("notebook", ENGLISH, ids=lambda file: file.stem)
def test_both_languages_have_the_same_cells(notebook):
    kinds, others = (
        [cell["cell_type"] for cell in cells_of(file)] for file in (notebook, chinese(notebook))
    )
    assert kinds == others
    assert code_of(notebook) == code_of(chinese(notebook))
    texts = ["".join(cell["source"]) for cell in cells_of(chinese(notebook))]
    prose = [text for text, kind in zip(texts, others, strict=True) if kind == "markdown"]
    assert all(re.search("[\u4e00-\u9fff]", text) for text in prose)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_shown_is_short_text_and_draws_itself(notebook):
    outputs = [output for cell in cells_of(notebook) for output in cell.get("outputs", [])]
    assert len(outputs) >= 5
    texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    assert max(map(len, texts)) < 2000
    drawn = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    assert any("<details" in html for html in drawn)
    assert str(Path.home()) not in notebook.read_text("utf-8")
