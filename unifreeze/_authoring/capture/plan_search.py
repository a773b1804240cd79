"""From the parameters that are to train to the shortest plan that says so; pure, and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._authoring.capture.candidates import NAME, Candidate, Masks, neutral
from unifreeze._authoring.capture.native_selectors import every_native_path, native_candidates
from unifreeze._authoring.capture.rule_search import Layer, Problem, Rules
from unifreeze._plan import FreezePlan, Rule
from unifreeze._plan.selectors import Expression, Selector, Word
from unifreeze._plan.selectors.expression import Either
from unifreeze._resolution import resolve_spec
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import PlanError, ResolveError, listing

MOST_TERMS = 12
"""How many selectors one rule joins; what is left goes into another."""
LARGE = 60_000_000
"""Candidates times names, beyond which fewer layers are looked into."""


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
        return cls(spec, np.asarray(trainable, np.bool_), free(spec))


def free(spec: ModelSpec) -> Mask:
    """Return, for each parameter, whether its framework would train it."""
    return np.asarray([not tensor.fixed for tensor in spec.tensors], np.bool_)


def fresh(spec: ModelSpec) -> ModelSpec:
    """Describe a model as it is when nobody has frozen anything."""
    return spec.with_found(free(spec) | spec.found)


def shortest_plan(
    spec: ModelSpec,
    trainable: Mask,
    *,
    others: Sequence[Aim] = (),
    native_names: bool = False,
    one_model: bool = True,
    neutral_only: bool = False,
) -> FreezePlan:
    """Return the shortest plan found that makes exactly these parameters trainable.

    It is resolved against every model before it is returned.

    Args:
        spec: The model's description.
        trainable: For each parameter, whether it is to be trainable.
        others: Other models on which the same plan has to be right.
        native_names: Use the framework's own names.
        one_model: The plan is for no other model: it may count parameters and stages.
        neutral_only: Use none of them, not even where nothing else tells two parameters apart.

    Raises:
        ResolveError: No plan can say it: tensors that share memory are to be told apart, say.
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
    """What a plan may be written in.

    Attributes:
        native: The framework's own names, and nothing else.
        one_model: What counts parameters and stages, too.
        paths: Native paths, where nothing else tells two parameters apart.
        positions: Among native names, runs of a module's children.
    """

    native: bool = False
    one_model: bool = False
    paths: bool = True
    positions: bool = True


class CandidateTable:
    """Candidates with what they take, over the names of all models that a plan is for."""

    def __init__(self, aims: Sequence[Aim], words: Vocabulary) -> None:
        self.aims, self.words = aims, words
        self.masks = [Masks(aim.spec) for aim in aims]
        self.wanted = [aim.trainable[aim.spec.tensor_of] for aim in aims]
        known = np.concatenate([aim.known[aim.spec.tensor_of] for aim in aims])
        self.columns = np.flatnonzero(known)
        self.rows: list[Mask] = []
        self.candidates: list[Candidate] = []
        self._at: dict[bytes, int] = {}
        source, wanted = aims[0].spec, self.wanted[0]
        own = native_candidates(source, wanted, positions=words.positions)
        for one in own if words.native else self._neutral():
            self._add(one)
        if words.paths and not words.native:
            for one in every_native_path(source, cost=3 * NAME):
                self._add(one)

    def _neutral(self) -> Iterator[Candidate]:
        for aim, wanted, masks in zip(self.aims, self.wanted, self.masks, strict=True):
            yield from neutral(aim.spec, wanted, masks, one_model=self.words.one_model)

    def _add(self, one: Candidate) -> None:
        found = [masks.of(one.expression) for masks in self.masks]
        if any(mask is None or not mask.any() for mask in found):
            return
        row = np.concatenate([mask for mask in found if mask is not None])[self.columns]
        key = np.packbits(row).tobytes()
        at = self._at.setdefault(key, len(self.candidates))
        if at == len(self.candidates):
            self.candidates.append(one)
            self.rows.append(row)
        elif one.cost < self.candidates[at].cost:
            self.candidates[at] = one

    def problem(self) -> Problem:
        """Return the search over them."""
        offsets = np.cumsum([0, *(len(aim.spec) for aim in self.aims)])[:-1]
        pairs = zip(self.aims, offsets, strict=True)
        tensor = np.concatenate([aim.spec.tensor_of + offset for aim, offset in pairs])
        matrix = np.asarray(self.rows, np.float32)
        costs = np.asarray([one.cost for one in self.candidates], np.float32)
        wanted = np.concatenate(self.wanted)[self.columns]
        depth = 3 if matrix.size < LARGE else 1
        return Problem(matrix, costs, wanted, tensor[self.columns], depth)

    def write(self, rules: Rules) -> Iterator[Rule]:
        """Give the rules; from the input on within each."""
        for number, layer in enumerate(rules.layers):
            for start, selector in enumerate(self._selectors(layer)):
                first = number == 0 and start == 0
                verb = rules.verb if first else "train" if layer.trains else "freeze"
                yield Rule(verb, selector)

    def _selectors(self, layer: Layer) -> Iterator[Selector]:
        rows = sorted(layer.rows, key=lambda row: self._position(self.rows[row]))
        for start in range(0, len(rows), MOST_TERMS):
            some = [self.candidates[row].expression for row in rows[start : start + MOST_TERMS]]
            # Read back from text, as whoever loads the plan will read it.
            yield Selector(str(reduce(Either, some)))

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
    """Resolve a plan on a model as it comes, and on one frozen already; both must be right."""
    for spec in (fresh(aim.spec), aim.spec.with_found(aim.trainable)):
        decided = resolve_spec(plan, spec).trainable
        wrong = np.flatnonzero((decided != aim.trainable) & aim.known)
        if len(wrong):
            paths = [spec.parameters[number].path for number in wrong]
            raise ResolveError(f"the plan found would decide otherwise: {listing(paths)}")


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
        native_names: Use the framework's own names.
        positions: Among those, runs of a module's children, which must all be known then.
    """
    words = Vocabulary(native=native_names, positions=positions)
    table = CandidateTable([Aim(spec, need, need | ~allowed)], words)
    problem = table.problem()
    rows = problem.cover(problem.wanted, problem.wanted, np.inf, any_name=True)
    if rows is None:
        return None
    found: list[Expression] = [table.candidates[row].expression for row in rows]
    return (
        Selector(str(reduce(Either, found, found.pop(0)))) if found else Selector(str(Word("all")))
    )
