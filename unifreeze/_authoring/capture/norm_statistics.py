"""What training does with a model's running statistics now, as the `norm_stats` of a plan."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from unifreeze._authoring.capture.plan_search import covering
from unifreeze._plan import FreezePlan
from unifreeze._resolution import resolve_spec
from unifreeze._structure import Mask, ModelSpec


def with_statistics(
    plan: FreezePlan, spec: ModelSpec, training: Mapping[str, bool], *, paired: bool = False
) -> tuple[FreezePlan, str]:
    """Return the plan with the `norm_stats` that the model follows now, and a note about it.

    Args:
        plan: The plan without `norm_stats`.
        spec: The model.
        training: For the model ("") and each layer with running statistics, whether training would
            update them now.
        paired: The plan has a selector for each framework, so the policy must hold in both.
    """
    layers = {path: moves for path, moves in training.items() if path}
    if not layers:
        return plan, ""
    if not training.get("", True) and not any(layers.values()):
        return plan, (
            "the model as a whole is in inference mode, which does not say what its statistics do "
            "in training: norm_stats is left at its default, hold"
        )
    held = {spec.tree.paths[index] for index in resolve_spec(plan, spec).held} & layers.keys()
    still = {path for path, moves in layers.items() if not moves}
    if still == held:
        hold = f"{len(held)} frozen layers with running statistics hold them still in the source"
        return plan, f"{hold}, too: norm_stats stays hold, the default" if held else ""
    if not still:
        return plan.with_norm_stats("update"), (
            f"the source lets the statistics of {len(held)} frozen layers move in training mode, "
            "so the plan has norm_stats: update; delete that line to hold them"
        )
    if still == layers.keys():
        return plan.with_norm_stats("hold_all"), (
            f"all {len(layers)} layers with running statistics are in inference mode though the "
            "model is not, hence norm_stats: hold_all"
        )
    if paired:
        return plan, (
            f"of {len(layers)} layers with running statistics {len(still)} hold them still in the "
            "source; the pairing does not say which layers those are in the other port: norm_stats "
            "is left at its default, hold"
        )
    return _by_selector(plan, spec, layers, held, still)


def _by_selector(
    plan: FreezePlan, spec: ModelSpec, layers: Mapping[str, bool], held: set[str], still: set[str]
) -> tuple[FreezePlan, str]:
    """Write `norm_stats` as rules for the layers that differ from the default, `hold`."""
    rules: list[dict[str, str]] = []
    for verb, chosen in (("update", held - still), ("hold", still - held)):
        if chosen:
            rest = layers.keys() - chosen
            selector = covering(spec, _under(spec, chosen), ~_under(spec, rest))
            if selector is not None:
                rules.append({verb: str(selector)})
    with_rules = plan.with_norm_stats(rules)
    wanted = {index for index, path in enumerate(spec.tree.paths) if path in still}
    holds = resolve_spec(with_rules, spec).held
    if {index for index in holds if spec.tree.paths[index] in layers} != wanted:
        return plan, (
            f"of {len(layers)} layers with running statistics {len(still)} hold them still in the "
            "source, which no selector tells apart: norm_stats is left at its default, hold"
        )
    return with_rules, (
        f"in the source {len(held - still)} frozen layers let their statistics move, and "
        f"{len(still - held)} that train hold them still, hence norm_stats"
    )


def _under(spec: ModelSpec, paths: set[str]) -> Mask:
    """Return the parameters under some modules."""
    tree, mask = spec.tree, np.zeros(len(spec), np.bool_)
    for path in paths:
        module = spec.module_numbers[path]
        mask[spec.tensor_of[tree.name_starts[module] : tree.name_ends[module]]] = True
    return mask
