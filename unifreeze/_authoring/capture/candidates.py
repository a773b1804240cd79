"""Selectors that a captured plan may be made of: which there are, and what each takes.

Neutral words come cheapest, then canonical names; native paths only where they are asked for. What
counts parameters or stages is of one model alone: ports of a network need not agree on how many
there are. A candidate is kept as the very expression a plan would hold, and what it takes is what
the selector language says it takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from fractions import Fraction
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._plan.selectors import Expression, Word, evaluate
from unifreeze._plan.selectors.expression import (
    Both,
    Bound,
    Either,
    Index,
    Path,
    Quoted,
    Within,
    Without,
)
from unifreeze._structure import Mask, ModelSpec, Zone
from unifreeze.errors import ResolveError

PLACES = ("embeddings", "stem", "neck", "head", "classifier", "pooler", "backbone", "blocks")
STACKS = ("encoder", "decoder")
TABLES = ("word_embeddings", "position_embeddings")
PARTS = ("weight", "bias")
LAYER_WORDS = ("norm", "conv", "linear", "embedding", "attention", "mlp", "query", "key", "value")

WORD, INDEXED, STAGES, BOTH, WITHOUT = 1.0, 1.2, 1.15, 0.7, 0.9
EVERYWHERE, POSITIONS, UNIT, OWNER, NAME = 2.2, 2.5, 2.2, 2.6, 3.0
MANY, SLIGHTLY = 0.3, 0.01
"""What a selector costs: the words in it, and how far they are from plain words."""


class Candidate(NamedTuple):
    """One selector, and what it costs to read."""

    expression: Expression
    cost: float


class Masks:
    """What selectors take of one model, by name; None for one that means nothing there."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._parts = np.bincount(spec.atoms.name, minlength=len(spec.tree.names))
        self._found: dict[Expression, Mask | None] = {}
        self._known = {*spec.module_numbers, *spec.tree.names}
        self._under: dict[str, list[int]] = {}
        for number, name in enumerate(spec.atom_names):
            pieces = name.split("/")
            for end in range(1, len(pieces) + 1):
                self._under.setdefault("/".join(pieces[:end]), []).append(number)

    def of(self, expression: Expression) -> Mask | None:
        """Return, for each name, whether a selector takes it; None where it splits a tensor."""
        atoms = self._atoms(expression)
        if atoms is None:
            return None
        taken = np.bincount(self.spec.atoms.name[atoms], minlength=len(self._parts))
        whole: Mask = taken == self._parts
        return whole if (whole | (taken == 0)).all() else None

    def _atoms(self, expression: Expression) -> Mask | None:
        if expression not in self._found:
            self._found[expression] = self._evaluate(expression)
        return self._found[expression]

    def _at(self, pattern: str) -> Mask | None:
        """Return the atoms under a canonical name or glob, without looking for likely ones."""
        if not set("*?[") & set(pattern):
            atoms = self._under.get(pattern, [])
        else:
            matches = re.compile(translate(pattern)).fullmatch
            atoms = [n for under, found in self._under.items() if matches(under) for n in found]
        mask = np.zeros(len(self.spec.atoms), np.bool_)
        mask[atoms] = True
        return mask if atoms else None

    def _evaluate(self, expression: Expression) -> Mask | None:
        match expression:
            case Both(left, right) | Without(left, right) | Either(left, right):
                one, other = self._atoms(left), self._atoms(right)
                if one is None or other is None:
                    return None
                if isinstance(expression, Either):
                    return one | other
                return one & other if isinstance(expression, Both) else one & ~other
            case Quoted("at", pattern):
                return self._at(pattern)
            case Path() if expression.literal and expression.literal not in self._known:
                return None
        try:
            return evaluate(expression, self.spec)
        except ResolveError:
            return None


