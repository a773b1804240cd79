"""Loading values that are offloaded: hooks keep them elsewhere, and the model holds placeholders.

After each forward pass accelerate's hooks put new tensors on the meta device in place of
parameters. So whether something has changed shows in the values only, and not in the objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

from torch import nn

HOOK = "_hf_hook"
"""The attribute of a module that holds its hook."""


def stored(modules: Iterable[nn.Module]) -> dict[int, Callable[[], Any]]:
    """Return for each placeholder in a model, by identity, a function that loads its values.

    Args:
        modules: The modules that have a hook.
    """
    loaders: dict[int, Callable[[], Any]] = {}
    for module in modules:
        for hook in _flat(vars(module)[HOOK]):
            values = getattr(hook, "weights_map", None)
            if isinstance(values, Mapping):
                below = bool(getattr(hook, "place_submodules", False))
                loaders |= _loaders(module, values, below=below)
    return loaders


def _flat(hook: Any) -> Iterator[Any]:
    inner = getattr(hook, "hooks", None)
    if inner is None:
        yield hook
    else:
        for hook_inside in inner:
            yield from _flat(hook_inside)


def _loaders(
    module: nn.Module, values: Mapping[str, Any], *, below: bool
) -> dict[int, Callable[[], Any]]:
    named = chain(module.named_parameters(recurse=below), module.named_buffers(recurse=below))
    return {id(tensor): partial(_load, values, name) for name, tensor in named if tensor.is_meta}


def _load(values: Mapping[str, Any], name: str) -> Any:
    """Return the values of a name; None if they are missing or cannot be read."""
    try:
        return values[name]
    except (KeyError, OSError):
        return None
