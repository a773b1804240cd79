"""The decisions about one port's parameters, for the parameters of the other port."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from unifreeze._authoring.capture.plan_search import Aim, can_train, covering
from unifreeze._plan import FreezePlan, Rule
from unifreeze._ports.pairing import Pairing, PairRow
from unifreeze._structure import CONTAINER, Mask, ModelSpec, Tensor, Tree, derive
from unifreeze._structure.counted_layers import groups_of, same_layers
from unifreeze.errors import FusedTensorError, PlanError, listing


class Decision(NamedTuple):
    """A decision about a tensor of the other port, and the tensor here that it comes from."""

    trainable: bool
    by: str


def by_pairing(spec: ModelSpec, trainable: Mask, target: ModelSpec, pairing: Pairing) -> Aim:
    """Return the decisions for another model, with parameters matched by a pairing.

    Raises:
        PlanError: The pairing is not of these two models.
        FusedTensorError: The other port has one tensor for parameters with unlike decisions.
    """
    decisions = paired_decisions(spec, trainable, pairing)
    numbers = {
        name: number
        for number, row in enumerate(target.parameters)
        for name in (row.path, *row.aliases)
    }
    if missing := [path for path in decisions if path not in numbers]:
        raise PlanError(
            f"the pairing is of another model than the target: {len(missing)} of its tensors are "
            "not there",
            context=listing(missing),
            hint="pair these very models",
        )
    flags, known = np.zeros(len(target), np.bool_), np.zeros(len(target), np.bool_)
    for path, decision in decisions.items():
        flags[numbers[path]], known[numbers[path]] = decision.trainable, True
    return Aim(target, flags, known & can_train(target))


def paired_decisions(spec: ModelSpec, trainable: Mask, pairing: Pairing) -> dict[str, Decision]:
    """Return the decision for each paired parameter of the other model, by its native path.

    Raises:
        PlanError: The pairing is not of this model.
        FusedTensorError: The other port has one tensor for parameters with unlike decisions.
    """
    flags = {
        name: bool(trainable[number])
        for number, row in enumerate(spec.parameters)
        for name in (row.path, *row.aliases)
    }
    decisions: dict[str, Decision] = {}
    for row in parameter_pairs(seen_from(spec, pairing)):
        decision = Decision(flags[row.one_tensor], row.one_tensor)
        before = decisions.setdefault(row.other_tensor, decision)
        if before.trainable != decision.trainable:
            frozen, trains = sorted((before, decision))
            raise FusedTensorError(
                f"{row.other_tensor} of the other port holds in one tensor what is decided apart",
                context=f"{trains.by} trains, {frozen.by} is frozen",
                hint="freeze or train them together",
            )
    return decisions


def seen_from(spec: ModelSpec, pairing: Pairing) -> Pairing:
    """Return a pairing, turned if the described model is its second; unchanged if it fits both.

    Raises:
        PlanError: The model is neither of the two.
    """
    known = {name for row in spec.parameters for name in (row.path, *row.aliases)}
    misses = []
    for view in (pairing, pairing.turned()):
        rows = parameter_pairs(view)
        missing = [row.one_tensor for row in rows if row.one_tensor not in known]
        if view.one.framework == spec.framework and rows and not missing:
            return view
        misses.append(f"{view.one.framework}: {listing(missing) or 'another framework'}")
    raise PlanError(
        f"the pairing is not of this model ({spec.framework})",
        context="not there, of " + "\nnot there, of ".join(misses),
        hint="pair this very model",
    )


def parameter_pairs(pairing: Pairing) -> list[PairRow]:
    """Return the pairs of parameters, without statistics and other state."""
    return [row for row in pairing.pairs if not row.state]


def partner_aim(decisions: Mapping[str, Decision], pairing: Pairing) -> Aim:
    """Return the decisions for a pairing's second model, described by its native paths alone.

    A pairing does not know kinds of layers, so only native selectors work on the description.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for row in parameter_pairs(pairing):
        size = sum(row.other_part.sizes) if row.other_part else 0
        shapes[row.other_tensor] = (size, prod(row.other_shape)) if size else row.other_shape
    tree = Tree(pairing.other.framework)
    _enter(tree, "", -1, _nested(shapes), shapes)
    spec = derive(tree)
    flags = [decisions[path].trainable for path in tree.names]
    return Aim.of(spec, np.asarray(flags, np.bool_))


