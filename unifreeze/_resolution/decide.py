"""Deciding every parameter: plan and description → resolution. Pure; touches no model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from unifreeze._plan import FreezePlan, Rule
from unifreeze._plan.selectors import Expression, Path, Rows, Selector, Word, stand_ins_of
from unifreeze._plan.selectors.expression import nodes
from unifreeze._plan.selectors.regular_expressions import limited_together
from unifreeze._resolution.check_captured import check_captured
from unifreeze._resolution.corrected_structure import corrected
from unifreeze._resolution.group_settings import group_settings
from unifreeze._resolution.held_layers import quiet_modules, wanted_still
from unifreeze._resolution.notices import (
    CONSTANT,
    Outcome,
    left_notices,
    outcome_notices,
    reading_notices,
    tied_beside,
)
from unifreeze._resolution.resolution import Resolution, RuleEffect
from unifreeze._resolution.select_parameters import at_place, select
from unifreeze._resolution.table_rows import TrainedRows, find_rows
from unifreeze._resolution.tied_and_fused import AtomDecisions, check_shared_memory, decide_tensors
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import (
    FixedParameterError,
    ResolveError,
    TrivialPlanError,
    UndecidedRuleError,
    listing,
)


@limited_together
def resolve_spec(plan: FreezePlan, spec: ModelSpec) -> Resolution:
    """Resolve a plan against a model's description.

    Raises:
        ResolveError: The plan does not fit the model; the subclass says how.
    """
    spec = corrected(plan, spec)
    resolution = spec.once(("resolution", plan), lambda: _Decision(plan, spec).resolution())
    # Equal plans share a resolution, but they may have been captured in different places.
    check_captured(plan, resolution, resolve_spec)
    return resolution


@limited_together
def resolve_phases(plan: FreezePlan, spec: ModelSpec) -> tuple[Resolution, ...]:
    """Resolve what a plan decides in each of its phases.

    A rule may be overruled in some of the phases that it is in force in, but not in all.

    Args:
        plan: A plan whose phases are plain.
        spec: The model's description.

    Raises:
        ResolveError: The plan does not fit the model; the message names the phase.
    """
    if plan.captured is not None:
        # The plan was captured without its phases, so it is checked before they add rules.
        resolve_spec(replace(plan, phases=()), spec)
    spec = corrected(plan, spec)
    resolutions = []
    known: dict[FreezePlan, Resolution] = {}
    decided: dict[int, bool] = {}
    rules: dict[int, tuple[str, Rule]] = {}
    for phase, held in zip(plan.phases, plan.in_phases(), strict=True):
        if held not in known:
            try:
                known[held] = _Decision(held, spec, strict=False).resolution()
            except ResolveError as error:
                raise at_place(error, f"phase {phase.name!r}") from None
        resolutions.append(known[held])
        for rule, effect in zip(held.rules, known[held].effects, strict=True):
            # By identity: two phases may have equal rules, and each rule must decide something.
            rules.setdefault(id(rule), (phase.name, rule))
            decided[id(rule)] = decided.get(id(rule), False) or bool(effect.decided)
    for key, (name, rule) in rules.items():
        if not decided[key] and not rule.optional:
            raise UndecidedRuleError(
                f"phase {name!r}: the rule {rule} decides nothing in any phase",
                context="all it matches is decided by later rules",
                hint="move it behind those, or take it out",
            )
    return tuple(resolutions)


def train_everything(spec: ModelSpec) -> Resolution:
    """Return a resolution that trains all that can be trained, constants of the network too."""
    return resolve_spec(FreezePlan().train("all"), spec.with_found(spec.found | ~spec.never))


def settle(resolution: Resolution, trainable: Mask) -> Resolution:
    """Return a resolution with the flags that hold when other plans on the model have a say.

    Which layers hold still is decided anew by those flags.
    """
    plan, spec = resolution.plan, resolution.spec
    decided = resolution.decided | (trainable != spec.found)
    still = wanted_still(plan, spec, trainable, decided)
    return replace(
        resolution,
        trainable=trainable,
        held=tuple(sorted(still.modules.difference(spec.tree.modeless))),
        quiet=quiet_modules(plan, spec, trainable, decided),
    )


class _Decision:
    """Applies the rules of one plan to one model, atom by atom."""

    def __init__(self, plan: FreezePlan, spec: ModelSpec, *, strict: bool = True) -> None:
        self.plan, self.spec, self.strict = plan, spec, strict
        self.atoms = spec.atoms
        self.undecided = spec.found if spec.standing is None else spec.standing
        self.want: Mask = self.undecided[self.atoms.tensor].copy()
        self.rule = np.full(len(self.atoms), -1, np.intp)
        self.fixed = spec.never | spec.constants
        self.matched: list[Mask] = []
        self.bare: list[bool] = []
        """For each rule, whether it names a norm without parameters."""
        self.notices: list[str] = []
        self.rows: dict[int, TrainedRows] = {}
        """For each rule on rows of a table, those rows."""

    def resolution(self) -> Resolution:
        for number, rule in enumerate(self.plan.rules):
            self._apply(number, rule)
        atoms = AtomDecisions(self.want, self.rule)
        trainable, rule_of = decide_tensors(self.plan, self.spec, atoms, self.undecided)
        effects = self._effects()
        decided = rule_of >= 0
        # This plan is judged without what another plan has frozen or trained.
        rows = self._decided_rows(rule_of)
        if not rows:  # which freeze something, too
            self._check_trivial(np.where(decided, trainable, self.spec.found), rule_of)
        check_shared_memory(self.spec, trainable)
        lr_scale, weight_decay = group_settings(self.plan, self.spec)
        still = wanted_still(self.plan, self.spec, trainable, decided)
        outcome = Outcome(trainable, rule_of, self.rule, still)
        return Resolution(
            self.plan,
            self.spec,
            trainable,
            rule_of,
            effects,
            tuple(sorted(still.modules.difference(self.spec.tree.modeless))),
            quiet_modules(self.plan, self.spec, trainable, decided),
            lr_scale,
            weight_decay,
            (
                *self.notices,
                *outcome_notices(self.plan, self.spec, outcome),
                *reading_notices(self.plan, self.spec),
            ),
            rows=rows,
        )

    def _apply(self, number: int, rule: Rule) -> None:
        where = f'rule {number + 1} ({rule.verb}: "{rule.selector(self.spec.framework)}")'
        selector = rule.selector(self.spec.framework)
        if isinstance(selector.expression, Rows):
            self._apply_rows(number, rule, selector.expression, where)
            return
        # A rule that names only norms without parameters selects nothing, and is still right.
        bare = bool(stand_ins_of(self.spec).reach(selector.expression).named.any())
        mask = select(selector, self.spec, where, optional=rule.optional or bare)
        self.matched.append(mask)
        self.bare.append(bare)
        if not mask.any() and not bare:
            self.notices.append(f"{where} is optional and matches nothing")
        if rule.verb == "only":
            self._write(np.ones_like(mask), number, trainable=False)
        if rule.verb == "freeze":
            self._write(mask, number, trainable=False)
        else:
            self._write(self._trainable_part(mask, selector, where), number, trainable=True)

    def _apply_rows(self, number: int, rule: Rule, expression: Rows, where: str) -> None:
        """Train a table under all its names; which of its rows do is written beside."""
        rows = find_rows(expression, self.spec, where, optional=rule.optional)
        mask = np.zeros(len(self.atoms), np.bool_)
        if rows is None:
            self.notices.append(f"{where} is optional and matches nothing")
        else:
            mask = self.atoms.tensor == rows.number
            self._check_twice(number, rows)
            self.rows[number] = rows
        self.matched.append(mask)
        self.bare.append(False)
        if rows is not None:
            part = self._trainable_part(mask, Selector(f'path:"{rows.path}"'), where)
            self._write(part, number, trainable=True)

    def _check_twice(self, number: int, rows: TrainedRows) -> None:
        """Refuse a second rule on rows of one table; a later phase may change them."""
        for earlier, known in self.rows.items():
            if self.strict and known.number == rows.number:
                raise ResolveError(
                    f"rules {earlier + 1} and {number + 1} both train rows of {rows.path}",
                    context="the last rule that matches decides, so the first would do nothing",
                    hint="write one rule with one slice that holds all of them",
                )

    def _decided_rows(self, rule_of: NDArray[np.intp]) -> tuple[TrainedRows, ...]:
        pairs = self.rows.items()
        return tuple(rows for number, rows in pairs if rule_of[rows.number] == number)

    def _write(self, mask: Mask, number: int, *, trainable: bool) -> None:
        self.want[mask] = trainable
        self.rule[mask] = number

    def _trainable_part(self, mask: Mask, selector: Selector, where: str) -> Mask:
        """Leave out what is never trained, unless the rule names it by its path.

        Constants may also be selected by a rule that selects nothing else.
        """
        fixed = mask & self.fixed[self.atoms.tensor]
        if not fixed.any():
            return mask
        named = _named_tensors(selector.expression, self.spec)
        if not (mask & ~self.spec.constants[self.atoms.tensor]).any():
            named |= set(self.atoms.tensor[mask].tolist())
        for tensor in np.unique(self.atoms.tensor[fixed]):
            row = self.spec.tensors[tensor]
            if tensor in named and row.impossible:
                (path,) = self.spec.paths_of([int(tensor)])
                raise FixedParameterError(
                    f"{where} would train {path}: {row.fixed}", hint="leave it out of the rule"
                )
        left = fixed & ~np.isin(self.atoms.tensor, list(named))
        if left.any():
            self.notices += left_notices(self.spec, np.unique(self.atoms.tensor[left]), where)
        return mask & ~left

    def _effects(self) -> tuple[RuleEffect, ...]:
        effects = []
        for number, (rule, mask) in enumerate(zip(self.plan.rules, self.matched, strict=True)):
            # Each name of a tied parameter and each part of a fused one is decided by itself.
            decided = self._tensors_of(self.rule == number)
            needed = not rule.optional and not self.bare[number]
            if self.strict and not decided.any() and needed:
                raise self._undecided(number, rule, mask)
            selector = rule.selector(self.spec.framework)
            effects.append(
                RuleEffect(
                    f"{rule.verb}: {selector}",
                    matched=int(self._tensors_of(mask).sum()),
                    decided=int(decided.sum()),
                    values=int(self.spec.counts[decided].sum()),
                )
            )
        return tuple(effects)

    def _tensors_of(self, atoms: Mask) -> Mask:
        """Return the parameters that the given atoms belong to."""
        chosen = np.zeros(len(self.spec), np.bool_)
        chosen[self.atoms.tensor[atoms]] = True
        return chosen

    def _undecided(self, number: int, rule: Rule, mask: Mask) -> ResolveError:
        winners = sorted({int(winner) + 1 for winner in self.rule[mask] if winner >= 0})
        if not winners:
            fixed = np.unique(self.atoms.tensor[mask])
            row = self.spec.tensors[int(fixed[0])]
            return FixedParameterError(
                f"rule {number + 1} ({rule}) would train only what is never trained",
                context=f"{listing(self.spec.paths_of(fixed))}: {row.fixed or CONSTANT}",
                hint="take it out" + ("" if row.impossible else ", or name parameters in full"),
            )
        return UndecidedRuleError(
            f"rule {number + 1} ({rule}) decides nothing",
            context=f"all it matches is decided by rule {listing(map(str, winners))}",
            hint="move it after those rules, or take it out",
        )

    def _check_trivial(self, trainable: Mask, rule_of: NDArray[np.intp]) -> None:
        free = ~self.spec.never
        if not trainable.any() and not self._says("freeze"):
            tied = tied_beside(self.plan, self.spec, rule_of, self.rule)
            raise TrivialPlanError(
                "the plan leaves nothing trainable",
                context="\n".join(
                    (_all_of(len(trainable), "ends up frozen", "end up frozen"), *tied)
                ),
                hint="if that is meant, say it: freeze: all",
            )
        if self._holds_a_norm():
            return
        if free.any() and trainable[free].all() and not self._says("train"):
            raise TrivialPlanError(
                "the plan freezes nothing",
                context=_all_of(
                    int(free.sum()),
                    "that can be trained stays trainable",
                    "that can be trained stay trainable",
                ),
                hint="if that is meant, say it: train: all",
            )

    def _holds_a_norm(self) -> bool:
        """Return whether a rule freezes a norm that has no parameters: that is an effect, too."""
        pairs = zip(self.plan.rules, self.bare, strict=True)
        return any(bare and rule.verb == "freeze" for rule, bare in pairs)

    def _says(self, verb: str) -> bool:
        """Return whether a rule says explicitly that everything is frozen, or trained."""
        framework = self.spec.framework
        return any(
            rule.verb == verb and rule.selector(framework).expression == Word("all")
            for rule in self.plan.rules
        )


def _all_of(count: int, singular: str, plural: str) -> str:
    return f"the only parameter {singular}" if count == 1 else f"all {count:,} parameters {plural}"


def _named_tensors(expression: Expression, spec: ModelSpec) -> set[int]:
    """Return parameters that an expression names by their full native path."""
    literals = {node.literal for node in nodes(expression) if isinstance(node, Path)} - {""}
    return {
        tensor
        for name, tensor in zip(spec.tree.names, spec.tree.tensor_of, strict=True)
        if name in literals
    }
