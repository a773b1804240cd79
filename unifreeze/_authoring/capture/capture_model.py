"""Capturing a live model's freezing as a plan, with everything that was seen on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unifreeze._arguments import checked, checked_methods
from unifreeze._authoring.capture.hidden_freezing import cut_off, left_out, put_back, without_rate
from unifreeze._authoring.capture.norm_statistics import with_statistics
from unifreeze._authoring.capture.paired_decisions import (
    paired_decisions,
    rule_for_both,
    seen_from,
    sketched,
)
from unifreeze._authoring.capture.plan_comments import written
from unifreeze._authoring.capture.plan_search import Aim, fresh, shortest_plan
from unifreeze._authoring.capture.substring_loops import find_loop
from unifreeze._handle.target import Target
from unifreeze._plan import FreezePlan, Rule, save_text
from unifreeze._ports.pairing import Pairing
from unifreeze._protocol import Batch, backend_for
from unifreeze._resolution import describe_captured, out_of_order, resolve_spec, told_by_order
from unifreeze._structure import Mask, ModelSpec
from unifreeze._tables import one_line
from unifreeze.errors import PlanError, ResolveError


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
    pairing: Pairing | None = None,
) -> Capture:
    """Read off how a model is frozen, whatever froze it, and write the shortest plan that says so.

    The flags are always read. What else people freeze by shows only with more to look at. The
    model is left as it was found; an optimizer that `step` drives is not.

    The plan also says what it came to here. Another port of the network must come to the same, or
    the plan is refused there.

    Args:
        model: A live model, or several in a mapping from names to models.
        batch: One batch of inputs: shows what is cut off by `no_grad` or `detach`, and in which
            order layers run; names then say the same whichever order they are read in, if any do.
        optimizer: The optimizer that trains it: shows what was left out of it, or has a rate of 0.
        step: Runs one training step of the user's loop: shows what is put back after it.
        native: Use the framework's own names in place of neutral words.
        pairing: Which tensor of the model is which of another port, as `pair` found out; it then
            decides, and the plan has a selector for each framework.

    Raises:
        ResolveError: No plan can say it.
        PlanError: The pairing is not of this model, or the order in which layers are registered
            cannot be trusted and no batch shows another.

    >>> print(capture(model, optimizer=optimizer))  # doctest: +SKIP
    """
    target = Target(model, backend_for(model))
    backend, model = target.backend, target.model
    spec = backend.describe(model)
    effect = without_rate(backend, model, spec, optimizer)
    frozen, notes = ~spec.found | effect.frozen, [effect.note]
    if optimizer is not None:
        effect = left_out(backend, model, spec, optimizer)
        frozen = frozen | effect.frozen
        notes.append(effect.note)
    has = traced = None
    if batch is not None:
        traced = backend.describe(model, Batch.of(batch))
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
        spec,
        ~frozen,
        title=title,
        notes=notes,
        training=backend.training(model),
        native=native,
        traced=traced,
        pairing=pairing,
        checked=True,
    )


def capture_spec(
    spec: ModelSpec,
    trainable: Mask,
    *,
    title: str,
    notes: Sequence[str] = (),
    training: Mapping[str, bool] | None = None,
    native: bool = False,
    traced: ModelSpec | None = None,
    pairing: Pairing | None = None,
    checked: bool = False,
) -> Capture:
    """Write the shortest plan for a decision about a described model; pure.

    Args:
        spec: The model, as it is registered.
        trainable: The decision for each parameter.
        title: What it was captured from.
        notes: What to say above it.
        training: For the model ("") and each layer with moving statistics, whether training moves
            them as it is; None leaves `norm_stats` alone.
        native: Use the framework's own names in place of neutral words.
        traced: The same model, as it is executed.
        pairing: Which tensor of it is which of another port.
        checked: Whether the plan is to say what it came to, unless a pairing decides.

    Raises:
        ResolveError: No plan can say it.
        PlanError: The pairing is not of this model, or the order of registration is nobody's.
    """
    if pairing is not None:
        plan, order = _for_both(spec, trainable, pairing), None
    else:
        plan, order = _in_order(spec, trainable, traced, native=native)
    said = [*notes, _loop_note(spec, trainable, plan)]
    seen = traced if traced is not None and order == "execution" else spec
    if training is not None:
        plan, note = with_statistics(plan, fresh(seen), training, paired=pairing is not None)
        said.append(note)
    return made(plan, seen, title, said, order=order, checked=checked and pairing is None)


def _in_order(
    spec: ModelSpec, trainable: Mask, traced: ModelSpec | None, *, native: bool
) -> tuple[FreezePlan, str | None]:
    """Return the shortest plan, and what its positions count by; None where both come to the same.

    Raises:
        PlanError: They can only count by registration, and that is plainly not the order of layers.
    """
    if native:
        return shortest_plan(spec, trainable, native_names=True), None
    if traced is None:
        plan = shortest_plan(spec, trainable, one_model=False)
        if why := out_of_order(plan, spec):
            raise PlanError(
                f"positions would count in order of registration, and {why}",
                context=f"the plan would be: {'; '.join(map(str, plan.rules))}",
                hint="give a batch, which shows the order of execution; or native=True (--native)",
            )
        return plan, "registration"
    try:
        others = [Aim.of(spec, trainable)]
        plan = shortest_plan(traced, trainable, others=others, one_model=False, neutral_only=True)
    except (PlanError, ResolveError):
        return shortest_plan(traced, trainable, one_model=False), "execution"
    return plan, None


def _for_both(spec: ModelSpec, trainable: Mask, pairing: Pairing) -> FreezePlan:
    """Return a plan that says the same of two paired models, in the names of each."""
    pairing = seen_from(spec, pairing)
    decided, mine = paired_decisions(spec, trainable, pairing), Aim.of(spec, trainable)
    if not trainable[mine.known].any() or trainable[mine.known].all():
        return shortest_plan(spec, trainable)
    other = sketched(decided, pairing)
    if other.spec.framework == spec.framework:
        raise PlanError(
            "a plan has one selector for each framework, and both models are of one",
            hint="translate it: unifreeze translate PLAN --from … --to … --pairing …",
        )
    return rule_for_both(mine, other)


def made(
    plan: FreezePlan,
    spec: ModelSpec,
    title: str,
    notes: Sequence[str],
    *,
    order: str | None,
    checked: bool = True,
) -> Capture:
    """Put a plan, its text and its notes together.

    Args:
        plan: The plan.
        spec: The model that it was found for.
        title: What it was captured from.
        notes: What to say above it.
        order: What its positions count by; None where both orders come to the same.
        checked: Whether the plan is to say what it came to.
    """
    resolution = resolve_spec(plan, fresh(spec))
    doubt = told_by_order(resolution) if checked and order == "registration" else ""
    said = tuple(filter(None, (*notes, doubt)))
    if checked:
        plan = replace(plan, captured=describe_captured(resolution, order))
    return Capture(plan, written(plan, resolution, title, said), said)


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