def rule_for_both(here: Aim, there: Aim) -> FreezePlan:
    """Return a plan of one rule with a selector of native names for each framework.

    The selectors use no positions: a pairing need not know every child of a module.

    Raises:
        PlanError: No selector takes exactly what trains, or exactly what is frozen.
    """
    plans = []
    for verb, trains in (("only", True), ("freeze", False)):
        choices = []
        for aim in (here, there):
            chosen = aim.trainable == trains
            need, allowed = chosen & aim.known, chosen | ~aim.known
            selector = covering(aim.spec, need, allowed, native_names=True, positions=False)
            if selector is not None:
                choices.append((aim.spec.framework, selector))
        if len(choices) == 2:
            rule = Rule("only" if trains else "freeze", tuple(sorted(choices, key=lambda c: c[0])))
            plans.append((sum(len(str(selector)) for _, selector in choices), verb, rule))
    if not plans:
        raise PlanError("no selector tells apart what is frozen and what trains")
    _, _, best = min(plans, key=lambda plan: plan[:2])
    return FreezePlan((best,))


_Nested = dict[str, "_Nested | None"]


def _nested(paths: Mapping[str, object]) -> _Nested:
    root: _Nested = {}
    for path in paths:
        *above, leaf = path.split(".")
        place = root
        for piece in above:
            inner = place.setdefault(piece, {})
            place = inner if inner is not None else {}
        place[leaf] = None
    return root


def _enter(
    tree: Tree, path: str, parent: int, inside: _Nested, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    listed = bool(inside) and all(name.isdigit() for name in inside)
    index = tree.enter(path, "Module", CONTAINER if listed else "", parent, repeat=False)
    for name, below in inside.items():
        if below is None:
            full = f"{path}.{name}".lstrip(".")
            shape = shapes[full]
            number = tree.add_tensor(len(tree.tensors), Tensor(shape, shape, "float32", "", False))
            tree.add_name(full, index, name, number)
    for name, below in inside.items():
        if below is not None:
            _enter(tree, f"{path}.{name}".lstrip("."), index, below, shapes)
    tree.leave(index)


def by_name(spec: ModelSpec, trainable: Mask, target: ModelSpec) -> Aim:
    """Return the decisions for another model, with parameters matched by canonical name.

    Raises:
        PlanError: In a unit with unlike decisions, the two models have unlike layers.
        FusedTensorError: The other port has one tensor for parameters with unlike decisions.
    """
    decided: dict[str, bool] = {}
    for number, name in enumerate(spec.first_names.tolist()):
        decided |= dict.fromkeys(spec.part_names(name), bool(trainable[number]))
    if not decided.keys().isdisjoint(target.atom_names):
        _check_names(spec, decided, target)
    flags = [_flag(target, name, decided) for name in target.first_names.tolist()]
    known = np.asarray([flag is not None for flag in flags], np.bool_) & can_train(target)
    return Aim(target, np.asarray([bool(flag) for flag in flags], np.bool_), known)


def _flag(target: ModelSpec, name: int, decided: Mapping[str, bool]) -> bool | None:
    parts = [decided[part] for part in target.part_names(name) if part in decided]
    if parts and len(set(parts)) > 1:
        raise FusedTensorError(
            f"{target.tree.names[name]} of the target holds in one tensor what the plan decides "
            "apart",
            context=listing(target.part_names(name)),
            hint="freeze or train them together",
        )
    return parts[0] if parts else None


def _check_names(spec: ModelSpec, decided: Mapping[str, bool], target: ModelSpec) -> None:
    """Refuse to match by names in a unit where layers are unlike and decisions differ."""
    groups = groups_of(spec), groups_of(target)
    mixed: dict[str, set[bool]] = defaultdict(set)
    for name, flag in decided.items():
        mixed[name.rsplit("/", 2)[0]].add(flag)
    wrong = [
        f"{unit}: {kind} layers [{listing(here, limit=8)}], and [{listing(there, limit=8)}] there"
        for unit, kind, here, there in _unlike(*groups)
        if len(mixed[unit]) > 1
    ]
    if wrong:
        raise PlanError(
            "canonical names do not tell which layer is which: the two models count other ones",
            context="\n".join(wrong[:4]),
            hint="give the pairing of the two: pairing=… (--pairing)",
        )


def _unlike(
    one: Mapping[str, Mapping[str, Collection[str]]],
    other: Mapping[str, Mapping[str, Collection[str]]],
) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Yield unit and kind where the two models have unlike layers, and the layers of both."""
    for unit, kinds in one.items():
        for kind in dict.fromkeys((*kinds, *other.get(unit, {}))):
            here, there = list(kinds.get(kind, ())), list(other.get(unit, {}).get(kind, ()))
            if not same_layers(here, there):
                yield unit, kind, here, there
