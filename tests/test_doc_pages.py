"""README and pages: every code block runs, every link leads somewhere, both languages agree."""

import contextlib
import io
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

import unifreeze as uf
from tests.support.doc_pages import (
    CHINESE,
    ENGLISH,
    ROOT,
    anchor,
    blocks_of,
    code_of,
    headings_of,
    output_of,
    pages,
    printed_by,
    prose_of,
    text_of,
)
from tests.support.doctest_names import NAMES, ExampleNames
from unifreeze._cli import app

COMPARISON = "output of examples/compare/compare_torch.py"
SHOWN_AS_SEEN = {"file-formats", "how-it-works", "parity", "pictures", "port-ernie", "port-resnet"}
"""Pages with output that tests of their own hold, or that takes minutes to print again."""

BLOCKS = [block for page in pages() if page.parent != CHINESE for block in blocks_of(page)]
MARKED = [block for block in BLOCKS if block.marker]


def of(kind):
    """The marked blocks of a kind, each text once: pages may show the same."""
    found = {block.text: block for block in MARKED if re.match(kind, block.marker)}
    return [pytest.param(block, id=block.name) for block in found.values()]


@pytest.fixture
def torchvision():
    from examples.torchvision_on_cpu import import_torchvision

    return import_torchvision()


# What is shown of a file, and what it prints ------------------------------------------------------


@pytest.mark.parametrize("block", of("examples/"))
def test_a_file_is_shown_as_it_is(block):
    shown = code_of(ROOT / block.marker)
    if block.marker.startswith("examples/compare"):
        assert shown.endswith("\n\n" + block.text)
    else:
        assert block.text == shown


@pytest.mark.parametrize("block", of("part of "))
def test_a_part_of_a_file_is_in_it(block):
    assert block.text in text_of(ROOT / block.marker.removeprefix("part of "))


@pytest.mark.parametrize("block", of(r"output of examples/(?!compare)"))
def test_a_program_prints_what_is_shown(block, torchvision):
    assert block.text == output_of(ROOT / block.marker.removeprefix("output of "))


@pytest.mark.parametrize("block", of("output of unifreeze "))
def test_a_command_prints_what_is_shown(block):
    printed = printed_by(block.marker.removeprefix("output of ")).splitlines()
    lines = block.text.splitlines()
    assert printed[: len(lines)] == lines
    assert len(lines) == len(printed) or not block.marker.endswith("--help")


def test_the_page_of_the_command_line_has_every_command():
    named = re.findall(r"^## `unifreeze (\w+)`$", text_of(ENGLISH / "command-line.md"), re.M)
    assert sorted(named) == sorted(typer.main.get_command(app).commands)


def cells(table):
    """The words of each line, and its numbers that no two machines agree on."""
    lines = [re.split(r"\s{2,}", line) for line in table.splitlines()]
    return [[*line[:3], line[-1]] for line in lines], [line[3:-1] for line in lines[2:]]


@pytest.fixture
def threads():
    import torch

    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def test_a_comparison_of_plans_comes_out_as_shown(threads):
    (shown,) = [block.text for block in BLOCKS if block.marker == COMPARISON]
    words, measured = cells(shown)
    again, measured_again = cells(output_of(ROOT / "examples" / "compare" / "compare_torch.py"))
    assert again == words
    for (accuracy, _), (other, seconds) in zip(measured, measured_again, strict=True):
        assert float(accuracy.split()[0]) == pytest.approx(float(other.split()[0]), abs=0.03)
        assert float(seconds.split()[0]) > 0
    in_paddle, _ = cells(output_of(ROOT / "examples" / "compare" / "compare_paddle.py"))
    assert in_paddle[1:] == words[1:]


# Blocks of no file --------------------------------------------------------------------------------


def unmarked(language):
    found = {block.text: block for block in BLOCKS if not block.marker}
    chosen = [block for block in found.values() if block.language == language]
    return [pytest.param(block, id=block.name) for block in chosen]


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS}), ids=lambda page: page.stem
)
def test_python_runs(page):
    """Blocks of a page run one after the other: a later one may use what an earlier one made."""
    code = [b for b in blocks_of(page) if b.language == "python" and not b.marker]
    text = "".join(block.text for block in code)
    with tempfile.TemporaryDirectory() as folder:
        names = ExampleNames(Path(folder))
        told = {name: getattr(names, name) for name in NAMES if re.search(rf"\b{name}\b", text)}
        space = {"uf": uf, **told}
        with contextlib.redirect_stdout(io.StringIO()):
            for block in code:
                exec(compile(block.text, block.name, "exec"), space)


@pytest.mark.parametrize("block", unmarked("yaml"))
def test_yaml_is_a_plan(block):
    head = "" if "unifreeze: 1" in block.text else "unifreeze: 1\n"
    assert uf.FreezePlan.from_yaml(head + block.text).document()


