"""Rebuilds the exchange of gradients inside `DistributedDataParallel` after flags have changed.

DDP decides when it wraps a model which gradients it exchanges. Its reducer is built anew inside the
same wrapper, so that the user's object stays, and only what trains is exchanged. That takes calls
that PyTorch keeps private; where they are not as expected, gradients are exchanged by hooks of this
package instead.
"""

from __future__ import annotations

import gc
import inspect
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unifreeze.backend import WeakIdentityDict, WeakIdentitySet
from unifreeze.errors import UnifreezeWarning
from unifreeze_torch import _fixed_engines as fixed_engines
from unifreeze_torch import _flattened as flattened
from unifreeze_torch import _own_exchange as own_exchange
from unifreeze_torch._processes import are_ready

_engines = WeakIdentitySet()
"""Every DDP wrapper that has been made."""
compiled = WeakIdentitySet()
"""Every wrapper of `torch.compile` that has been made."""
_built_for: WeakIdentityDict[frozenset[int]] = WeakIdentityDict()
"""Identities of the parameters for which each wrapper's reducer was last built."""
_HOOK_MEMORY = ("error_dict", "p_memory_dict", "q_memory_dict")
"""What PowerSGD's hooks remember of each bucket; other buckets have other shapes."""


def watch_engines() -> None:
    """Note every DDP wrapper from now on, and those that there are."""
    nn.modules.module.register_module_module_registration_hook(_note)
    if are_ready():
        for thing in gc.get_objects():
            if issubclass(type(thing), nn.Module):
                _note(thing)


def _note(parent: nn.Module, name: str = "", _child: nn.Module | None = None) -> None:
    if isinstance(parent, DistributedDataParallel):
        _engines.add(parent)
    elif type(parent).__name__.startswith("Fully") and flattened.is_wrapper(parent):
        flattened.wrappers.add(parent)
    elif type(parent).__name__ == "DeepSpeedEngine" and fixed_engines.is_engine(parent):
        fixed_engines.engines.add(parent)
    elif name == "_orig_mod" or "_orig_mod" in vars(parent).get("_modules", ()):
        compiled.add(parent)


def engines_around(tensors: Iterable[torch.Tensor]) -> list[Any]:
    """Return the DDP wrappers that hold some of these parameters."""
    ready = [engine for engine in _engines if "reducer" in vars(engine)]
    wanted = set(map(id, tensors)) if ready else set()
    return [e for e in ready if any(id(p) in wanted for p in e.module.parameters())]


def takes_values(engine: Any) -> bool:
    """Return whether a wrapper gives this process the values of another one when it is made."""
    return bool(torch.distributed.get_rank(engine.process_group))


def rebuild(changed: Sequence[torch.Tensor]) -> None:
    """Let every DDP wrapper follow flags that have changed.

    Args:
        changed: The parameters whose flag has changed.
    """
    engines = engines_around(changed)
    numbers = set(map(id, changed)) if engines else set()
    for engine in engines:
        trains = {id(p) for p in engine.module.parameters() if p.requires_grad}
        inside = {id(p) for p in engine.module.parameters()} & numbers
        built_for = _built_for.setdefault(engine, frozenset(trains ^ inside))
        if not trains or trains == built_for:
            continue  # without anything to train there is nothing to exchange
        if way() == "reducer":
            _rebuild_reducer(engine)
        else:
            own_exchange.take_over(engine)
        _built_for[engine] = frozenset(trains)


def _rebuild_reducer(engine: Any) -> None:
    built_in = _built_in_hook(engine)
    engine.reducer._remove_autograd_hooks()
    engine.logger = None
    engine.reducer = None
    parameters, sparse = engine._build_params_for_reducer()
    names = engine._build_debug_param_to_name_mapping(parameters)
    engine._ddp_init_helper(parameters, sparse, names, engine.static_graph)
    for hook, state in engine._comm_hooks:
        for name in _HOOK_MEMORY:
            getattr(state, name, {}).clear()
        torch.distributed._register_comm_hook(engine.reducer, state, hook)
    if built_in is not None:
        engine._register_builtin_comm_hook(built_in)
    if engine.mixed_precision is not None:
        engine.reducer._set_mixed_precision_param_dtype(engine.mixed_precision.param_dtype)
    engine._has_rebuilt_buckets = False
    if engine.static_graph:
        engine.reducer._set_static_graph()
        engine.logger._set_static_graph()
        engine._static_graph_delay_allreduce_enqueued = False
    if engine._use_python_reducer:
        for handle in engine._accum_grad_hooks:
            handle.remove()
        engine._accum_grad_hooks.clear()
        engine._register_accum_grad_hook()


def _built_in_hook(engine: Any) -> Any:
    """Return the communication hook written in C++ that a reducer has, None without one."""
    if engine._comm_hooks:
        return None
    name = engine._get_ddp_logging_data().get("comm_hook", "").rpartition(".")[2]
    kinds = torch.distributed.BuiltinCommHookType
    return getattr(kinds, name, None) if name else None


_CALLS = {
    "_build_params_for_reducer": ["self"],
    "_build_debug_param_to_name_mapping": ["self", "parameters"],
    "_ddp_init_helper": [
        "self",
        "parameters",
        "expect_sparse_gradient",
        "param_to_name_mapping",
        "static_graph",
    ],
    "_register_accum_grad_hook": ["self"],
    "_register_builtin_comm_hook": ["self", "comm_hook_type"],
}
"""The private methods of DDP that are called, with the names of their parameters."""


@cache
def way() -> str:
    """Return how gradients are exchanged after a change: by the "reducer", or by "own" hooks."""
    known = all(
        list(inspect.signature(method).parameters) == names
        if (method := getattr(DistributedDataParallel, name, None)) is not None
        else False
        for name, names in _CALLS.items()
    )
    reducer = getattr(torch.distributed, "Reducer", None)
    known = known and hasattr(reducer, "_remove_autograd_hooks")
    known = known and hasattr(torch.distributed, "_register_comm_hook")
    if not known:
        warnings.warn(
            f"DistributedDataParallel of PyTorch {torch.__version__} is built in another way than "
            "is known here: after a change of flags, gradients are exchanged by hooks of "
            "unifreeze, once at the end of each backward pass",
            UnifreezeWarning,
            stacklevel=2,
        )
    return "reducer" if known else "own"


def reason_against(engine: Any, changed: set[int]) -> tuple[str, str] | None:
    """Say why a DDP wrapper cannot follow a change of flags, with the cure; None if it can.

    Args:
        engine: The wrapper.
        changed: Identities of the parameters whose flag would change.
    """
    delayed = {id(parameter) for parameter in getattr(engine, "_delay_all_reduce_params", ())}
    if delayed & changed:
        return "DDP exchanges its gradient by delay_all_reduce_named_params", "leave that out"
    if any(hasattr(p, "_in_backward_optimizers") for p in engine.module.parameters()):
        return (
            "its optimizer runs inside the backward pass, and DDP has built that in",
            "apply the plan first, then wrap; or step the optimizer after the backward pass",
        )
    if way() == "own" and getattr(engine, "_comm_hooks", None):
        return (
            "its DDP wrapper has a communication hook, which cannot be kept with this PyTorch",
            "apply the plan first, then wrap and register the hook",
        )
    return None


watch_engines()
