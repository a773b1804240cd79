"""Which decision about one port's parameters is which about another's: by pairing, or by names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unifreeze._authoring.capture.plan_search import Aim, covering, free
from unifreeze._plan import FreezePlan, Rule
from unifreeze._structure import CONTAINER, Mask, ModelSpec, Tensor, Tree, derive
from unifreeze._structure.likeness import groups_of, same_layers
from unifreeze.errors import FusedTensorError, PlanError, listing

if TYPE_CHECKING:
    from unifreeze._ports.pairing import Pairing, PairRow


class Decision(NamedTuple):
    """What one port decides about a tensor of the other, and by which of its own tensors."""

    trainable: bool
    by: str


def by_pairing(spec: ModelSpec, trainable: Mask, target: ModelSpec, pairing: Pairing) -> Aim:
    """Aim at what a pairing says of another model's parameters.

    Raises:
        PlanError: The pairing is not of these two models.
        FusedTensorError: The other holds in one tensor what is decided apart.
    """
    decided = paired_decisions(spec, trainable, pairing)
    names = {
        name: number
        for number, row in enumerate(target.parameters)
        for name in (row.path, *row.aliases)
    }
    if missing := [path for path in decided if path not in names]:
        raise PlanError(
            f"the pairing is of another model than the target: {len(missing)} of its tensors are "
            "not there",
            context=listing(missing),
            hint="pair these very models",
        )
    flags, known = np.zeros(len(target), np.bool_), np.zeros(len(target), np.bool_)
    for path, decision in decided.items():
        flags[names[path]], known[names[path]] = decision.trainable, True
    return Aim(target, flags, known & free(target))


def paired_decisions(spec: ModelSpec, trainable: Mask, pairing: Pairing) -> dict[str, Decision]:
    """Return what is decided of each paired parameter of the other model, by its native path.

    Raises:
        PlanError: The pairing is not of this model.
        FusedTensorError: The other holds in one tensor what is decided apart.
    """
    flags = {
        name: bool(trainable[number])
        for number, row in enumerate(spec.parameters)
        for name in (row.path, *row.aliases)
    }
    found: dict[str, Decision] = {}
    for row in parameters_of(seen_from(spec, pairing)):
        here = Decision(flags[row.one_tensor], row.one_tensor)
        before = found.setdefault(row.other_tensor, here)
        if before.trainable != here.trainable:
            frozen, trains = sorted((before, here))
            raise FusedTensorError(
                f"{row.other_tensor} of the other port holds in one tensor what is decided apart",
                context=f"{trains.by} trains, {frozen.by} is frozen",
                hint="freeze or train them together",
            )
    return found


def seen_from(spec: ModelSpec, pairing: Pairing) -> Pairing:
    """Return a pairing with the model that is described first; it stays as it is if both could be.

    Raises:
        PlanError: It is neither of the two.
    """
    known = {name for row in spec.parameters for name in (row.path, *row.aliases)}
    misses = []
    for made in (pairing, pairing.turned()):
        rows = parameters_of(made)
        missing = [row.one_tensor for row in rows if row.one_tensor not in known]
        if made.one.framework == spec.framework and rows and not missing:
            return made
        misses.append(f"{made.one.framework}: {listing(missing) or 'another framework'}")
    raise PlanError(
        f"the pairing is not of this model ({spec.framework})",
        context="not there, of " + "\nnot there, of ".join(misses),
        hint="pair this very model",
    )


def parameters_of(pairing: Pairing) -> list[PairRow]:
    """Return what a pairing pairs that is not a statistic."""
    return [row for row in pairing.pairs if not row.state]


def sketched(decided: Mapping[str, Decision], pairing: Pairing) -> Aim:
    """Describe a pairing's second model by its paths, and aim at what is decided of it.

    It knows no kinds of layers, only paths; so only native selectors can be found on it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for row in parameters_of(pairing):
        size = sum(row.other_part.sizes) if row.other_part else 0
        shapes[row.other_tensor] = (size, prod(row.other_shape)) if size else row.other_shape
    tree = Tree(pairing.other.framework)
    _enter(tree, "", -1, _nested(shapes), shapes)
    spec = derive(tree)
    flags = [decided[path].trainable for path in tree.names]
    return Aim.of(spec, np.asarray(flags, np.bool_))


def rule_for_both(one: Aim, other: Aim) -> FreezePlan:
    """Return a plan of one rule with a selector for each framework, in its own names.

    Nothing is counted in them: of a model that only its pairing tells of, not every child is known.

    Raises:
        PlanError: No selector takes just what trains, or just what is frozen.
    """
    plans = []
    for verb, trains in (("only", True), ("freeze", False)):
        choices = []
        for aim in (one, other):
            chosen = aim.trainable == trains
            need, allowed = chosen & aim.known, chosen | ~aim.known
            taken = covering(aim.spec, need, allowed, native_names=True, positions=False)
            choices.append((aim.spec.framework, taken))
        found = [(name, selector) for name, selector in choices if selector is not None]
        if len(found) == 2:
            rule = Rule("only" if trains else "freeze", tuple(sorted(found, key=lambda c: c[0])))
            plans.append((sum(len(str(selector)) for _, selector in found), verb, rule))
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


# By canonical names -------------------------------------------------------------------------


def by_name(spec: ModelSpec, trainable: Mask, target: ModelSpec) -> Aim:
    """Aim at what canonical names say of another model's parameters, where they can be trusted.

    Raises:
        PlanError: In a unit of which not all is decided alike, the two count other layers.
        FusedTensorError: The other holds in one tensor what is decided apart.
    """
    decided: dict[str, bool] = {}
    for number, name in enumerate(spec.first_names.tolist()):
        decided |= dict.fromkeys(spec.part_names(name), bool(trainable[number]))
    if not decided.keys().isdisjoint(target.atom_names):
        _check_names(spec, decided, target)
    flags = [_flag(target, name, decided) for name in target.first_names.tolist()]
    known = np.asarray([flag is not None for flag in flags], np.bool_) & free(target)
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
    """Refuse to go by names in a unit where the two count other layers and decisions differ."""
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
    one: Mapping[str, Mapping[str, object]], other: Mapping[str, Mapping[str, object]]
) -> Iterator[tuple[str, str, list[str], list[str]]]:
    for unit, kinds in one.items():
        for kind in dict.fromkeys((*kinds, *other.get(unit, {}))):
            here: list[str] = list(kinds.get(kind, ()))  # type: ignore[call-overload]
            there: list[str] = list(other.get(unit, {}).get(kind, ()))  # type: ignore[call-overload]
            if not same_layers(here, there):
                yield unit, kind, here, there
