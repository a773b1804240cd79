"""Trying what would make two ports one function, where their shapes alone do not.

A port may hold in one tensor what the other holds apart, and a matrix may be as large here as a
kernel or a table is there. Each guess is tried on values that depend on shapes alone; that with
which most layers agree is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from unifreeze._numerics.projections import plain_shape
from unifreeze._ports.pairing.divergence import first_apart
from unifreeze._ports.pairing.fused_tensors import Where, ways_to_split
from unifreeze._ports.pairing.model_sketch import ModelSketch, SketchedRun, run_row
from unifreeze._ports.pairing.probe_values import Rows, Scales, scales_by_shape, scales_of
from unifreeze._protocol import SketchRun

MOST_TRIES = 200
"""Guesses tried in all: each takes a forward and a backward pass."""


class ModelGuess(NamedTuple):
    """How a model's tensors may be seen.

    Attributes:
        rows: The tensors, fused ones in parts.
        scales: How large the values of each are.
    """

    rows: Rows
    scales: Scales


def one_function(one: ModelSketch, run: SketchRun | SketchedRun) -> bool:
    """Tell whether a run on shared values gave the outputs that the other model gave."""
    known = one.shared.by_name
    return bool(run.chosen) and all(
        known[name].is_alike(run.outputs[key]) for key, name in run.chosen.items()
    )


def made_one(
    one: ModelSketch, first: ModelGuess, run: SketchRun, attempt: Callable[[ModelGuess], SketchRun]
) -> tuple[ModelGuess, SketchRun]:
    """Find out how a model's tensors are to be seen to make it the same function as another.

    Args:
        one: The other model.
        first: This one's tensors as they are.
        run: Its run with those.
        attempt: Runs it on shared values.

    Returns:
        The best guess, and the run with it: the two are one function then, or as nearly as can be.
    """
    search = _Search(one, first, run, attempt)
    for tries in (_in_other_scales, _in_surplus_parts, _in_any_parts, _in_parts_at_the_front):
        while not search.done and any([search.improve(guesses) for guesses in tries(search)]):
            pass  # what depends on another guess's being right may have come before it
    return search.guess, search.run


class _Search:
    """The best guess so far."""

    def __init__(
        self,
        one: ModelSketch,
        guess: ModelGuess,
        run: SketchRun,
        attempt: Callable[[ModelGuess], SketchRun],
    ) -> None:
        self.one, self.attempt = one, attempt
        self.guess, self.run, self.agreeing = guess, run, self._agreement(run)
        self.left = MOST_TRIES

    @property
    def done(self) -> bool:
        """Tell whether the two are one function."""
        return one_function(self.one, self.run)

    def improve(self, guesses: Iterable[ModelGuess]) -> bool:
        """Try some; keep the one with which most layers agree, if that is more than before."""
        start = self.guess
        for guess in guesses:
            if self.done or not self.left:
                break
            run = self.attempt(guess)
            self.left -= 1
            count = self._agreement(run)
            if count > self.agreeing or one_function(self.one, run):
                self.guess, self.run, self.agreeing = guess, run, count
        return self.guess is not start

    def _agreement(self, run: SketchRun) -> int:
        """Count the layers of the other model whose results, or inputs, a run has seen."""
        there, shared = run_row(run), self.one.shared
        return sum(map(there.has, (*(row.sketch for row in shared.layers), *shared.passed)))


def _in_other_scales(search: _Search) -> Iterator[Iterator[ModelGuess]]:
    """Give for each matrix the guesses that it is of another scale that the other model has."""
    here, there = (
        scales_by_shape(side) for side in (search.guess.rows.values(), search.one.tensors)
    )
    differing = [shape for shape in here if len(shape) == 2 and here[shape] != there[shape]]
    for path, row in search.guess.rows.items():
        if plain_shape(row.shape) in differing and row.reached and not row.state:
            yield _rescaled(search, path, list(there[plain_shape(row.shape)]))


def _rescaled(search: _Search, path: str, scales: list[float]) -> Iterator[ModelGuess]:
    rows, known = search.guess
    for scale in scales:
        if scale != known[path]:
            yield ModelGuess(rows, {**known, path: scale})


def _in_surplus_parts(search: _Search) -> Iterator[Iterator[ModelGuess]]:
    return _in_parts(search, Where(surplus=True))


def _in_any_parts(search: _Search) -> Iterator[Iterator[ModelGuess]]:
    return _in_parts(search, Where())


def _in_parts_at_the_front(search: _Search) -> Iterator[Iterator[ModelGuess]]:
    """Look only where the two models part: each may hold in one what the other holds apart."""
    front = first_apart(run_row(search.run), search.one.shared)
    return _in_parts(search, Where(front=front.path)) if front else iter(())


def _in_parts(search: _Search, where: Where) -> Iterator[Iterator[ModelGuess]]:
    """Give for each sort of what may be fused the guesses at its layout."""
    sorts = [sort for sort, _ in ways_to_split(search.one, search.guess.rows, where)]
    for sort in sorts:
        # Asked anew, because a sort before it may have been split by now.
        ways = dict(ways_to_split(search.one, search.guess.rows, where))
        yield (_split(search, rows) for rows in ways.get(sort, ()))


def _split(search: _Search, rows: Rows) -> ModelGuess:
    known = search.guess.scales
    scales = scales_of(rows.values(), search.one.tensors)
    return ModelGuess(rows, {path: known.get(path, scale) for path, scale in scales.items()})
