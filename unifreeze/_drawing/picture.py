"""A picture as SVG text, which notebooks draw and files hold."""

from __future__ import annotations

from pathlib import Path

from unifreeze._arguments import checked_methods
from unifreeze._drawing.markup import Attribute, Markup, element
from unifreeze._drawing.palette import LABELS, Look, stylesheet
from unifreeze._drawing.treemap import Box
from unifreeze._files import save_text


@checked_methods
class Picture(str):
    """A picture as the text of an SVG file; a notebook draws it.

    >>> picture = plan.resolve(model).to_svg()
    >>> picture.startswith("<svg ")
    True
    >>> picture.save(folder / "map.svg")
    """

    __slots__ = ()

    def save(self, path: str | Path) -> None:
        """Write the picture as a file.

        Raises:
            UnifreezeError: It cannot be written there; an older file is as it was.
        """
        save_text(path, self)

    def _repr_svg_(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """In a page, names appear under the mouse; as an image they would not."""
        return str(self)

    def __repr__(self) -> str:
        return f"<unifreeze.Picture: SVG of {len(self):,} characters>"

    def __str__(self) -> str:
        return str.__str__(self)


MARGIN = 10.0
"""Pixels around a picture."""


def drawing(width: float, height: float, *children: Markup, title: str) -> Markup:
    """Return an `<svg>` with the colours in it.

    Args:
        width: In pixels.
        height: In pixels.
        *children: What is pieces.
        title: What the picture shows, in words for those who cannot see it.
    """
    wide, high = width + 2 * MARGIN, height + 2 * MARGIN
    return element(
        "svg",
        element("title", title),
        stylesheet(),
        HATCH,
        rectangle(Box(-MARGIN, -MARGIN, wide, high), "uf-back"),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        class_="uf",
        viewBox=f"{-MARGIN:g} {-MARGIN:g} {wide:g} {high:g}",
        width=wide,
        height=high,
        role="img",
        style="max-width:100%;height:auto",
        aria_label=title,
    )


HATCH = element(
    "defs",
    element(
        "pattern",
        element("path", d="M0 6L6 0", class_="uf-hatch"),
        id="uf-hatched",
        width="6",
        height="6",
        patternUnits="userSpaceOnUse",
    ),
)
"""Lines over what holds still, for those who see no difference between the blues."""


def legend(looks: list[Look], x: float, y: float) -> Markup:
    """Draw a sample of each look with its name, in one line."""
    pieces = []
    for look in looks:
        pieces += [
            rectangle(Box(x, y, 12, 12), look.style, rx=2),
            hatched(look, Box(x, y, 12, 12)),
            element("text", LABELS[look], x=x + 17, y=y + 10),
        ]
        x += 32 + 6.1 * len(LABELS[look])
    return element("g", *pieces, class_="uf-legend")


def rectangle(box: Box, style: str, title: str = "", **more: Attribute) -> Markup:
    """Draw a box.

    Args:
        box: Where it is.
        style: Its class.
        title: What appears under the mouse.
        **more: Further attributes.
    """
    tooltip = element("title", title) if title else None
    sides = {name: f"{side:.1f}".removesuffix(".0") for name, side in box._asdict().items()}
    return element("rect", tooltip, **sides, class_=style or None, **more)


def hatched(look: Look, box: Box) -> Markup:
    """Draw lines over a box if it is of something that holds still."""
    if look is not Look.HELD:
        return Markup()
    return rectangle(box, "", fill="url(#uf-hatched)", pointer_events="none")


def fitting(text: str, width: float, *, letter: float = 6.1) -> str:
    """Return as much of a text as fits into a width in pixels, or nothing if that is little."""
    room = int(width / letter)
    if len(text) <= room:
        return text
    return f"{text[: room - 1]}…" if room >= 4 else ""
