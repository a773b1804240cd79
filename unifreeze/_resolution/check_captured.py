"""A captured plan must decide the same on every port of its network, or it is refused.

Words and canonical names are derived from structure, and the ports of one network may differ in
structure: one port fuses projections that the other holds apart, or registers its layers in another
order. So a captured plan holds what it decided where it was captured, and this is compared before
the plan is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate

import numpy as np

from unifreeze._plan import Captured, FreezePlan
from unifreeze._plan.selectors import Expression, Word
from unifreeze._plan.selectors.expression import Index, Quoted, nodes
from unifreeze._resolution.plan_selectors import deciding_expressions
from unifreeze._resolution.resolution import Resolution
from unifreeze._structure import KINDS, STATISTICS, ModelSpec, derive
from unifreeze._structure.branches import branches_of, unlike_branches
from unifreeze._structure.counted_layers import (
    alike_but_for_order,
    folded,
    groups_of,
    same_layers,
    unfolded,
)
from unifreeze._structure.frozen_shares import shares_of, unlike_shares, zone_of
from unifreeze._structure.misnumbered import misnumbered
from unifreeze.errors import CapturedPlanError, ResolveError, counted, listing

_COUNTED = re.compile(rf"(.*)/({'|'.join(KINDS)})\.\d+/[^/]*")
Resolver = Callable[[FreezePlan, ModelSpec], Resolution]
CURE = (
    "capture it with a batch, and apply it with one; or give capture the pairing of the two "
    "models. For another network, take captured: out of the plan"
)

PAIRED = "give capture the pairing of the two models. For another network, take captured: out"
LIKE_ORDER = (
    "equal branches are told apart by the order that they count in, and it is another one here, or "
    "nothing shows that it is the same"
)


def describe_captured(resolution: Resolution, order: str | None) -> Captured:
    """Describe what a plan decides on the model that it was captured from.

    Args:
        resolution: The plan, resolved on that model.
        order: What its names count by; None where both orders give the same decisions.
    """
    plan, spec = resolution.plan, resolution.spec
    named, groups = named_groups(plan, spec), groups_of(spec)
    units = {unit for unit, _ in named}
    # All layers of such a unit are written down, because each of them shows what the order is.
    layers = {
        unit: {
            kind: tuple(rows)
            for kind, rows in groups[unit].items()
            if (unit, kind) in named or kind != "param"
        }
        for unit in groups
        if unit in units
    }
    return Captured(
        framework=spec.framework,
        order="execution" if order == "execution" else "registration" if order else None,
        frozen=shares_of(spec, resolution.trainable.tolist()),
        held={} if isinstance(plan.norm_stats, str) else _held(resolution),
        layers=folded(layers),
        branches=branches_of(spec, _flags(resolution), named),
    )


def check_captured(plan: FreezePlan, resolution: Resolution, resolve: Resolver) -> None:
    """Refuse a captured plan that would decide something else than where it was captured.

    Args:
        plan: The plan.
        resolution: The plan resolved on a model.
        resolve: Resolves a plan on a model.

    Raises:
        CapturedPlanError: Naming the differences.
    """
    captured = plan.captured
    if captured is None:
        return
    bare = FreezePlan(plan.rules, plan.norm_stats, structure=plan.structure)
    _check_order(captured, bare, resolution, resolve)
    _check_layers(captured, plan, resolution.spec)
    if why := out_of_order(plan, resolution.spec):
        raise CapturedPlanError(
            f"positions would count in order of registration, and {why}",
            hint="give a batch: plan.apply(model, batch=batch)",
        )
    _check_branches(captured, plan, resolution)
    wrong = list(unlike_shares(captured.frozen, shares_of(resolution.spec, _flags(resolution))))
    held = _held(resolution) if captured.held else {}
    if captured.held and captured.held != held:
        wrong.append(f"layers that hold statistics: {dict(captured.held)}, and {held} here")
    if wrong:
        raise CapturedPlanError(
            f"the plan was captured in {captured.framework} and freezes something else here",
            context="\n".join(wrong),
            hint=_cure(resolution),
        )


def _check_branches(captured: Captured, plan: FreezePlan, resolution: Resolution) -> None:
    """Refuse a plan that tells equal branches apart, unless it freezes the same branches here."""
    spec, flags = resolution.spec, _flags(resolution)
    wrong = list(unlike_branches(captured.branches, spec, flags, named_groups(plan, spec)))
    if wrong:
        executed = captured.order != "registration" and spec.order == "execution"
        raise CapturedPlanError(
            LIKE_ORDER,
            context="\n".join(wrong[:4]),
            hint=PAIRED if executed else CURE,
        )


def _flags(resolution: Resolution) -> list[bool]:
    flags: list[bool] = resolution.trainable.tolist()
    return flags


def _cure(resolution: Resolution) -> str:
    frozen = int((~resolution.spec.found & (resolution.rule < 0)).sum())
    were = counted(frozen, "parameter was", "parameters were")
    return f"{CURE}; {were} found frozen here, and no rule decides that" if frozen else CURE


def _check_order(
    captured: Captured, plan: FreezePlan, resolution: Resolution, resolve: Resolver
) -> None:
    """Refuse names counted by one order where they would be read by another that differs."""
    spec = resolution.spec
    if captured.order == "execution" and spec.order == "registration":
        raise CapturedPlanError(
            "the plan was captured with a batch, and its positions count in order of execution",
            context="counting in order of registration came to something else there",
            hint="give a batch: plan.apply(model, batch=batch)",
        )
    if captured.order == "registration" and spec.order == "execution":
        registered = derive(spec.tree, None, found=spec.found)
        try:
            by_registration = resolve(plan, registered)
        except ResolveError:
            by_registration = None
        if (
            by_registration is None
            or not np.array_equal(by_registration.trainable, resolution.trainable)
            or _held(by_registration) != _held(resolution)
        ):
            raise CapturedPlanError(
                "the plan was captured without a batch, and its positions count in order of "
                "registration",
                context="counting in order of execution comes to something else here",
                hint=CURE,
            )


def _check_layers(captured: Captured, plan: FreezePlan, spec: ModelSpec) -> None:
    """Refuse names that count other layers than they counted where they were written."""
    named, groups, layers = named_groups(plan, spec), groups_of(spec), unfolded(captured.layers)
    written = {(unit, kind) for unit, kinds in layers.items() for kind in kinds}
    wrong = []
    for unit, kind in sorted(named | written):
        there = layers.get(unit, {}).get(kind)
        here = groups.get(unit, {}).get(kind)
        if there is None or here is None:
            if (unit, kind) in named:
                wrong.append(f"{unit}: {'no' if here is None else 'other'} {kind} layers")
        elif not same_layers(there, here):
            wrong.append(f"{unit}: {kind} layers {_listed(there)}, and {_listed(here)} here")
    if wrong:
        raise CapturedPlanError(
            f"the plan was captured in {captured.framework}, and its names count other layers here",
            context="\n".join(wrong[:4] + [f"and {len(wrong) - 4} more"] * (len(wrong) > 4)),
            hint=CURE,
        )


def _listed(rows: Sequence[str]) -> str:
    return f"[{listing(rows, limit=8)}]"


def named_groups(plan: FreezePlan, spec: ModelSpec) -> set[tuple[str, str]]:
    """Return the units and kinds in which a plan tells layers apart by counting them."""
    patterns = {
        node.pattern
        for expression in deciding_expressions(plan, spec.framework)
        for node in nodes(expression)
        if isinstance(node, Quoted) and node.by == "at"
    }
    plain = {pattern for pattern in patterns if not set("*?[") & set(pattern)}
    globs = [re.compile(translate(pattern)).fullmatch for pattern in patterns - plain]

    def takes(name: str) -> bool:
        return name in plain or any(matches(name) for matches in globs)

    groups = set()
    for name in dict.fromkeys(spec.atom_names) if patterns else ():
        match = _COUNTED.fullmatch(name)
        if match is None or (match[1], match[2]) in groups:
            continue
        # A plan that names the whole unit, or all of a kind in it, does not count.
        whole = takes(match[1]) or takes(f"{match[1]}/{match[2]}.*")
        if not whole and (takes(name) or takes(name.rpartition("/")[0])):
            groups.add((match[1], match[2]))
    return groups


def fused_places(plan: FreezePlan, spec: ModelSpec) -> Iterator[str]:
    """Say which layers take several places where a plan written by hand counts layers."""
    groups, at = named_groups(plan, spec), spec.placement
    if plan.captured is not None or not groups:
        return  # most plans count no layers, and numbering all of them takes long
    rows = []
    for owner, span in at.spans.items():
        if (spec.units[at.unit_of[owner]].label, at.kind_of[owner]) in groups:
            last = spec.owner_name(owner, span.width - 1).rpartition(".")[2]
            rows.append(f"{spec.tree.paths[owner]} is {spec.owner_name(owner)} to .{last}")
    if rows:
        why = "a layer that holds several projections counts as all of them"
        yield f"{why}: {listing(rows, limit=3)}"


def told_by_order(resolution: Resolution) -> str:
    """Say which layers a plan tells apart only by the order in which they are registered."""
    spec = resolution.spec
    named = named_groups(resolution.plan, spec)
    names = alike_but_for_order(spec, _flags(resolution), named)
    if spec.order == "execution" or not names:
        return ""
    return (
        f"{listing(names, limit=4)} are of one size and told apart by the order in which "
        f"{spec.framework} registers them, which no run has shown: give a batch to be sure of them "
        "in another port."
    )


def out_of_order(plan: FreezePlan, spec: ModelSpec) -> str:
    """Say why a plan's positions cannot be trusted without a batch, "" if they can.

    Where `norm2` is registered before `norm1`, nobody can mean the order of registration.
    """
    if spec.order == "execution" or not misnumbered(spec):
        return ""
    tree, owners = spec.tree, set[int]()
    units = {unit for unit, _ in named_groups(plan, spec)}
    for owner, number in spec.placement.unit_of.items():
        if spec.units[number].label in units:
            owners.add(owner)
    expressions = deciding_expressions(plan, spec.framework)
    if any(_is_indexed(node) for expression in expressions for node in nodes(expression)):
        owners |= {block for run in spec.runs for block in run.blocks}
    for module, (first, then) in misnumbered(spec).items():
        inside = [owner for owner in owners if module < owner < tree.ends[module]]
        if len(inside) > 1:
            return f"{tree.paths[module] or 'the model'} registers {first} before {then}"
    return ""


def _is_indexed(expression: Expression) -> bool:
    if isinstance(expression, Quoted):
        return expression.by == "at" and any(map(str.isdigit, expression.pattern))
    return isinstance(expression, Word) and isinstance(expression.index, Index)


def _held(resolution: Resolution) -> dict[str, tuple[int, int]]:
    """Count the layers with running statistics, and those that hold them, by zone."""
    spec, held = resolution.spec, set(resolution.held)
    owners: Iterable[int] = {
        state.owner for state in spec.states if state.role in STATISTICS and state.moves
    }
    counts: dict[str, tuple[int, int]] = {}
    for owner in sorted(owners):
        zone = zone_of(spec, spec.units[spec.placement.unit_of[owner]])
        before = counts.get(zone, (0, 0))
        counts[zone] = before[0] + (owner in held), before[1] + 1
    return counts
