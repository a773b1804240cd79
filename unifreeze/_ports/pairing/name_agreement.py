"""Whether what two models call their layers can be trusted to mean the same in both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

NativeName = tuple[str, str]
"""A tensor's layer, by native path, and what it is there."""


class NameAgreement:
    """What the names of known pairs show.

    Args:
        known: For each pair that is known by other means, its name in both models.
        left: Names without partners, in each model.
    """

    def __init__(
        self,
        known: Iterable[tuple[NativeName, NativeName]],
        left: tuple[set[NativeName], set[NativeName]],
    ) -> None:
        pairs = list(known)
        names = [left[side] | {pair[side] for pair in pairs} for side in (0, 1)]
        crossed = any(a != b and (a in names[1] or b in names[0]) for a, b in pairs)
        alike = [a for a, b in pairs if a == b]
        self._agree = bool(alike) and not crossed
        self._elements: dict[str, set[str]] = defaultdict(set)
        for name in alike:
            for held, number in _numbers(name):
                self._elements[held].add(number)
        self._beside = [_beside(side) for side in left]

    def tell(self, name: NativeName) -> bool:
        """Tell whether a tensor called the same in both models is the same.

        It is where names have proved to agree: some tensor that is known by other means has one
        name in both models, and none has a name that another has there; and what else is called so
        but for one piece of the name is called the same there. A number in a list is a name only
        where it has proved to be one: for this element, or for several of the list.
        """
        numbers = all(
            number in self._elements[held] or len(self._elements[held]) > 1
            for held, number in _numbers(name)
        )
        here, there = ([beside[place] for place in _places(name)] for beside in self._beside)
        return self._agree and numbers and here == there


def _numbers(name: NativeName) -> Iterator[tuple[str, str]]:
    """Give the lists that a name goes through, each with the number of the element.

    >>> list(_numbers(("layers.3.adapters.0.up", "weight")))
    [('layers', '3'), ('layers.3.adapters', '0')]
    """
    pieces = _pieces(name)
    for place, piece in enumerate(pieces):
        if piece.isdigit():
            yield ".".join(pieces[:place]), piece


def _pieces(name: NativeName) -> tuple[str, ...]:
    owner, role = name
    return (*owner.split("."), role)


def _places(name: NativeName) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Give a name without each of its pieces in turn."""
    pieces = _pieces(name)
    return ((place, pieces[:place] + pieces[place + 1 :]) for place in range(len(pieces)))


def _beside(names: Iterable[NativeName]) -> dict[tuple[int, tuple[str, ...]], set[str]]:
    """Return for each place in a name what stands there in names that are the same otherwise."""
    found: dict[tuple[int, tuple[str, ...]], set[str]] = defaultdict(set)
    for name in names:
        for place, rest in _places(name):
            found[place, rest].add(_pieces(name)[place])
    return found
