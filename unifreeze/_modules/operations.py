"""What a framework adds to have a backend: its own operations on modules and tensors.

The abstract ones always; the others where the framework is not the plainest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from unifreeze._modules.digests import Payload
from unifreeze._modules.reader import Reader
from unifreeze._modules.walking import Walk
from unifreeze._modules.watching import ForwardWatch
from unifreeze._protocol.protocol import (
    Array,
    Capabilities,
    Finding,
    OptimizerSpec,
    ParamGroup,
    Undo,
)
from unifreeze._resolution import Resolution
from unifreeze.errors import OptimizerError, TargetError, brief

_PIECE = 2**15


class Guard(NamedTuple):
    """What one module does differently while a plan is in force.

    Attributes:
        still: It runs in inference mode, so that its state holds.
        lend: Names of its frozen parameters that it must see as if gradient passed through them.
        attach: Its input must take part in the gradient though nothing below trains.
        copied: It came with a copy of a model under a plan, and lets go when the copy is thawed.
    """

    still: bool = False
    lend: tuple[str, ...] = ()
    attach: bool = False
    copied: bool = False


class Operations(ABC):
    """One framework's own operations.

    Attributes:
        name: Import root of the framework.
        reader: Reads its modules for the walk.
        forward: What a module's method that computes is called.
        runs_itself: A model runs because the backend looks at it: no pass for a watch.
        skips_frozen: Its optimizers pass over frozen parameters that still have a gradient.
        module_class: What all its modules are of, so that anything else can be refused.
    """

    name: str
    reader: Reader
    module_class: type = object
    forward = "forward"
    runs_itself = False
    skips_frozen = False

    @property
    def capabilities(self) -> Capabilities:
        """Facts about the framework."""
        return Capabilities()

    def sizes(self, walk: Walk) -> list[Any] | None:
        """Return what shows whether a parameter is resized in place; None if none has values."""
        return None if self.has_no_values(walk) else [tuple(t.shape) for t in walk.tensors]

    @abstractmethod
    def is_tensor(self, value: Any) -> bool:
        """Tell whether a value is one of the framework's tensors."""

    @abstractmethod
    def is_floating(self, tensor: Any) -> bool:
        """Tell whether a tensor holds floating-point values."""

    @abstractmethod
    def get_flag(self, tensor: Any) -> bool:
        """Tell whether a parameter is trainable."""

    def get_flags(self, tensors: Sequence[Any]) -> list[bool]:
        """Tell of many parameters whether they are trainable."""
        return list(map(self.get_flag, tensors))

    @abstractmethod
    def set_flag(self, tensor: Any, trainable: bool) -> None:
        """Make a parameter trainable or frozen."""

    @abstractmethod
    def get_gradient(self, tensor: Any) -> Any:
        """Return a parameter's gradient, None where there is none."""

    @abstractmethod
    def set_gradient(self, tensor: Any, gradient: Any) -> None:
        """Set a parameter's gradient; None drops it."""

    def kept_gradient(self, tensor: Any) -> Any:
        """Return a parameter's gradient so that it can be put back after it was dropped."""
        return self.get_gradient(tensor)

    @abstractmethod
    def payload(self, tensor: Any) -> Payload | None:
        """Return a tensor's bits, None where it has no values."""

    def has_values(self, tensor: Any) -> bool:
        """Tell whether a tensor has values; one that waits to be initialised has none."""
        return True

    def stored(self, walk: Walk) -> Mapping[int, Callable[[], Any]]:
        """Return for each placeholder in a model, by identity, a function that loads its values.

        A model whose weights are offloaded holds placeholders. The function returns None if the
        values cannot be loaded.
        """
        return {}

    def has_no_values(self, walk: Walk) -> bool:
        """Tell whether none of a model's parameters has values."""
        return all(self.payload(tensor) is None for tensor in walk.tensors)

    @abstractmethod
    def to_array(self, tensor: Any) -> Array:
        """Copy a tensor's values out; half-precision formats NumPy lacks come as float32."""

    @abstractmethod
    def from_array(self, array: Array, like: Any) -> Any:
        """Make a tensor on the device of another; floating values take its dtype."""

    def norm(self, tensor: Any) -> float:
        """Return the norm of a tensor's values, summed in double precision."""
        values = self.to_array(tensor).reshape(-1)
        if np.iscomplexobj(values):
            values = np.abs(values)
        # Widened piece by piece, which stays in the processor's cache.
        pieces = (values[n : n + _PIECE].astype(np.float64) for n in range(0, len(values), _PIECE))
        return float(np.sqrt(sum(float(np.square(piece).sum()) for piece in pieces)))

    @abstractmethod
    def clone(self, tensor: Any) -> Any:
        """Copy a tensor, bits and all, outside the gradient."""

    @abstractmethod
    def copy_into(self, tensor: Any, source: Any) -> None:
        """Write a clone's bits back into a tensor in place."""

    def find_shared(self, walk: Walk) -> None:
        """Fill in the walk's groups of different parameters that share memory."""
        walk.tree.shared = []

    def wanted_guards(self, walk: Walk, resolution: Resolution) -> dict[int, Guard]:
        """Say which modules need a guard under a resolution."""
        return {index: Guard(still=True) for index in (*resolution.held, *resolution.quiet)}

    @abstractmethod
    def get_guards(self, walk: Walk) -> dict[int, Guard]:
        """Return the guards that are on a model's modules now."""

    @abstractmethod
    def set_guards(self, walk: Walk, guards: Mapping[int, Guard]) -> None:
        """Put exactly these guards on a model, and take off all others."""

    def check_walk(self, walk: Walk, model: Any, resolution: Resolution) -> Iterator[Finding]:
        """Say what this framework would get wrong."""
        return iter(())

    @abstractmethod
    def hook(
        self, module: Any, before: Callable[[], None], after: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Call back around a module's forward; returns what takes the hooks off again."""

    def on_forward(self, module: Any, watch: ForwardWatch) -> Undo:
        """Call back around a module's forward passes; return the function that stops it.

        Copies of the module, and pickled ones, should call nobody. Where a compiler records a pass,
        `followed` should be called instead of the other two.
        """
        return self.hook(module, watch.begins, partial(_ends, watch))

    def is_compiled(self, walk: Walk) -> bool:
        """Tell whether a compiler runs a part of a model, so that its modules are not called."""
        return False

    def runs(self, module: Any) -> bool:
        """Return True if a module computes something; a plain list of modules does not."""
        return True

    def trains(self, module: Any) -> bool:
        """Return True if a forward pass now is one of training: in training mode, with gradient."""
        return bool(module.training)

    def around_forward(
        self, module: Any, stand_in: Callable[[Callable[..., Any], Any, Any], Any]
    ) -> Undo:
        """Call something else in place of a module's forward pass; returns what ends that.

        Args:
            module: A live module.
            stand_in: Takes the forward pass, its positional and its named arguments.
        """
        own, inner = vars(module), getattr(module, self.forward)
        had = own.get(self.forward)
        own[self.forward] = lambda *args, **named: stand_in(inner, args, named)

        def undo() -> None:
            del own[self.forward]
            if had is not None:
                own[self.forward] = had

        return undo

    @abstractmethod
    def inference(self, walk: Walk) -> AbstractContextManager[None]:
        """Run without gradient, in inference mode; modes and random state are put back after."""

    @abstractmethod
    def random_state(self) -> AbstractContextManager[None]:
        """Put the random generators back after."""

    @abstractmethod
    def train_mode(self, model: Any) -> None:
        """Do what a training loop does before an epoch."""

    def modes(self, walk: Walk) -> list[bool]:
        """Return each module's training flag."""
        return [module.training for module in walk.modules]

    def set_modes(self, walk: Walk, modes: Sequence[bool]) -> None:
        """Put each module's training flag back."""
        for module, mode in zip(walk.modules, modes, strict=True):
            module.training = mode

    @contextmanager
    def double(self, walk: Walk) -> Iterator[None]:
        """Compute in double precision meanwhile; the tensors' own bits come back after.

        The default leaves the precision as it is.
        """
        yield

    def turn_random_off(self, walk: Walk) -> None:
        """Make forward passes repeatable and still differentiable: inference mode, as a rule."""
        self.set_modes(walk, [False] * len(walk.modules))

    @abstractmethod
    def backward(self, outputs: Sequence[Any], weights: Sequence[Array]) -> bool:
        """Backpropagate the weighted sum of outputs; False where nothing takes part."""

    @abstractmethod
    def plain_optimizer(
        self, model: Any, spec: OptimizerSpec
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Build an optimizer over all of a model's parameters; return its step and its clear."""

    @abstractmethod
    def on_load(self, walk: Walk, loaded: Callable[[], None]) -> Undo:
        """Call back after a state dict has been loaded; returns what stops it."""

    @abstractmethod
    def param_groups(
        self, model: Any, groups: Sequence[ParamGroup], *, lr: float | None
    ) -> list[dict[str, Any]]:
        """Build param groups as this framework's optimizers take them."""

    @abstractmethod
    def optimizer(
        self, model: Any, cls: type, groups: Sequence[ParamGroup], settings: Mapping[str, Any]
    ) -> Any:
        """Build an optimizer; `settings` use neutral names."""

    def optimizer_parameters(self, optimizer: Any) -> list[Any]:
        """Return the live tensors that an optimizer updates.

        Raises:
            OptimizerError: It is not an optimizer whose parameters this backend knows how to read.
        """
        raise OptimizerError(
            f"{self.name} cannot say what {brief(optimizer)} updates",
            hint="pass the optimizer that it steers: its .optimizer"
            if hasattr(optimizer, "optimizer")
            else f"pass one of {self.name}'s own optimizers, or leave it out",
        )

    def without_rate(self, model: Any, optimizer: Any) -> dict[str, str]:
        """Return what has a learning rate of 0 for good, by native path, with what says so."""
        return {}

    def moves_statistics(self, module: Any) -> bool:
        """Tell whether a layer with running statistics would move them if it ran now."""
        return bool(module.training)

    def settings(self, module: Any) -> dict[str, Any]:
        """Return one layer's own settings in neutral terms, {} where none is known.

        What two frameworks' layers of one sort do differently must be told apart by some setting.
        """
        return {}

    @abstractmethod
    def container(self, models: Mapping[str, Any]) -> Any:
        """Put several models into one of the framework's dictionaries of modules."""

    def place(self, model: Any, device: str) -> Any:
        """Move a model to a device kind."""
        if device not in self.capabilities.devices:
            raise TargetError(
                f"{self.name} sees no {device!r} device here",
                context=f"devices: {', '.join(self.capabilities.devices)}",
            )
        return model

    def device_of(self, model: Any) -> str:
        """Return the kind of device a model is on."""
        return self.capabilities.devices[0]

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Seed the framework's random generators."""


def _ends(watch: ForwardWatch, outputs: Any) -> None:
    watch.ends(complete=outputs is not None)
