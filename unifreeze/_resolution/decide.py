"""Deciding every parameter: plan and description → resolution. Pure; touches no model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from unifreeze._plan import FreezePlan, Rule
from unifreeze._plan.selectors import (
    Expression,
    Path,
    Selector,
    Word,
    count_selected,
    evaluate,
    stand_ins_of,
)
from unifreeze._plan.selectors.expression import nodes
from unifreeze._plan.selectors.hints.nearest import explain_nothing, top_level
from unifreeze._plan.selectors.hints.numbers import nothing_in
from unifreeze._resolution.check_captured import check_captured
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
from unifreeze._structure import Mask, ModelSpec
from unifreeze._structure.words import FUSED_GATE
from unifreeze.errors import (
    FixedParameterError,
    FusedTensorError,
    ResolveError,
    TieConflictError,
    TrivialPlanError,
    UndecidedRuleError,
    UnmatchedSelectorError,
    counted,
    listing,
)


def resolve_spec(plan: FreezePlan, spec: ModelSpec) -> Resolution:
    """Resolve a plan against a model's description.

    Raises:
        ResolveError: The plan does not fit the model; the subclass says how.
    """
    key = ("resolution", plan)
    if key not in spec.memo:
        spec.memo[key] = _Decision(plan, spec).resolution()
    found: Resolution = spec.memo[key]
    # Equal plans share a resolution, but not where they were captured.
    check_captured(plan, found, resolve_spec)
    return found


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
        # What was captured is what the plan's own rules come to, before any phase adds to them.
        resolve_spec(replace(plan, phases=()), spec)
    found = []
    known: dict[FreezePlan, Resolution] = {}
    decided: dict[int, bool] = {}
    rules: dict[int, tuple[str, Rule]] = {}
    for phase, held in zip(plan.phases, plan.in_phases(), strict=True):
        if held not in known:
            try:
                known[held] = _Decision(held, spec, strict=False).resolution()
            except ResolveError as error:
                raise _at(error, f"phase {phase.name!r}", error.hint) from None
        found.append(known[held])
        for rule, effect in zip(held.rules, known[held].effects, strict=True):
            rules.setdefault(id(rule), (phase.name, rule))
            decided[id(rule)] = decided.get(id(rule), False) or bool(effect.decided)
    for key, (name, rule) in rules.items():
        if not decided[key] and not rule.optional:
            raise UndecidedRuleError(
                f"phase {name!r}: the rule {rule} decides nothing in any phase",
                context="all it matches is decided by later rules",
                hint="move it behind those, or take it out",
            )
    return tuple(found)


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
        raise _at(error, where, error.hint) from None
    except ResolveError as error:
        raise _at(error, where, error.hint) from None
    if not mask.any() and not optional:
        reason = explain_nothing(selector.expression, spec, partial(count_selected, spec))
        raise UnmatchedSelectorError(
            f"{where} matches none of {counted(len(spec), 'parameter')}",
            context="\n".join(filter(None, [reason, top_level(spec)])),
            hint=nothing_in(selector.expression, spec)[1]
            or "`unifreeze show` lists the model; say optional: true if this is expected",
        )
    return mask


def train_everything(spec: ModelSpec) -> Resolution:
    """Return a resolution that trains whatever can be, a network's own constants too."""
    can = np.asarray([not tensor.fixed for tensor in spec.tensors], np.bool_)
    return resolve_spec(FreezePlan().train("all"), spec.with_found(spec.found | can))


def settle(resolution: Resolution, trainable: Mask) -> Resolution:
    """Return a resolution under flags that other plans have a say in: what holds goes by those."""
    plan, spec = resolution.plan, resolution.spec
    decided = resolution.decided | (trainable != spec.found)
    still = wanted_still(plan, spec, trainable, decided, select)
    return replace(
        resolution,
        trainable=trainable,
        held=tuple(sorted(still.modules.difference(spec.tree.modeless))),
        quiet=quiet_modules(plan, spec, trainable, decided),
    )


