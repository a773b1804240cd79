"""Elements of HTML and SVG as text, in which everything that users have named is escaped."""

from __future__ import annotations

from html import escape
from typing import TypeAlias


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


Child: TypeAlias = str | None
"""What stands in an element: `Markup` as it is, plain text escaped, None left out."""
Attribute: TypeAlias = str | float | bool | None
"""The value of an attribute: False and None leave it out, True writes its name alone."""
_CONTROLS = {code: "\ufffd" for code in range(32) if code not in (9, 10, 13)}
"""Characters that XML does not allow, not even escaped."""


def element(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """Write one element.

    Args:
        name: Its name.
        *children: What stands in it.
        **attributes: Its attributes; `_` at the end of a name is dropped, and others become `-`.

    >>> element("td", "a < b", element("b", "c"), class_="uf-x", data_i=3)
    '<td class="uf-x" data-i="3">a &lt; b<b>c</b></td>'
    """
    pairs = "".join(_attribute(key, value) for key, value in attributes.items())
    return Markup(f"<{name}{pairs}>{''.join(map(text, children))}</{name}>")


def empty(name: str, /, **attributes: Attribute) -> Markup:
    """Write an element of HTML that never has an end, such as `<input>`."""
    return Markup(f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>")


def joined(*children: Child) -> Markup:
    """Put several elements behind each other."""
    return Markup("".join(map(text, children)))


def text(child: Child) -> str:
    """Write what stands in an element."""
    if child is None or isinstance(child, Markup):
        return child or ""
    return escape(child.translate(_CONTROLS), quote=False)


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    plain = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{escape(plain.translate(_CONTROLS))}"'
