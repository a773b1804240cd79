"""`capture`: from the way a live model is frozen to the shortest plan that says the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unifreeze._arguments import checked, checked_methods
from unifreeze._authoring.capture.hidden_freezing import (
    cut_off,
    left_out,
    put_back,
    without_rate,
)
from unifreeze._authoring.capture.norm_statistics import with_statistics
from unifreeze._authoring.capture.paired_decisions import (
    paired_decisions,
    partner_aim,
    rule_for_both,
    seen_from,
)
from unifreeze._authoring.capture.plan_comments import commented_plan
from unifreeze._authoring.capture.plan_search import Aim, shortest_plan, unfrozen
from unifreeze._authoring.capture.substring_loops import find_loop
from unifreeze._handle.lease import all_leases, leases_over
from unifreeze._handle.target import Target
from unifreeze._pictures import html_of
from unifreeze._plan import FORMAT, FreezePlan, Rule, save_text
from unifreeze._plan.structure import Structure
from unifreeze._ports.pairing import Pairing
from unifreeze._protocol import Backend, Batch, backend_for
from unifreeze._protocol.live import LiveOptimizer, Model
from unifreeze._resolution import (
    corrected,
    describe_captured,
    out_of_order,
    resolve_spec,
    told_by_order,
)
from unifreeze._structure import Mask, ModelSpec
from unifreeze._tables import one_line
from unifreeze.errors import PlanError, ResolveError


@checked_methods
@dataclass(frozen=True)
class Capture:
    """A plan that freezes what a model has frozen.

    Attributes:
        plan: The shortest plan that was found.
        text: The plan as a file, with a comment on each rule.
        notes: What the user should know about how the plan was made.
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

    _repr_html_ = html_of

    def __repr__(self) -> str:
        return one_line(self, f"{self.plan!r}; print it to see the file")

    def __str__(self) -> str:
        return self.text.rstrip("\n")


@checked
def capture(
    model: Model,
    *,
    batch: Any = None,
    optimizer: LiveOptimizer | None = None,
    step: Callable[[], Any] | None = None,
    native: bool = False,
    pairing: Pairing | None = None,
    structure: Mapping[str, Any] | None = None,
) -> Capture:
    """Look at how a model is frozen, whatever froze it, and write the shortest plan that does it.

    The flags are always read. Other ways of freezing are seen only with a batch, an optimizer or a
    step. The model is left unchanged; an optimizer that `step` drives is not.

    The plan also records what it froze here. Another port of the network must get the same result,
    or the plan is refused there.

    Args:
        model: A live model, or several in a mapping from names to models.
        batch: One batch of inputs. It shows what is cut off by `no_grad` or `detach`, and in which
            order layers run; the plan then means the same in both orders, if there is such a plan.
        optimizer: The optimizer that trains the model. It shows which parameters it does not hold,
            or trains at a rate of 0.
        step: Runs one training step of the user's loop. It shows which values the loop puts back.
        native: Use native names in place of neutral words.
        pairing: The pairing of this model with another port, from `pair`; the plan then has a
            selector for each framework.
        structure: Where stem, blocks and head are, as in a plan file; the plan then says so, too.

    Raises:
        ResolveError: No plan can say it.
        PlanError: The pairing is not of this model, or the order in which layers are registered
            cannot be trusted and no batch shows another.

    >>> for parameter in model.blocks.parameters():
    ...     parameter.requires_grad = False
    >>> capture(model).plan.rules[0].choice
    Selector('head')
    """
    target = Target(model, backend_for(model))
    backend, model = target.backend, target.model
    _refuse_rows(target)
    said = {"structure": structure} if structure else {}
    stated = FreezePlan.from_document({"unifreeze": FORMAT, **said})
    spec = corrected(stated, backend.describe(model))
    inputs = None if batch is None else Batch.of(batch)
    traced = None if inputs is None else corrected(stated, backend.describe(model, inputs))
    frozen, notes = _all_frozen(backend, model, spec, inputs, optimizer, step)
    classes = ", ".join(type(root).__name__ for root in target.names.values())
    return capture_spec(
        spec,
        ~frozen,
        title=f"Captured from {classes} ({spec.framework})",
        notes=notes,
        training=backend.training(model),
        native=native,
        traced=traced,
        pairing=pairing,
        checked=True,
        structure=stated.structure,
    )


def _all_frozen(
    backend: Backend,
    model: Model,
    spec: ModelSpec,
    batch: Batch | None,
    optimizer: LiveOptimizer | None,
    step: Callable[[], Any] | None,
) -> tuple[Mask, list[str]]:
    """Return what is frozen, by its flag or in any other way, and notes on the other ways."""
    has_gradient = None
    effects = [without_rate(backend, model, spec, optimizer)]
    if optimizer is not None:
        effects.append(left_out(backend, model, spec, optimizer))
    if batch is not None:
        effect, has_gradient = cut_off(backend, model, spec, batch)
        effects.append(effect)
    frozen: Mask = np.logical_or.reduce([~spec.found, *(effect.frozen for effect in effects)])
    if step is not None:
        effects.append(put_back(backend, model, spec.with_found(~frozen), step, has_gradient))
    return frozen | effects[-1].frozen, [effect.note for effect in effects]


