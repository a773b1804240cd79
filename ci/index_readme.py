"""Makes README.md fit for the package index, where a relative link leads nowhere.

Hatchling runs this whenever it builds (`tool.hatch.metadata.hooks.custom` in pyproject.toml). With
the repository's addresses given there, relative links and pictures become absolute. Without them a
link becomes its words, and a picture is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = r"\((?!https?:|mailto:|#)([^)\s]+)\)"
PICTURE = re.compile(r"!\[([^\]]*)\]" + RELATIVE + r"\n*")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]" + RELATIVE)
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
"""Text that is shown as it is written."""


def for_the_index(text: str, *, pages: str = "", files: str = "") -> str:
    """Return a README without relative links.

    Args:
        text: The README.
        pages: Address before the path of a page or folder, "" if there is none yet.
        files: Address before the path of a picture.
    """
    drawn = PICTURE.sub(rf"![\1]({files}/\2)\n\n" if files else "", text)
    parts = CODE.split(drawn)
    parts[::2] = [LINK.sub(rf"[\1]({pages}/\2)" if pages else r"\1", part) for part in parts[::2]]
    return "".join(parts)


def relative_links(text: str) -> list[str]:
    """Return the relative links and pictures of a README."""
    plain = "".join(CODE.split(text)[::2])
    return [match[2] for pattern in (PICTURE, LINK) for match in pattern.finditer(plain)]


class IndexReadme(MetadataHookInterface):
    """Gives the built metadata the README for the index."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README to the metadata."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = for_the_index(
            text, pages=self.config.get("pages", ""), files=self.config.get("files", "")
        )
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
