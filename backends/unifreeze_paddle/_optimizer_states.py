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
from unifreeze.errors import OptimizerError
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle._optimizer_moments import clear_moments, create_moments

KEY = "unifreeze_names"


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
            state[KEY] = _names(optimizer, tensors())
        return dict(state)

    def load(state_dict: Mapping[str, Any]) -> None:
        if KEY not in state_dict:
            paddles_load(state_dict)
            return
        names, by_path = state_dict[KEY], tensors()
        check_names(names["parameters"], by_path)
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
    if KEY in optimizer._accumulators_holder:  # loaded before the paths were known
        optimizer.set_state_dict(optimizer._accumulators_holder)


def _names(optimizer: Optimizer, tensors: Mapping[str, Any]) -> dict[str, Any]:
    path_of = {tensor.name: path for path, tensor in tensors.items()}
    return {
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


def _load_moments(
    optimizer: Optimizer,
    tensors: Mapping[str, Any],
    state: Mapping[str, Any],
    moments: Mapping[str, tuple[str, str]],
) -> None:
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