def _refuse_rows(target: Target) -> None:
    """Refuse a model on which only some rows of a table train: no flag shows it.

    Raises:
        PlanError: Naming the table.
    """
    leases = leases_over(target.backend.describe(target.model), all_leases())
    for rows in (row for lease in leases for row in lease.resolution.rows):
        raise PlanError(
            f"{rows}, and no flag shows it",
            context="such rows are held by the plan that is in force, and by nothing else",
            hint="take that plan: handle.plan.save(…)",
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
    structure: Structure = (),
) -> Capture:
    """Write the shortest plan for given decisions about a described model; pure.

    Args:
        spec: The model, as it is registered.
        trainable: The decision for each parameter.
        title: First comment of the plan file.
        notes: Comments for the top of the plan file.
        training: For the model ("") and each layer with running statistics, whether training would
            update them now; None leaves `norm_stats` at its default.
        native: Use native names in place of neutral words.
        traced: The same model, with layers in order of execution.
        pairing: Its pairing with another port.
        checked: Record in the plan what it froze here; with a pairing that is left out.
        structure: What the descriptions were corrected by.

    Raises:
        ResolveError: No plan can say it.
        PlanError: The pairing is not of this model, or the order of registration cannot be trusted.
    """
    if pairing is not None:
        structure = ()  # its rules are native names
        plan, order = _for_both(spec, trainable, pairing), None
    else:
        plan, order = _in_order(spec, trainable, traced, native=native)
    remarks = [*notes, _loop_note(spec, trainable, plan)]
    ordered = traced if traced is not None and order == "execution" else spec
    if training is not None:
        plan, note = with_statistics(plan, unfrozen(ordered), training, paired=pairing is not None)
        remarks.append(note)
    checked = checked and pairing is None
    plan = replace(plan, structure=structure)
    return make_capture(plan, ordered, title, remarks, order=order, checked=checked)


def _in_order(
    spec: ModelSpec, trainable: Mask, traced: ModelSpec | None, *, native: bool
) -> tuple[FreezePlan, str | None]:
    """Return the shortest plan, and what its positions count by; None if it holds in both orders.

    Raises:
        PlanError: They can only count by registration, which is clearly not the order of layers.
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
    """Return a plan that means the same on two paired models, in the native names of each."""
    pairing = seen_from(spec, pairing)
    decisions, aim = paired_decisions(spec, trainable, pairing), Aim.of(spec, trainable)
    if not trainable[aim.known].any() or trainable[aim.known].all():
        return shortest_plan(spec, trainable)
    partner = partner_aim(decisions, pairing)
    if partner.spec.framework == spec.framework:
        raise PlanError(
            "a plan has one selector for each framework, and both models are of one",
            hint="translate it: unifreeze translate PLAN --from … --to … --pairing …",
        )
    return rule_for_both(aim, partner)


def make_capture(
    plan: FreezePlan,
    spec: ModelSpec,
    title: str,
    notes: Sequence[str],
    *,
    order: str | None,
    checked: bool = True,
) -> Capture:
    """Resolve a plan, and return it with its text and its notes.

    Args:
        plan: The plan.
        spec: The model that it was made for.
        title: First comment of the plan file.
        notes: Comments for the top of the plan file.
        order: What its positions count by; None if it holds in both orders.
        checked: Record in the plan what it froze here.
    """
    resolution = resolve_spec(plan, unfrozen(spec))
    doubt = told_by_order(resolution) if checked and order == "registration" else ""
    remarks = tuple(filter(None, (*notes, doubt)))
    if checked:
        plan = replace(plan, captured=describe_captured(resolution, order))
    return Capture(plan, commented_plan(plan, resolution, title, remarks), remarks)


def _loop_note(spec: ModelSpec, trainable: Mask, plan: FreezePlan) -> str:
    """Say which parameters a loop over substrings likely took by mistake; "" if there is none."""
    loop = find_loop(spec, trainable)
    if loop is None or (len(plan.rules) == 1 and _is_word(plan.rules[0])):
        return ""
    try:
        intended = shortest_plan(spec, loop.intended if loop.trains else ~loop.intended)
    except ResolveError:
        return f"{loop}."
    rules = "; ".join(f"{rule.verb}: {rule.selector(spec.framework)}" for rule in intended.rules)
    return f"{loop}. If only those were meant: {rules}"


def _is_word(rule: Rule) -> bool:
    return str(rule.choice).isidentifier()
