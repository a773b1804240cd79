"""Seeded damages to a network that change nothing of what it computes, only how it is written down.

Each takes a live model of either framework and a source of random numbers, and returns the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

Damage = Callable[[Any, random.Random], Any]


def is_torch(model: Any) -> bool:
    """Return whether a model is PyTorch's."""
    return any(base.__module__.startswith("torch.") for base in type(model).__mro__)


def modules_of(model: Any) -> list[Any]:
    """Return a model and all modules in it."""
    return list(model.modules()) if is_torch(model) else [model, *model.sublayers()]


def children_of(module: Any) -> dict[str, Any]:
    """Return the dictionary in which a module registers its children."""
    children: dict[str, Any] = vars(module)["_modules" if is_torch(module) else "_sub_layers"]
    return children


def shuffled(model: Any, order: random.Random) -> Any:
    """Register the children and parameters of every module that is not a list in another order."""
    for module in modules_of(model):
        for registered in (children_of(module), vars(module).get("_parameters")):
            if registered and not any(key.isdigit() for key in registered):
                _reorder(registered, order.sample(list(registered), len(registered)))
    return model


def blocks_shuffled(model: Any, order: random.Random) -> Any:
    """Register what stands in lists in another order; the lists still run by their numbers."""
    _let_lists_run_by_number(torch=is_torch(model))
    for module in modules_of(model):
        children = children_of(module)
        if len(children) > 1 and all(key.isdigit() for key in children):
            _reorder(children, order.sample(list(children), len(children)))
    return model


def head_first(model: Any, order: random.Random) -> Any:
    """Register the last child of the model, and of modules around it, before the others."""
    module = model
    for _ in range(order.randint(1, 3)):
        children = children_of(module)
        names = list(children)
        if not names or any(name.isdigit() for name in names):
            break
        _reorder(children, [names[-1], *names[:-1]])
        if not (module := children[names[0]]):
            break
    return model


def wrapped(model: Any, order: random.Random) -> Any:
    """Put a model into one to three modules that only call it."""
    for _ in range(order.randint(1, 3)):
        model = _wrapper(model, _nonsense(order))
    return model


def renamed(model: Any, order: random.Random) -> Any:
    """Give every module that is not in a list or dictionary a name that says nothing."""
    for module in modules_of(model):
        children = children_of(module)
        if "Dict" in type(module).__name__:
            continue
        names = {n: n if n.isdigit() else _nonsense(order) for n in children}
        # The forward pass still finds the child, as an attribute that is not registered.
        vars(module).update({name: child for name, child in children.items() if not name.isdigit()})
        items = [(names[name], child) for name, child in children.items()]
        children.clear()
        children.update(items)
    return model


DAMAGES: dict[str, Damage] = {
    "shuffled": shuffled,
    "blocks shuffled": blocks_shuffled,
    "head first": head_first,
    "wrapped": wrapped,
    "renamed": renamed,
}


def _nonsense(order: random.Random) -> str:
    return "".join(order.choices("bcdfghjklmnpqrstvwxz", k=7))


def _reorder(registered: dict[str, Any], names: list[str]) -> None:
    items = [(name, registered[name]) for name in names]
    registered.clear()
    registered.update(items)


@cache
def _let_lists_run_by_number(*, torch: bool) -> None:
    """Let all lists of a framework go through their modules by number, whatever comes first.

    A class of its own would do so for one list, but only the framework's own classes are lists.
    """

    def in_order(self: Any) -> Iterator[Any]:
        children = children_of(self)
        numbered = all(name.isdigit() for name in children)
        return iter([children[n] for n in (sorted(children, key=int) if numbered else children)])

    def forward(self: Any, value: Any) -> Any:
        for module in in_order(self):
            value = module(value)
        return value

    if torch:
        from torch import nn

        nn.ModuleList.__iter__ = nn.Sequential.__iter__ = in_order  # type: ignore[method-assign]
    else:
        from paddle import nn as paddle_nn

        paddle_nn.LayerList.__iter__ = paddle_nn.Sequential.__iter__ = in_order
        paddle_nn.Sequential.forward = forward


def _wrapper(model: Any, name: str) -> Any:
    if is_torch(model):
        from torch import nn

        base: Any = nn.Module
    else:
        from paddle import nn as paddle_nn

        base = paddle_nn.Layer

    class Wrapper(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, model)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(self, name)(*args, **kwargs)

    return Wrapper()
