"""What a change of phase and a step send, in 2, 4 and 8 processes, is what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import at_scale

PAGE = Path(__file__).resolve().parents[1] / "docs" / "en" / "at-scale.md"
BYTES = 405_000
"""The bytes of all gradients of the network, rounded."""


def page_row(count: int) -> list[str]:
    """The line of so many processes in the table of questions."""
    text = PAGE.read_text(encoding="utf-8")
    row = re.search(
        rf"^\| {count:,} \| ([\d,]+) \| .*\| (counted|from the formula) \|$", text, re.M
    )
    assert row is not None
    return list(row.groups())


@pytest.mark.parametrize("count", [2, 4, 8, 64, 1024])
def test_the_page_follows_the_formula(count: int) -> None:
    questions, _ = page_row(count)
    assert questions == f"{4 * count + 3:,}"


@pytest.mark.slow
@pytest.mark.parametrize("count", at_scale.COUNTS["PyTorch"])
def test_pytorch_sends_what_the_formulas_say(count: int) -> None:
    for cost in at_scale.count("PyTorch", count):
        assert cost.questions == 4 * count + 3
        assert cost.told <= 1.1 * (410 + 440 * count)
        assert 0 < cost.head <= cost.full / 100
        assert cost.full == pytest.approx(BYTES * 2 * (count - 1) / count, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("count", at_scale.COUNTS["Paddle"])
def test_paddle_sends_what_the_formulas_say(count: int) -> None:
    for cost in at_scale.count("Paddle", count):
        assert cost.questions >= 4 * count + 4  # who waits asks again
        assert 0 < cost.head <= cost.full / 100
        assert cost.full == pytest.approx(BYTES * 2 * (count - 1) / count, rel=0.02)
