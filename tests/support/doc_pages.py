"""The pages of the documentation and what can be checked of them: code blocks, links, headings.

python -m tests.support.doc_pages       write again what the pages show of files and programs
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
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


@cache
def printed_by(command: str) -> str:
    """What `unifreeze …` prints where it is not a terminal."""
    # Readline, which pytest imports, gives children a COLUMNS that os.environ does not have.
    plain = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=plain,
    )
    return "".join(f"{line.rstrip()}\n" for line in run.stdout.splitlines())


def shown(marker: str) -> str | None:
    """What the block after a comment has to say; None if a test of its own holds it."""
    what = marker.removeprefix("output of ")
    if re.match(r"(part of|logged by) ", marker) or "examples/compare" in marker:
        return None
    if what.startswith("unifreeze "):
        return printed_by(what) if what.endswith("--help") else None
    return code_of(ROOT / what) if what == marker else output_of(ROOT / what)


def write_again(page: Path) -> None:
    """Bring the marked blocks of a page up to date."""

    def block(match: re.Match[str]) -> str:
        text = shown(match["marker"]) if match["marker"] else None
        begin, end = (place - match.start() for place in match.span("text"))
        return match[0] if text is None else match[0][:begin] + text + match[0][end:]

    page.write_text(BLOCK.sub(block, text_of(page)), encoding="utf-8")


if __name__ == "__main__":
    from examples.torchvision_on_cpu import import_torchvision

    import_torchvision()
    for each in pages():
        write_again(each)
