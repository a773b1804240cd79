"""The freeze plan: an ordered list of rules and a few policies, as an immutable value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from unifreeze._arguments import checked_methods
from unifreeze._pictures import html_of, timeline
from unifreeze._plan import delegations
from unifreeze._plan.captured import Captured
from unifreeze._plan.of_one_phase import phase_number, plans_of_phases
from unifreeze._plan.parts import Group, NormStats, Rule, Verb, as_called, choice_of
from unifreeze._plan.phases import Phase
from unifreeze._plan.selectors import Selector
from unifreeze._plan.structure import PartPlaces, Structure
from unifreeze._tables import one_line

if TYPE_CHECKING:
    from unifreeze._pictures import Timeline
    from unifreeze._plan.delegations import Handle, Resolution

FORMAT = 1
"""Version of the plan format that this release reads and writes."""


@checked_methods
@dataclass(frozen=True)
class FreezePlan:
    """A function from a model's parameters to frozen or trainable.

    Rules apply in order and the last match wins. A parameter that no rule matches stays as it is.
    Plans are immutable; `freeze`, `train`, `only` and the `with_…` methods return new ones.

    Attributes:
        rules: The rules, in order.
        norm_stats: What running statistics do: `hold` (a norm whose own parameters are all frozen
            holds), `update`, `hold_all`, or rules by selector.
        dropout: What stochastic layers inside fully frozen blocks do: `live` or `off`.
        groups: Optimizer settings; each by itself, the last match wins.
        phases: The phases of a run; () where the plan holds from beginning to end.
        moments: What happens to an optimizer's moments of a parameter that a phase freezes: `keep`
            (they are still there when it is unfrozen) or `clear`.
        order: How positions are counted: `executed` (a plan applied without a batch is checked by
            the first forward pass), or `as_described`: by registration, whatever runs first.
        captured: The decisions of its rules on the model that it was captured from. Equality of
            plans ignores it. Every model that the plan is resolved on is checked against it, before
            phases add rules. Adding a rule drops it, and so do `norm_stats` by selector;
            `norm_stats` as one word drop only its `held`.
        structure: Where parts are, such as the head, if the structure that is derived is wrong.

    >>> plan = FreezePlan().only("head | blocks[-2:]").with_norm_stats("update")
    >>> plan.document()
    {'unifreeze': 1, 'rules': [{'only': 'head | blocks[-2:]'}], 'norm_stats': 'update'}
    >>> plan.freeze("norm").with_group("bias", weight_decay=0).groups[0].weight_decay
    0.0
    """

    rules: tuple[Rule, ...] = ()
    norm_stats: NormStats = "hold"
    dropout: Literal["live", "off"] = "live"
    groups: tuple[Group, ...] = ()
    phases: tuple[Phase, ...] = ()
    moments: Literal["keep", "clear"] = "keep"
    order: Literal["executed", "as_described"] = "executed"
    captured: Captured | None = field(default=None, compare=False)
    structure: Structure = ()

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

    def with_norm_stats(self, policy: NormPolicy) -> FreezePlan:
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
        """Return the plan with another policy for the moments of what a phase freezes."""
        return self._reread(moments=policy)

    def with_order(self, policy: Literal["executed", "as_described"]) -> FreezePlan:
        """Return the plan with another way to count positions."""
        return self._reread(order=policy)

    def with_structure(self, **parts: PartPlaces) -> FreezePlan:
        """Return the plan with native paths of stem, blocks, head or towers; None changes nothing.

        >>> FreezePlan().only("head").with_structure(head="my.odd.module").document()["structure"]
        {'head': 'my.odd.module'}
        """
        given = {name: places for name, places in parts.items() if places is not None}
        known = self.document().get("structure", {})
        return self._reread(structure=known | given) if given else self

    def phase(
        self,
        name: str = "",
        *,
        at: Mapping[str, int] | None = None,
        after: Mapping[str, int] | None = None,
        when: Mapping[str, Any] | None = None,
        rules: PhaseRules | None = None,
        like: str = "",
        add: PhaseRules | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        warmup: Mapping[str, float] | None = None,
        norm_stats: NormPolicy | None = None,
        freeze_smallest: Mapping[str, Any] | None = None,
        restore_best: bool = False,
        stop: bool = False,
        gradual_unfreezing: Mapping[str, Any] | None = None,
        adaptive: Mapping[str, Any] | None = None,
        by_gradient: Mapping[str, Any] | None = None,
        lisa: Mapping[str, Any] | None = None,
        stop_on_rise: Mapping[str, Any] | None = None,
    ) -> FreezePlan:
        """Return the plan with one more phase, with the same settings as in a plan file.

        Args:
            name: What it is called; it may be left out beside a generator.
            at: Begins at an epoch or step, counted from 0: `{"epoch": 5}`.
            after: Begins so long after the phase before: `{"epochs": 2}`.
            when: Begins when a metric has turned: `{"metric": "val_loss", "stalled_for": 2}`.
            rules: Its own rules: a list as in a plan file, one rule, or a plan of rules.
            like: Name of an earlier phase to go on from.
            add: Rules added to those of `like`, or of the phase before.
            lr: Base learning rate from now on.
            weight_decay: Weight decay from now on.
            warmup: A lower rate at first for what begins to train: `{"steps": 100}`.
            norm_stats: What running statistics do from now on.
            freeze_smallest: Freeze by gradients of the phase before: `{"share": 20}`.
            restore_best: Begin from the best values of the phase before.
            stop: Training ends here.
            gradual_unfreezing: Several phases: from the head down, one unit more each time.
            adaptive: Several phases: a further share each time a metric has turned.
            by_gradient: Several phases: a further share frozen each time, by gradient.
            lisa: Several phases: random blocks for a while, then others.
            stop_on_rise: Training ends once a metric got worse.

        Raises:
            PlanError: A plan file would be refused for the same phase.

        >>> plan = FreezePlan().phase("head", rules={"only": "head"}, lr=1e-3)
        >>> plan.phase("top", at={"epoch": 5}, add={"train": "blocks[-2:]"}, lr=1e-4).phases[1]
        <unifreeze.Phase: 'top' at epoch 5>
        """
        said = {key: value for key, value in locals().items() if key != "self"}
        return delegations.with_phase(self, said)

    def __repr__(self) -> str:
        rules = "".join(f".{as_called(rule)}" for rule in self.rules)
        whole = f"FreezePlan(){rules}"
        if len(whole) <= 100 and self == FreezePlan(self.rules):
            return whole
        parts = {"rules": self.rules, "groups": self.groups, "phases": self.phases}
        counts = [f"{len(part)} {name}" for name, part in parts.items() if part]
        return one_line(self, f"{', '.join(counts) or 'policies'}; print it to see the file")

    def __str__(self) -> str:
        return self.to_yaml().rstrip("\n")

    _repr_html_ = html_of

    def _with_rule(
        self,
        verb: Verb,
        selectors: str | Selector | Mapping[str, str | Selector],
        *,
        optional: bool,
    ) -> FreezePlan:
        rules = (*self.rules, Rule(verb, choice_of(verb, selectors), optional))
        return replace(self, rules=rules, captured=None)

    def _reread(self, **changed: object) -> FreezePlan:
        """Check changed fields exactly as a plan file is checked."""
        document = {**self.document(), **changed}
        if "structure" in changed or not isinstance(changed.get("norm_stats", ""), str):
            document.pop("captured", None)
        elif "norm_stats" in changed:
            document.get("captured", {}).pop("held", None)
        return delegations.read_document(document)

    def phase_number(self, phase: int | str) -> int:
        """Return the number of a phase, given that or its name.

        Raises:
            PlanError: The plan has no such phase.
        """
        return phase_number(self, phase)

    def in_phase(self, phase: int | str) -> FreezePlan:
        """Return the plan that holds in a phase, as one without phases.

        When this plan is resolved on its own, a rule that later rules overrule is an error;
        `resolve(model, phase=…)` looks at all phases together, as `apply` does.

        Args:
            phase: Its number, counted from 0, or its name.
        """
        return self.in_phases()[self.phase_number(phase)]

    def in_phases(self) -> list[FreezePlan]:
        """Return for each phase the plan that holds in it, as one without phases.

        Raises:
            PlanError: Some phases are still to be made by generators.
        """
        return plans_of_phases(self)

    @property
    def digest(self) -> str:
        """A short name of the plan's content: equal plans have equal digests (16 hex digits)."""
        text = json.dumps(replace(self, captured=None).document(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def document(self) -> dict[str, Any]:
        """Return the plan as plain data, as it stands in a plan file."""
        return delegations.write_document(self)

    @classmethod
    def load(cls, path: str | Path) -> FreezePlan:
        """Read a plan file.

        Raises:
            PlanFileError: The file has mistakes; all are listed, each with its place.
            PlanVersionError: The file is of another format version.
        """
        return delegations.load_plan(Path(path))

    @classmethod
    def from_yaml(cls, text: str) -> FreezePlan:
        """Read a plan from YAML text; raises as `load` does."""
        return delegations.parse_text(text)

    @classmethod
    def from_document(cls, data: Mapping[str, Any]) -> FreezePlan:
        """Read a plan given as plain data, as `document` returns it; raises as `load` does.

        >>> FreezePlan.from_document({"unifreeze": 1, "rules": [{"only": "head"}]}).rules[0].verb
        'only'
        """
        return delegations.read_data(data)

    def to_yaml(self) -> str:
        """Return the plan as YAML text that `from_yaml` reads back to an equal plan."""
        return delegations.plan_text(self)

    def save(self, path: str | Path) -> None:
        """Write a plan file.

        Raises:
            PlanFileError: It cannot be written there.

        >>> FreezePlan().only("head").save(folder / "plan.yaml")
        >>> FreezePlan.load(folder / "plan.yaml")
        FreezePlan().only("head")
        """
        delegations.save_text(path, self.to_yaml())

    def resolve(self, model: Any, *, batch: Any = None, phase: int | str = 0) -> Resolution:
        """Decide every parameter of a model without touching it; see `unifreeze.resolve`.

        >>> FreezePlan().only("head").resolve(model).trainable_paths
        ('head.weight', 'head.bias')
        """
        return delegations.resolve(self, model, batch=batch, phase=phase)

    def expand(self, model: Any, *, batch: Any = None) -> FreezePlan:
        """Return the plan with plain phases in place of generators, as they are on a model.

        >>> each = {"by": "blocks", "every": {"epochs": 2}}
        >>> plan = FreezePlan().phase("down", gradual_unfreezing=each)
        >>> [phase.name for phase in plan.expand(model).phases]
        ['down 1', 'down 2', 'down 3', 'down 4']
        """
        return delegations.expand(self, model, batch=batch)

    def timeline(self, model: Any, *, batch: Any = None) -> Timeline:
        """Return what trains on a model in each phase, and at which rate: text and a picture.

        >>> FreezePlan().only("head").timeline(model)
        <unifreeze.Timeline: 1 phase, 213 values>
        """
        return timeline(self, model, batch)

    def apply(self, model: Any, *, batch: Any = None, keep_values: bool = False) -> Handle:
        """Put the plan in force on a live model; see `unifreeze.apply`.

        >>> print(FreezePlan().only("head").apply(model))
        trainable params: 21 || all params: 213 || trainable%: 9.8592
        """
        return delegations.apply(self, model, batch=batch, keep_values=keep_values)


NormPolicy: TypeAlias = (
    Literal["hold", "update", "hold_all"]
    | Iterable[Mapping[str, str | Selector | Mapping[str, str | Selector]]]
)
"""What running statistics do, as users write it."""
PhaseRules: TypeAlias = FreezePlan | Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""Rules of one phase, as users write them."""
