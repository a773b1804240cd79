"""Every selector of a plan, with the place in the plan where it stands."""

from __future__ import annotations

from collections.abc import Iterator

from unifreeze._plan import Choice, FreezePlan, pick
from unifreeze._plan.selectors import Expression, Selector


def deciding_choices(plan: FreezePlan) -> Iterator[tuple[str, Choice]]:
    """Yield what decides about parameters and statistics, each with its place in the plan."""
    for rule in plan.rules:
        yield rule.verb, rule.choice
    if not isinstance(plan.norm_stats, str):
        for norms in plan.norm_stats:
            yield "norm_stats", norms.choice


def all_choices(plan: FreezePlan) -> Iterator[tuple[str, Choice]]:
    """Yield what decides, and what groups for the optimizer match, each with its place."""
    yield from deciding_choices(plan)
    for group in plan.groups:
        yield "match", group.match


def all_expressions(plan: FreezePlan, framework: str) -> Iterator[Expression]:
    """Yield the expression of every selector of a plan that holds for a framework.

    Raises:
        PlanError: A choice names frameworks, and not this one.
    """
    for where, choice in all_choices(plan):
        yield pick(choice, framework, where).expression


def deciding_expressions(plan: FreezePlan, framework: str) -> Iterator[Expression]:
    """Yield the expressions that decide in a framework; a choice without it is left out."""
    for _, choice in deciding_choices(plan):
        if isinstance(choice, Selector):
            yield choice.expression
        else:
            yield from (selector.expression for name, selector in choice if name == framework)
