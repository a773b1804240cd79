"""Small parts of a walk: where a state tensor hangs, and what a layer spreads below itself."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple


class Gone:
    """Stands for a model that is no longer there."""


class Slot(NamedTuple):
    """Where a state tensor hangs, so that a reassigned one is still found."""

    holder: MutableMapping[str, Any]
    leaf: str


class Spread(NamedTuple):
    """What one layer has spread over the modules below it.

    Attributes:
        layer: Its number.
        roles: Role of each such parameter, by identity.
        registered: Those of them that the layer registers itself.
    """

    layer: int = -1
    roles: Mapping[int, str] = {}
    registered: frozenset[int] = frozenset()