def index_of(start: int, stop: int, length: int) -> Index | None:
    """Write a run of positions as people do: `[:2]`, `[3]`, `[-2:]`; None for all of them."""
    if stop - start == length:
        return None
    if stop - start == 1:
        last = stop == length and length > 1
        return Index(_bound(-1 if last else start), None, single=True)
    if start == 0:
        return Index(None, _bound(stop), single=False)
    if stop == length:
        return Index(_bound(start - length), None, single=False)
    return Index(_bound(start), _bound(stop), single=False)


def _bound(value: int) -> Bound:
    return Bound(Fraction(value), percent=False)


def neutral(spec: ModelSpec, wanted: Mask, masks: Masks, *, one_model: bool) -> Iterator[Candidate]:
    """Give the selectors in neutral words that could have a part in a plan.

    Args:
        spec: The model.
        wanted: For each name, whether it is to be trainable.
        masks: What selectors take of it.
        one_model: The plan is for no other: what counts parameters and stages will do.
    """
    kinds = list(_kinds(spec, masks))
    places = [Candidate(Word(word), WORD) for word in (*PLACES, *STACKS, *TABLES)]
    # Another port may have more names for a tied tensor, and this word takes all of them.
    places.append(Candidate(Word("tied"), WORD if one_model else WORD - SLIGHTLY))
    lines = [line for line in _lines(spec) if one_model or line.word != "stages"]
    ranges = list(_ranges(spec, wanted, masks, kinds, lines))
    yield from places
    yield from _towers(spec, one_model=one_model)
    yield from kinds
    yield from ranges
    plain = [one for one in kinds if one.cost < EVERYWHERE]
    for place in [*places, *(one for one in ranges if _is_plain(one.expression))]:
        for kind in plain:
            cost = place.cost + kind.cost
            yield Candidate(Both(place.expression, kind.expression), cost + BOTH - WORD)
            yield Candidate(Without(place.expression, kind.expression), cost + WITHOUT - WORD)
            yield Candidate(Without(kind.expression, place.expression), cost + WITHOUT - WORD)
    if one_model:
        yield from _params(spec, wanted)
    yield from _canonical(spec)
    yield from _neighbours(spec, wanted)


def _is_plain(expression: Expression) -> bool:
    return isinstance(expression, Word | Within)


def _kinds(spec: ModelSpec, masks: Masks) -> Iterator[Candidate]:
    """Give what layers and parts of layers there are, in all the model."""
    words = [word for word in (*LAYER_WORDS, *PARTS, "adapter") if _any(masks, Word(word))]
    yield from (Candidate(Word(word), WORD) for word in words)
    for word in words:
        if word in LAYER_WORDS:
            for part in PARTS:
                yield Candidate(Both(Word(word), Word(part)), WORD + BOTH)
    # A tensor that holds all three cannot be taken by one of them.
    projections = Either(Either(Word("query"), Word("key")), Word("value"))
    yield Candidate(projections, WORD + 2 * BOTH)
    yield from _everywhere(spec)


def _towers(spec: ModelSpec, *, one_model: bool) -> Iterator[Candidate]:
    """Give the submodules that hold a run of blocks each, of a model with several.

    What a word says is not said by a path, which another port may have another of.
    """
    for tower, label in zip(spec.placement.towers, spec.placement.labels, strict=True):
        path = spec.tree.paths[tower]
        if path and len(spec.runs) > 1 and (one_model or label not in STACKS):
            yield Candidate(Within(Word("all"), path), WORD + BOTH)


def _any(masks: Masks, expression: Expression) -> bool:
    atoms = masks._atoms(expression)
    return atoms is not None and bool(atoms.any())


def _everywhere(spec: ModelSpec) -> Iterator[Candidate]:
    """Give the same layer of every block: `at:"blocks.*/linear.0"`."""
    in_block = np.unique(spec.atoms.name[spec.atoms.zone == Zone.BLOCK])
    whole = dict.fromkeys(
        tuple(part.partition("/")[2] for part in spec.part_names(name)) for name in in_block
    )
    tails = dict.fromkeys(piece for tail in whole for piece in (_owners(tail), tail) if all(piece))
    for label in dict.fromkeys(spec.placement.labels):
        for tail in tails:
            under = named(f"{label}.*/{piece}" for piece in tail)
            yield Candidate(under, EVERYWHERE + 0.1 * tail[0].count("/") + _more(tail))


