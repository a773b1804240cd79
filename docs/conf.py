"""How Sphinx builds the documentation, in English and in Chinese: `make docs`.

The pages are Markdown that reads well where it is kept. What a site cannot show is changed while it
is read: links to files that are not pages become their names, and links into the other language
become links between the two sites, which stand beside each other.
"""

from __future__ import annotations

import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

import jieba

import unifreeze

project = "unifreeze"
author = "unifreeze developers"
copyright = "unifreeze developers"
release = version = unifreeze.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
nitpicky = True
# Types of arguments that no page describes: other libraries', and those that users never write.
nitpick_ignore_regex = [("py:.*", r"(?!unifreeze\.[a-zA-Z]).*"), ("py:.*", r"unifreeze\._.*")]
autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
html_theme = "furo"
pygments_dark_style = "github-dark"  # the theme's own underlines the names of modules
html_title = f"unifreeze {release}"
html_show_sourcelink = False
html_copy_source = False
jieba.setLogLevel(logging.WARNING)  # it tells at every start how long it took to load

HERE = Path(__file__).resolve().parent
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def _link(match: re.Match[str]) -> str:
    image, text, target = match.groups()
    if image or not target.startswith("../"):
        return match[0]
    if other := re.fullmatch(r"\.\./(en|zh)/([\w-]+)\.md(#\S+)?", target):
        return f'<a href="../{other[1]}/{other[2]}.html{other[3] or ""}">{text}</a>'
    return text if text.startswith("`") else f"{text} (`{target.lstrip('./')}`)"


WIDE = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef\u201c\u201d]"
INLINE = r"[\[A-Za-z]|\*\*|`(?!`)"
BROKEN_LINE = re.compile(rf"(?<={WIDE})\n *(?={WIDE})|(?<=[，。、；：（）])\n *(?={INLINE})")
"""A line that ends and goes on in Chinese: a browser would show a blank there."""

INCLUDE = re.compile(r"```\{include\} \.\./\.\./(\S+)\n```")


def _included(pages: Path, match: re.Match[str]) -> str:
    """A file from outside, without its title, with its links as a page here would write them."""
    text = (HERE.parent / match[1]).read_text("utf-8").partition("\n")[2]
    folder = match[1].rpartition("/")[0]

    def link(target: re.Match[str]) -> str:
        path = (Path(folder) / target[1]).as_posix().replace("backends/../", "")
        page = path.removeprefix("docs/en/")
        if page == path:
            return f"](../../{path})"
        return f"]({page})" if (pages / page).exists() else f"](../en/{page})"

    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", link, text)


def _without_blanks(text: str) -> str:
    """Join lines that go on in Chinese, outside code; next to Latin words the blank stays."""
    parts = re.split(r"^(```.*?^```)$", text, flags=re.M | re.S)
    parts[::2] = [BROKEN_LINE.sub("", part) for part in parts[::2]]
    return "".join(parts)


def _for_the_site(app: Any, name: str, source: list[str]) -> None:
    """Change what only makes sense in the repository."""
    text = INCLUDE.sub(partial(_included, Path(app.srcdir)), source[0]).replace(
        "```mermaid", "```text"
    )
    source[0] = LINK.sub(_link, _without_blanks(text))


def setup(app: Any) -> None:
    """Register what is changed while pages are read."""
    app.connect("source-read", _for_the_site)
