"""The pages of the documentation and what can be checked of them: code blocks, links, headings."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = ROOT / "docs" / "en", ROOT / "docs" / "zh"
BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]*?) -->\n)?"
    r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)$",
    re.S | re.M,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    marker: str
    """What the comment right before it says: a file, or what printed this."""
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.marker or self.text.splitlines()[0]}"


def pages() -> list[Path]:
    """The READMEs and the pages in both languages."""
    return [
        *sorted(ROOT.glob("README*.md")),
        *sorted(ENGLISH.glob("*.md")),
        *sorted(CHINESE.glob("*.md")),
    ]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = BLOCK.finditer(text_of(page))
    return [Block(page, one["marker"] or "", one["language"], one["text"]) for one in found]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return BLOCK.sub("", text_of(page))


def headings_of(page: Path) -> list[str]:
    return re.findall(r"^#+ .*$", prose_of(page), re.M)


def anchor(heading: str) -> str:
    """The anchor that code hosts and the site give a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower())
    return words.replace(" ", "-")


def code_of(file: Path) -> str:
    """A program without its first docstring."""
    return re.sub(r'\A""".*?"""\n+', "", text_of(file), flags=re.S)


@cache
def output_of(file: Path) -> str:
    """What a program prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(file), run_name="__main__")
    return out.getvalue()
