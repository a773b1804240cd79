"""Capturing a live model's freezing as a plan, with everything that was seen on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unifreeze.arguments import checked, checked_methods
from unifreeze.backend import Batch, backend_for
from unifreeze.capturing.effects import cut_off, left_out, put_back
from unifreeze.capturing.shortest import fresh, shortest_plan
from unifreeze.capturing.statistics import with_statistics
from unifreeze.capturing.substrings import find_loop
from unifreeze.capturing.text import written
from unifreeze.errors import ResolveError
from unifreeze.handle.target import Target
from unifreeze.plan import FreezePlan, Rule, save_text
from unifreeze.resolution import resolve_spec
from unifreeze.structure import Mask, ModelSpec
from unifreeze.tables import one_line


@checked_methods
@dataclass(frozen=True)
class Capture:
    """A model's freezing as a plan.

    Attributes:
        plan: The shortest plan found that says it.
        text: The plan as a file, with a comment on each rule.
        notes: What the user should know of how it came about.
    """

    plan: FreezePlan
    text: str
    notes: tuple[str, ...]

    def save(self, path: str | Path) -> None:
        """Write the plan file, comments and all.

        Raises:
            PlanFileError: It cannot be written there.
        """
        save_text(path, self.text)

    def __repr__(self) -> str:
        return one_line(self, f"{self.plan!r}; print it to see the file")

    def __str__(self) -> str:
        return self.text.rstrip("\n")


@checked
def capture(
    model: Any,
    *,
    batch: Any = None,
    optimizer: Any = None,
    step: Callable[[], Any] | None = None,
    native: bool = False,
) -> Capture:
    """Read off how a model is frozen, whatever froze it, and write the shortest plan that says so.

    The flags are always read. What else people freeze by shows only with more to look at. The
    model is left as it was found; an optimizer that `step` drives is not.

    Args:
        model: A live model, or several in a mapping from names to models.
        batch: One batch of inputs: shows what is cut off by `no_grad` or `detach`.
        optimizer: The optimizer that trains it: shows what was left out of it.
        step: Runs one training step of the user's loop: shows what is put back after it.
        native: Use the framework's own names in place of neutral words.

    Raises:
        ResolveError: No plan can say it.

    >>> print(capture(model, optimizer=optimizer))  # doctest: +SKIP
    """
    target = Target(model, backend_for(model))
    backend, model = target.backend, target.model
    spec = backend.describe(model)
    frozen, notes = ~spec.found, list[str]()
    if optimizer is not None:
        effect = left_out(backend, model, spec, optimizer)
        frozen = frozen | effect.frozen
        notes.append(effect.note)
    has = None
    if batch is not None:
        effect, has = cut_off(backend, model, spec, Batch.of(batch))
        frozen = frozen | effect.frozen
        notes.append(effect.note)
    if step is not None:
        seen = spec.with_found(~frozen)
        effect = put_back(backend, model, seen, step, has)
        frozen = frozen | effect.frozen
        notes.append(effect.note)
    title = f"Captured from {', '.join(_classes(target))} ({spec.framework})"
    return capture_spec(
        spec, ~frozen, title=title, notes=notes, training=backend.training(model), native=native
    )


def capture_spec(
    spec: ModelSpec,
    trainable: Mask,
    *,
    title: str,
    notes: Sequence[str] = (),
    training: Mapping[str, bool] | None = None,
    native: bool = False,
) -> Capture:
    """Write the shortest plan for a decision about a described model; pure.

    Args:
        spec: The model.
        trainable: The decision for each parameter.
        title: What it was captured from.
        notes: What to say above it.
        training: For the model ("") and each layer with moving statistics, whether training moves
            them as it is; None leaves `norm_stats` alone.
        native: Use the framework's own names in place of neutral words.
    """
    plan = shortest_plan(spec, trainable, native_names=native)
    said = [*notes, _loop_note(spec, trainable, plan)]
    if training is not None:
        plan, note = with_statistics(plan, fresh(spec), training)
        said.append(note)
    return made(plan, spec, title, said)


def made(plan: FreezePlan, spec: ModelSpec, title: str, notes: Sequence[str]) -> Capture:
    """Put a plan, its text and its notes together."""
    said = tuple(filter(None, notes))
    return Capture(plan, written(resolve_spec(plan, fresh(spec)), title, said), said)


def _loop_note(spec: ModelSpec, trainable: Mask, plan: FreezePlan) -> str:
    """Say what a loop over substrings took beyond what was likely meant."""
    loop = find_loop(spec, trainable)
    if loop is None or (len(plan.rules) == 1 and _is_word(plan.rules[0])):
        return ""
    try:
        meant = shortest_plan(spec, loop.meant if loop.trains else ~loop.meant)
    except ResolveError:
        return f"{loop}."
    rules = "; ".join(f"{rule.verb}: {rule.selector(spec.framework)}" for rule in meant.rules)
    return f"{loop}. If only those were meant: {rules}"


def _is_word(rule: Rule) -> bool:
    return str(rule.choice).isidentifier()


def _classes(target: Target) -> list[str]:
    return [type(root).__name__ for root in target.names.values()]
