"""The page of wrappers has a row for each that is tried, and says what its cells say."""

from __future__ import annotations

import pytest

from tests.support.matrix.cells import COLUMNS
from tests.support.matrix.page import PAGE, cells_on_page
from tests.support.matrix.table import fill_all, rows
from tests.support.torch_processes import ENGINES

ALL_WORK = {
    "PyTorch": [
        *(
            name if name.startswith("FSDP2") else f"`DistributedDataParallel`: {name}"
            for name in ENGINES
        ),
        "accelerate",
        "transformers' `Trainer`",
        "Lightning's `Trainer`, `ddp`",
    ],
    "Paddle": [
        "`paddle.DataParallel`",
        "`paddle.DataParallel`: find_unused_parameters",
        "`paddle.DataParallel` and `LookAhead`",
        "fleet: data parallel",
        "fleet: sharding stage 1",
        "PaddleNLP's `Trainer`",
        "`paddle.Model.fit`",
    ],
}


@pytest.fixture(scope="module")
def page():
    return cells_on_page(PAGE.read_text(encoding="utf-8"))


def test_every_row_is_on_the_page_once(page):
    keys = [(row.framework, row.name) for row in rows()]
    assert len(keys) == len(set(keys))
    assert list(page) == keys


def test_no_cell_is_silent(page):
    for cells in page.values():
        assert list(cells) == list(COLUMNS)
        for text in cells.values():
            start = text.partition(":")[0]
            assert start in {"works", "refused", "not run here"}
            assert text == "works" or text.partition(": ")[2]


@pytest.mark.parametrize(
    ("framework", "name"), [(key, name) for key, names in ALL_WORK.items() for name in names]
)
def test_engines_whose_phases_change_in_several_processes_all_work(framework, name, page):
    assert set(page[framework, name].values()) == {"works"}


def test_the_fast_rows_come_out_as_the_page_says(page):
    chosen = [row for row in rows() if row.fast and row.processes == 1]
    assert len(chosen) > 8
    for key, cells in fill_all(chosen).items():
        assert cells == page[key], key
