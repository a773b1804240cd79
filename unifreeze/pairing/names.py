"""Whether what two models call their layers can be trusted to mean the same in both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

Native = tuple[str, str]
"""A tensor's layer, by native path, and what it is there."""


class Names:
    """What the names of known pairs show.

    Args:
        known: For each pair that is known by other means, its name in both models.
        names: All names in each.
    """

    def __init__(
        self, known: Iterable[tuple[Native, Native]], names: tuple[Collection[Native], ...]
    ) -> None:
        pairs = list(known)
        crossed = any(a != b and (a in names[1] or b in names[0]) for a, b in pairs)
        alike = [a for a, b in pairs if a == b]
        self._agree = bool(alike) and not crossed
        self._elements: dict[str, set[str]] = defaultdict(set)
        for owner, _ in alike:
            for held, number in _numbers(owner):
                self._elements[held].add(number)

    def tell(self, owner: str) -> bool:
        """Tell whether a layer called the same in both models is the same.

        It is where names have proved to agree: some tensor that is known by other means has one
        name in both models, and none has a name that another has there. A number in a list is a
        name only where it has proved to be one: for this element, or for several of the list.
        """
        return self._agree and all(
            number in self._elements[held] or len(self._elements[held]) > 1
            for held, number in _numbers(owner)
        )


def _numbers(path: str) -> Iterator[tuple[str, str]]:
    """Give the lists that a path goes through, each with the number of the element.

    >>> list(_numbers("layers.3.adapters.0.up"))
    [('layers', '3'), ('layers.3.adapters', '0')]
    """
    pieces = path.split(".")
    for place, piece in enumerate(pieces):
        if piece.isdigit():
            yield ".".join(pieces[:place]), piece
