"""The shortest plan that trains exactly the given parameters; pure, and checked on each model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._authoring.capture.candidates import NAME, Candidate, Masks
from unifreeze._authoring.capture.native_selectors import every_native_path, native_candidates
from unifreeze._authoring.capture.neutral_selectors import neutral_candidates
from unifreeze._authoring.capture.rule_search import Layer, Problem, Rules
from unifreeze._plan import FreezePlan, Rule
from unifreeze._plan.selectors import Expression, Selector
from unifreeze._plan.selectors.expression import Either
from unifreeze._resolution import resolve_spec
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import PlanError, ResolveError, listing

MOST_TERMS = 12
"""How many selectors one rule joins; the rest goes into another rule."""
LARGE = 60_000_000
"""Candidates times names; beyond that, plans of more than one layer are not searched."""


@dataclass(frozen=True)
class Aim:
    """One model, and which of its parameters are to be trainable.

    Attributes:
        spec: The model.
        trainable: For each parameter, the decision.
        known: For each parameter, whether the decision matters.
    """

    spec: ModelSpec
    trainable: Mask
    known: Mask

    @classmethod
    def of(cls, spec: ModelSpec, trainable: Mask) -> Aim:
        """Aim at all of a model's parameters but those its framework never trains."""
        return cls(spec, np.asarray(trainable, np.bool_), can_train(spec))


def can_train(spec: ModelSpec) -> Mask:
    """Return, for each parameter, whether its framework would train it."""
    return np.asarray([not tensor.fixed for tensor in spec.tensors], np.bool_)


def unfrozen(spec: ModelSpec) -> ModelSpec:
    """Return the description of a model of which nothing is frozen yet."""
    return spec.with_found(can_train(spec) | spec.found)


def shortest_plan(
    spec: ModelSpec,
    trainable: Mask,
    *,
    others: Sequence[Aim] = (),
    native_names: bool = False,
    one_model: bool = True,
    neutral_only: bool = False,
) -> FreezePlan:
    """Return the shortest plan that the search finds that makes exactly these parameters trainable.

    It is resolved against every model before it is returned.

    Args:
        spec: The model's description.
        trainable: For each parameter, whether it is to be trainable.
        others: Other models on which the same plan has to be right.
        native_names: Use native names.
        one_model: The plan is for this model alone, so it may count parameters and stages.
        neutral_only: Use no native name, not even where nothing else tells two parameters apart.

    Raises:
        ResolveError: No plan can say it; for example, tensors that share memory have two decisions.
        PlanError: No selector tells apart what is frozen and what trains.
    """
    aims = (Aim.of(spec, trainable), *others)
    plan = _trivial(aims)
    if plan is None:
        words = Vocabulary(native=native_names, one_model=one_model, paths=not neutral_only)
        plan = _plan(CandidateTable(aims, words))
    for aim in aims:
        _check(plan, aim)
    return plan


def _trivial(aims: Sequence[Aim]) -> FreezePlan | None:
    flags = np.concatenate([aim.trainable[aim.known] for aim in aims])
    if not flags.any():
        return FreezePlan().freeze("all")
    return FreezePlan().train("all") if flags.all() else None


def _plan(table: CandidateTable) -> FreezePlan:
    rules = table.problem().solve()
    if rules is None:
        raise PlanError(
            "no selector tells apart what is frozen and what trains",
            context=f"in {listing(aim.spec.framework for aim in table.aims)}",
        )
    return FreezePlan(tuple(table.write(rules)))


class Vocabulary(NamedTuple):
    """Which selectors a plan may be written in.

    Attributes:
        native: Native names, and nothing else.
        one_model: Also selectors that count parameters or stages.
        paths: Also native paths, where nothing else tells two parameters apart.
        positions: Among native names, also runs of a module's children.
    """

    native: bool = False
    one_model: bool = False
    paths: bool = True
    positions: bool = True


