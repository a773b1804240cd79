"""What PyTorch would get wrong about a plan, seen before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unifreeze.backend import (
    Finding,
    Mask,
    Resolution,
    Walk,
    freezes_any_of,
    join_path,
    modules_of,
    parameters_beside,
    path_of,
    qualified_bases,
    rewritten_tables,
)
from unifreeze_torch import _exchange as exchange
from unifreeze_torch import _fixed_engines as fixed_engines
from unifreeze_torch import _flattened as flattened
from unifreeze_torch import _quantisers as quantisers
from unifreeze_torch._layers import (
    LOOKUP_TABLES,
    TorchReader,
    keeps_statistics,
    made_in_inference_mode,
)


@dataclass
class _Memo:
    """What the checks remember of a walked model.

    Attributes:
        uncertain: Numbers of the modules of a sort that some plan could not hold.
        computed: Numbers of the parameters that are computed from other tensors.
        above_prefix: The last resolution, and the modules in which something trains after
            parameters that are all frozen.
    """

    uncertain: list[int] | None = None
    computed: NDArray[np.intp] | None = None
    above_prefix: tuple[Resolution, list[int]] | None = None


def findings(
    walk: Walk, model: nn.Module, resolution: Resolution, flags: Mask
) -> Iterator[Finding]:
    """Yield every reason why the plan would not hold in PyTorch.

    Args:
        walk: The model as walked.
        model: The model, wrappers included.
        resolution: What the plan decided.
        flags: For each parameter, whether it is trainable now.
    """
    yield from _modules(walk, resolution)
    yield from rewritten_tables(walk, resolution, LOOKUP_TABLES, "max_norm")
    yield from _parameters(walk, resolution, flags)
    yield from parameters_beside(TorchReader(), model)
    yield from _norms_in_adapters(walk, resolution)
    yield from _reentrant_checkpointing(walk, resolution)
    yield from _distributed(walk, resolution, flags)


def _modules(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    memo = walk.memo_of(_Memo)
    if memo.uncertain is None:
        memo.uncertain = _uncertain(walk)
    held = {*resolution.held, *resolution.quiet}
    for index in memo.uncertain:
        module, path = walk.module(index), path_of(walk, index)
        if index in held and isinstance(module, torch.jit.ScriptModule):
            yield Finding(path, "a ScriptModule cannot be held still", "train it unscripted")
            continue
        if index in held or freezes_any_of(walk, resolution, index):
            bases = qualified_bases(type(module))
            if reason := quantisers.reason_against_holding(module, bases):
                yield Finding(path, *reason)
        if "_flat_param" in module._parameters:
            yield Finding(path, "FSDP has flattened its parameters", "wrap with use_orig_params")


def _uncertain(walk: Walk) -> list[int]:
    """Return the modules of a sort that some plan could not hold."""
    tree = walk.tree
    scripted = modules_of(walk, torch.jit.ScriptModule)
    quantising = [state.owner for state in tree.states if state.role in quantisers.SWITCHES]
    flattened: list[int] = []
    if "_flat_param" in tree.leaves:
        leaves = zip(tree.leaves, tree.owners, strict=True)
        flattened = [owner for leaf, owner in leaves if leaf == "_flat_param"]
    return sorted({*scripted, *quantising, *flattened})


def _parameters(walk: Walk, resolution: Resolution, flags: Mask) -> Iterator[Finding]:
    names = resolution.spec.tree.names
    memo = walk.memo_of(_Memo)
    if memo.computed is None:
        leaves = list(map(attrgetter("is_leaf"), walk.tensors))
        memo.computed = np.flatnonzero(~np.asarray(leaves, np.bool_))
    dormant = np.flatnonzero(resolution.trainable & ~flags)
    for number in np.union1d(dormant, memo.computed):
        tensor = walk.tensors[number]
        if not tensor.is_leaf:
            problem = "it is computed from other tensors and has no flag of its own"
        elif made_in_inference_mode(tensor):
            problem = "it was made in inference mode and can never train"
        else:
            continue
        yield Finding(names[resolution.spec.first_names[number]], problem)


def _norms_in_adapters(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    """A plan does not see the norms inside an adapter as modules, so nothing can hold them."""
    policy = resolution.plan.norm_stats
    if policy == "update":
        return
    reader, known = TorchReader(), set(map(id, walk.modules)) if walk.wrappers else set()
    for index, wrapper in walk.wrappers:
        for name, module in wrapper.named_modules():
            if id(module) in known or not keeps_statistics(module):
                continue
            if reader.idle(wrapper, join_path(name, "running_mean")):
                continue
            numbers = [walk.tree.tensor(id(tensor)) for tensor in module.parameters()]
            trains = any(resolution.trainable[n] for n in numbers if n is not None)
            if policy == "hold_all" or not trains:
                path = ".".join(filter(None, (walk.tree.paths[index], name)))
                yield Finding(
                    path,
                    "a norm inside an adapter would go on updating its statistics",
                    "train it, merge the adapter first, or say norm_stats: update",
                )


def _reentrant_checkpointing(walk: Walk, resolution: Resolution) -> Iterator[Finding]:
    """Reentrant checkpointing passes no gradient unless its input requires one."""
    above = _above_frozen_prefix(walk, resolution)
    wrapped = {index for index, wrapper in walk.wrappers if _is_reentrant_wrapper(wrapper)}
    cut_off = [n for n in above if n in wrapped or _checkpoints_reentrantly(walk.module(n))]
    if cut_off and any(map(_makes_inputs_require_gradient, walk.modules)):
        return
    for index in cut_off:
        yield Finding(
            path_of(walk, index),
            "reentrant activation checkpointing above a frozen prefix: "
            "none of its layers would get a gradient",
            "checkpoint with use_reentrant=False, "
            'in transformers gradient_checkpointing_kwargs={"use_reentrant": False}',
        )


def _above_frozen_prefix(walk: Walk, resolution: Resolution) -> list[int]:
    """Return the modules in which something trains, after parameters that are all frozen."""
    memo = walk.memo_of(_Memo)
    if memo.above_prefix is None or memo.above_prefix[0] is not resolution:
        tree = walk.tree
        trained = resolution.trainable[resolution.spec.tensor_of]
        trains = np.concatenate(([0], np.cumsum(trained)))
        low, high = np.asarray(tree.name_starts), np.asarray(tree.name_ends)
        after_frozen = (low > 0) & (trains[low] == 0) & (trains[high] > 0)
        memo.above_prefix = resolution, np.flatnonzero(after_frozen).tolist()
    return memo.above_prefix[1]


def _checkpoints_reentrantly(module: nn.Module) -> bool:
    if not getattr(module, "gradient_checkpointing", False):
        return False
    function = getattr(module, "_gradient_checkpointing_func", None)
    keywords = function.keywords if isinstance(function, partial) else {}
    return keywords.get("use_reentrant", True) is not False


def _is_reentrant_wrapper(wrapper: Any) -> bool:
    return getattr(getattr(wrapper, "checkpoint_impl", None), "name", "") == "REENTRANT"


def _makes_inputs_require_gradient(module: nn.Module) -> bool:
    """Return whether transformers or PEFT has put the hook on it that reentrancy needs."""
    hooks = module._forward_hooks.values()
    return any("make_inputs_require_grad" in getattr(hook, "__name__", "") for hook in hooks)


def _distributed(walk: Walk, resolution: Resolution, flags: Mask) -> Iterator[Finding]:
    """Some DDP wrappers cannot exchange gradients in another way than the one they began with."""
    changed = np.flatnonzero(resolution.trainable != flags).tolist()
    for engine in exchange.engines_around([walk.tensors[number] for number in changed]):
        numbers = {id(walk.tensors[number]): number for number in changed}
        if reason := exchange.reason_against(engine, set(numbers)):
            inside = (numbers[id(p)] for p in engine.module.parameters() if id(p) in numbers)
            name = resolution.spec.first_names[next(inside)]
            yield Finding(walk.tree.names[name], *reason)
    if changed and fixed_engines.around(walk.tensors[number] for number in changed):
        name = resolution.spec.first_names[changed[0]]
        yield Finding(walk.tree.names[name], *fixed_engines.REASON)
    asked = (
        walk.tensors if resolution.spec.tree is walk.tree else [walk.tensors[n] for n in changed]
    )
    if flattened.around(asked):
        problem = "FSDP has flattened its parameters, so that the model's structure cannot be read"
        yield Finding(type(walk.root).__name__, problem, flattened.CURE)
