"""Values that are offloaded: hooks keep them elsewhere, and the model holds placeholders.

accelerate's hooks put new tensors on the meta device in the place of parameters after each forward
pass, so the values, and not the objects, tell whether something is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

from torch import nn

from unifreeze.backend.walking import Walk

_HOOK = "_hf_hook"
"""Where a module has such a hook."""


def stored(walk: Walk) -> dict[int, Callable[[], Any]]:
    """Return for each placeholder in a model, by identity, what loads the values it stands for."""
    found: dict[int, Callable[[], Any]] = {}
    for number in walk.modules_having(_HOOK):
        module = walk.module(number)
        for hook in _flat(vars(module)[_HOOK]):
            values = getattr(hook, "weights_map", None)
            if isinstance(values, Mapping):
                below = bool(getattr(hook, "place_submodules", False))
                found |= _of(module, values, below=below)
    return found


def _flat(hook: Any) -> Iterator[Any]:
    inner = getattr(hook, "hooks", None)
    if inner is None:
        yield hook
    else:
        for one in inner:
            yield from _flat(one)


def _of(
    module: nn.Module, values: Mapping[str, Any], *, below: bool
) -> dict[int, Callable[[], Any]]:
    named = chain(module.named_parameters(recurse=below), module.named_buffers(recurse=below))
    return {id(tensor): partial(_load, values, name) for name, tensor in named if tensor.is_meta}


def _load(values: Mapping[str, Any], name: str) -> Any:
    """Return the values kept under a name; None if they are not there, or cannot be read."""
    try:
        return values[name]
    except (KeyError, OSError):
        return None