@pytest.mark.parametrize("block", unmarked("toml"))
def test_toml_parses(block):
    assert tomllib.loads(block.text)


def test_every_block_is_of_a_kind_that_is_checked():
    plain = {"text", "sh", "mermaid"}
    for block in BLOCKS:
        page = block.page.stem
        checked = block.marker or block.language in {"python", "yaml", "toml"}
        assert (
            checked
            or block.language.startswith("{")
            or (block.language in plain and page in SHOWN_AS_SEEN)
        ), block.name


# Rules, selectors, commands and files that the text names -----------------------------------------


def test_every_plan_in_the_tables_for_newcomers_loads():
    page = text_of(ENGLISH / "coming-from.md").replace("\\|", "|")
    rules = re.findall(
        r"`((?:only|freeze|train|phases|groups): [^`]+)`", page.partition("## A loop")[2]
    )
    assert len(rules) > 35
    for text in rules:
        key, value = next(iter(yaml.safe_load(text).items()))
        data = {key: value} if key in {"phases", "groups"} else {"rules": [{key: value}]}
        assert uf.FreezePlan.from_document({"unifreeze": 1, **data})


def test_every_selector_of_the_language_parses():
    table = re.search(
        r"\| selector \| selects \|\n(.*?)\n\n", text_of(ENGLISH / "plan-language.md"), re.S
    )[1]
    selectors = [
        text
        for row in table.splitlines()[1:]
        for text in re.findall(r"`([^`]+)`", row.replace("\\|", "|").split(" | ")[0])
    ]
    assert len(selectors) > 40
    for text in selectors:
        uf.Selector(text.replace("…", "x"))


def test_every_command_that_is_named_exists():
    usage = subprocess.run(
        [sys.executable, "-m", "unifreeze", "--help"], capture_output=True, text=True, check=True
    ).stdout
    targets = set(re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.M))
    for page in pages():
        for command in set(re.findall(r"(?:^    |`)unifreeze (\w+)", text_of(page), re.M)):
            assert re.search(rf"\b{command}\b", usage), (page, command)
        for target in set(re.findall(r"(?:^    |`)make ([\w-]+)", text_of(page), re.M)):
            assert target in targets, (page, target)


def test_every_file_that_is_named_is_there():
    for page in pages():
        for name in re.findall(
            r"`((?:examples|tests|backends|ci|benchmarks)/[\w./-]+)`", prose_of(page)
        ):
            assert (ROOT / name).exists(), (page, name)


def test_each_trainer_has_its_program_and_its_callback():
    page = text_of(ENGLISH / "trainers.md")
    programs = (ROOT / "examples" / "trainers").glob("*.py")
    assert set(re.findall(r"`(\w+\.py)`", page)) == {file.name for file in programs}
    for name in re.findall(r"`(unifreeze_\w+\.trainers\.\w+)\.FreezeCallback", page):
        assert (ROOT / "backends" / Path(*name.split("."))).with_suffix(".py").is_file()


def test_the_quickstart_prints_the_same_counts_in_paddle(torchvision):
    one = output_of(ROOT / "examples/quickstart/torch_resnet.py").splitlines()
    other = output_of(ROOT / "examples/quickstart/paddle_resnet.py").splitlines()
    assert one[:-1] == other[:-1]
    assert one[-1].startswith("unchanged: 149 frozen parameters, 159")
    assert other[-1].startswith("unchanged: 149 frozen parameters, 106"), "Paddle has no counters"


# Links, lengths, languages ---------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", prose_of(page)):
        name, _, part = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if part:
            assert part in map(anchor, headings_of(file)), target


def test_the_readmes_are_short():
    for page in ROOT.glob("README*.md"):
        assert len(text_of(page).splitlines()) <= 150, page


TWINS = [(ENGLISH / page.name, page) for page in sorted(CHINESE.glob("*.md"))]
TWINS += [(ROOT / "README.md", ROOT / "README.zh-CN.md")]


def test_every_page_is_there_in_both_languages():
    tables = {"zoo", "families", "pairs", "pairs-formers", "porting-errors", "layers", "gpu"}
    tables |= {"wrappers", "fine-tuning"}
    english = {page.stem for page in ENGLISH.glob("*.md")} - tables
    assert {page.stem for page in CHINESE.glob("*.md")} == english


@pytest.mark.parametrize(("english", "chinese"), TWINS, ids=lambda page: page.name)
def test_both_languages_have_the_same_headings_and_code(english, chinese):
    def levels(page):
        return [heading.partition(" ")[0] for heading in headings_of(page)]

    def code(page):
        return [
            (block.marker, block.language, block.text)
            for block in blocks_of(page)
            if not block.language.startswith("{toctree}")
        ]

    assert levels(english) == levels(chinese)
    assert code(english) == code(chinese)
