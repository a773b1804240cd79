"""Compare the random layers of two ports that no tensor and no result pairs.

A dropout inside an attention is a module in one port and a number in the other, so the two return
nothing that could be compared. What runs before and after them is paired, and says where they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from unifreeze._ports.pairing.layer_settings import (
    EFFECTS,
    LayerRow,
    SettingDifference,
    same_setting,
)

RATES = ("dropout", "drop path", "attention dropout")
"""Settings that say how much a layer drops."""
Groups = frozenset[int]
"""Groups of paired layers: both ports give a layer and its partners the same number."""


class RandomLayer(NamedTuple):
    """A layer that draws random numbers.

    Attributes:
        setting: Which of `RATES` it has.
        rate: How much it drops.
        path: Native path.
    """

    setting: str
    rate: float
    path: str


class Placed(NamedTuple):
    """A random layer, and where the numbers are drawn, as far as that is known.

    Attributes:
        layer: The layer.
        after: The layers that certainly ran before.
        before_rest: The layers that may have run before.
        measured: It ran as a module, so that its result was compared with those of the other port.
    """

    layer: RandomLayer
    after: Groups
    before_rest: Groups
    measured: bool

    def within(self, scope: Groups) -> Placed:
        """Return its place among some layers only."""
        return self._replace(after=self.after & scope, before_rest=self.before_rest & scope)

    def may_be(self, other: Placed) -> bool:
        """Return whether both may draw in one place.

        Two modules that stand in one place return the same, and are paired by that.
        """
        overlap = self.after <= other.before_rest and other.after <= self.before_rest
        return overlap and not (self.measured and other.measured)


class RandomLayers(NamedTuple):
    """How the random layers that nothing else pairs came out.

    Attributes:
        differences: Rates that differ in one place.
        alone: For each model, the layers that have no certain counterpart.
    """

    differences: tuple[SettingDifference, ...]
    alone: tuple[tuple[RandomLayer, ...], tuple[RandomLayer, ...]]


def compare_random_layers(
    one: Sequence[LayerRow], other: Sequence[LayerRow], pairs: Iterable[tuple[str, str]]
) -> RandomLayers:
    """Compare the random layers that have no partner, where it is certain which is which.

    Two are put side by side if they are in parts of the two models that hold the same paired
    layers, run between the same ones, and are equally many there. If their rates are the same in
    another order, it is not certain which is which.

    Args:
        one: The first model's layers, in order of execution.
        other: The second model's layers.
        pairs: Native paths of paired layers.
    """
    known = list(dict.fromkeys(pairs))
    backwards = [(b, a) for a, b in known]
    rest = list(_left_over(one, other, known)), list(_left_over(other, one, backwards))
    if not all(rest):
        return _result([], rest)
    here, there = _sides(one, other, known)
    placed = [here.place(row) for row in rest[0]], [there.place(row) for row in rest[1]]
    beside: list[tuple[RandomLayer, RandomLayer]] = []
    for scope in sorted(here.scopes & there.scopes, key=len):
        near = (
            [row.within(scope) for row in rows if row.layer not in done and side.holds(scope, row)]
            for side, rows, done in zip((here, there), placed, _each(beside), strict=True)
        )
        for ones, others in _neighbours(*near):
            beside += _side_by_side(ones, others)
    return _result(beside, rest)


def _left_over(
    rows: Iterable[LayerRow], others: Iterable[LayerRow], pairs: Iterable[tuple[str, str]]
) -> Iterator[RandomLayer]:
    """Yield the random layers whose rate no partner has."""
    settings = {row.path: row.settings for row in others}
    compared = {(a, name) for a, b in pairs for name in RATES if name in settings.get(b, ())}
    for row in rows:
        for name in RATES:
            rate = row.settings.get(name)
            if isinstance(rate, int | float) and (row.path, name) not in compared:
                yield RandomLayer(name, rate, row.path)


class _Side:
    """The paired layers of one model, in order of execution."""

    def __init__(self, rows: Sequence[LayerRow], groups: Mapping[str, int], ran: Groups) -> None:
        self.order = [row.path for row in rows if row.ran]
        self.ran = set(self.order)
        self.groups = {p: number for p, number in groups.items() if number in ran}
        inside: dict[str, set[int]] = defaultdict(set)
        for path, number in self.groups.items():
            for part in _parts(path):
                inside[part].add(number)
        self.inside = {part: frozenset(numbers) for part, numbers in inside.items()}
        self.scopes = set(self.inside.values())

    def holds(self, scope: Groups, row: Placed) -> bool:
        """Return whether a layer is in a part of the model that holds these layers, and no more."""
        path = row.layer.path
        parts = _parts(path)[:-1] if row.measured else _parts(path)
        return any(self.inside.get(part) == scope for part in parts)

    def place(self, layer: RandomLayer) -> Placed:
        """Say where a layer draws: where it runs, or at some time while the module does."""
        path = layer.path
        is_module = layer.setting != "attention dropout"
        if is_module and path in self.ran:
            after = self._before(path)
            return Placed(layer, after, after, measured=True)
        # A module that never runs only keeps a number for the module that holds it.
        holder = path.rpartition(".")[0] if is_module else path
        within = [p for p in self.order if p in self.groups and holder in _parts(p)]
        if not within:
            after = self._before(holder)
            return Placed(layer, after, after, measured=False)
        before, first = self._before(within[0]), self.groups[within[0]]
        # An attention draws after its first layer, and before its last one projects the result.
        own_work = is_module or holder in self.groups or len(within) == 1
        until = within if own_work else within[:-1]
        after = before if is_module else before | {first}
        return Placed(layer, after, before | {self.groups[p] for p in until}, measured=False)

    def _before(self, path: str) -> Groups:
        number = self.order.index(path) if path in self.ran else len(self.order)
        return frozenset(self.groups[p] for p in self.order[:number] if p in self.groups)


def _sides(
    one: Sequence[LayerRow], other: Sequence[LayerRow], pairs: Sequence[tuple[str, str]]
) -> tuple[_Side, _Side]:
    """Number the groups of paired layers, and keep those that ran in both models."""
    numbers: dict[tuple[int, str], int] = {}
    for count, (a, b) in enumerate(pairs):
        merged = {numbers.get((0, a), count), numbers.get((1, b), count)}
        if len(merged) > 1:
            numbers |= {key: min(merged) for key, number in numbers.items() if number in merged}
        numbers |= {(0, a): min(merged), (1, b): min(merged)}
    groups = [{p: n for (s, p), n in numbers.items() if s == side} for side in (0, 1)]
    ran = [
        {known[row.path] for row in rows if row.ran and row.path in known}
        for rows, known in zip((one, other), groups, strict=True)
    ]
    both = frozenset(ran[0] & ran[1])
    return _Side(one, groups[0], both), _Side(other, groups[1], both)


def _parts(path: str) -> list[str]:
    """Return the paths of the modules that hold a layer, from the model's to its own."""
    names = path.split(".") if path else []
    return ["", *(".".join(names[: number + 1]) for number in range(len(names)))]


