"""Lets `torch.distributed.checkpoint` keep every state of an optimizer, also of what is frozen now.

It loads into what the new run has already: it asks a fresh optimizer for its states first, and
takes from the file what that answers. By itself a fresh optimizer has none. PyTorch makes states
for what trains in the first phase alone, and leaves out those of frozen parameters when it loads.
So here an optimizer that is asked by that package answers with a state for each of its parameters,
and with the names of those that have never taken a step. Their states are dropped on loading.

Who asks shows in the frames of the call alone.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain
from types import FrameType
from typing import Any

import torch

from unifreeze_torch import _tensor_values as values

NAMES = "param_names"
"""Key under which PyTorch itself keeps names in a param group."""
UNSTEPPED = "without_state"
"""Key in a saved param group: names of the parameters that have not taken a step."""
_PACKAGE = "torch.distributed.checkpoint"
_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def _callers(depth: int = 12) -> Iterator[FrameType]:
    """Yield the frames of this call that stand in PyTorch's package of checkpoints."""
    frame = sys._getframe(1)
    for _ in range(depth):
        if frame.f_back is None:
            return
        frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith(_PACKAGE):
            yield frame


def asks() -> bool:
    """Return whether that package makes this call."""
    return next(_callers(), None) is not None


def initialises() -> bool:
    """Return whether that package takes this step of an optimizer, only to make its states."""
    return any(frame.f_code.co_name == "_init_optim_state" for frame in _callers())


def complete(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], names: list[list[str]]
) -> None:
    """Add to the answer of an optimizer the states that it does not have yet.

    Args:
        optimizer: The optimizer.
        state: What its `state_dict` is about to return.
        names: The names of its parameters, in groups.
    """
    groups = zip(optimizer.param_groups, state["param_groups"], names, strict=True)
    for live, saved, named in groups:
        rows = list(zip(live["params"], saved["params"], named, strict=True))
        missing = [row for row in rows if not optimizer.state.get(row[0])]
        made = _first_states(optimizer, live, [tensor for tensor, _, _ in missing])
        for (_, index, _), fresh in zip(missing, made, strict=True):
            state["state"][index] = fresh
        saved[UNSTEPPED] = [name for _, _, name in missing]


def _first_states(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], tensors: list[torch.Tensor]
) -> list[dict[str, Any]]:
    """Return states as an optimizer has them after a step, made by a twin on tensors of zeros."""
    if not tensors:
        return []
    zeros = [torch.nn.Parameter(torch.zeros_like(tensor)) for tensor in tensors]
    for zero in zeros:
        zero.grad = torch.zeros_like(zero)
    own = {name: value for name, value in vars(optimizer).items() if name != "step"}
    twin = object.__new__(type(optimizer))
    vars(twin).update(own, state=defaultdict(dict), param_groups=[{**group, "params": zeros}])
    vars(twin).update({name: OrderedDict() for name in _HOOKS})
    twin.step()
    return [dict(twin.state.get(zero, {})) for zero in zeros]


def kept(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], names: list[list[str]]
) -> dict[str, Any]:
    """Return a state that is loaded: with those of frozen parameters, without the added ones.

    Args:
        optimizer: The optimizer.
        state: What its `load_state_dict` was given.
        names: The names of its parameters, in groups.
    """
    given = next((f for f in _callers() if f.f_code.co_name == "_load_optim_state_dict"), None)
    everything = given.f_locals["state_dict"] if given is not None else state
    live = _by_name(optimizer, names)
    states, rows = dict(state["state"]), []
    for number, saved in enumerate(state["param_groups"]):
        # What PyTorch has sorted stands in the order of the optimizer; its names do not.
        named = saved.get(NAMES, ()) if given is None else names[number]
        for index, name in zip(saved["params"], named, strict=bool(named)):
            if name in saved.get(UNSTEPPED, ()):
                states.pop(index, None)
            elif index not in states and name in live:
                left_out = _state_of(index, everything).items()
                states |= {index: {k: _divided(v, live[name]) for k, v in left_out}}
        rows.append({**saved, NAMES: list(named)} if named else dict(saved))
        rows[-1].pop(UNSTEPPED, None)
    return {**state, "state": states, "param_groups": rows}


def _by_name(optimizer: torch.optim.Optimizer, names: list[list[str]]) -> dict[str, torch.Tensor]:
    groups = zip(optimizer.param_groups, names, strict=True)
    rows = (zip(named, group["params"], strict=True) for group, named in groups)
    return dict(chain.from_iterable(rows))


def _state_of(index: Any, everything: Mapping[str, Any]) -> dict[str, Any]:
    """Return one parameter's state from what PyTorch was given, nested or flattened."""
    if "state" in everything:
        return dict(everything["state"].get(index, {}))
    start = f"state.{index}."
    flat = {key: value for key, value in everything.items() if key.startswith(start)}
    return {key.removeprefix(start): value for key, value in flat.items()}


def _divided(value: Any, tensor: torch.Tensor) -> Any:
    """Return a whole value in the parts of its parameter, if that is divided."""
    if isinstance(value, torch.Tensor) and value.shape == tensor.shape:
        return value if hasattr(value, "full_tensor") else values.divided(value, tensor)
    return value
