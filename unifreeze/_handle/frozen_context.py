"""Freezes for the length of a `with` block, beside plans in force, which stay as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unifreeze._handle.target import Target
from unifreeze._plan import FreezePlan, describe_choice
from unifreeze._plan.selectors import Selector
from unifreeze._protocol import Undo, refuse_unsupported
from unifreeze._resolution import Resolution, resolve_spec, settle
from unifreeze._structure import ModelSpec
from unifreeze.errors import ResolveError, quoted


def freeze_for_now(target: Target, selector: str | Selector) -> Undo:
    """Freeze what a selector selects; return the call that puts everything back.

    Raises:
        ResolveError: The selector selects nothing in this model.
        UnsupportedPlanError: The framework would not carry it out as it says.
    """
    backend, model = target.backend, target.model
    with backend.settled(model):
        resolution = _decided(selector, backend.describe(model))
        refuse_unsupported(backend, model, resolution)
        return backend.freeze_briefly(model, resolution)


def _decided(selector: str | Selector, spec: ModelSpec) -> Resolution:
    """Decide what else freezes, and which layers hold still because of it."""
    plan = FreezePlan().freeze(selector)
    try:
        return _resolved(plan, spec)
    except ResolveError as error:
        raise _without_a_rule(error, plan) from None


def _without_a_rule(error: ResolveError, plan: FreezePlan) -> ResolveError:
    """Rewrite an error for somebody who wrote a selector, and not a plan with rules."""
    (rule,) = plan.rules
    selector = describe_choice(rule.choice)

    def worded(text: str) -> str:
        for written in (f'rule 1 ({rule.verb}: "{selector}")', f"rule 1 ({rule})"):
            text = text.replace(written, f"the selector {quoted(selector)}")
        return text

    fact = worded(error.fact).replace(f"the selector {quoted(selector)}: ", "")
    hint = error.hint.replace("; say optional: true if this is expected", "")
    return type(error)(fact, context=worded(error.context), hint=hint)


def _resolved(plan: FreezePlan, spec: ModelSpec) -> Resolution:
    # Resolved as if everything trained: other plans may have frozen all that this one leaves.
    alone = resolve_spec(plan, spec.with_found(np.ones(len(spec), np.bool_)))
    together = replace(alone, spec=spec, trainable=alone.trainable & spec.found)
    together = settle(together, together.trainable)
    still = set(settle(Resolution.without_plan(spec), spec.found).held)
    held = [n for n in together.held if n not in still or _takes_in(alone, n)]
    return replace(together, held=tuple(held))


def _takes_in(resolution: Resolution, module: int) -> bool:
    """Return whether a rule decides a parameter of a module, or of a module inside it."""
    tree, spec = resolution.spec.tree, resolution.spec
    names = spec.tensor_of[tree.name_starts[module] : tree.name_ends[module]]
    return bool(resolution.decided[names].any())
