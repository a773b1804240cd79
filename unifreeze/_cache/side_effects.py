"""What frozen modules do besides returning outputs: a cache leaves it out, so it is refused."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from unifreeze._cache.observing import Observed, bits_of
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.python_state import Place
from unifreeze._modules.walking import Walk
from unifreeze.errors import CacheError

_NOT_RUN = "a frozen module whose outputs are kept does not run"


def check_call(backend: CacheOperations, walk: Walk, seen: Observed, inside: Sequence[int]) -> None:
    """Refuse a call that changes an argument, or around which there are hooks.

    Args:
        backend: The model's backend.
        walk: The model as walked.
        seen: The call.
        inside: The numbers of the modules that run in it.

    Raises:
        CacheError: It does; the message names the module and the cure.
    """
    number = seen.key[-1][0]
    if seen.changes:
        raise CacheError(
            f"{walk.tree.paths[number]} ({walk.tree.types[number]}) changes an object that it is "
            f"called with, of type {seen.changes}",
            context="kept outputs would leave it as it is",
            hint="leave key-value caches out: use_cache=False",
        )
    check_hooks(backend, walk, inside)


def check_hooks(backend: CacheOperations, walk: Walk, inside: Sequence[int]) -> None:
    """Refuse hooks around frozen modules, but for those of the libraries.

    Args:
        backend: The model's backend.
        walk: The model as walked.
        inside: The numbers of the frozen modules.

    Raises:
        CacheError: There is one; the message names the module and the hook.
    """
    for inner in inside:
        strange = [h for h in backend.hooks_around(walk.module(inner)) if not _is_known(h)]
        if strange:
            hook = getattr(strange[0], "__qualname__", type(strange[0]).__name__)
            raise CacheError(
                f"{walk.tree.paths[inner] or 'the model'} has a hook around its forward pass: "
                f"{hook}",
                context=f"{_NOT_RUN}, nor its hooks",
                hint="take the hook off, or put it on a module that trains",
            )


def check_left_behind(whole: dict[Place, str], replayed: dict[Place, str]) -> None:
    """Refuse a model that leaves other values in Python when frozen modules do not run.

    Args:
        whole: What a whole pass changes.
        replayed: What a pass with kept outputs changes.

    Raises:
        CacheError: They differ; the message names the module and the attribute.
    """
    for path, name in {**whole, **replayed}:
        if whole.get((path, name)) != replayed.get((path, name)):
            raise CacheError(
                f"{path or 'the model'} sets {name!r} in each forward pass, to what a frozen "
                "module computes",
                context=_NOT_RUN,
                hint="return the value instead of keeping it, or train without a cache",
            )


class ParameterBits:
    """The bits of all parameters, which a forward pass must not change."""

    def __init__(self, backend: CacheOperations, walk: Walk) -> None:
        self._backend = backend
        self._rows = [
            (path, tensor, bits_of(backend, [tensor]))
            for path, tensor in zip(walk.first_paths(), walk.tensors, strict=True)
        ]

    def check(self) -> None:
        """Raise `CacheError` if a parameter has other bits now."""
        for path, tensor, bits in self._rows:
            if bits_of(self._backend, [tensor]) != bits:
                raise CacheError(
                    f"{path} changes in each forward pass",
                    context="trial passes would move it, and one has; a moving average of weights "
                    "is such a case",
                    hint="build the model again, and train without a cache",
                )


def check_state(inside: Collection[int], moved: Collection[tuple[str, int]]) -> None:
    """Refuse frozen modules whose state moves.

    Args:
        inside: The numbers of the frozen modules.
        moved: State that forward passes have moved: its path, and the number of its module.

    Raises:
        CacheError: There is such state; the message names it.
    """
    for path, owner in moved:
        if owner in inside:
            raise CacheError(
                f"{path} changes in each forward pass, in a module that is frozen",
                context=_NOT_RUN,
                hint='set "norm_stats: hold" in the plan, or call model.eval()',
            )


def _is_known(hook: Any) -> bool:
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return str(module).split(".")[0] in ("unifreeze", "torch", "paddle") or str(module).startswith(
        "unifreeze_"
    )
