"""What a backend says of its framework's modules, so that one walk over a model serves all."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Protocol

from unifreeze._structure import Tensor

Dicts = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""A module's children, parameters and buffers."""


class Reader(Protocol):
    """What one framework's modules hold.

    A reader that derives from this says only what is not as in the plainest framework: one without
    wrappers, without adapters, and without statistics among its parameters.
    """

    framework: str
    mark: str = ""
    """What a module that the backend has changed has in its own `__dict__`, "" if nothing."""

    def dicts(self, module: Any) -> Dicts:
        """Return the module's own dictionaries of children, parameters and buffers."""

    def listed(self, module: Any) -> Iterable[tuple[str, Any]]:
        """Return what the framework itself lists as the parameters of a module and all under it.

        A walk is held against it: what it lists, the walk must have met.
        """
        named: Iterable[tuple[str, Any]] = module.named_parameters()
        return named

    def plain(self, module: Any) -> bool:
        """Tell whether the framework lists modules of a class by what `dicts` gives of them.

        Each module once, and told from others by identity. Asked of one module of each class; where
        all are plain, the framework need not be asked for its list.
        """
        return False

    def kind(self, module: Any) -> str:
        """Return the module's kind from the layer table, "" if unknown."""

    def inner(self, module: Any) -> str:
        """Return the path, below a wrapper, of the module it wraps; "" if it is not a wrapper.

        Of a wrapper that holds several copies of a layer, the one that runs now.
        """
        return ""

    def choice(self, wrapper: Any) -> Hashable:
        """Return what decides which parts of a wrapper run now; None where all always do."""
        return None

    def idle(self, wrapper: Any, path: str) -> bool:
        """Tell whether a parameter below a wrapper belongs to a part that does not run now."""
        return False

    def adapts(self, module: Any) -> bool:
        """Tell whether a wrapper adds parameters that adapt what it wraps."""
        return False

    def adapter_leaf(self, module: Any, leaf: str) -> bool:
        """Tell whether one of a layer's own parameters is an adapter's."""
        return False

    def swallows(self, module: Any, child: str) -> bool:
        """Tell whether a child's parameters are really this layer's own."""
        return False

    def spread(self, module: Any) -> Mapping[int, str]:
        """Return the roles of parameters that a layer has spread over modules below, by identity.

        They are the layer's own. One that it also registers itself, as the very same object, is
        listed once.
        """
        return {}

    def state_role(self, module: Any, leaf: str, tensor: Any) -> str:
        """Return the role of a tensor that is state though it is held as a parameter, else ""."""
        return ""

    def moves(self, module: Any, leaf: str) -> bool:
        """Tell whether training moves state that is held as a parameter, and holding stops that."""
        return True

    def state(self, module: Any, leaf: str, tensor: Any) -> tuple[str, bool]:
        """Return the role of a buffer and whether training moves it."""

    def persistent(self, module: Any, leaf: str) -> bool:
        """Tell whether a module's state dict holds a buffer."""
        return True

    def modeless(self, module: Any) -> str:
        """Say why a module with state has no inference mode to be held in, "" if it has one."""
        return ""

    def tensor(self, module: Any, leaf: str, tensor: Any) -> Tensor:
        """Describe a parameter."""

    def alike(self, module: Any, leaf: str, tensor: Any) -> Hashable:
        """Return what all parameters share that are described as this one is.

        Large models have few sorts of parameters, so each sort is described once. None where every
        one must be looked at; state among the parameters always must.
        """
        return None

    def shape_of(self, tensor: Any) -> tuple[tuple[int, ...], str]:
        """Return shape and neutral dtype of a state tensor."""
