"""What a plan is made of: rules, policies for statistics, groups, and the selectors in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from unifreeze._plan.selectors import Expression, Selector, check_verb
from unifreeze.errors import PlanError

Verb = Literal["freeze", "train", "only"]
Choice: TypeAlias = Selector | tuple[tuple[str, Selector], ...]
"""One selector for all frameworks, or one per framework in the order of their names."""


def choice_of(verb: Verb, selectors: str | Selector | Mapping[str, str | Selector]) -> Choice:
    """Return the choice of a rule, as users write it.

    Raises:
        PlanError: It is a mapping of frameworks that names none.
    """
    if not isinstance(selectors, Mapping):
        return Selector(selectors)
    if not selectors:
        raise PlanError(
            f"{verb}: has no selector for any framework",
            hint=f'.{verb}({{"torch": "layer4", "paddle": "stage4"}}), or one for all',
        )
    return tuple(sorted((name, Selector(text)) for name, text in selectors.items()))


@dataclass(frozen=True)
class Rule:
    """One line of a plan.

    Attributes:
        verb: `freeze`, `train`, or `only` (freeze everything, then train these).
        choice: What it selects.
        optional: The rule may match nothing.
    """

    verb: Verb
    choice: Choice
    optional: bool = False

    def __post_init__(self) -> None:
        check_verb(self.verb, _expressions(self.choice))

    def selector(self, framework: str) -> Selector:
        """Return the selector that holds for a framework.

        Raises:
            PlanError: The rule names frameworks, and not this one.
        """
        return pick(self.choice, framework, self.verb)

    def __str__(self) -> str:
        return f"{self.verb}: {describe_choice(self.choice)}"


@dataclass(frozen=True)
class NormRule:
    """What the running statistics of selected norms do: `hold` or `update`."""

    verb: Literal["hold", "update"]
    choice: Choice

    def __post_init__(self) -> None:
        check_verb(self.verb, _expressions(self.choice))


NormStats: TypeAlias = Literal["hold", "update", "hold_all"] | tuple[NormRule, ...]


@dataclass(frozen=True)
class Group:
    """Optimizer settings for what `match` selects; None leaves the optimizer's own.

    Attributes:
        match: The parameters that get these settings.
        lr_scale: Factor on the learning rate.
        weight_decay: Weight decay.
        layer_decay: Factor on the learning rate per block away from the head.
    """

    match: Choice
    lr_scale: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        check_verb("match", _expressions(self.match))
        if (self.lr_scale, self.weight_decay, self.layer_decay) == (None, None, None):
            raise PlanError(
                f"the group of {describe_choice(self.match)} sets nothing",
                hint="give lr_scale, weight_decay or layer_decay",
            )


def _expressions(choice: Choice) -> list[Expression]:
    selectors = [choice] if isinstance(choice, Selector) else [each for _, each in choice]
    return [selector.expression for selector in selectors]


def pick(choice: Choice, framework: str, where: str) -> Selector:
    """Return the selector of a choice that holds for a framework; `where` is its place in the plan.

    Raises:
        PlanError: The choice names frameworks, and not this one.
    """
    if isinstance(choice, Selector):
        return choice
    for name, selector in choice:
        if name == framework:
            return selector
    raise PlanError(
        f"{where}: has no selector for {framework!r}",
        context=f"it has one for: {', '.join(name for name, _ in choice)}",
        hint=f'add "{framework}: …", or write one selector for all',
    )


def describe_choice(choice: Choice) -> str:
    """Write a choice for a message."""
    if isinstance(choice, Selector):
        return str(choice)
    return "{" + ", ".join(f'{name}: "{selector}"' for name, selector in choice) + "}"


def as_called(rule: Rule) -> str:
    """Write a rule as the call that adds it."""
    choice = rule.choice if isinstance(rule.choice, Selector) else dict(rule.choice)
    plain = isinstance(choice, Selector) and '"' not in str(choice)
    shown = f'"{choice}"' if plain else repr(choice)
    return f"{rule.verb}({shown}{', optional=True' if rule.optional else ''})"
