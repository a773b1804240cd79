"""What a user should know of how a plan was read against a model, though it is no mistake."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from unifreeze.errors import ResolveError, listing
from unifreeze.plan import Choice, FreezePlan, pick
from unifreeze.select import Expression, Word, evaluate
from unifreeze.select.expression import Quoted, Within, parts
from unifreeze.structure import ModelSpec


def reading_notices(plan: FreezePlan, spec: ModelSpec) -> tuple[str, ...]:
    """Say where a word hides a path, by which order positions were counted, what was not read."""
    found = [
        notice
        for choice in _choices(plan)
        for notice in _reading(pick(choice, spec.framework, "").expression, spec)
    ]
    if spec.trace and spec.placement.ambiguous:
        found.append(_ambiguity(spec))
    if unused := spec.tree.unused:
        found.append(
            f"{len(unused)} parameters belong to copies of layers that do not run, are in no count "
            f"and stay as they are: {listing(row.path for row in unused)}"
        )
    if plan.phases:
        found.append("this is of the plan's own rules; its phases add theirs")
    return tuple(dict.fromkeys(found))


def _ambiguity(spec: ModelSpec) -> str:
    """Say whose canonical names could be another's."""
    names = [spec.owner_name(owner) for owner in sorted(spec.placement.ambiguous)]
    return (
        "registered in another order than executed, and alike, so that the numbers in their "
        f"canonical names may differ elsewhere: {listing(names)}"
    )


def _choices(plan: FreezePlan) -> Iterator[Choice]:
    yield from (rule.choice for rule in plan.rules)
    if not isinstance(plan.norm_stats, str):
        yield from (rule.choice for rule in plan.norm_stats)
    yield from (group.match for group in plan.groups)


def _reading(expression: Expression, spec: ModelSpec) -> Iterator[str]:
    if isinstance(expression, Within):
        place = spec.module(expression.place)
        # Under an optional rule the place may be missing.
        if place is not None:
            yield from _reading(expression.inner, spec.within(place)[0])
        return
    if _counts_positions(expression) and spec.order == "registration":
        yield (
            "positions count in order of registration; give a batch to count in order of execution"
        )
    if isinstance(expression, Word) and _hides_path(expression, spec):
        name = expression.name
        yield (
            f"{name!r} is read as the word, not as the path "
            f'{name!r}, which holds other parameters: path:"{name}"'
        )
    for part in parts(expression):
        yield from _reading(part, spec)


def _counts_positions(expression: Expression) -> bool:
    if isinstance(expression, Quoted):
        return expression.by == "at" and any(map(str.isdigit, expression.pattern))
    if isinstance(expression, Word):
        return expression.index is not None and expression.name != "children"
    return False


def _hides_path(word: Word, spec: ModelSpec) -> bool:
    module = spec.module(word.name)
    if module is None or word.index is not None:
        return False
    tree, name = spec.tree, spec.atoms.name
    path = (name >= tree.name_starts[module]) & (name < tree.name_ends[module])
    try:
        return not np.array_equal(path, evaluate(word, spec))
    except ResolveError:
        # An optional rule may use a word that means nothing here.
        return True
