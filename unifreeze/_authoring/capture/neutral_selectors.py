"""Selectors in neutral words that a captured plan may be made of.

Words come cheapest, then canonical names; native paths are in `native_selectors.py`. Selectors that
count parameters or stages fit one model alone: ports of a network need not agree on how many there
are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

import numpy as np

from unifreeze._authoring.capture.candidates import (
    BOTH,
    EVERYWHERE,
    MANY,
    NAME,
    OWNER,
    POSITIONS,
    SLIGHTLY,
    UNIT,
    WITHOUT,
    WORD,
    Candidate,
    Masks,
)
from unifreeze._authoring.capture.unit_sequences import (
    STACKS,
    UnitSequence,
    index_of,
    unit_sequences,
)
from unifreeze._plan.selectors import Expression, Word
from unifreeze._plan.selectors.expression import Both, Either, Quoted, Within, Without
from unifreeze._structure import Mask, ModelSpec, Zone

PLACES = ("embeddings", "stem", "neck", "head", "classifier", "pooler", "backbone", "blocks")
TABLES = ("word_embeddings", "position_embeddings")
PARTS = ("weight", "bias")
LAYER_WORDS = ("norm", "conv", "linear", "tables", "attention", "mlp", "query", "key", "value")


def neutral_candidates(
    spec: ModelSpec, wanted: Mask, masks: Masks, *, one_model: bool
) -> Iterator[Candidate]:
    """Yield the selectors in neutral words that could have a part in a plan.

    Args:
        spec: The model.
        wanted: For each name, whether it is to be trainable.
        masks: What selectors take of the model.
        one_model: The plan is for this model alone, so it may count parameters and stages.
    """
    kinds = list(_kinds(spec, masks))
    places = [Candidate(Word(word), WORD) for word in (*PLACES, *STACKS, *TABLES)]
    # Another port may have more names for a tied tensor, and this word takes all of them.
    places.append(Candidate(Word("tied"), WORD if one_model else WORD - SLIGHTLY))
    ranges = list[Candidate]()
    for sequence in unit_sequences(spec):
        if one_model or sequence.word != "stages":
            ranges += _ranges(spec, wanted, sequence)
            ranges += _ranges_of_kinds(sequence, wanted, masks, kinds)
    yield from places
    yield from _towers(spec, one_model=one_model)
    yield from kinds
    yield from ranges
    plain = [kind for kind in kinds if kind.cost < EVERYWHERE]
    plain_ranges = [units for units in ranges if isinstance(units.expression, Word | Within)]
    for place in [*places, *plain_ranges]:
        for kind in plain:
            cost = place.cost + kind.cost
            yield Candidate(Both(place.expression, kind.expression), cost + BOTH - WORD)
            yield Candidate(Without(place.expression, kind.expression), cost + WITHOUT - WORD)
            yield Candidate(Without(kind.expression, place.expression), cost + WITHOUT - WORD)
    if one_model:
        yield from _params(spec, wanted)
    yield from _canonical(spec)
    yield from _neighbours(spec, wanted)


def _kinds(spec: ModelSpec, masks: Masks) -> Iterator[Candidate]:
    """Yield the selectors of a kind of layer, or of a part of layers, anywhere in the model."""
    words = [word for word in (*LAYER_WORDS, *PARTS, "adapter") if masks.takes_any(Word(word))]
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
    """Yield the submodules that hold one run of blocks each, in a model with several runs.

    Where a word says the same, a path is left out: another port may use another path.
    """
    for tower, label in zip(spec.placement.towers, spec.placement.labels, strict=True):
        path = spec.tree.paths[tower]
        if path and len(spec.runs) > 1 and (one_model or label not in STACKS):
            yield Candidate(Within(Word("all"), path), WORD + BOTH)


def _everywhere(spec: ModelSpec) -> Iterator[Candidate]:
    """Yield the same layer of every block: `at:"blocks.*/linear.0"`."""
    in_block = np.unique(spec.atoms.name[spec.atoms.zone == Zone.BLOCK])
    parameters = dict.fromkeys(
        tuple(part.partition("/")[2] for part in spec.part_names(name)) for name in in_block
    )
    tails = dict.fromkeys(
        tail for names in parameters for tail in (_owners(names), names) if all(tail)
    )
    for label in dict.fromkeys(spec.placement.labels):
        for tail in tails:
            selector = by_canonical_names(f"{label}.*/{name}" for name in tail)
            yield Candidate(selector, EVERYWHERE + 0.1 * tail[0].count("/") + _cost_of_parts(tail))


def _owners(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.rpartition("/")[0] for name in names))


def _cost_of_parts(names: Sequence[str]) -> float:
    """Return what it costs to name a fused tensor by each of its parts."""
    return MANY * (len(names) - 1)


def by_canonical_names(names: Iterable[str]) -> Expression:
    """Select by canonical names; names that differ in one digit are written as one.

    >>> str(by_canonical_names(["blocks.0/linear.0", "blocks.0/linear.1"]))
    'at:"blocks.0/linear.[01]"'
    """
    names = tuple(names)
    rows = [re.split(r"(\d+)", name) for name in names]
    differ = [n for n, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1]
    if len(differ) == 1 and len(set(map(len, rows))) == 1:
        digits = [row[differ[0]] for row in rows]
        if all(len(digit) == 1 for digit in digits):
            before, after = rows[0][: differ[0]], rows[0][differ[0] + 1 :]
            return Quoted("at", "".join([*before, f"[{''.join(digits)}]", *after]))
    every: list[Expression] = [Quoted("at", name) for name in names]
    return reduce(Either, every)


def _ranges(spec: ModelSpec, wanted: Mask, units: UnitSequence) -> Iterator[Candidate]:
    """Yield the runs of blocks or stages whose units are decided alike."""
    numbers = dict[str, int]()
    in_unit = (name.partition("/")[2] for name in spec.canonical)
    tails = np.asarray([numbers.setdefault(tail, len(numbers)) for tail in in_unit])
    runs = {*units.alike(wanted, tails), *units.uniform(wanted, units.inside)}
    ends = {edge for run in runs for edge in run}
    if len(ends) <= 8:
        runs |= {(0, edge) for edge in ends} | {(edge, units.length) for edge in ends}
    for start, stop in sorted(runs):
        if start < stop:
            yield units.pick(start, stop)


def _ranges_of_kinds(
    units: UnitSequence, wanted: Mask, masks: Masks, kinds: Sequence[Candidate]
) -> Iterator[Candidate]:
    """Yield the runs of blocks or stages in which all layers of a kind have one decision."""
    for kind in kinds:
        mask = masks.of(kind.expression)
        if mask is None or not (mask & units.inside).any():
            continue
        for start, stop in units.uniform(wanted, mask & units.inside):
            run = units.pick(start, stop)
            if stop - start > 1 or kind.cost < EVERYWHERE:
                cost = run.cost + kind.cost + BOTH - WORD
                yield Candidate(Both(run.expression, kind.expression), cost)


def _params(spec: ModelSpec, wanted: Mask) -> Iterator[Candidate]:
    """Yield the first and the last parameters, as far as they have one decision."""
    flags = wanted[spec.first_names[spec.canonical_order]]
    edges = np.flatnonzero(flags[1:] != flags[:-1]) + 1
    if len(edges):
        for start, stop in {(0, int(edges[0])), (int(edges[-1]), len(flags))}:
            # People count a few parameters; a single one is better called by its name.
            odd = stop - start == 1 or 2 * (stop - start) > len(flags)
            word = Word("params", index_of(start, stop, len(flags)))
            yield Candidate(word, POSITIONS + MANY * odd)


def _canonical(spec: ModelSpec) -> Iterator[Candidate]:
    """Yield every unit, layer and parameter by canonical name, so that any plan can be written."""
    units, owners, names = (dict[tuple[str, ...], None]() for _ in range(3))
    for number in range(len(spec.tree.names)):
        name = spec.part_names(number)
        owner = _owners(name)
        units[owner[0].rpartition("/")[0] or owner[0],] = None
        owners[owner] = None
        names[name] = None
    for groups, cost in ((units, UNIT), (owners, OWNER), (names, NAME)):
        for parts in groups:
            yield Candidate(by_canonical_names(parts), cost + _cost_of_parts(parts))


def _neighbours(spec: ModelSpec, wanted: Mask) -> Iterator[Candidate]:
    """Yield neighbouring layers of one kind with one decision: `at:"blocks.0/conv.[012]"`."""
    layers: dict[tuple[str, str], dict[tuple[str, ...], set[bool]]] = {}
    for number in range(len(spec.tree.names)):
        owner = _owners(spec.part_names(number))
        unit, _, layer = owner[0].rpartition("/")
        decisions = layers.setdefault((unit, layer.partition(".")[0]), {})
        decisions.setdefault(owner, set()).add(bool(wanted[number]))
    for decisions in layers.values():
        rows = sorted(decisions.items(), key=lambda row: int(row[0][0].rpartition(".")[2]))
        start = 0
        for edge in range(1, len(rows) + 1):
            if edge == len(rows) or len(rows[start][1] | rows[edge][1]) > 1:
                names = [name for owner, _ in rows[start:edge] for name in owner]
                if edge - start > 1:
                    yield Candidate(by_canonical_names(names), OWNER + _cost_of_parts(names) / 2)
                start = edge
