"""Evaluating a plan's selectors on a model, with errors that name the place in the plan."""

from __future__ import annotations

from functools import partial

import numpy as np

from unifreeze._plan.selectors import Selector, count_selected, evaluate
from unifreeze._plan.selectors.hints.nearest import explain_nothing, top_level
from unifreeze._plan.selectors.hints.numbers import nothing_in
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import ResolveError, UnmatchedSelectorError, counted


def select(selector: Selector, spec: ModelSpec, where: str, *, optional: bool = False) -> Mask:
    """Evaluate a selector on atoms; errors name the place in the plan.

    Raises:
        UnmatchedSelectorError: It matches nothing and is not optional.
    """
    try:
        mask = evaluate(selector.expression, spec)
    except UnmatchedSelectorError as error:
        if optional:
            return np.zeros(len(spec.atoms), np.bool_)
        raise at_place(error, where) from None
    except ResolveError as error:
        raise at_place(error, where) from None
    if not mask.any() and not optional:
        # Each part exists, or `evaluate` would have said so; only together do they select nothing.
        reason = explain_nothing(selector.expression, spec, partial(count_selected, spec))
        raise UnmatchedSelectorError(
            f"{where} matches none of {counted(len(spec), 'parameter')}",
            context="\n".join(filter(None, [reason, top_level(spec)])),
            hint=nothing_in(selector.expression, spec)[1]
            or "`unifreeze show` lists the model; say optional: true if this is expected",
        )
    return mask


def at_place(error: ResolveError, where: str) -> ResolveError:
    """Return the same error with the place in the plan at its beginning."""
    return type(error)(f"{where}: {error.fact}", context=error.context, hint=error.hint)
