"""The four states that a parameter can be drawn in, and their colours in light and in dark."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from unifreeze._drawing.markup import Markup, element


class Look(IntEnum):
    """What a parameter is drawn as."""

    FROZEN = 0
    HELD = 1
    TRAINABLE = 2
    NEW = 3

    @property
    def style(self) -> str:
        """The class of its rectangles."""
        return f"uf-{'fhtn'[self]}"

    @property
    def label(self) -> str:
        """Its name in a legend."""
        return LABELS[self]


LABELS = {
    Look.FROZEN: "frozen",
    Look.HELD: "frozen, statistics hold still",
    Look.TRAINABLE: "trainable",
    Look.NEW: "trainable, new in this phase",
}
"""What each look means, in words."""
_FILLS = {
    "light": {"f": "#bcd0e6", "h": "#86a9d0", "t": "#f6b26b", "n": "#e8632f"},
    "dark": {"f": "#33506f", "h": "#446b97", "t": "#9c5a0a", "n": "#c13c17"},
}
_INKS = {
    "light": {"ink": "#1c2430", "soft": "#5b6675", "line": "#ffffff", "box": "#eef1f5"},
    "dark": {"ink": "#eef1f5", "soft": "#a3adba", "line": "#12161c", "box": "#242b35"},
}
_DARK_NOTEBOOKS = (
    '[data-jp-theme-light="false"]',
    ".vscode-dark",
    '[data-vscode-theme-kind="vscode-dark"]',
    'html[theme="dark"]',
)
"""How JupyterLab, VS Code and Colab mark a dark theme, whatever the system's is."""
_LIGHT_NOTEBOOKS = ('[data-jp-theme-light="true"]', ".vscode-light", 'html[theme="light"]')
_PLAIN = (
    ".uf text{font:11px system-ui,sans-serif}"
    ".uf .uf-big{font-size:13px;font-weight:600}"
    ".uf .uf-end{text-anchor:end}.uf .uf-mid{text-anchor:middle}"
    ".uf .uf-cover{fill:none;pointer-events:none}"
    ".uf .uf-stroke{fill:none;stroke-width:1.8}"
)


def stylesheet(more: str = "") -> Markup:
    """Return the colours as a `<style>` element; `more` is further CSS."""
    return element("style", Markup(rules() + more))


def rules() -> str:
    """Return the colours as CSS, for the system's scheme and for notebooks with their own."""
    dark = _scheme("dark")
    light = _scheme("light")
    return "".join(
        (
            _PLAIN,
            _under("", light),
            f"@media (prefers-color-scheme:dark){{{_under('', dark)}}}",
            *(_under(f"{place} ", dark) for place in _DARK_NOTEBOOKS),
            *(_under(f"{place} ", light) for place in _LIGHT_NOTEBOOKS),
        )
    )


def _scheme(name: str) -> list[tuple[str, str]]:
    """Return selectors with what they set."""
    ink = _INKS[name]
    fills = [
        (f".uf-{key}", f"fill:{fill};background-color:{fill}") for key, fill in _FILLS[name].items()
    ]
    return [
        *fills,
        ("text", f"fill:{ink['ink']}"),
        (".uf-soft", f"fill:{ink['soft']};color:{ink['soft']}"),
        (".uf-box", f"fill:{ink['box']};background-color:{ink['box']}"),
        (".uf-back", f"fill:{ink['line']}"),
        (".uf-line", f"stroke:{ink['line']}"),
        (".uf-grid", f"stroke:{ink['soft']};stroke-opacity:.3"),
        (".uf-hatch", f"stroke:{ink['ink']};stroke-opacity:.45;stroke-width:1"),
        *((f".uf-s{key}", f"stroke:{fill}") for key, fill in _STROKES[name].items()),
        (".uf-ink", f"color:{ink['ink']}"),
    ]


_STROKES = {
    "light": {"0": "#2b6cb0", "1": "#d1480f", "2": "#4d7c0f"},
    "dark": {"0": "#74b0ee", "1": "#ff8a5c", "2": "#a3d95d"},
}
"""Lines of a chart: training, validation, test."""


def _under(place: str, scheme: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{place}.uf {selector}{{{setting}}}" for selector, setting in scheme)
