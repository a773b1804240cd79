"""The freeze plan: an ordered list of rules and a few policies, as an immutable value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from unifreeze.arguments import checked_methods
from unifreeze.errors import PlanError, brief, nearest
from unifreeze.plan.captured import Captured
from unifreeze.plan.phases import Phase, settings_of
from unifreeze.select import Selector
from unifreeze.tables import one_line

if TYPE_CHECKING:
    from unifreeze.handle import Handle
    from unifreeze.resolution import Resolution

Verb = Literal["freeze", "train", "only"]
Choice: TypeAlias = Selector | tuple[tuple[str, Selector], ...]
"""One selector for all frameworks, or one per framework in the order of their names."""
FORMAT = 1
"""Version of the plan format that this release reads and writes."""


@dataclass(frozen=True)
class Rule:
    """One line of a plan.

    Attributes:
        verb: `freeze`, `train`, or `only` (freeze everything, then train these).
        choice: What it selects.
        optional: It may match nothing.
    """

    verb: Verb
    choice: Choice
    optional: bool = False

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


NormStats: TypeAlias = Literal["hold", "update", "hold_all"] | tuple[NormRule, ...]


@dataclass(frozen=True)
class Group:
    """Optimizer settings for what `match` selects; None leaves the optimizer's own.

    Attributes:
        match: What it is for.
        lr_scale: Factor on the learning rate.
        weight_decay: Weight decay.
        layer_decay: Factor on the learning rate per block away from the head.
    """

    match: Choice
    lr_scale: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        if (self.lr_scale, self.weight_decay, self.layer_decay) == (None, None, None):
            raise PlanError(
                f"the group of {describe_choice(self.match)} sets nothing",
                hint="give lr_scale, weight_decay or layer_decay",
            )


@checked_methods
@dataclass(frozen=True)
class FreezePlan:
    """A function from a model's parameters to frozen or trainable.

    Rules apply in order and the last match wins; what no rule matches is left as it was found.
    Plans are immutable; `freeze`, `train`, `only` and the `with_…` methods return new ones.

    Attributes:
        rules: The rules, in order.
        norm_stats: What running statistics do: `hold` (a norm whose own parameters are all frozen
            holds), `update`, `hold_all`, or rules by selector.
        dropout: What stochastic layers inside fully frozen blocks do: `live` or `off`.
        groups: Optimizer settings; each by itself, the last match wins.
        phases: The phases of a run; () where the plan holds from beginning to end.
        moments: What becomes of an optimizer's moments of what a phase freezes: `keep` (they are
            still there when it is unfrozen) or `clear`.
        order: What positions count by: `executed` (a plan applied without a batch is checked by the
            first forward pass), or `as_described`: by registration, whatever runs first.
        captured: What the plan came to where it was captured; no part of what it says, but checked
            on every model that it is resolved on. A plan with other rules has none.

    >>> plan = FreezePlan().only("head | blocks[-2:]").freeze("norm")
    >>> [str(rule) for rule in plan.rules]
    ['only: head | blocks[-2:]', 'freeze: norm']
    """

    rules: tuple[Rule, ...] = ()
    norm_stats: NormStats = "hold"
    dropout: Literal["live", "off"] = "live"
    groups: tuple[Group, ...] = ()
    phases: tuple[Phase, ...] = ()
    moments: Literal["keep", "clear"] = "keep"
    order: Literal["executed", "as_described"] = "executed"
    captured: Captured | None = field(default=None, compare=False)

    def freeze(
        self, what: str | Selector | Mapping[str, str | Selector], *, optional: bool = False
    ) -> FreezePlan:
        """Return the plan with a rule that freezes what is selected.

        Args:
            what: A selector, or one per framework where the two ports need different words.
            optional: The rule may match nothing.
        """
        return self._with_rule("freeze", what, optional=optional)

    def train(
        self, what: str | Selector | Mapping[str, str | Selector], *, optional: bool = False
    ) -> FreezePlan:
        """Return the plan with a rule that trains what is selected."""
        return self._with_rule("train", what, optional=optional)

    def only(
        self, what: str | Selector | Mapping[str, str | Selector], *, optional: bool = False
    ) -> FreezePlan:
        """Return the plan with a rule that freezes everything but what is selected."""
        return self._with_rule("only", what, optional=optional)

    def with_norm_stats(
        self,
        policy: Literal["hold", "update", "hold_all"]
        | Iterable[Mapping[str, str | Selector | Mapping[str, str | Selector]]],
    ) -> FreezePlan:
        """Return the plan with another policy for running statistics."""
        return self._reread(norm_stats=policy if isinstance(policy, str) else list(policy))

    def with_dropout(self, policy: Literal["live", "off"]) -> FreezePlan:
        """Return the plan with another policy for stochastic layers in frozen blocks."""
        return self._reread(dropout=policy)

    def with_group(
        self,
        match: str | Selector | Mapping[str, str | Selector],
        *,
        lr_scale: float | None = None,
        weight_decay: float | None = None,
        layer_decay: float | None = None,
    ) -> FreezePlan:
        """Return the plan with optimizer settings for what is selected."""
        settings = {
            "lr_scale": lr_scale, "weight_decay": weight_decay, "layer_decay": layer_decay
        }  # fmt: skip
        given = {key: value for key, value in settings.items() if value is not None}
        return self._reread(groups=[*self.document().get("groups", []), {"match": match, **given}])

    def with_moments(self, policy: Literal["keep", "clear"]) -> FreezePlan:
        """Return the plan with another policy for moments of what a phase freezes."""
        return self._reread(moments=policy)

    def with_order(self, policy: Literal["executed", "as_described"]) -> FreezePlan:
        """Return the plan with another order that positions count by."""
        return self._reread(order=policy)

    def __repr__(self) -> str:
        rules = "".join(f".{_as_called(rule)}" for rule in self.rules)
        whole = f"FreezePlan(){rules}"
        if len(whole) <= 100 and self == FreezePlan(self.rules):
            return whole
        parts = {"rules": self.rules, "groups": self.groups, "phases": self.phases}
        counts = [f"{len(part)} {name}" for name, part in parts.items() if part]
        return one_line(self, f"{', '.join(counts) or 'policies'}; print it to see the file")

    def __str__(self) -> str:
        return self.to_yaml().rstrip("\n")

    def _with_rule(
        self, verb: Verb, what: str | Selector | Mapping[str, str | Selector], *, optional: bool
    ) -> FreezePlan:
        if isinstance(what, Mapping):
            if not what:
                raise PlanError(
                    f"{verb}: has no selector for any framework",
                    hint=f'.{verb}({{"torch": "layer4", "paddle": "stage4"}}), or one for all',
                )
            choice: Choice = tuple(sorted((name, Selector(s)) for name, s in what.items()))
        else:
            choice = Selector(what)
        rules = (*self.rules, Rule(verb, choice, optional))
        return replace(self, rules=rules, captured=None)

    def _reread(self, **changed: object) -> FreezePlan:
        """Check changed fields exactly as a plan file is checked."""
        from unifreeze.plan.document import read_document

        document = {**self.document(), **changed}
        if "norm_stats" in changed:
            document.pop("captured", None)
        return read_document(document, source="FreezePlan")

    def phase_number(self, phase: int | str) -> int:
        """Return the number of a phase, given that or its name.

        Raises:
            PlanError: The plan has no such phase.
        """
        names = [one.name for one in self.phases]
        if phase in names:
            return names.index(str(phase))
        if isinstance(phase, int) and not isinstance(phase, bool) and 0 <= phase < len(names):
            return phase
        close = nearest(phase, names, limit=1) if isinstance(phase, str) else []
        raise PlanError(
            f"the plan has no phase {phase!r}",
            context=f"its phases are: {', '.join(names) or 'none'}",
            hint=f"did you mean {close[0]!r}?" if close else "",
        )

    def in_phase(self, phase: int | str) -> FreezePlan:
        """Return the plan that holds in a phase, as one without phases.

        On its own, a rule that later ones of the same phase overrule is an error when it is
        resolved; `resolve(model, phase=…)` looks at all phases together, as `apply` does.

        Args:
            phase: Its number, counted from 0, or its name.
        """
        return self.in_phases()[self.phase_number(phase)]

    def in_phases(self) -> list[FreezePlan]:
        """Return for each phase the plan that holds in it, as one without phases.

        Raises:
            PlanError: Some phases are still to be made by generators.
        """
        made = [phase.name for phase in self.phases if phase.generator is not None]
        if made:
            raise PlanError(
                f"the plan has generators, whose phases depend on the model: {', '.join(made)}",
                hint="expand them first: plan.expand(model), or `unifreeze expand`",
            )
        return [
            replace(
                self,
                rules=settings.rules,
                norm_stats=settings.norm_stats,
                phases=(),
                captured=None,
            )
            for settings in settings_of(self.phases, self.rules, self.norm_stats)
        ]

    @property
    def digest(self) -> str:
        """A name for what the plan says: equal plans have equal digests (16 hex digits)."""
        text = json.dumps(replace(self, captured=None).document(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def document(self) -> dict[str, Any]:
        """Return the plan as plain data, as it stands in a plan file."""
        from unifreeze.plan.document import write_document

        return write_document(self)

    @classmethod
    def load(cls, path: str | Path) -> FreezePlan:
        """Read a plan file.

        Raises:
            PlanFileError: The file has mistakes; all are listed, each with its place.
            PlanVersionError: The file is of another format version.
        """
        from unifreeze.plan.files import load_plan

        return load_plan(Path(path))

    @classmethod
    def from_yaml(cls, text: str) -> FreezePlan:
        """Read a plan from YAML text; raises as `load` does."""
        from unifreeze.plan.files import parse_plan

        return parse_plan(text, source="plan")

    @classmethod
    def from_document(cls, data: Mapping[str, Any]) -> FreezePlan:
        """Read a plan given as plain data, as `document` returns it; raises as `load` does.

        >>> FreezePlan.from_document({"unifreeze": 1, "rules": [{"only": "head"}]}).rules[0].verb
        'only'
        """
        from unifreeze.plan.document import read_document

        return read_document(data, source="plan")

    def to_yaml(self) -> str:
        """Return the plan as YAML text that `from_yaml` reads back to an equal plan."""
        from unifreeze.plan.files import plan_text

        return plan_text(self)

    def save(self, path: str | Path) -> None:
        """Write a plan file.

        Raises:
            PlanFileError: It cannot be written there.
        """
        from unifreeze.plan.files import save_text

        save_text(path, self.to_yaml())

    def resolve(self, model: Any, *, batch: Any = None, phase: int | str = 0) -> Resolution:
        """Decide every parameter of a model without touching it; see `unifreeze.resolve`."""
        from unifreeze.handle import resolve

        return resolve(self, model, batch=batch, phase=phase)

    def expand(self, model: Any, *, batch: Any = None) -> FreezePlan:
        """Return the plan with plain phases in place of generators, as they are on a model."""
        from unifreeze.handle import expand

        return expand(self, model, batch=batch)

    def apply(self, model: Any, *, batch: Any = None, keep_values: bool = False) -> Handle:
        """Put the plan in force on a live model; see `unifreeze.apply`."""
        from unifreeze.handle import apply

        return apply(self, model, batch=batch, keep_values=keep_values)


def _as_called(rule: Rule) -> str:
    """Write a rule as the call that adds it."""
    what = rule.choice if isinstance(rule.choice, Selector) else dict(rule.choice)
    shown = f'"{what}"' if isinstance(what, Selector) and '"' not in str(what) else repr(what)
    return f"{rule.verb}({shown}{', optional=True' if rule.optional else ''})"


def pick(choice: Choice, framework: str, what: str) -> Selector:
    """Return the selector of a choice that holds for a framework."""
    if isinstance(choice, Selector):
        return choice
    for name, selector in choice:
        if name == framework:
            return selector
    raise PlanError(
        f"{what}: has no selector for {framework!r}",
        context=f"it has one for: {', '.join(name for name, _ in choice)}",
        hint=f'add "{framework}: …", or write one selector for all',
    )


def describe_choice(choice: Choice) -> str:
    """Return a choice as it stands in a message."""
    if isinstance(choice, Selector):
        return str(choice)
    return "{" + ", ".join(f'{name}: "{selector}"' for name, selector in choice) + "}"


def check_plan(plan: object) -> None:
    """Refuse what is no plan; a path is a likely mistake.

    Raises:
        PlanError: It is none.
    """
    if not isinstance(plan, FreezePlan):
        raise PlanError(
            f"{brief(plan)} is not a FreezePlan", hint="read a file with FreezePlan.load(path)"
        )


def refuse_phases(plan: FreezePlan) -> None:
    """Refuse a plan with phases where one that holds all the time is wanted.

    Raises:
        PlanError: It has some.
    """
    if plan.phases:
        raise PlanError(
            f"the plan has {len(plan.phases)} phases, and one that holds all the time is wanted",
            context=f"they are: {', '.join(phase.name for phase in plan.phases)}",
            hint="take one phase of it: plan.in_phase(0)",
        )
