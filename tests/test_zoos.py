"""Judging words by what libraries say finds what is wrong; `make zoo` does the judging itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.trees import conv, linear, module, seq_block, spec, stack
from tests.support.zoos import judging, report
from tests.support.zoos.judging import Row, Unbuilt, difference, head_beside_blocks, order_of_blocks
from tests.support.zoos.report import Verdict, page, table

RIGHT, WRONG = Row("a task", "Net", "head"), Row("a task", "Odd", "head", "takes 1: stem.weight")


@pytest.fixture
def listed(monkeypatch, tmp_path):
    """A function that lists exceptions."""

    def write(*entries):
        rows = [
            f'[[zoo.{sort}]]\nmodel = "{model}"\nword = "head"\nreason = "so"\n'
            for sort, model in entries
        ]
        file = tmp_path / "exceptions.toml"
        file.write_text("\n".join(rows), encoding="utf-8")
        monkeypatch.setattr(report, "EXCEPTIONS", file)

    write()
    return write


def faults(*rows, limit=5):
    return list(Verdict("zoo", "1.0", rows, 2).faults(limit))


def test_a_fault_that_is_not_listed_is_told(listed):
    assert faults(RIGHT, WRONG) == ["zoo Odd, head: takes 1: stem.weight"]
    listed(("listed", "Odd"))
    assert faults(RIGHT, WRONG) == []
    listed(("known", "O*"))
    assert faults(RIGHT, WRONG) == []


def test_an_exception_that_is_right_by_now_is_told(listed):
    listed(("listed", "Net"))
    assert faults(RIGHT) == ["zoo Net, head: right, but listed as exception"]


def test_too_many_exceptions_are_told(listed):
    listed(("listed", "Odd"), ("listed", "O*"))
    assert faults(WRONG, limit=1) == ["zoo: 2 exceptions, of 1 that are allowed"]


def test_the_table_counts_and_the_page_gives_reasons(listed):
    listed(("listed", "Odd"))
    verdict = Verdict("zoo", "1.0", [RIGHT, WRONG, Unbuilt("a task", "New", "no file\n here")], 2)
    assert table([verdict])[2] == "| zoo 1.0 | a task | head | 1 | 2 | 1 |  |  |"
    written = page([replace(verdict)])
    assert "- zoo (listed), Odd, head: so." in written
    assert "- New: no file here" in written


def test_a_difference_names_what_is_taken_and_what_is_lacking():
    assert difference({"a", "b"}, {"a", "b"}) == ""
    assert difference({"a", "b"}, {"a"}) == "takes 1: b"
    assert difference({"a", "b"}, {"a"}, {"a", "b"}) == ""
    assert difference({"b"}, {"a"}, {"a", "b"}) == "lacks 1: a"


def net(**more):
    blocks = stack(*(seq_block() for _ in range(3)))
    return spec(module("Net", base=module("Base", stem=conv(3, 8), layers=blocks), **more))


def test_a_head_inside_what_holds_blocks_is_found(monkeypatch):
    made = net(fc=linear(8, 3))
    assert head_beside_blocks(made) == ""
    monkeypatch.setattr(judging, "selected", lambda *_: {"base.stem.weight", "fc.weight"})
    assert head_beside_blocks(made) == "1 beside blocks: base.stem.weight"


def test_an_order_of_blocks_that_contradicts_the_library_is_found():
    made = net()
    names = [name for name in made.tree.names if ".layers." in name]
    layers = {name: int(name.split(".")[2]) for name in names}
    assert order_of_blocks(made, layers) == ""
    turned = {name: 2 - layer for name, layer in layers.items()}
    assert order_of_blocks(made, turned) == "block 1 has layer 1, block 0 before it layer 2"
