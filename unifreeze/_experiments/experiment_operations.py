"""What a framework adds to run experiments: a pass forward and backward, an optimizer, devices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

from unifreeze._modules.module_backend import ModuleBackend
from unifreeze._modules.neutral_settings import OptimizerTables, SettingsTable, read_settings
from unifreeze._modules.walking import Walk
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import Layer, LiveTensor, Model
from unifreeze._protocol.optimizer_settings import OptimizerSpec
from unifreeze._protocol.results import Undo
from unifreeze.errors import TargetError

Gradients: TypeAlias = Mapping[str, LiveTensor]
"""Gradients by the first native path of their parameters; a parameter without one is left out."""
Outputs: TypeAlias = Mapping[str, LiveTensor]
"""Floating outputs of a model by their keys."""


class GradientPass(NamedTuple):
    """The results of a pass forward and backward.

    Attributes:
        outputs: What `forward` returned.
        gradients: Gradients of the weighted sum of outputs.
        reached: True if an output with a weight depends on something that trains.
    """

    outputs: Outputs
    gradients: Gradients
    reached: bool


class ExperimentOperations(ModuleBackend):
    """One framework's operations for experiments.

    Attributes:
        forward: Name of a module's method that computes.
        device_hint: What helps if the framework sees no such device.
        layer_table: How the settings of its layers are read, by class.
        optimizer_tables: Its optimizers by their neutral names; the neutral names of their
            settings; what is particular in the formula of some.
    """

    forward = "forward"
    device_hint = ""
    layer_table: SettingsTable = ()
    optimizer_tables: OptimizerTables = ({}, {}, {})

    def forward_and_backward(
        self,
        walk: Walk,
        forward: Callable[[], Outputs],
        weigh: Callable[[Outputs], Mapping[str, Array]],
    ) -> GradientPass:
        """Run a model forward and backward; return its outputs, and gradients by path.

        The default calls `backward`, and then reads the gradient that each parameter holds. A
        framework without a tape writes this method itself: it transforms `forward` into a function
        of the parameters that train.

        Args:
            walk: The model as walked.
            forward: Runs the model and returns outputs.
            weigh: Takes these outputs and returns the weights of those in the loss: by the output's
                key, an array of its shape. The gradients are those of the sum of all weighted
                values.
        """
        outputs = forward()
        weights = weigh(outputs)
        reached = bool(weights) and self.backward(
            [outputs[key] for key in weights], list(weights.values())
        )
        held = zip(walk.first_paths(), map(self.get_gradient, walk.tensors), strict=True)
        gradients = {path: gradient for path, gradient in held if gradient is not None}
        return GradientPass(outputs, gradients, reached)

    def backward(self, outputs: Sequence[LiveTensor], weights: Sequence[Array]) -> bool:
        """Backpropagate the weighted sum of outputs; return False if it depends on no parameter."""
        raise NotImplementedError(f"{type(self).__name__} has neither a backward nor its own pass")

    @abstractmethod
    def plain_optimizer(
        self, model: Model, spec: OptimizerSpec
    ) -> tuple[Callable[[Gradients], None], Callable[[], None]]:
        """Build an optimizer over all of a model's parameters.

        Returns:
            Its step, which takes the gradients of `forward_and_backward` (an optimizer that reads
            them from the parameters need not look at them), and what clears gradients.
        """

    def help_backward(self, walk: Walk) -> None:
        """Help layers whose backward pass fails under the current flags; undone afterwards."""

    def train_mode(self, model: Model) -> None:
        """Do what a training loop does before an epoch: call `model.train()`, as a rule."""
        model.train()

    def turn_random_off(self, walk: Walk) -> None:
        """Make forward passes repeatable and still differentiable: inference mode, as a rule."""
        self.set_modes(walk, [False] * len(walk.modules))

    @contextmanager
    def double(self, walk: Walk) -> Iterator[None]:
        """Compute in double precision meanwhile; the tensors' own bits come back after.

        The default leaves the precision as it is.
        """
        yield

    def around_forward(
        self, module: Layer, stand_in: Callable[[Callable[..., Any], Any, Any], Any]
    ) -> Undo:
        """Call another function in place of a module's forward pass; return the undo function.

        Args:
            module: A live module.
            stand_in: Takes the forward pass, its positional and its named arguments.
        """
        attributes: dict[str, Any] = module.__dict__
        inner = getattr(module, self.forward)
        previous = attributes.get(self.forward)
        attributes[self.forward] = lambda *args, **named: stand_in(inner, args, named)

        def undo() -> None:
            del attributes[self.forward]
            if previous is not None:
                attributes[self.forward] = previous

        return undo

    def settings(self, module: Layer) -> dict[str, Any]:
        """Return one layer's own settings in neutral terms, {} where none is known.

        Where two frameworks' layers of one sort compute differently, some setting must differ.
        """
        table = self.layer_table
        return read_settings(module, self.reader.kind(module), table) if table else {}

    def place(self, model: Model, device: str) -> Model:
        """Move a model to a device kind.

        Raises:
            TargetError: The framework sees no such device.
        """
        if device not in self.capabilities.devices:
            raise TargetError(
                f"{self.name} sees no {device!r} device here",
                context=f"devices: {', '.join(self.capabilities.devices)}",
                hint=self.device_hint,
            )
        return model

    def device_of(self, model: Model) -> str:
        """Return the kind of device a model is on."""
        return self.capabilities.devices[0]

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Seed the framework's random generators."""