def _at(error: ResolveError, where: str, hint: str) -> ResolveError:
    return type(error)(f"{where}: {error.fact}", context=error.context, hint=hint)


class _Decision:
    """One resolution under way."""

    def __init__(self, plan: FreezePlan, spec: ModelSpec, *, strict: bool = True) -> None:
        self.plan, self.spec, self.strict = plan, spec, strict
        self.atoms = spec.atoms
        self.unsaid = spec.found if spec.standing is None else spec.standing
        self.want: Mask = self.unsaid[self.atoms.tensor].copy()
        self.rule = np.full(len(self.atoms), -1, np.intp)
        self.never = np.asarray([bool(tensor.fixed) for tensor in spec.tensors], np.bool_)
        self.fixed = self.never | spec.constants
        self.matched: list[Mask] = []
        self.bare: list[bool] = []
        """For each rule, whether it names a norm without parameters."""
        self.notices: list[str] = []

    def resolution(self) -> Resolution:
        for number, rule in enumerate(self.plan.rules):
            self._apply(number, rule)
        trainable, rule_of = self._per_parameter()
        effects = self._effects()
        # What another plan has frozen, or trained, is no fault of this one.
        self._check_trivial(np.where(rule_of >= 0, trainable, self.spec.found), rule_of)
        self._check_shared(trainable)
        lr_scale, weight_decay = group_settings(self.plan, self.spec, select)
        decided = rule_of >= 0
        still = wanted_still(self.plan, self.spec, trainable, decided, select)
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
        )

    def _apply(self, number: int, rule: Rule) -> None:
        where = f'rule {number + 1} ({rule.verb}: "{rule.selector(self.spec.framework)}")'
        selector = rule.selector(self.spec.framework)
        # A norm without parameters is something to be about, too.
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
                path = self.spec.tree.names[self.spec.first_names[tensor]]
                raise FixedParameterError(
                    f"{where} would train {path}: {row.fixed}", hint="leave it out of the rule"
                )
        left = fixed & ~np.isin(self.atoms.tensor, list(named))
        if left.any():
            self.notices += left_notices(self.spec, np.unique(self.atoms.tensor[left]), where)
        return mask & ~left

    def _names_of(self, tensors: NDArray[np.intp]) -> list[str]:
        return [self.spec.tree.names[self.spec.first_names[tensor]] for tensor in tensors]

    def _per_parameter(self) -> tuple[Mask, NDArray[np.intp]]:
        """Bring the atoms of each parameter together; they must agree."""
        count = len(self.spec)
        if len(self.atoms) == count:
            trainable, rule = np.empty(count, np.bool_), np.empty(count, np.intp)
            trainable[self.atoms.tensor], rule[self.atoms.tensor] = self.want, self.rule
            return trainable, rule
        self._check_fused()
        trainable = self.unsaid.copy()
        rule = np.full(count, -1, np.intp)
        decided = self.rule >= 0
        order = np.argsort(self.rule[decided], kind="stable")
        tensors = self.atoms.tensor[decided][order]
        trainable[tensors] = self.want[decided][order]
        rule[tensors] = self.rule[decided][order]
        clash = decided & (self.want != trainable[self.atoms.tensor])
        if clash.any():
            raise self._tie_conflict(int(self.atoms.tensor[np.argmax(clash)]))
        return trainable, rule

    def _check_fused(self) -> None:
        """Refuse to split a tensor: all parts under one name must end alike."""
        same_name = self.atoms.name[1:] == self.atoms.name[:-1]
        split = same_name & (self.want[1:] != self.want[:-1])
        if split.any():
            at = int(np.argmax(split))
            name = int(self.atoms.name[at])
            path = self.spec.tree.names[name]
            rule = max(int(self.rule[at]), int(self.rule[at + 1]))
            parts = " | ".join(f'at:"{part}"' for part in self.spec.part_names(name))
            gate = self.atoms.words[at] & FUSED_GATE
            what = "gate and up" if gate else "query, key and value"
            raise FusedTensorError(
                f"rule {rule + 1} ({self.plan.rules[rule]}) would split {path}",
                context=f"{what} are one tensor here and are frozen or trained whole",
                hint=f"name all of them ({parts if gate else 'query | key | value'}), or the layer",
            )

    def _tie_conflict(self, tensor: int) -> TieConflictError:
        atoms = np.flatnonzero((self.atoms.tensor == tensor) & (self.rule >= 0))
        ends: dict[str, str] = {}
        one_of_each: dict[bool, str] = {}
        for atom in atoms:
            rule = int(self.rule[atom])
            decision = "trainable" if self.want[atom] else "frozen"
            name = self.spec.tree.names[self.atoms.name[atom]]
            one_of_each.setdefault(bool(self.want[atom]), name)
            ends[name] = f"{name} is {decision} by rule {rule + 1} ({self.plan.rules[rule]})"
        return TieConflictError(
            f"{' and '.join(one_of_each.values())} are one tensor with two decisions",
            context="\n".join(ends.values()),
            hint='end the plan with a rule on "tied": freeze: tied, or train: tied',
        )

    def _effects(self) -> tuple[RuleEffect, ...]:
        effects = []
        for number, (rule, mask) in enumerate(zip(self.plan.rules, self.matched, strict=True)):
            # Of a tied or fused parameter, each name and part is decided for itself.
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
        """Return the parameters that any of some atoms belong to."""
        found = np.zeros(len(self.spec), np.bool_)
        found[self.atoms.tensor[atoms]] = True
        return found

    def _undecided(self, number: int, rule: Rule, mask: Mask) -> ResolveError:
        winners = sorted({int(winner) + 1 for winner in self.rule[mask] if winner >= 0})
        if not winners:
            fixed = np.unique(self.atoms.tensor[mask])
            row = self.spec.tensors[int(fixed[0])]
            return FixedParameterError(
                f"rule {number + 1} ({rule}) would train only what is never trained",
                context=f"{listing(self._names_of(fixed))}: {row.fixed or CONSTANT}",
                hint="take it out" + ("" if row.impossible else ", or name parameters in full"),
            )
        return UndecidedRuleError(
            f"rule {number + 1} ({rule}) decides nothing",
            context=f"all it matches is decided by rule {listing(map(str, winners))}",
            hint="move it after those rules, or take it out",
        )

    def _check_trivial(self, trainable: Mask, rule_of: NDArray[np.intp]) -> None:
        free = ~self.never
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
        """Tell whether a rule freezes a norm that has no parameters, which is something, too."""
        pairs = zip(self.plan.rules, self.bare, strict=True)
        return any(bare and rule.verb == "freeze" for rule, bare in pairs)

    def _says(self, verb: str) -> bool:
        """Tell whether a rule says outright that everything is frozen, or trained."""
        framework = self.spec.framework
        return any(
            rule.verb == verb and rule.selector(framework).expression == Word("all")
            for rule in self.plan.rules
        )

    def _check_shared(self, trainable: Mask) -> None:
        """Refuse different decisions for tensors that share memory."""
        for group in self.spec.tree.shared:
            flags = trainable[list(group)]
            if flags.any() and not flags.all():
                names = self._names_of(np.asarray(group))
                raise TieConflictError(
                    f"{' and '.join(names)} share memory and get different decisions",
                    context=", ".join(
                        f"{name} {'trainable' if flag else 'frozen'}"
                        for name, flag in zip(names, flags, strict=True)
                    ),
                    hint="freeze or train them together, or give each its own memory",
                )


def _all_of(count: int, one: str, many: str) -> str:
    return f"the only parameter {one}" if count == 1 else f"all {count} parameters {many}"


def _named_tensors(expression: Expression, spec: ModelSpec) -> set[int]:
    """Return parameters that an expression names by their full native path."""
    literals = {node.literal for node in nodes(expression) if isinstance(node, Path)} - {""}
    return {
        tensor
        for name, tensor in zip(spec.tree.names, spec.tree.tensor_of, strict=True)
        if name in literals
    }
