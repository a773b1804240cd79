"""The page of public names: complete, and what it shows is so."""

import contextlib
import io
import logging
import re
import runpy
from pathlib import Path

import pytest

import unifreeze as uf
from unifreeze._plan.phase_document import PhaseDocument
from unifreeze._protocol import Batch

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "en" / "python.md").read_text(encoding="utf-8")
QUICKSTART = ROOT / "examples" / "quickstart"


def rows_after(heading):
    """The first two cells that hold something in each row of a table, by its heading."""
    table = PAGE.partition(heading)[2].partition("\n\n")[0].splitlines()[2:]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]


def block_after(marker):
    return re.search(re.escape(marker) + r"\n```\w+\n(.*?)```", PAGE, re.S)[1]


def run(file):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(file), run_name="__main__")
    return out.getvalue()


def test_every_public_name_is_listed_once_under_its_job():
    rows = rows_after("| job | name |")
    names = [re.fullmatch(r" `uf\.(\w+)` ", row[1])[1] for row in rows]
    assert sorted(names) == sorted(uf.__all__)
    assert rows[0][0].strip()
    assert all(row[2].strip() for row in rows)


def test_the_methods_that_are_named_are_there():
    for row in rows_after("| job | name |"):
        owner = getattr(uf, re.search(r"uf\.(\w+)", row[1])[1])
        for name in re.findall(r"(?<=`)\.(\w+)\(", row[2]):
            assert hasattr(owner, name), (owner, name)


def test_the_words_of_a_phase_are_listed():
    listed = re.findall(r"`(\w+)`", PAGE.partition("## Phases")[2].partition("<!--")[0])
    assert set(listed) == set(PhaseDocument.model_fields) - {"name"}


def test_the_phases_that_are_shown_are_those_of_the_file():
    file = QUICKSTART / "phases_in_python.py"
    code = re.sub(r'\A""".*?"""\n+', "", file.read_text(encoding="utf-8"), flags=re.S)
    assert block_after("<!-- examples/quickstart/phases_in_python.py -->") == code
    printed = run(file)
    assert block_after("<!-- output of examples/quickstart/phases_in_python.py -->") == printed
    assert uf.FreezePlan.from_yaml(printed) == uf.FreezePlan.load(QUICKSTART / "phases.yaml")


def test_every_text_of_a_batch_is_one(tmp_path, monkeypatch):
    import numpy as np

    np.savez(tmp_path / "batch.npz", np.ones(2))
    monkeypatch.chdir(tmp_path)
    texts = [eval(row[0].strip(" `")) for row in rows_after("| text | stands for |")]
    assert len(texts) == 6
    made = [Batch.of(text) for text in texts]
    assert all(batch.args or batch.kwargs for batch in made)
    assert np.array_equal(made[2].kwargs["ids"], made[3].kwargs["ids"])


@pytest.fixture
def torchvision():
    from examples.torchvision_on_cpu import import_torchvision

    return import_torchvision()


def test_what_is_logged_is_what_the_page_says(torchvision, caplog):
    with caplog.at_level(logging.INFO, "unifreeze"):
        run(QUICKSTART / "torch_phases.py")
    said = [one for one in caplog.records if one.name == "unifreeze"]
    lines = [f"{one.levelname}:{one.name}:{one.getMessage()}\n" for one in said]
    assert block_after("<!-- logged by examples/quickstart/torch_phases.py -->") == "".join(lines)
