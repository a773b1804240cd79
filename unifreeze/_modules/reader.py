"""A reader says what a framework's modules hold, so that all frameworks share one walk."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, MutableMapping, Sequence
from itertools import repeat
from typing import Any, Protocol

from unifreeze._modules.lessons import Lesson
from unifreeze._modules.structure_changes import DictColumns as DictColumns
from unifreeze._modules.structure_changes import Dicts as Dicts
from unifreeze._modules.structure_changes import DictStructure, Structure
from unifreeze._protocol.live import Layer, LiveTensor
from unifreeze._structure import Tensor
from unifreeze._structure.words_in_names import balances_experts


class Reader(Protocol):
    """What one framework's modules hold.

    The defaults are those of the plainest framework: without wrappers, without adapters, and
    without statistics among its parameters.
    """

    framework: str
    mark: str = ""
    """Attribute in the `__dict__` of a module that the backend has changed; "" if there is none."""

    def dicts(self, module: Layer) -> Dicts:
        """Return the module's own dictionaries of children, parameters and buffers.

        A framework that keeps all three in one dictionary returns three views of it. Writing to
        them must change the module, and they must not keep the module itself alive.
        """

    def dicts_of(self, modules: Sequence[Layer]) -> DictColumns:
        """Return what `dicts` returns, for many modules of one class."""
        children, parameters, buffers = zip(*map(self.dicts, modules), strict=True)
        return children, parameters, buffers

    def structure(self, walked: DictColumns) -> Structure:
        """Return what modules hold now, in a form that says later whether they still hold it.

        Args:
            walked: What `dicts` returned for every module of a model, wrappers included.
        """
        return DictStructure(walked)

    def parameters_kept_in(self, module: Layer) -> MutableMapping[str, Any]:
        """Return the attribute of a module in which its code looks its parameters up by name."""
        return self.dicts(module)[1]

    def listed(self, module: Layer) -> Iterable[tuple[str, LiveTensor]]:
        """Return what the framework itself lists as the parameters of a module and all under it.

        Every parameter in the list must have been met by the walk.
        """
        named: Iterable[tuple[str, LiveTensor]] = module.named_parameters()
        return named

    def plain(self, module: Layer) -> bool:
        """Return whether the framework lists for modules of a class just what `dicts` returns.

        Each module must be listed once, by identity. One module of each class is asked; where all
        are plain, the framework need not make its list.
        """
        return False

    def kind(self, module: Layer) -> str:
        """Return the module's kind from the layer table, "" if unknown."""

    def lesson(self, cls: type) -> Lesson | None:
        """Return what was taught of a class of modules, None for nothing."""
        return None

    def roles(self, module: Layer) -> Mapping[str, str]:
        """Return what tensors of a module are, for those whose names were taught."""
        return {}

    def inner(self, module: Layer) -> str:
        """Return the path, below a wrapper, of the module it wraps; "" if it is not a wrapper.

        If it holds several copies of a layer, the path of the copy that runs now.
        """
        return ""

    def choice(self, wrapper: Layer) -> Hashable:
        """Return what decides which parts of a wrapper run now; None where all parts always run."""
        return None

    def idle(self, wrapper: Layer, path: str) -> bool:
        """Return whether a parameter below a wrapper belongs to a part that does not run now."""
        return False

    def adapts(self, module: Layer) -> bool:
        """Return whether a wrapper adds parameters that adapt what it wraps."""
        return False

    def adapter_leaf(self, module: Layer, leaf: str) -> bool:
        """Return whether one of a layer's own parameters is an adapter's."""
        return False

    def swallows(self, module: Layer, child: str) -> bool:
        """Return whether a child's parameters are really this layer's own."""
        return False

    def spread(self, module: Layer) -> Mapping[int, str]:
        """Return the roles of parameters that a layer has spread over modules below, by identity.

        They count as the layer's own. A parameter that the layer also registers itself is listed
        once.
        """
        return {}

    def state_role(self, module: Layer, leaf: str, tensor: LiveTensor) -> str:
        """Return the role of a tensor that is state though it is held as a parameter, else ""."""
        return ""

    def balances(self, leaf: str) -> bool:
        """Return whether a tensor is a router's balancing bias, by its name.

        One that trains is a parameter; one that does not is moved by training code, so it is state.
        """
        return balances_experts(leaf)

    def moves(self, module: Layer, leaf: str) -> bool:
        """Return whether training moves state that is kept as a parameter, unless it is held."""
        return True

    def state(self, module: Layer, leaf: str, tensor: LiveTensor) -> tuple[str, bool]:
        """Return the role of a buffer and whether training moves it."""

    def persistent(self, module: Layer, leaf: str) -> bool:
        """Return whether a module's state dict holds a buffer."""
        return True

    def modeless(self, module: Layer) -> str:
        """Return why a module with state has no inference mode to be held in, "" if it has one."""
        return ""

    def tensor(self, module: Layer, leaf: str, tensor: LiveTensor) -> Tensor:
        """Describe a parameter."""

    def alike(self, module: Layer, leaf: str, tensor: LiveTensor) -> Hashable:
        """Return a key that is the same for all parameters with the same description.

        Large models have few sorts of parameters, so each sort is described once. None where each
        parameter must be looked at, as state among the parameters always must.
        """
        return None

    def regular(self, module: Layer) -> bool:
        """Return whether the class of a module says all of it but for its children and tensors.

        In lists of such modules, those that hold the same are described once.
        """
        return False

    def all_alike(self, leaf: str, modules: Sequence[Layer], tensors: Sequence[LiveTensor]) -> bool:
        """Return whether parameters of one name have the same description.

        Args:
            leaf: Their name.
            modules: Modules of one class, which hold them.
            tensors: The parameters.
        """
        keys = {*map(self.alike, modules, repeat(leaf), tensors)}
        return len(keys) == 1 and None not in keys

    def shape_of(self, tensor: LiveTensor) -> tuple[tuple[int, ...], str]:
        """Return shape and neutral dtype of a state tensor."""
