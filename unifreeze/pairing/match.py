"""Which tensor of one sketch is which of the other: equal gradients on shared values say it.

The gradient decides. Where it cannot (none at all, or tensors that the network treats as one: two
biases that are added up) the owner does, then the role; and what is left over is said to be.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from unifreeze.backend import Sketch
from unifreeze.backend.projections import plain_shape
from unifreeze.errors import PairingError, listing
from unifreeze.pairing.record import ModelSketch, Pair, TensorRow
from unifreeze.structure.words import FAMILIES, words_in

LIMIT, GRADIENT_LIMIT = 1e-6, 1e-5
"""Relative differences of outputs and gradients up to which two runs are of one function.

In double precision ports of one network differ by 1e-16 to 1e-11, and by 1e-7 where their code
computes a part in single precision; small gradients through such a part by some 1e-6."""

SAME = 1e-4
"""Distance up to which two sketches are of one tensor; rivals measured are 0.02 away or more."""


class Matching:
    """One matching under way."""

    def __init__(self, one: ModelSketch, other: ModelSketch) -> None:
        self.sides = one, other
        self.rows = tuple(
            {row.path: row for row in side.tensors if is_paired(row)} for side in self.sides
        )
        self.pairs: dict[str, Pair] = {}
        self._taken: set[str] = set()

    def run(self, shipped: Mapping[str, str] | None = None) -> list[Pair]:
        """Pair what can be paired, the surest first; what was taken as given stays as it is.

        Args:
            shipped: A table of names, which may be wrong; asked only where nothing else tells.
        """
        self._by_gradient()
        self._by_owner()
        if shipped:
            self._by_table(shipped)
            self._by_owner()
        self._by_name()
        order = {row.path: n for n, row in enumerate(self.sides[0].tensors)}
        return sorted(self.pairs.values(), key=lambda pair: order[pair.one])

    def take(self, pairs: Iterable[Pair]) -> None:
        """Take as given what was paired before."""
        for pair in pairs:
            self.pairs[pair.one] = pair
            self._taken.add(pair.other)

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
            raise PairingError(
                f"the map names {len(wrong)} tensors that are not there: {listing(wrong)}",
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
            self._add(one, other, "hint")

    def _by_table(self, names: Mapping[str, str]) -> None:
        """Take of a table what is left to pair and nothing seen speaks against."""
        owners = self._owners()
        rest = [{row.path: row for row in self.left(side)} for side in (0, 1)]
        for one, other in names.items():
            a, b = rest[0].get(one), rest[1].pop(other, None)
            if a is None or b is None or not self._fits(a, b):
                continue
            if owners.get(a.owner, b.owner) == b.owner:
                self._add(one, other, "hint")

    def _comparable(self, one: str, other: str) -> bool:
        """Tell whether two tensors are both parameters or both one statistic, of shapes alike."""
        a, b = self.rows[0][one], self.rows[1][other]
        return a.state == b.state and (not a.state or a.role == b.role) and _may_be(a, b)

    def left(self, side: int) -> list[TensorRow]:
        """Return the tensors of a side that have no partner."""
        taken = self._taken if side else self.pairs.keys()
        return [row for row in self.rows[side].values() if row.path not in taken]

    def _by_gradient(self) -> None:
        """Pair tensors whose gradients are equal and those of no others."""
        groups: dict[str, list[str]] = {}
        for row in self._parameters(0):
            groups[row.path] = [o.path for o in self._parameters(1) if self._equal(row, o)]
        rivals = Counter(path for group in groups.values() for path in group)
        for path, group in groups.items():
            if len(group) == 1 and rivals[group[0]] == 1:
                self._add(path, group[0], "gradient")

    def _parameters(self, side: int) -> list[TensorRow]:
        return [row for row in self.left(side) if not row.state]

    def _equal(self, one: TensorRow, other: TensorRow) -> bool:
        if not _may_be(one, other):
            return False
        a, b = self._gradients(one, other)
        if a is None or b is None:
            return False
        return min(a.distance(b), a.distance(b, transposed=True)) < SAME

    def _gradients(self, one: TensorRow, other: TensorRow) -> tuple[Sketch | None, Sketch | None]:
        found = [side.shared.gradients for side in self.sides]
        return found[0].get(one.path), found[1].get(other.path)

    def _by_owner(self) -> None:
        """Give the rest of a layer's tensors to the layer that its others have gone to."""
        changed = True
        while changed:
            changed = False
            owners = self._owners()
            rest = self.left(0), self.left(1)
            for row in rest[0]:
                partners = [o for o in rest[1] if owners.get(row.owner) == o.owner]
                fitting = [o for o in partners if self._fits(row, o)]
                rivals = [r for r in rest[0] if fitting and self._fits(r, fitting[0])]
                rivals = [r for r in rivals if owners.get(r.owner) == fitting[0].owner]
                if len(fitting) == len(rivals) == 1:
                    self._add(row.path, fitting[0].path, "owner")
                    changed = True

    def _owners(self) -> dict[str, str]:
        """Say which layer is which, by the tensors that gradients have paired: all must agree."""
        votes: dict[str, set[str]] = defaultdict(set)
        for pair in self.pairs.values():
            one, other = self.rows[0][pair.one], self.rows[1][pair.other]
            votes[one.owner].add(other.owner)
        return {owner: next(iter(found)) for owner, found in votes.items() if len(found) == 1}

    def _by_name(self) -> None:
        """Pair by canonical name what ran on neither side, what is fixed, and lone statistics.

        What ran and got no gradient that tells it apart is left: a name is no evidence.
        """
        names = [Counter(row.name for row in self.left(side)) for side in (0, 1)]
        others = {row.name: row for row in self.left(1)}
        for row in self.left(0):
            other = others.get(row.name)
            if other is None or not names[0][row.name] == names[1][row.name] == 1:
                continue
            idle = not (row.reached or other.reached)
            fixed = bool(row.fixed and other.fixed)  # its values reach the outputs all the same
            told = _word(row) != 0 and _word(row) == _word(other)
            if (row.state or idle or fixed or told) and self._fits(row, other):
                self._add(row.path, other.path, "name")

    def _fits(self, one: TensorRow, other: TensorRow) -> bool:
        """Tell whether nothing seen speaks against two tensors' being one."""
        if one.role != other.role or one.state != other.state or not _may_be(one, other):
            return False
        a, b = self._gradients(one, other)
        if one.state or a is None or b is None:
            return True
        return self._equal(one, other) or (self._negligible(0, a) and self._negligible(1, b))

    def _negligible(self, side: int, gradient: Sketch) -> bool:
        """Tell whether a gradient is rounding error: a key's bias changes no attention."""
        norms = [sketch.norm for sketch in self.sides[side].shared.gradients.values()]
        largest = max(norms, default=0.0)
        return gradient.norm <= NEGLIGIBLE * largest

    def _add(self, one: str, other: str, by: str) -> None:
        transposed = self._transposed(self.rows[0][one], self.rows[1][other])
        self.pairs[one] = Pair(one, other, transposed, by)
        self._taken.add(other)

    def _transposed(self, one: TensorRow, other: TensorRow) -> bool:
        """Tell whether the second side stores a tensor the other way round."""
        tables = one.kind == other.kind == "embedding"
        if len(one.shape) != 2 or len(other.shape) != 2 or tables:
            return False
        a, b = self._gradients(one, other)
        if a and b and a.across and b.across:
            straight, turned = a.distance(b), a.distance(b, transposed=True)
            if min(straight, turned) < SAME and straight != turned:
                return turned < straight
        if one.shape[0] == one.shape[1]:
            # Nothing tells but what the other layers of this kind are like.
            alike = [p for p in self.pairs.values() if self.rows[0][p.one].kind == one.kind]
            return any(pair.transposed for pair in alike)
        return (one.shape[0] > one.shape[1]) != (other.shape[0] > other.shape[1])


