"""Saving and loading states of PyTorch optimizers by the names of parameters, not by position."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch

from unifreeze.backend import WeakIdentitySet, check_names
from unifreeze_torch import _distributed_checkpoints as in_parts
from unifreeze_torch._distributed_checkpoints import NAMES

_named = WeakIdentitySet()


def name_states(optimizer: torch.optim.Optimizer, paths: Mapping[int, str]) -> None:
    """Write names into every saved state of an optimizer, and match loaded ones by them.

    A state without names is loaded as PyTorch does it, by position.
    """
    if optimizer in _named:
        return
    _named.add(optimizer)

    def add(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        groups = _names(optimizer, paths)
        for group, names in zip(state["param_groups"], groups, strict=True):
            group[NAMES] = names
        if in_parts.asks():
            in_parts.complete(optimizer, state, groups)

    def match(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        if in_parts.asks():
            state = in_parts.kept(optimizer, state, _names(optimizer, paths))
        named = all(NAMES in group for group in state["param_groups"])
        return _sorted(optimizer, state, paths) if named else state

    optimizer.register_state_dict_post_hook(add)
    optimizer.register_load_state_dict_pre_hook(match)


def _names(optimizer: torch.optim.Optimizer, paths: Mapping[int, str]) -> list[list[str]]:
    return [
        [
            paths.get(id(tensor), f"parameter {number} of group {place}")
            for number, tensor in enumerate(group["params"])
        ]
        for place, group in enumerate(optimizer.param_groups)
    ]


def _sorted(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], paths: Mapping[int, str]
) -> dict[str, Any]:
    """Return a state whose groups and positions are those of an optimizer.

    Raises:
        OptimizerError: The state is of other parameters, which are named.
    """
    saved = {
        name: (index, group)
        for group in state["param_groups"]
        for name, index in zip(group[NAMES], group["params"], strict=True)
    }
    wanted = _names(optimizer, paths)
    check_names(saved, list(chain.from_iterable(wanted)))
    # Rates belong to groups: if the groups have changed, the plan's rates hold, not the saved ones.
    same_groups = {frozenset(group[NAMES]) for group in state["param_groups"]} == set(
        map(frozenset, wanted)
    )
    states: dict[int, Any] = {}
    groups: list[dict[str, Any]] = []
    position = 0
    for live, names in zip(optimizer.param_groups, wanted, strict=True):
        settings = dict(saved[names[0]][1]) if names and same_groups else dict(live)
        if NAMES not in live:
            settings.pop(NAMES, None)
        groups.append({**settings, "params": list(range(position, position + len(names)))})
        for name in names:
            if saved[name][0] in state["state"]:
                states[position] = state["state"][saved[name][0]]
            position += 1
    return {**state, "state": states, "param_groups": groups}
