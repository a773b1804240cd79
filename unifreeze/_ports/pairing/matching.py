"""Which tensor of one sketch is which of the other: equal gradients on shared values decide.

Where gradients cannot decide (there is none, or the network treats two tensors as one, such as two
biases that are added) other tensors of the layer decide, or what the layer returns. Names decide
only where nothing else could: for what never ran, and what is interchangeable. Whatever is then
left has no partner.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from unifreeze._ports.pairing.matrix_orientation import Orientation
from unifreeze._ports.pairing.model_sketch import ModelSketch, Pair, TensorRow
from unifreeze._ports.pairing.name_agreement import NameAgreement, NativeName
from unifreeze._ports.pairing.neighbourhoods import Neighbourhoods
from unifreeze._ports.pairing.one_sided_ties import Tie, tied_on_one_side
from unifreeze._ports.pairing.pair_evidence import PairEvidence
from unifreeze._ports.pairing.tensor_likeness import (
    hold_the_same,
    kind_and_shape,
    name_word,
    native_name,
    pair_layers,
    shapes_fit,
    twins,
)
from unifreeze.errors import PairingError, counted, listing

InPlace = Callable[[Neighbourhoods, TensorRow, TensorRow], bool]
"""Returns whether a tensor of the second model is where the partner of one of the first must be."""


class Matching:
    """The pairs of two models so far, and the rules that find more.

    Attributes:
        sides: The two sketches.
        rows: For each, its tensors that may have partners, by native path.
        pairs: The pairs so far, by the first model's native path.
        alike: For each tensor of either side, the other side's tensors with an equal gradient.
        ties: Tensors that one side has once and the other twice; they get no partner.
        twins: For each side, states that hold the same, so that nothing tells them apart.
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
        self._paired_others: set[str] = set()
        self._unknown_orientation: set[tuple[int, str]] = set()
        self._evidence = PairEvidence(self.sides)
        self._orientation = Orientation(self.sides, self._evidence)

    def run(self, shipped: Mapping[str, str] | None = None) -> list[Pair]:
        """Pair all that can be paired, by the surest rule first; earlier pairs stay.

        Args:
            shipped: A table of names, which may be wrong; it is asked only where nothing else
                decides.
        """
        self._by_gradient()
        self._by_owner()
        self._find_ties()
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
        self._find_ties()
        order = {row.path: n for n, row in enumerate(self.sides[0].tensors)}
        return sorted(self.pairs.values(), key=lambda pair: order[pair.one])

    def take(self, pairs: Iterable[Pair]) -> None:
        """Start from known pairs."""
        self.pairs = {pair.one: pair for pair in pairs}
        self._paired_others = {pair.other for pair in self.pairs.values()}

    def take_map(self, names: Mapping[str, str]) -> None:
        """Add pairs from a map of the first model's native paths to the second's.

        Raises:
            PairingError: A tensor is not there, is named twice, or the two have unlike shapes.
        """
        first_names = [
            {name: row.path for row in rows.values() for name in (row.path, *row.aliases)}
            for rows in self.rows
        ]
        wrong = [name for name in names if name not in first_names[0]]
        wrong += [name for name in names.values() if name not in first_names[1]]
        if wrong:
            absent = counted(len(wrong), "tensor that is", "tensors that are")
            raise PairingError(
                f"the map names {absent} not there: {listing(wrong)}",
                hint="it maps native paths of the first model to those of the second",
            )
        pairs = {(first_names[0][one], first_names[1][other]) for one, other in names.items()}
        ones, others = (Counter(pair[side] for pair in pairs) for side in (0, 1))
        bad = [
            f"{one}: {other}"
            for one, other in sorted(pairs)
            if ones[one] > 1 or others[other] > 1 or not self._comparable(one, other)
        ]
        if bad:
            places = counted(len(bad), "place")
            raise PairingError(
                f"the map cannot be right in {places}: one tensor twice, or unlike shapes",
                context="\n".join(bad),
            )
        for one, other in sorted(pairs):
            if not self._add(self.rows[0][one], self.rows[1][other], "hint"):
                raise PairingError(
                    f"{one} and {other} are square, and nothing tells which way round each is "
                    "stored",
                    hint="use a batch on which a gradient reaches them",
                )

    def left(self, side: int) -> list[TensorRow]:
        """Return the tensors of a side that have no partner."""
        return [row for row in self.rows[side].values() if self.is_left(side, row.path)]

    def is_left(self, side: int, path: str) -> bool:
        """Return whether a tensor has no partner."""
        return path not in (self._paired_others if side else self.pairs)

    def has_unknown_orientation(self, side: int, row: TensorRow) -> bool:
        """Return whether a tensor has no partner only because it is square."""
        return (side, row.path) in self._unknown_orientation

    def _comparable(self, one: str, other: str) -> bool:
        """Return whether two tensors are both parameters, or one statistic, of fitting shapes."""
        a, b = self.rows[0][one], self.rows[1][other]
        return a.state == b.state and a.statistic == b.statistic and shapes_fit(a, b)

    def _add(self, one: TensorRow, other: TensorRow, by: str) -> bool:
        """Add a pair, and return True; False if it is unknown which way round it is stored."""
        if not self._orientation_is_known(one, other):
            return False
        transposed = bool(self._orientation.is_transposed(one, other))
        self.pairs[one.path] = Pair(one.path, other.path, transposed, by)
        self._paired_others.add(other.path)
        return True

    def _orientation_is_known(self, one: TensorRow, other: TensorRow) -> bool:
        """Return whether it is known which way round the second side stores a tensor."""
        if self._orientation.is_transposed(one, other) is not None:
            return True
        self._unknown_orientation |= {(0, one.path), (1, other.path)}
        return False

    def _find_ties(self) -> None:
        gradients = self.sides[0].shared.gradients, self.sides[1].shared.gradients
        self.ties = tuple(tied_on_one_side((self.left(0), self.left(1)), gradients))

    def _rest(self, side: int) -> list[TensorRow]:
        """Return the tensors without partners, but not twins, nor what is tied on one side only."""
        tied = {tie.path for tie in self.ties if tie.side == side}
        tied |= {half for tie in self.ties if tie.side != side for half in tie.halves}
        return [row for row in self.left(side) if row.path not in tied | self.twins[side]]

    def _neighbourhoods(self) -> Neighbourhoods:
        """Return where in each model the layers of the pairs so far are."""
        pairs = self.pairs.values()
        return Neighbourhoods(
            [(self.rows[0][p.one].owner, self.rows[1][p.other].owner) for p in pairs]
        )

    def _by_gradient(self) -> None:
        """Pair tensors that have one gradient, which no other tensor has."""
        parameters = [[row for row in self.left(side) if not row.state] for side in (0, 1)]
        equal = self._evidence.has_equal_gradient
        groups = {
            row.path: [other.path for other in parameters[1] if equal(row, other)]
            for row in parameters[0]
        }
        rivals: dict[str, list[str]] = defaultdict(list)
        for path, group in groups.items():
            for other in group:
                rivals[other].append(path)
        self.alike = groups, rivals
        for path, group in groups.items():
            if len(group) == 1 and len(rivals[group[0]]) == 1:
                self._add(self.rows[0][path], self.rows[1][group[0]], "gradient")

    def _by_owner(self) -> None:
        """Pair the other tensors of layers of which some tensors are paired."""

        def in_place(places: Neighbourhoods, one: TensorRow, other: TensorRow) -> bool:
            return one.reached and other.reached and places.partner(one.owner) == other.owner

        self._one_by_one("owner", in_place)

    def _by_neighbours(self) -> None:
        """Pair what ran without a gradient, if it is the only candidate among its neighbours."""

        def in_place(places: Neighbourhoods, one: TensorRow, other: TensorRow) -> bool:
            silent = self._evidence.is_silent(0, one) and self._evidence.is_silent(1, other)
            ran = silent and one.reached and other.reached
            return ran and places.are_near(one.owner, other.owner)

        self._one_by_one("owner", in_place)

    def _by_words(self) -> None:
        """Pair what ran and has one word in its name (query, position), among neighbours."""

        def in_place(places: Neighbourhoods, one: TensorRow, other: TensorRow) -> bool:
            word = name_word(one) if one.reached and other.reached else 0
            same = bool(word) and word == name_word(other)
            return same and places.are_near(one.owner, other.owner)

        self._one_by_one("name", in_place)

    def _one_by_one(self, by: str, in_place: InPlace) -> None:
        """Pair tensors that could be one, are in place, and have no rival there.

        Args:
            by: What decides.
            in_place: Returns whether a tensor is where the partner of another must be.
        """
        possible, changed = self._evidence.is_possible, True
        while changed:
            changed = False
            places, rest = self._neighbourhoods(), (self._rest(0), self._rest(1))
            for row in rest[0]:
                fitting = [o for o in rest[1] if possible(row, o) and in_place(places, row, o)]
                if len(fitting) != 1 or not self._orientation_is_known(row, fitting[0]):
                    continue
                rivals = [r for r in rest[0] if possible(r, fitting[0])]
                if [r for r in rivals if in_place(places, r, fitting[0])] == [row]:
                    changed |= self._add(row, fitting[0], by)

    def _by_outputs(self) -> None:
        """Pair what has no gradient and changes the outputs, if it is the only one of its shape.

        A mistake here is seen by the certificate; for state in both models, by its values.
        """
        ones, others = (self._affecting_outputs(side) for side in (0, 1))
        for one in ones:
            fitting = [r for r in others if _is_the_same_state(r, one)]
            rivals = [r for r in ones if _is_the_same_state(r, one)]
            if len(fitting) == len(rivals) == 1:
                self._add(one, fitting[0], "result")

    def _affecting_outputs(self, side: int) -> list[TensorRow]:
        """Return the tensors without partners that are known to change the outputs."""
        rows = [row for row in self._rest(side) if row.reached]
        return [r for r in rows if r.shown or not (r.state or self._evidence.is_silent(side, r))]

    def _by_result(self) -> None:
        """Pair the tensors of layers that return the same, where gradients do not decide."""
        ones, others = (self._layers_left(side) for side in (0, 1))
        equal = self._evidence.has_equal_result
        tensors = {
            (one, other): pair_layers(ones[one], others[other])
            for one in ones
            for other in others
            if equal(one, other)
        }
        layers = [pair for pair, rows in tensors.items() if rows]
        counts = [Counter(pair[side] for pair in layers) for side in (0, 1)]
        for one, other in layers:
            if counts[0][one] == counts[1][other] == 1:
                for row, partner in tensors[one, other]:
                    self._add(row, partner, "result")

    def _layers_left(self, side: int) -> dict[str, list[TensorRow]]:
        """Return the tensors without partners of each layer that ran."""
        layers: dict[str, list[TensorRow]] = defaultdict(list)
        for row in self._rest(side):
            if row.reached:
                layers[row.owner].append(row)
        return layers

    def _by_table(self, names: Mapping[str, str]) -> None:
        """Pair what a table names and nothing in the sketches contradicts."""
        places = self._neighbourhoods()
        rest = [{row.path: row for row in self._rest(side)} for side in (0, 1)]
        for path, partner in names.items():
            one, other = rest[0].get(path), rest[1].pop(partner, None)
            if one is None or other is None or not self._evidence.is_possible(one, other):
                continue
            if places.partner(one.owner) in (None, other.owner):
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
            if other is None or not self._evidence.is_possible(row, other):
                continue
            if not self._orientation_is_known(row, other):
                continue
            idle = not (row.reached or other.reached)
            interchangeable = other.path in self.alike[0].get(row.path, ())
            if (idle or interchangeable) and names.tell(native_name(row)):
                self._add(row, other, "name")

    def _names_of(self, pair: Pair) -> tuple[NativeName, NativeName]:
        return native_name(self.rows[0][pair.one]), native_name(self.rows[1][pair.other])


def _is_the_same_state(one: TensorRow, other: TensorRow) -> bool:
    return kind_and_shape(one) == kind_and_shape(other) and hold_the_same(one, other)