NEGLIGIBLE = 1e-7
"""Share of the largest gradient below which one may be rounding error."""


def _word(row: TensorRow) -> int:
    """Return what a layer's own name says it is: a query, a table of token types."""
    return words_in(row.owner.rpartition(".")[2]) & (FAMILIES[0] | FAMILIES[1])


def is_paired(row: TensorRow) -> bool:
    """Tell whether a tensor is a parameter or a statistic; other state is each port's own."""
    return not row.state or row.role in ("mean", "var")


def _may_be(one: TensorRow, other: TensorRow) -> bool:
    """Tell whether two tensors' shapes allow them to be one; tables may differ in length."""
    a, b = plain_shape(one.shape), plain_shape(other.shape)
    if a == b:
        return True
    tables = one.kind == other.kind == "embedding"
    return tables and len(one.shape) == len(other.shape) == 2 and one.shape[1] == other.shape[1]


def summed(total: Sketch, parts: Iterable[Sketch]) -> bool:
    """Tell whether one tensor's gradient is the sum of others': it is tied there, and not here."""
    found = list(parts)
    sums = [sum(numbers) for numbers in zip(*(part.along for part in found), strict=True)]
    gap = max(abs(a - b) for a, b in zip(total.along, sums, strict=True))
    return bool(total.norm) and gap < SAME * total.norm


def tied_on_one_side(matching: Matching) -> Iterator[tuple[int, str, tuple[str, str]]]:
    """Give tensors that one side holds once and the other twice: the side, the one, the two."""
    for side in (0, 1):
        gradients = [s.shared.gradients for s in matching.sides]
        theirs = [row for row in matching.left(1 - side) if row.path in gradients[1 - side]]
        for row in matching.left(side):
            total = gradients[side].get(row.path)
            for n, a in enumerate(theirs):
                for b in theirs[n + 1 :]:
                    if total is None or plain_shape(a.shape) != plain_shape(b.shape):
                        continue
                    parts = gradients[1 - side][a.path], gradients[1 - side][b.path]
                    if _may_be(row, a) and summed(total, parts):
                        yield side, row.path, (a.path, b.path)
