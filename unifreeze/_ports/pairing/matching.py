"""Which tensor of one sketch is which of the other: equal gradients on shared values say it.

The gradient decides. Where it cannot (none at all, or tensors that the network treats as one: two
biases that are added up) the owner does, or what the owner returns; and what is left over is said
to be. Names decide only where nothing else could: what never ran, and what is interchangeable.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from unifreeze._numerics.projections import LIMIT
from unifreeze._ports.pairing.matrix_orientation import Orientation, gradients_of
from unifreeze._ports.pairing.model_sketch import ModelSketch, Pair, TensorRow
from unifreeze._ports.pairing.name_agreement import NameAgreement, NativeName
from unifreeze._ports.pairing.neighbourhoods import Neighbourhoods
from unifreeze._ports.pairing.one_sided_ties import SAME, Tie, tied_on_one_side
from unifreeze._ports.pairing.tensor_likeness import (
    are_of_a_sort,
    by_sort,
    hold_alike,
    may_be,
    native_name,
    shape_alone,
    twins,
    word,
)
from unifreeze._protocol import Sketch
from unifreeze.errors import PairingError, counted, listing

GRADIENT_LIMIT = 1e-5
"""Relative difference of gradients up to which two runs are of one function.

Like `LIMIT`, but small gradients through a part in single precision differ by some 1e-6."""

NEGLIGIBLE = 1e-7
"""Share of the largest gradient below which one may be rounding error."""

There = Callable[[Neighbourhoods, TensorRow, TensorRow], bool]


class Matching:
    """One matching under way.

    Attributes:
        sides: The two sketches.
        rows: Their tensors that may have partners, by native path.
        pairs: What is paired so far, by the first model's native path.
        alike: For tensors that several there could be, by gradient: those.
        ties: What one side holds once and the other twice; it has no partner.
        twins: States of each side that hold the same and that nothing tells apart.
    """

    def __init__(self, one: ModelSketch, other: ModelSketch) -> None:
        self.sides = one, other
        self.rows = tuple(
            {row.path: row for row in side.tensors if row.takes_part} for side in self.sides
        )
        self.pairs: dict[str, Pair] = {}
        self.alike: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
        self.ties: tuple[Tie, ...] = ()
        self.twins = tuple(twins(rows.values()) for rows in self.rows)
        self._taken: set[str] = set()
        self._unlaid: set[tuple[int, str]] = set()
        self._laying = Orientation(self.sides)

    def run(self, shipped: Mapping[str, str] | None = None) -> list[Pair]:
        """Pair what can be paired, the surest first; what was taken as given stays as it is.

        Args:
            shipped: A table of names, which may be wrong; asked only where nothing else tells.
        """
        self._by_gradient()
        self._by_owner()
        self.ties = self._tied()
        self._by_result()
        self._by_owner()
        self._by_neighbours()
        self._by_outputs()
        self._by_owner()
        if shipped:
            self._by_table(shipped)
            self._by_owner()
        self._by_words()
        self._by_name()
        self._by_gradient()
        self._by_owner()
        self.ties = self._tied()
        order = {row.path: n for n, row in enumerate(self.sides[0].tensors)}
        return sorted(self.pairs.values(), key=lambda pair: order[pair.one])

    def take(self, pairs: Iterable[Pair]) -> None:
        """Take as given what was paired before."""
        self.pairs = {pair.one: pair for pair in pairs}
        self._taken = {pair.other for pair in self.pairs.values()}

    def take_map(self, names: Mapping[str, str]) -> None:
        """Take as given which path of the first model is which of the second.

        Raises:
            PairingError: It names tensors that are not there, one twice, or two of unlike shapes.
        """
        firsts = [
            {n: row.path for row in rows.values() for n in (row.path, *row.aliases)}
            for rows in self.rows
        ]
        wrong = [name for name in names if name not in firsts[0]]
        wrong += [name for name in names.values() if name not in firsts[1]]
        if wrong:
            absent = counted(len(wrong), "tensor that is", "tensors that are")
            raise PairingError(
                f"the map names {absent} not there: {listing(wrong)}",
                hint="it maps native paths of the first model to those of the second",
            )
        known = {(firsts[0][one], firsts[1][other]) for one, other in names.items()}
        ones, others = (Counter(pair[side] for pair in known) for side in (0, 1))
        bad = [
            f"{one}: {other}"
            for one, other in sorted(known)
            if ones[one] > 1 or others[other] > 1 or not self._comparable(one, other)
        ]
        if bad:
            raise PairingError(
                f"the map cannot be right in {len(bad)} places: one tensor twice, or unlike shapes",
                context="\n".join(bad),
            )
        for one, other in sorted(known):
            if not self._is_laid(self.rows[0][one], self.rows[1][other]):
                raise PairingError(
                    f"{one} and {other} are square, and nothing tells which way round each is "
                    "stored",
                    hint="use a batch on which a gradient reaches them",
                )
            self._add(one, other, "hint")

    def _comparable(self, one: str, other: str) -> bool:
        """Tell whether two tensors are both parameters or both one statistic, of shapes alike."""
        a, b = self.rows[0][one], self.rows[1][other]
        return a.state == b.state and a.statistic == b.statistic and may_be(a, b)

    def left(self, side: int) -> list[TensorRow]:
        """Return the tensors of a side that have no partner."""
        return [row for row in self.rows[side].values() if self.is_left(side, row.path)]

    def is_left(self, side: int, path: str) -> bool:
        """Tell whether a tensor has no partner."""
        return path not in (self._taken if side else self.pairs)

    def _tied(self) -> tuple[Tie, ...]:
        gradients = self.sides[0].shared.gradients, self.sides[1].shared.gradients
        return tuple(tied_on_one_side((self.left(0), self.left(1)), gradients))

    def is_unlaid(self, side: int, row: TensorRow) -> bool:
        """Tell whether a tensor lacks a partner only because it is square."""
        return (side, row.path) in self._unlaid

    def _rest(self, side: int) -> list[TensorRow]:
        """Return the tensors without partners, but for twins, and what is tied on one side only."""
        tied = {tie.path for tie in self.ties if tie.side == side}
        tied |= {half for tie in self.ties if tie.side != side for half in tie.halves}
        return [row for row in self.left(side) if row.path not in tied | self.twins[side]]

    def _by_gradient(self) -> None:
        """Pair tensors whose gradients are equal and those of no others."""
        groups: dict[str, list[str]] = {}
        for row in self._parameters(0):
            groups[row.path] = [o.path for o in self._parameters(1) if self.is_equal(row, o)]
        rivals: dict[str, list[str]] = defaultdict(list)
        for path, group in groups.items():
            for other in group:
                rivals[other].append(path)
        self.alike = groups, rivals
        for path, group in groups.items():
            alone = len(group) == 1 and len(rivals[group[0]]) == 1
            if alone and self._is_laid(self.rows[0][path], self.rows[1][group[0]]):
                self._add(path, group[0], "gradient")

    def _parameters(self, side: int) -> list[TensorRow]:
        return [row for row in self.left(side) if not row.state]

    def is_equal(self, one: TensorRow, other: TensorRow) -> bool:
        """Tell whether two tensors have one gradient, whichever way round they are stored."""
        if not may_be(one, other):
            return False
        a, b = gradients_of(self.sides, one, other)
        if a is None or b is None:
            return False
        return min(a.distance(b), a.distance(b, transposed=True)) < SAME

    def _places(self) -> Neighbourhoods:
        """Return where the tensors are whose partners are known."""
        pairs = self.pairs.values()
        return Neighbourhoods(
            [(self.rows[0][p.one].owner, self.rows[1][p.other].owner) for p in pairs]
        )

    def _by_owner(self) -> None:
        """Give the rest of a layer's tensors to the layer that its others have gone to."""

        def there(places: Neighbourhoods, one: TensorRow, other: TensorRow) -> bool:
            return one.reached and other.reached and places.partner(one.owner) == other.owner

        self._one_by_one("owner", there)

    def _by_neighbours(self) -> None:
        """Pair what ran and is the only one left of its sort where its neighbours' partners are."""

        def there(places: Neighbourhoods, one: TensorRow, other: TensorRow) -> bool:
            silent = self._is_silent(0, one) and self._is_silent(1, other)
            ran = silent and one.reached and other.reached
            return ran and places.are_near(one.owner, other.owner)

        self._one_by_one("owner", there)

    def _by_outputs(self) -> None:
        """Pair what no gradient tells and outputs depend on, if there is one such of a shape.

        The certificate sees it if that was wrong; of state that both models keep, what they hold.
        """
        ones, others = (self._mattering(side) for side in (0, 1))
        for one in ones:
            fitting = [o for o in others if shape_alone(o) == shape_alone(one)]
            fitting = [o for o in fitting if hold_alike(one, o)]
            rivals = [r for r in ones if shape_alone(r) == shape_alone(one)]
            rivals = [r for r in rivals if hold_alike(r, one)]
            if len(fitting) == len(rivals) == 1 and self._is_laid(one, fitting[0]):
                self._add(one.path, fitting[0].path, "result")

    def _mattering(self, side: int) -> list[TensorRow]:
        """Return the tensors left that outputs are known to depend on."""
        rows = [row for row in self._rest(side) if row.reached]
        return [r for r in rows if r.shown or not (r.state or self._is_silent(side, r))]

    def _is_silent(self, side: int, row: TensorRow) -> bool:
        """Tell whether a tensor has no gradient, or one that is rounding error."""
        gradient = self.sides[side].shared.gradients.get(row.path)
        return gradient is None or self._negligible(side, gradient)

    def _by_words(self) -> None:
        """Pair what ran and one word names, a query or a table of positions, among neighbours."""

        def there(places: Neighbourhoods, one: TensorRow, other: TensorRow) -> bool:
            ran = one.reached and other.reached and word(one) and word(one) == word(other)
            return bool(ran) and places.are_near(one.owner, other.owner)

        self._one_by_one("name", there)

    def _one_by_one(self, by: str, there: There) -> None:
        """Pair tensors that fit and have no rival in the place where they must be.

        Args:
            by: What decides.
            there: Tells whether a tensor of the second model is in the place for one of the first.
        """
        changed = True
        while changed:
            changed = False
            places, rest = self._places(), (self._rest(0), self._rest(1))
            for row in rest[0]:
                fitting = [o for o in rest[1] if self._fits(row, o) and there(places, row, o)]
                if len(fitting) != 1 or not self._is_laid(row, fitting[0]):
                    continue
                rivals = [r for r in rest[0] if self._fits(r, fitting[0])]
                if [r for r in rivals if there(places, r, fitting[0])] == [row]:
                    self._add(row.path, fitting[0].path, by)
                    changed = True

    def _by_result(self) -> None:
        """Pair layers that return the same, where no gradient tells their tensors from others."""
        left = [self._layers_left(side) for side in (0, 1)]
        found = [(one, other) for one in left[0] for other in left[1] if self._agree(one, other)]
        alike = {pair: by_sort(left[0][pair[0]], left[1][pair[1]]) for pair in found}
        known = [pair for pair, rows in alike.items() if rows]
        ones, others = (Counter(pair[side] for pair in known) for side in (0, 1))
        for pair in known:
            if ones[pair[0]] == others[pair[1]] == 1:
                for row, other in alike[pair]:
                    if self._is_laid(row, other):
                        self._add(row.path, other.path, "result")

    def _layers_left(self, side: int) -> dict[str, list[TensorRow]]:
        """Return the layers that ran and have tensors without partners: those."""
        found: dict[str, list[TensorRow]] = defaultdict(list)
        for row in self._rest(side):
            if row.reached:
                found[row.owner].append(row)
        return found

    def _agree(self, one: str, other: str) -> bool:
        """Tell whether two layers return the same on shared values."""
        found = [s.shared.result_of(path) for s, path in zip(self.sides, (one, other), strict=True)]
        return bool(found[0] and found[1] and found[0].gap(found[1]) <= LIMIT)

    def _by_table(self, names: Mapping[str, str]) -> None:
        """Take of a table what is left to pair and nothing seen speaks against."""
        places = self._places()
        rest = [{row.path: row for row in self._rest(side)} for side in (0, 1)]
        for one, other in names.items():
            a, b = rest[0].get(one), rest[1].pop(other, None)
            if a is None or b is None or not self._fits(a, b):
                continue
            if places.partner(a.owner) in (None, b.owner) and self._is_laid(a, b):
                self._add(one, other, "hint")

    def _by_name(self) -> None:
        """Pair by native names what never ran, and what is interchangeable on this batch."""
        left = self.left(0), self.left(1)
        others = {native_name(row): row for row in left[1]}
        names = NameAgreement(
            map(self._names_of, self.pairs.values()), ({*map(native_name, left[0])}, {*others})
        )
        for row in left[0]:
            other = others.get(native_name(row))
            if other is None or not self._fits(row, other) or not self._is_laid(row, other):
                continue
            idle = not (row.reached or other.reached)
            if (idle or other.path in self.alike[0].get(row.path, ())) and names.tell(
                native_name(row)
            ):
                self._add(row.path, other.path, "name")

    def _names_of(self, pair: Pair) -> tuple[NativeName, NativeName]:
        return native_name(self.rows[0][pair.one]), native_name(self.rows[1][pair.other])

    def _fits(self, one: TensorRow, other: TensorRow) -> bool:
        """Tell whether nothing seen speaks against two tensors' being one."""
        if not are_of_a_sort(one, other):
            return False
        a, b = gradients_of(self.sides, one, other)
        if one.state or a is None or b is None:
            return True
        return self.is_equal(one, other) or (self._negligible(0, a) and self._negligible(1, b))

    def _negligible(self, side: int, gradient: Sketch) -> bool:
        """Tell whether a gradient is rounding error: a key's bias changes no attention."""
        norms = [sketch.norm for sketch in self.sides[side].shared.gradients.values()]
        largest = max(norms, default=0.0)
        return gradient.norm <= NEGLIGIBLE * largest

    def _add(self, one: str, other: str, by: str) -> None:
        transposed = bool(self._laying.is_transposed(self.rows[0][one], self.rows[1][other]))
        self.pairs[one] = Pair(one, other, transposed, by)
        self._taken.add(other)

    def _is_laid(self, one: TensorRow, other: TensorRow) -> bool:
        """Tell whether it is known which way round the second side stores a tensor."""
        if self._laying.is_transposed(one, other) is not None:
            return True
        self._unlaid |= {(0, one.path), (1, other.path)}
        return False
