"""Whether equal names mean the same tensor in two models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

NativeName = tuple[str, str]
"""Native path of a tensor's layer, and the tensor's role there."""


class NameAgreement:
    """What the names of known pairs show about names.

    Args:
        known: The two names of each pair that is known by other means.
        left: The names without partners in each model.
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
        """Return whether a tensor with one name in both models can be trusted to be the same.

        Three things must hold. Some pair that is known by other means has one name in both models,
        and no known tensor has the name of another tensor there. The names that differ from this
        one in a single piece are the same in both models. Every number in the name has been seen to
        be the same in both models: for this element of the list, or for several others.
        """
        numbers = all(
            number in self._elements[held] or len(self._elements[held]) > 1
            for held, number in _numbers(name)
        )
        here, there = ([beside[place] for place in _places(name)] for beside in self._beside)
        return self._agree and numbers and here == there


def _numbers(name: NativeName) -> Iterator[tuple[str, str]]:
    """Yield the lists in a name, each with the number of the element.

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
    """Yield the name without each of its pieces in turn, with the position of the piece."""
    pieces = _pieces(name)
    return ((place, pieces[:place] + pieces[place + 1 :]) for place in range(len(pieces)))


def _beside(names: Iterable[NativeName]) -> dict[tuple[int, tuple[str, ...]], set[str]]:
    """Return for each name without one piece the pieces that stand there in all names."""
    beside: dict[tuple[int, tuple[str, ...]], set[str]] = defaultdict(set)
    for name in names:
        for place, rest in _places(name):
            beside[place, rest].add(_pieces(name)[place])
    return beside
