"""The page of file formats names tests that exist and limits that hold."""

from __future__ import annotations

import re
from pathlib import Path

from unifreeze._files import MOST_JSON
from unifreeze._plan import limits
from unifreeze._plan.selectors import regular_expressions as expressions
from unifreeze._plan.selectors.expression import MOST_OPERANDS
from unifreeze._plan.selectors.parse import LONGEST_NAME, LONGEST_NUMBER, MOST_CHARACTERS
from unifreeze._ports.weights import contents, safe_unpickling, shards

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "en" / "file-formats.md").read_text(encoding="utf-8")


def test_every_file_that_the_page_names_exists():
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", PAGE))
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "tests" / name).exists(), name


def test_the_limits_on_the_page_are_those_of_the_code():
    for limit in (
        f"{limits.MOST_CHARACTERS:,} characters, {limits.MOST_VALUES:,} values",
        f"{limits.DEEPEST} levels",
        f"{limits.MOST_PHASES:,} phases, {limits.MOST_PERIODS:,} periods",
        f"{MOST_CHARACTERS:,} characters, {LONGEST_NAME:,} in `at:` and `type:`, {MOST_OPERANDS} ",
        f"numbers of {LONGEST_NUMBER} characters",
        f"{MOST_JSON >> 20} MiB",
        f"{expressions.MOST_SECONDS:.0f} s, plus 1 s for every {expressions.NAMES_ALONE:,} names",
        f"{expressions.TOGETHER:.0f} s, plus 1 s for every {expressions.NAMES_TOGETHER:,} names",
        f"{safe_unpickling.MOST_STEPS:,} instructions",
        f"{shards.MOST_INDEX // 10**6} MB",
        f"{contents.MOST_DIMENSIONS} dimensions",
    ):
        assert limit in PAGE, limit