def _owners(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.rpartition("/")[0] for name in names))


def _more(names: Sequence[str]) -> float:
    """Return what it costs to name a fused tensor by each of its parts."""
    return MANY * (len(names) - 1)


def named(names: Iterable[str]) -> Expression:
    """Select by canonical names; those of a fused tensor that differ in one digit as one name."""
    first, *others = names
    pieces = re.split(r"(\d+)", first), *(re.split(r"(\d+)", other) for other in others)
    differ = [n for n, column in enumerate(zip(*pieces, strict=False)) if len(set(column)) > 1]
    if not others:
        return Quoted("at", first)
    if len(differ) == 1 and all(len(one) == len(pieces[0]) for one in pieces):
        digits = [one[differ[0]] for one in pieces]
        if all(len(digit) == 1 for digit in digits):
            before, after = pieces[0][: differ[0]], pieces[0][differ[0] + 1 :]
            return Quoted("at", "".join([*before, f"[{''.join(digits)}]", *after]))
    every: list[Expression] = [Quoted("at", one) for one in (first, *others)]
    return reduce(Either, every)


class Line(NamedTuple):
    """Blocks or stages in a row, and how a selector names some of them."""

    word: str
    place: str
    length: int
    of_name: NDArray[np.intp]
    cost: float

    def pick(self, start: int, stop: int) -> Candidate:
        """Give the selector of some of them."""
        word = Word(self.word, index_of(start, stop, self.length))
        # Of two ways to say it, the one that names fewer units reads better.
        share = (stop - start) / self.length
        cost = WORD if word.index is None else self.cost + 0.1 * share
        if self.place:
            return Candidate(Within(word, self.place), cost + BOTH)
        return Candidate(word, cost)


def _lines(spec: ModelSpec) -> Iterator[Line]:
    """Give every row of units that can be counted, with each name's position in it, -1 outside."""
    first = np.unique(spec.atoms.name, return_index=True)[1]
    block, run, zone = (
        column[first] for column in (spec.atoms.block, spec.atoms.run, spec.atoms.zone)
    )
    inside = (zone == Zone.BLOCK) | (zone == Zone.TRANSITION)
    for number, (one, label) in enumerate(zip(spec.runs, spec.placement.labels, strict=True)):
        here = inside & (run == number)
        word, place = "blocks", ""
        if len(spec.runs) > 1:
            if label in STACKS and spec.placement.labels.count(label) == 1:
                word = label
            else:
                place = spec.tree.paths[spec.placement.towers[number]]
                if not place:
                    continue
        positions = np.where(here, block, -1)
        yield Line(word, place, len(one.blocks), positions, INDEXED)
        stages = np.asarray(one.stages, np.intp)
        if len(spec.runs) == 1 and 1 < stages.max() + 1 < len(one.blocks):
            at = np.where(here, stages[np.maximum(block, 0)], -1)
            yield Line("stages", "", int(stages.max()) + 1, at, STAGES)


def _ranges(
    spec: ModelSpec,
    wanted: Mask,
    masks: Masks,
    kinds: Sequence[Candidate],
    lines: Sequence[Line],
) -> Iterator[Candidate]:
    """Give the runs of blocks and stages in which all of a kind is decided alike."""
    for line in lines:
        numbers = dict[str, int]()
        within = (name.partition("/")[2] for name in spec.canonical)
        tails = np.asarray([numbers.setdefault(tail, len(numbers)) for tail in within])
        seen = set(_alike(line, wanted, tails))
        seen |= set(uniform(line, wanted, line.of_name >= 0))
        ends = {edge for start, stop in seen for edge in (start, stop)}
        if len(ends) <= 8:
            seen |= {(0, edge) for edge in ends} | {(edge, line.length) for edge in ends}
        for start, stop in sorted(seen):
            if start < stop:
                yield line.pick(start, stop)
        for kind in kinds:
            mask = masks.of(kind.expression)
            if mask is None or not (mask & (line.of_name >= 0)).any():
                continue
            for start, stop in uniform(line, wanted, mask & (line.of_name >= 0)):
                units = line.pick(start, stop)
                cost = units.cost + kind.cost + BOTH - WORD
                if stop - start > 1 or kind.cost < EVERYWHERE:
                    yield Candidate(Both(units.expression, kind.expression), cost)


