"""Saving and loading states of Paddle optimizers by the native paths of parameters.

Paddle itself matches them by names that count the layers a process has made: a state fits only if
the same models were built in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler

from unifreeze.backend import check_names
from unifreeze.errors import OptimizerError, counted, listing
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle._optimizer_moments import clear_moments, create_moments
from unifreeze_paddle._wrapped_optimizers import NAMES, is_named, owned_by


def name_states(optimizer: Optimizer, paths: Mapping[int, str]) -> None:
    """Write native paths into every saved state of an optimizer, and match loaded ones by them.

    A state without paths is loaded as Paddle does it.
    """
    if getattr(optimizer, "_unifreeze_named", False):
        return
    paddles_state, paddles_load = optimizer.state_dict, optimizer.set_state_dict

    def tensors() -> dict[str, Any]:
        return {
            paths.get(id(tensor), f"parameter {number}"): tensor
            for number, tensor in enumerate(optimizers.parameters_of(optimizer))
        }

    def state_dict() -> dict[str, Any]:
        state = paddles_state()
        if not optimizer._accumulators_holder:  # a pending state has no names
            key, owned = owned_by(optimizer)
            state[key] = _names(optimizer, tensors(), owned)
        return dict(state)

    def load(state_dict: Mapping[str, Any]) -> None:
        if not is_named(state_dict):
            paddles_load(state_dict)
            return
        names, by_path = _all_names(state_dict), tensors()
        check_names(names["parameters"], by_path)
        _check_complete(optimizer, by_path, state_dict, names)
        _load_moments(optimizer, by_path, state_dict, names["moments"])
        if "master_weights" in state_dict:
            optimizer._master_weights = {
                by_path[names["master_weights"][name]].name: value
                for name, value in state_dict["master_weights"].items()
            }
        scheduler = optimizer._learning_rate
        if isinstance(scheduler, LRScheduler) and state_dict.get("LR_Scheduler"):
            scheduler.set_state_dict(state_dict["LR_Scheduler"])

    optimizer._unifreeze_named = True
    optimizer.state_dict = state_dict
    optimizer.set_state_dict = optimizer.load_state_dict = load
    if is_named(optimizer._accumulators_holder):  # loaded before the paths were known
        optimizer.set_state_dict(optimizer._accumulators_holder)


def _names(
    optimizer: Optimizer, tensors: Mapping[str, Any], owned: frozenset[str] | None
) -> dict[str, Any]:
    path_of = {tensor.name: path for path, tensor in tensors.items()}
    names = {
        "parameters": sorted(tensors),
        "moments": {
            moment.name: [path_of[name], kind]
            for kind, moments in optimizer._accumulators.items()
            for name, moment in moments.items()
        },
        "master_weights": {
            name: path_of[name] for name in getattr(optimizer, "_master_weights", {})
        },
    }
    if owned is not None:  # another process has the rest
        names["owned"] = sorted(path for name, path in path_of.items() if name in owned)
    return names


def _all_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names in a state, which may be put together of the states of several shards."""
    parts = [names for key, names in state.items() if key.partition("/")[0] == NAMES]
    whole: dict[str, Any] = {"parameters": parts[0]["parameters"]}
    for kind in ("moments", "master_weights"):
        whole[kind] = {name: path for part in parts for name, path in part[kind].items()}
    if all("owned" in part for part in parts):
        whole["owned"] = {path for part in parts for path in part["owned"]}
    return whole


def _check_complete(
    optimizer: Optimizer,
    tensors: Mapping[str, Any],
    state: Mapping[str, Any],
    names: Mapping[str, Any],
) -> None:
    """Refuse a state that lacks what other processes have saved of this optimizer's parameters."""
    _, updated = owned_by(optimizer)
    updates = {path for path, t in tensors.items() if updated is None or t.name in updated}
    missing = updates - names.get("owned", updates)
    weights = state.get("master_weights", {})
    missing |= {p for n, p in names["master_weights"].items() if n not in weights and p in updates}
    if missing:
        raise OptimizerError(
            f"the optimizer's state lacks {counted(len(missing), 'parameter')} that other "
            "processes have updated",
            context=listing(sorted(missing)),
            hint="put the states of all of them together, {**state_of_rank_0, **state_of_rank_1, "
            "…}, and their master_weights too",
        )


def _load_moments(
    optimizer: Optimizer,
    tensors: Mapping[str, Any],
    state: Mapping[str, Any],
    moments: Mapping[str, tuple[str, str]],
) -> None:
    _, owned = owned_by(optimizer)
    moments = {
        name: (path, kind)
        for name, (path, kind) in moments.items()
        if owned is None or tensors[path].name in owned
    }
    with_moments = {path for path, _ in moments.values()}
    optimizer._accumulators_holder = {}
    clear_moments(optimizer, [t for path, t in tensors.items() if path not in with_moments])
    create_moments(optimizer, [tensors[path] for path in sorted(with_moments)])
    for name, (path, kind) in moments.items():
        live = optimizer._accumulators.get(kind, {}).get(tensors[path].name)
        if live is None:
            raise OptimizerError(
                f"the state has {kind} of {path}, and {type(optimizer).__name__} keeps none",
                hint="load it into an optimizer of the class that it was saved from",
            )
        live.set_value(state[name])
