"""States of optimizers, matched by the native paths of parameters.

Paddle goes by names that count how many layers a process has made, so that a state fits only where
the same models were built in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddle.optimizer.lr import LRScheduler

from unifreeze.backend import check_names
from unifreeze.errors import OptimizerError
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle._optimizer_moments import clear_moments, create_moments

KEY = "unifreeze_names"


def name_states(optimizer: Any, paths: Mapping[int, str]) -> None:
    """Write native paths into every saved state of an optimizer, and go by them when one is loaded.

    A state without them is loaded as Paddle does it.
    """
    if getattr(optimizer, "_unifreeze_named", False):
        return
    own_state, own_load = optimizer.state_dict, optimizer.set_state_dict

    def tensors() -> dict[str, Any]:
        return {
            paths.get(id(tensor), f"parameter {number}"): tensor
            for number, tensor in enumerate(optimizers.parameters_of(optimizer))
        }

    def state_dict() -> dict[str, Any]:
        state = own_state()
        if not optimizer._accumulators_holder:  # else of a state without names, not yet taken in
            state[KEY] = _names(optimizer, tensors())
        return dict(state)

    optimizer._unifreeze_named = True
    optimizer.state_dict = state_dict
    optimizer.set_state_dict = optimizer.load_state_dict = _loader(optimizer, tensors, own_load)
    if KEY in optimizer._accumulators_holder:  # loaded when only Paddle's own names were known
        optimizer.set_state_dict(optimizer._accumulators_holder)


def _names(optimizer: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
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


def _loader(
    optimizer: Any, parameters: Callable[[], Mapping[str, Any]], own_load: Callable[[Any], None]
) -> Callable[[Mapping[str, Any]], None]:
    def load(state_dict: Mapping[str, Any]) -> None:
        if KEY not in state_dict:
            own_load(state_dict)
            return
        names, tensors = state_dict[KEY], parameters()
        check_names(names["parameters"], tensors)
        _load_moments(optimizer, tensors, state_dict, names["moments"])
        if "master_weights" in state_dict:
            optimizer._master_weights = {
                tensors[names["master_weights"][name]].name: value
                for name, value in state_dict["master_weights"].items()
            }
        scheduler = optimizer._learning_rate
        if isinstance(scheduler, LRScheduler) and state_dict.get("LR_Scheduler"):
            scheduler.set_state_dict(state_dict["LR_Scheduler"])

    return load


def _load_moments(
    optimizer: Any,
    tensors: Mapping[str, Any],
    state: Mapping[str, Any],
    moments: Mapping[str, tuple[str, str]],
) -> None:
    there = {path for path, _ in moments.values()}
    optimizer._accumulators_holder = {}
    clear_moments(optimizer, [t for path, t in tensors.items() if path not in there])
    create_moments(optimizer, [tensors[path] for path in sorted(there)])
    for name, (path, kind) in moments.items():
        live = optimizer._accumulators.get(kind, {}).get(tensors[path].name)
        if live is None:
            raise OptimizerError(
                f"the state has {kind} of {path}, and {type(optimizer).__name__} keeps none",
                hint="load it into an optimizer of the class that it was saved from",
            )
        live.set_value(state[name])