def _neighbours(
    ones: list[Placed], others: list[Placed]
) -> Iterator[tuple[list[Placed], list[Placed]]]:
    """Yield the layers that may be in one place, with all those they may be mixed up with."""
    left, right = list(ones), list(others)
    while left:
        here, there = [left.pop(0)], list[Placed]()
        grows = True
        while grows:
            more = [b for b in right if any(a.may_be(b) for a in here)]
            right = [b for b in right if b not in more]
            back = [a for a in left if any(a.may_be(b) for b in more)]
            left = [a for a in left if a not in back]
            here, there, grows = [*here, *back], [*there, *more], bool(back)
        yield here, there


def _side_by_side(
    ones: list[Placed], others: list[Placed]
) -> Iterator[tuple[RandomLayer, RandomLayer]]:
    """Yield what is certainly which: equally many, and not the same rates in another order."""
    if len(ones) != len(others):
        ones, others = ([row for row in rows if row.layer.rate] for rows in (ones, others))
    if len(ones) != len(others):
        return
    ordered = (
        sorted(rows, key=lambda row: (len(row.after), len(row.before_rest)))
        for rows in (ones, others)
    )
    rows = list(zip(*ordered, strict=True))
    if not all(a.may_be(b) for a, b in rows):
        return
    pairs = [(a.layer, b.layer) for a, b in rows]
    unlike = [(a, b) for a, b in pairs if not same_setting(a.rate, b.rate)]
    here, there = Counter(a.rate for a, _ in unlike), Counter(b.rate for _, b in unlike)
    unclear = here & there
    yield from (pair for pair in pairs if not (unclear and pair in unlike))


def _each(
    beside: Iterable[tuple[RandomLayer, RandomLayer]],
) -> tuple[set[RandomLayer], set[RandomLayer]]:
    """Return the layers of each model that are put side by side with one of the other."""
    pairs = list(beside)
    return {one for one, _ in pairs}, {other for _, other in pairs}


def _result(
    beside: list[tuple[RandomLayer, RandomLayer]],
    rest: tuple[Iterable[RandomLayer], Iterable[RandomLayer]],
) -> RandomLayers:
    differences: dict[tuple[str, float, float], list[tuple[str, str]]] = defaultdict(list)
    for a, b in beside:
        if not same_setting(a.rate, b.rate):
            # One side may keep the rate of an attention in a module, which does not say so.
            setting = max(a.setting, b.setting, key=RATES.index)
            differences[setting, a.rate, b.rate].append((a.path, b.path))
    one, other = (
        tuple(row for row in rows if row.rate and row not in known)
        for rows, known in zip(rest, _each(beside), strict=True)
    )
    return RandomLayers(
        tuple(
            SettingDifference(*key, tuple(layers), EFFECTS[key[0]])
            for key, layers in differences.items()
        ),
        (one, other),
    )