class CandidateTable:
    """Candidates, and which names each takes in all the models that a plan is for."""

    def __init__(self, aims: Sequence[Aim], words: Vocabulary) -> None:
        self.aims, self.words = aims, words
        self.masks = [Masks(aim.spec) for aim in aims]
        self.wanted = [aim.trainable[aim.spec.tensor_of] for aim in aims]
        known = np.concatenate([aim.known[aim.spec.tensor_of] for aim in aims])
        self.columns = np.flatnonzero(known)
        self.rows: list[Mask] = []
        self.candidates: list[Candidate] = []
        self._numbers: dict[bytes, int] = {}
        source, wanted = aims[0].spec, self.wanted[0]
        native = native_candidates(source, wanted, positions=words.positions)
        for candidate in native if words.native else self._neutral():
            self._add(candidate)
        if words.paths and not words.native:
            for candidate in every_native_path(source, cost=3 * NAME):
                self._add(candidate)

    def _neutral(self) -> Iterator[Candidate]:
        for aim, wanted, masks in zip(self.aims, self.wanted, self.masks, strict=True):
            yield from neutral_candidates(aim.spec, wanted, masks, one_model=self.words.one_model)

    def _add(self, candidate: Candidate) -> None:
        """Add a candidate that takes something in every model, unless a cheaper one takes it."""
        taken = [masks.of(candidate.expression) for masks in self.masks]
        if any(mask is None or not mask.any() for mask in taken):
            return
        row = np.concatenate([mask for mask in taken if mask is not None])[self.columns]
        number = self._numbers.setdefault(np.packbits(row).tobytes(), len(self.candidates))
        if number == len(self.candidates):
            self.candidates.append(candidate)
            self.rows.append(row)
        elif candidate.cost < self.candidates[number].cost:
            self.candidates[number] = candidate

    def problem(self) -> Problem:
        """Return the search problem over the candidates."""
        offsets = np.cumsum([0, *(len(aim.spec) for aim in self.aims)])[:-1]
        pairs = zip(self.aims, offsets, strict=True)
        tensor = np.concatenate([aim.spec.tensor_of + offset for aim, offset in pairs])
        matrix = np.asarray(self.rows, np.float32)
        costs = np.asarray([candidate.cost for candidate in self.candidates], np.float32)
        wanted = np.concatenate(self.wanted)[self.columns]
        depth = 3 if matrix.size < LARGE else 1
        return Problem(matrix, costs, wanted, tensor[self.columns], depth)

    def write(self, rules: Rules) -> Iterator[Rule]:
        """Yield the rules; within each, selectors go from the input to the head."""
        for number, layer in enumerate(rules.layers):
            for start, selector in enumerate(self._selectors(layer)):
                first = number == 0 and start == 0
                verb = rules.verb if first else "train" if layer.trains else "freeze"
                yield Rule(verb, selector)

    def _selectors(self, layer: Layer) -> Iterator[Selector]:
        rows = sorted(layer.rows, key=lambda row: self._position(self.rows[row]))
        for start in range(0, len(rows), MOST_TERMS):
            terms = [self.candidates[row].expression for row in rows[start : start + MOST_TERMS]]
            # Read back from text, as it is read when the plan is loaded.
            yield Selector(str(reduce(Either, terms)))

    def _position(self, row: Mask) -> tuple[int, int]:
        places = self._order()[row]
        return int(places.min()), -int(row.sum())

    def _order(self) -> NDArray[np.intp]:
        order = []
        for aim in self.aims:
            place = np.empty(len(aim.spec), np.intp)
            place[aim.spec.canonical_order] = np.arange(len(aim.spec))
            order.append(place[aim.spec.tensor_of])
        return np.concatenate(order)[self.columns]


def _check(plan: FreezePlan, aim: Aim) -> None:
    """Resolve a plan on a fresh model, and on one frozen already; both must be right."""
    for spec in (unfrozen(aim.spec), aim.spec.with_found(aim.trainable)):
        decided = resolve_spec(plan, spec).trainable
        wrong = np.flatnonzero((decided != aim.trainable) & aim.known)
        if len(wrong):
            paths = [spec.parameters[number].path for number in wrong]
            raise ResolveError(f"the plan would decide these otherwise: {listing(paths)}")


def covering(
    spec: ModelSpec,
    need: Mask,
    allowed: Mask,
    *,
    native_names: bool = False,
    positions: bool = True,
) -> Selector | None:
    """Return a short selector that takes all parameters needed and only what is allowed.

    Args:
        spec: The model's description.
        need: For each parameter, whether it must be taken.
        allowed: For each parameter, whether it may be.
        native_names: Use native names.
        positions: Among native names, allow runs of a module's children; all must be known then.
    """
    words = Vocabulary(native=native_names, positions=positions)
    table = CandidateTable([Aim(spec, need, need | ~allowed)], words)
    problem = table.problem()
    rows = problem.cover(problem.wanted, problem.wanted, np.inf, any_name=True)
    if rows is None:
        return None
    terms: list[Expression] = [table.candidates[row].expression for row in rows]
    return Selector(str(reduce(Either, terms))) if terms else Selector("all")
