"""What a framework adds for its modules: guards, hooks, modes and random state.

It must write the abstract methods; the others have defaults for a plain framework.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from operator import attrgetter
from typing import Any

from unifreeze._modules.guard import Guard
from unifreeze._modules.reader import Reader
from unifreeze._modules.tensor_operations import TensorOperations
from unifreeze._modules.walking import Walk
from unifreeze._modules.watching import ForwardWatch, SilentInCopies
from unifreeze._protocol.live import Layer, LiveTensor, Model
from unifreeze._protocol.processes import Processes
from unifreeze._protocol.results import Capabilities, Finding, Undo
from unifreeze._resolution import Resolution


class ModuleOperations(TensorOperations):
    """One framework's operations on modules.

    Attributes:
        reader: Reads its modules for the walk.
        module_class: The base class of all its modules, so that anything else can be refused.
        own_attributes: What is looked for in the `__dict__` of its modules, all at once.
        runs_itself: True while the backend itself runs a model; watches ignore such passes.
    """

    reader: Reader
    module_class: type = object
    own_attributes: Sequence[str] = ()
    runs_itself = False

    @property
    def capabilities(self) -> Capabilities:
        """Facts about the framework."""
        return Capabilities()

    @abstractmethod
    def container(self, models: Mapping[str, Model]) -> Model:
        """Put several models into one of the framework's dictionaries of modules."""

    def sizes(self, walk: Walk) -> list[Any] | None:
        """Return each parameter's size, to see a resize in place; None if there are no values."""
        return None if self.has_no_values(walk) else [tuple(t.shape) for t in walk.tensors]

    def has_no_values(self, walk: Walk) -> bool:
        """Return whether none of a model's parameters has values."""
        return all(self.payload(tensor) is None for tensor in walk.tensors)

    def stored(self, walk: Walk) -> Mapping[int, Callable[[], LiveTensor | None]]:
        """Return for each placeholder in a model, by identity, a function that loads its values.

        A model whose weights are offloaded holds placeholders. The function returns None if the
        values cannot be loaded.
        """
        return {}

    def find_shared(self, walk: Walk) -> None:
        """Fill in the walk's groups of different parameters that share memory."""
        walk.tree.shared = []

    def check_walk(self, walk: Walk, model: Model, resolution: Resolution) -> Iterator[Finding]:
        """Yield what this framework would get wrong."""
        return iter(())

    def wanted_guards(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Return the guards that modules need under a resolution."""
        return {index: Guard(still=True) for index in (*resolution.held, *resolution.quiet)}

    @abstractmethod
    def get_guards(self, walk: Walk) -> dict[int, Guard]:
        """Return the guards that are on a model's modules now."""

    @abstractmethod
    def set_guards(self, walk: Walk, guards: Mapping[int, Guard]) -> None:
        """Put exactly these guards on a model, and take off all others."""

    def reason_against_rows(self, tensor: LiveTensor) -> str:
        """Return why no rows of a table can train while the others stay; "" if they can."""
        return "" if self.is_floating(tensor) else "its values are not floating"

    def is_still(self, module: Layer) -> bool:
        """Return whether a module with a guard that holds it is in inference mode now."""
        return True

    def flag_guards(self, walk: Walk, *, trainable: bool) -> Undo | None:
        """Help layers to pass gradient on while only flags change; return the undo function."""
        return None

    @abstractmethod
    def hook(
        self, module: Layer, before: Callable[[], None], after: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Call back around a module's forward; return the function that takes the hooks off."""

    def on_forward(self, module: Layer, watch: ForwardWatch) -> Undo:
        """Call back around a module's forward passes; return the function that stops it.

        Copies of the module, and pickled ones, should call nobody. Where a compiler records a pass,
        `followed` should be called instead of the other two.
        """
        ends = partial(_ends, watch)
        return self.hook(module, SilentInCopies(watch.begins), SilentInCopies(ends))

    @abstractmethod
    def on_load(self, walk: Walk, loaded: Callable[[], None]) -> Undo:
        """Call back after a state dict has been loaded; return the function that stops it."""

    def is_compiled(self, walk: Walk) -> bool:
        """Return whether a compiler runs a part of a model, so that its modules are not called."""
        return False

    def runs(self, module: Layer) -> bool:
        """Return True if a module computes something; a plain list of modules does not."""
        return True

    def trains(self, module: Layer) -> bool:
        """Return True if a forward pass now is one of training: in training mode, with gradient."""
        return bool(module.training)

    def records_gradients(self) -> bool:
        """Return whether gradients are switched on now."""
        return True

    def moves_statistics(self, module: Layer) -> bool:
        """Return whether a layer with running statistics would move them if it ran now."""
        return bool(module.training)

    def modes(self, walk: Walk) -> list[bool]:
        """Return each module's training flag."""
        return list(map(attrgetter("training"), walk.modules))

    def set_modes(self, walk: Walk, modes: Sequence[bool]) -> None:
        """Put each module's training flag back."""
        for module, mode in zip(walk.modules, modes, strict=True):
            module.training = mode

    def several(self) -> bool:
        """Return whether other processes could train together with this one."""
        return False

    def processes(self, model: Model) -> Processes:
        """Return the processes that exchange gradients of a model; one if none are."""
        return Processes()

    def rebuild_exchange(self, walk: Walk, changed: Sequence[LiveTensor]) -> None:
        """Let what exchanges gradients between processes follow flags that have changed.

        Args:
            walk: The model.
            changed: The parameters whose flag has changed.
        """

    def is_sharded(self, model: Model) -> bool:
        """Return whether each process holds only a part of some parameter."""
        return False

    def is_divided(self, model: Model) -> bool:
        """Return whether processes divide parameters, or what an optimizer keeps for them."""
        return self.is_sharded(model)

    def is_gathered(self, model: Model) -> bool:
        """Return whether parameters that processes have divided are whole just now."""
        return False

    def wrappings(self, model: Model) -> int:
        """Return how often something that exchanges gradients has written values into a model."""
        return 0

    def saves_in_parts(self) -> bool:
        """Return whether a state is asked for by what takes dictionaries apart to save them."""
        return False

    @abstractmethod
    def inference(self, walk: Walk) -> AbstractContextManager[None]:
        """Run without gradient, in inference mode; modes and random state are put back after."""

    @abstractmethod
    def random_state(self) -> AbstractContextManager[None]:
        """Put the random generators back after."""


def _ends(watch: ForwardWatch, outputs: Any) -> None:
    watch.ends(complete=outputs is not None)
