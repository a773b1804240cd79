"""`make_sketch`: run a live model on its own values, or on those of a model sketched before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial as bound

from unifreeze._numerics.outputs import Seen
from unifreeze._ports.pairing.fused_tensors import split_as
from unifreeze._ports.pairing.layer_settings import layer_rows
from unifreeze._ports.pairing.layout import Part, places
from unifreeze._ports.pairing.layout_attempts import ModelGuess, make_one_function, one_function
from unifreeze._ports.pairing.matching import Matching
from unifreeze._ports.pairing.model_sketch import (
    SKETCH_FORMAT,
    ModelSketch,
    Pair,
    TensorRows,
    outputs_of,
    run_row,
    tensor_rows,
    with_reach,
)
from unifreeze._ports.pairing.probe_values import (
    Scales,
    Values,
    carried_over,
    own_of,
    scales_of,
    shared_of,
    whole,
)
from unifreeze._ports.pairing.state_effects import with_shown
from unifreeze._protocol import Backend, Batch, Chosen, SketchConfig, SketchRun
from unifreeze._protocol.live import Model
from unifreeze.errors import PairingError, TargetError, listing

Choose = Callable[[Mapping[str, Seen]], Chosen]


def make_sketch(
    model: Model,
    backend: Backend,
    batch: Batch,
    *,
    name: str,
    like: ModelSketch | None = None,
    hints: Mapping[str, str] | None = None,
    given: Iterable[Pair] = (),
    shipped: bool = False,
    outputs: tuple[str, ...] | None = None,
    states: bool = False,
    parts: Iterable[Part] = (),
    seed: int = 0,
) -> ModelSketch:
    """Run a live model twice on seeded values, and keep what pairing needs.

    Args:
        model: The live model; it gets its own values back, bit for bit.
        backend: Its backend.
        batch: Inputs.
        name: Name of the model in messages.
        like: Sketch of the model to pair it with. The second run then uses that model's values,
            carried over, which is what certifies the pairing.
        hints: Native paths of that model, with those of this one; the certificate says whether they
            are right.
        given: The same as pairs, which also say what is stored transposed.
        shipped: Ask the model's own library for a table of names where nothing else decides.
        outputs: Keys of the outputs the loss may use; None for all.
        states: Give values to state that is not a statistic as well; with `like`, as that one did.
        parts: The known parts of fused tensors.
        seed: Seed of everything random.

    Raises:
        TargetError: The model does not run on the batch, or gives no gradient.
    """
    if like is None:
        running = _Running(model, backend, batch, seed, states, parts)
        return running.alone(name, outputs)
    if like.like:
        raise PairingError(
            f"the sketch of {like.model} was itself made on another model's values",
            hint="give the first of the two, which was made without --like",
        )
    running = _Running(model, backend, batch, like.seed, like.states, parts)
    return running.like(name, like, hints or {}, given, shipped=shipped)


class _Running:
    """A live model, and how to run it on given values."""

    def __init__(
        self,
        model: Model,
        backend: Backend,
        batch: Batch,
        seed: int,
        states: bool,
        parts: Iterable[Part],
    ) -> None:
        self.model, self.backend, self.batch = model, backend, batch
        self.seed, self.states = seed, states
        self.rows: TensorRows = split_as(tensor_rows(backend.describe(model)), parts)

    def run(self, values: Values, rows: TensorRows, choose: Choose | None) -> SketchRun:
        """Run once."""
        parts = places(row.part for row in rows.values())
        config = SketchConfig(self.batch, whole(rows, values), choose, self.seed, parts)
        return self.backend.sketch(self.model, config)

    def alone(self, name: str, outputs: tuple[str, ...] | None) -> ModelSketch:
        """Sketch the model on values of its own."""

        def choose(seen: Mapping[str, Seen]) -> Chosen:
            chosen = {key: key for key in seen if outputs is None or key in outputs}
            if outputs and not chosen:
                raise TargetError(
                    f"none of the outputs asked for is there: {listing(outputs)}",
                    context=f"it returns: {listing(seen) or 'none'}",
                )
            return chosen

        shared = self._shared(choose, scales_of(self.rows.values()))
        values = own_of(self.rows, self.seed, states=self.states)
        return self._sketch(name, shared, self.run(values, self.rows, choose))

    def like(
        self,
        name: str,
        like: ModelSketch,
        hints: Mapping[str, str],
        given: Iterable[Pair],
        *,
        shipped: bool,
    ) -> ModelSketch:
        """Pair the model with another, and sketch it on that model's values."""

        def choose(seen: Mapping[str, Seen]) -> Chosen:
            return outputs_of(like, seen).names

        def attempt(guess: ModelGuess) -> SketchRun:
            return self.run(shared_of(*guess, states=self.states), guess.rows, choose)

        first = ModelGuess(self.rows, scales_of(self.rows.values(), like.tensors))
        shared = self._shared(choose, first.scales)
        first = first._replace(rows=self.rows)
        if not one_function(like, shared):
            (self.rows, _), shared = make_one_function(like, first, shared, attempt)
        sketch = self._sketch(name, shared, shared).model_copy(update={"like": like.digest})
        if not one_function(like, shared):
            return sketch  # there is nothing to pair
        matching = Matching(like, sketch)
        matching.take(given)
        matching.take_map(hints)
        paths = [row.path for row in like.tensors]
        table = self.backend.shipped_map(self.model, paths) if shipped else {}
        pairs = tuple(matching.run(table))
        own = self.run(carried_over(like, self.rows, pairs), self.rows, lambda _: shared.chosen)
        return self._sketch(name, shared, own).model_copy(
            update={"like": like.digest, "carried": pairs}
        )

    def _shared(self, choose: Choose, scales: Scales) -> SketchRun:
        """Run on shared values, and note which tensors ran and which change the outputs."""

        def run(rows: TensorRows, values: Values) -> SketchRun:
            return self.run(values, rows, choose)

        values = shared_of(self.rows, scales, states=self.states)
        shared = run(self.rows, values)
        self.rows = {path: with_reach(row, shared.calls) for path, row in self.rows.items()}
        current = bound(self.backend.tensor, self.model)
        self.rows = with_shown(self.rows, values, shared, bound(run, self.rows), current)
        return shared

    def _sketch(self, name: str, shared: SketchRun, own: SketchRun) -> ModelSketch:
        owners = {row.owner for row in self.rows.values()}
        return ModelSketch(
            unifreeze_sketch=SKETCH_FORMAT,
            framework=self.backend.name,
            model=name,
            seed=self.seed,
            states=self.states,
            tensors=tuple(self.rows.values()),
            settings=layer_rows(self.backend, self.model, shared.calls),
            shared=run_row(shared),
            own=run_row(own, of=owners),
        )
