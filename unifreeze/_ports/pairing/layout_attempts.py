"""Attempts to make two ports one function by other scales of values, or by splitting tensors.

A port may hold in one tensor what the other holds in several, and a matrix in one port may be a
kernel or a table in the other. Each guess is tried on values that depend on shapes alone; the guess
with which most layers agree is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from unifreeze._numerics.projections import plain_shape
from unifreeze._ports.pairing.divergence import first_apart
from unifreeze._ports.pairing.fused_tensors import Where, ways_to_split
from unifreeze._ports.pairing.model_sketch import ModelSketch, SketchedRun, TensorRows, run_row
from unifreeze._ports.pairing.probe_values import Scales, scales_by_shape, scales_of
from unifreeze._protocol import SketchRun

MOST_TRIES = 200
"""Most guesses to try: each takes a forward and a backward pass."""


class ModelGuess(NamedTuple):
    """A guess at the parts and scales of a model's tensors.

    Attributes:
        rows: The tensors, fused ones in parts.
        scales: Scale of the values of each.
    """

    rows: TensorRows
    scales: Scales


def one_function(one: ModelSketch, run: SketchRun | SketchedRun) -> bool:
    """Return whether a run on shared values gave the same outputs as the other model."""
    known = one.shared.by_name
    return bool(run.chosen) and all(
        known[name].is_alike(run.outputs[key]) for key, name in run.chosen.items()
    )


def make_one_function(
    one: ModelSketch, first: ModelGuess, run: SketchRun, attempt: Callable[[ModelGuess], SketchRun]
) -> tuple[ModelGuess, SketchRun]:
    """Find the guess at a model's tensors with which it computes the same as another model.

    Args:
        one: The other model.
        first: This model's tensors as they are.
        run: Its run with those.
        attempt: Runs this model with a guess on shared values.

    Returns:
        The best guess, and the run with it.
    """
    search = _Search(one, first, run, attempt)
    in_surplus_parts = partial(_in_parts, where=Where(surplus=True))
    in_any_parts = partial(_in_parts, where=Where())
    for tries in (_in_other_scales, in_surplus_parts, in_any_parts, _in_parts_at_the_front):
        while not search.done and any([search.improve(guesses) for guesses in tries(search)]):
            pass  # repeat: a sort may only be solvable after a later one
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
        """Whether the two are one function."""
        return one_function(self.one, self.run)

    def improve(self, guesses: Iterable[ModelGuess]) -> bool:
        """Try guesses; keep the best if more layers agree, and return whether they do."""
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
        """Count the outputs and inputs of the other model's layers that a run has as well."""
        there, shared = run_row(run), self.one.shared
        return sum(map(there.has, (*(row.sketch for row in shared.layers), *shared.passed)))


def _in_other_scales(search: _Search) -> Iterator[Iterator[ModelGuess]]:
    """Yield for each matrix the guesses with the other scales that the other model has."""
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


def _in_parts_at_the_front(search: _Search) -> Iterator[Iterator[ModelGuess]]:
    """Try only the first layer that differs: each model may have fused tensors of its own."""
    front = first_apart(run_row(search.run), search.one.shared)
    return _in_parts(search, Where(front=front.path)) if front else iter(())


def _in_parts(search: _Search, where: Where) -> Iterator[Iterator[ModelGuess]]:
    """Yield for each sort of tensors that may be fused the guesses at its layout."""
    sorts = [sort for sort, _ in ways_to_split(search.one, search.guess.rows, where)]
    for sort in sorts:
        # Computed again, because an earlier sort may have been split by now.
        ways = dict(ways_to_split(search.one, search.guess.rows, where))
        yield (_split(search, rows) for rows in ways.get(sort, ()))


def _split(search: _Search, rows: TensorRows) -> ModelGuess:
    known = search.guess.scales
    scales = scales_of(rows.values(), search.one.tensors)
    return ModelGuess(rows, {path: known.get(path, scale) for path, scale in scales.items()})