def uniform(line: Line, wanted: Mask, mask: Mask) -> Iterator[tuple[int, int]]:
    """Give the longest runs of units in which everything in a mask is decided alike."""
    train = np.bincount(line.of_name[mask & wanted], minlength=line.length) > 0
    freeze = np.bincount(line.of_name[mask & ~wanted], minlength=line.length) > 0
    for wrong in (train, freeze):
        start = 0
        for edge in (*np.flatnonzero(wrong).tolist(), line.length):
            if edge > start:
                yield start, edge
            start = edge + 1


def _alike(line: Line, wanted: Mask, tails: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Give the longest runs of units that are decided in the same way, part by part."""
    start, said = 0, dict[int, bool]()
    for unit in range(line.length):
        here = np.flatnonzero(line.of_name == unit)
        own = dict(zip(tails[here].tolist(), wanted[here].tolist(), strict=True))
        if any(said.get(tail, flag) != flag for tail, flag in own.items()):
            yield start, unit
            start, said = unit, {}
        said |= own
    yield start, line.length


def _params(spec: ModelSpec, wanted: Mask) -> Iterator[Candidate]:
    """Give the first and the last parameters, as far as they are decided alike."""
    flags = wanted[spec.first_names[spec.canonical_order]]
    edges = np.flatnonzero(flags[1:] != flags[:-1]) + 1
    if len(edges):
        for start, stop in {(0, int(edges[0])), (int(edges[-1]), len(flags))}:
            # Few are what people count; one is better called by its name.
            odd = stop - start == 1 or 2 * (stop - start) > len(flags)
            word = Word("params", index_of(start, stop, len(flags)))
            yield Candidate(word, POSITIONS + MANY * odd)


def _canonical(spec: ModelSpec) -> Iterator[Candidate]:
    """Give units, layers and parameters by their canonical names, so that anything can be said."""
    units, owners, names = (dict[tuple[str, ...], None]() for _ in range(3))
    for number in range(len(spec.tree.names)):
        name = spec.part_names(number)
        owner = _owners(name)
        units[owner[0].rpartition("/")[0] or owner[0],] = None
        owners[owner] = None
        names[name] = None
    for found, cost in ((units, UNIT), (owners, OWNER), (names, NAME)):
        yield from (Candidate(named(one), cost + _more(one)) for one in found)


def _neighbours(spec: ModelSpec, wanted: Mask) -> Iterator[Candidate]:
    """Give layers of one kind in a row that are decided alike: `at:"blocks.0/conv.[012]"`."""
    layers: dict[tuple[str, str], dict[tuple[str, ...], set[bool]]] = {}
    for number in range(len(spec.tree.names)):
        owner = _owners(spec.part_names(number))
        unit, _, counted = owner[0].rpartition("/")
        found = layers.setdefault((unit, counted.partition(".")[0]), {})
        found.setdefault(owner, set()).add(bool(wanted[number]))
    for found in layers.values():
        rows = sorted(found.items(), key=lambda row: int(row[0][0].rpartition(".")[2]))
        start = 0
        for edge in range(1, len(rows) + 1):
            if edge == len(rows) or len(rows[start][1] | rows[edge][1]) > 1:
                names = [name for owner, _ in rows[start:edge] for name in owner]
                if edge - start > 1:
                    yield Candidate(named(names), OWNER + _more(names) / 2)
                start = edge
