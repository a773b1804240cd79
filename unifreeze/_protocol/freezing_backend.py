"""The first protocol: describe a model, write decisions into it, and read them back to verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.processes import Processes
from unifreeze._protocol.results import Capabilities, Digest, Finding, Undo
from unifreeze._resolution import Resolution
from unifreeze._structure import ModelSpec, Trace


@runtime_checkable
class FreezingBackend(Protocol):
    """One framework: describes its models, writes decisions, and shows whether they held."""

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """Facts about the framework."""

    # Describe

    def root(self, model: Model) -> Model:
        """Return the model itself, seen through its wrappers."""

    def group(self, models: Mapping[str, Model]) -> Model:
        """Hold several models as one, so that one plan can take them all in."""

    def settled(self, model: Model) -> AbstractContextManager[None]:
        """Promise that a model's structure does not change, so that it need not be checked again.

        It is for several calls that belong together, such as those of one `apply`.
        """

    def describe(self, model: Model, batch: Batch | None = None) -> ModelSpec:
        """Describe a model; with a batch, positions follow one traced forward pass."""

    def contents(self, model: Model) -> Any:
        """Return what a model consists of now, for `departed` to compare with later."""

    def departed(self, model: Model, contents: Any) -> Model | None:
        """Return the parts that have left a model since, held as one; None if none has."""

    # Write

    def check(self, model: Model, resolution: Resolution) -> list[Finding]:
        """Say what this framework would get wrong, before anything is written."""

    def write(
        self, model: Model, resolution: Resolution, found: Mapping[int, Any] | None = None
    ) -> Undo:
        """Write the decisions, all or nothing: flags, held state, and no stale gradients.

        Args:
            model: A live model.
            resolution: The decisions.
            found: The result of `guards` before any plan; modules that no plan covers get it back.
        """

    def guards(self, model: Model) -> dict[int, Any]:
        """Return what modules do differently now because a plan asked for it, by identity."""

    def unheld(self, model: Model, resolution: Resolution) -> list[str]:
        """Return the paths of layers that should hold still under a resolution and do not."""

    def released(self, model: Model, still: Set[int]) -> list[str]:
        """Return the paths of layers that were held, and that run in training mode again.

        Args:
            model: A live model.
            still: Identities of the modules that were held.
        """

    def flags(self, model: Model, *, trainable: bool) -> Undo:
        """Set every parameter's flag, cheaply; gradient still flows through the model."""

    def freeze_briefly(self, model: Model, resolution: Resolution) -> Undo:
        """Freeze for a while what a resolution freezes, and hold what it holds.

        Flags and layers that it does not concern stay as they are, plans in force included.
        """

    # Verify

    def read(self, model: Model) -> dict[str, bool]:
        """Return for each parameter whether it is trainable now."""

    def training(self, model: Model) -> dict[str, bool]:
        """Return for each layer with running statistics whether a forward pass would move them.

        Under "" stands whether the model itself is in training mode.
        """

    def objects(self, model: Model) -> dict[str, LiveTensor]:
        """Return the live parameter and state tensors by every name they have."""

    def offloaded(self, model: Model) -> list[str]:
        """Return the native paths of tensors whose values are kept outside of the model.

        Their objects change all the time; `fingerprint` and `tensor` read the values themselves.
        """

    def tensor(self, model: Model, path: str) -> Array:
        """Return a copy of a tensor's values as a NumPy array, in the framework's layout."""

    def assign(self, model: Model, path: str, array: Array) -> None:
        """Write values into a tensor in place, in the framework's layout."""

    def fingerprint(
        self, model: Model, paths: Iterable[str], *, sums: bool = False, whole: bool = False
    ) -> dict[str, Digest]:
        """Return a digest over dtype, shape and bytes of each tensor, each tensor read once.

        Args:
            model: A live model.
            paths: Native paths of its tensors.
            sums: Add the sums from which `verify` estimates a change.
            whole: Of a tensor that processes have divided, take all of it, and not this process's
                part; then every process must call.
        """

    def gradients(self, model: Model) -> dict[str, float | None]:
        """Return the norm of the gradient that each parameter has now; None where it has none."""

    def without_gradient(self, model: Model) -> list[str]:
        """Return the native paths of the parameters that train and have no gradient now."""

    def watch_gradient_modes(
        self, model: Model, paths: Iterable[str]
    ) -> tuple[Callable[[], Mapping[str, bool]], Undo]:
        """Watch the modules that own some parameters.

        Returns:
            A function that returns, for each parameter whose module has run since, whether any pass
            was with gradients switched on; and one that stops watching.
        """

    def watch_loads(self, model: Model) -> tuple[Callable[[], Mapping[str, str]], Undo]:
        """Watch for state dicts being loaded.

        Returns:
            A function that returns the digests right after the last load ({} before any), and one
            that stops watching.
        """

    def watch_order(
        self, model: Model, tops: Sequence[str], done: Callable[[str, Trace], bool], lost: Undo
    ) -> Undo:
        """Watch forward passes of a model or of parts of it, each as a whole.

        Args:
            model: A live model, or several held as one.
            tops: Native paths of what is watched; "" is the model.
            done: Takes a path of `tops`, and what a pass without an error showed; returns True to
                end the watch on that path. Whatever it raises, the pass raises.
            lost: Called where a compiler runs the model, so that nothing can be seen.

        Returns:
            A function that stops it.
        """

    def watch_training(self, model: Model, call: Callable[[], None]) -> Undo:
        """Call a function when a model, or one of its parts, begins a forward pass of training.

        Such a pass is in training mode and with gradient. Copies of the model do not call.

        Returns:
            A function that stops it, and that does not keep the model alive.
        """

    # Several processes

    def several(self) -> bool:
        """Return whether other processes could train together with this one."""

    def processes(self, model: Model) -> Processes:
        """Return the processes that exchange gradients of a model; one if nothing exchanges them.

        What exchanges them is found around the bare model, too.
        """

    def is_sharded(self, model: Model) -> bool:
        """Return whether each process holds only a part of some parameter."""

    def is_divided(self, model: Model) -> bool:
        """Return whether processes divide parameters, or what an optimizer keeps for them."""

    def agree_later(self, model: Model) -> None:
        """Let the next forward pass of training compare the last write with other processes.

        Each write does so by itself, if there are others by then.
        """

    def is_gathered(self, model: Model) -> bool:
        """Return whether parameters that processes have divided are whole just now.

        They cannot be compared with the parts that they were.
        """

    def wrappings(self, model: Model) -> int:
        """Return how often something that exchanges gradients has written new values into a model.

        Such wrappers give all processes the values of one, or divide tensors among them.
        """

    def saves_in_parts(self) -> bool:
        """Return whether a state is asked for by what takes dictionaries apart to save them.

        It fills the same keys when it loads, so a state must be one value then.
        """
