"""What a framework adds so that outputs of frozen modules can be kept and given back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from unifreeze._experiments.module_experiments import ModuleExperiments
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import Layer, LiveTensor
from unifreeze._protocol.results import Undo


class CacheOperations(ModuleExperiments):
    """The operations of a framework of modules whose frozen part can be cached."""

    @abstractmethod
    def requires_gradient(self, tensor: LiveTensor) -> bool:
        """Return whether gradient would flow back through a tensor."""

    @abstractmethod
    def gradient_enabled(self) -> bool:
        """Return whether operations are recorded for a backward pass now."""

    @abstractmethod
    def with_gradient(self, *, enabled: bool) -> AbstractContextManager[Any]:
        """Record operations for a backward pass meanwhile, or do not."""

    @abstractmethod
    def precision_in_force(self) -> str:
        """Return which automatic casts are in force, as text."""

    @abstractmethod
    def remember_random(self) -> Callable[[], None]:
        """Return a function that puts the framework's generators back to where they are now."""

    @abstractmethod
    def random_bits(self) -> Hashable:
        """Return a value that is the same as long as nothing draws from the generators."""

    @abstractmethod
    def traces_of(self, tensors: Sequence[LiveTensor]) -> list[Hashable]:
        """Return what most writes to tensors change, without a look at their values.

        It is called before every step, so it must be quick.

        Returns:
            As many entries for each tensor as for each other: the first entry of all of them,
            then the second.
        """

    @abstractmethod
    def placeholder(self, shape: Sequence[int], like: LiveTensor, value: float) -> LiveTensor:
        """Return a tensor of one value, NaN for one; it may share memory with others."""

    def from_rows(self, array: Array, like: LiveTensor) -> LiveTensor:
        """Return a tensor of an array's values, in memory that nothing else uses.

        It is called for each kept tensor in every step. The memory must be the framework's own:
        kernels round differently where memory begins at another place.

        Args:
            array: The values.
            like: A tensor of the same type and device.
        """
        return self.clone(self.from_array(array, like))

    @abstractmethod
    def other_values(
        self, tensors: Iterable[LiveTensor], factor: float
    ) -> AbstractContextManager[None]:
        """Give tensors other values meanwhile, in other memory, without a trace of it.

        Args:
            tensors: The tensors.
            factor: By what values are multiplied, before a little is added.
        """

    @abstractmethod
    def drop_values(self, tensor: LiveTensor) -> Any:
        """Take a frozen tensor's values out of memory, and keep the tensor.

        Returns:
            What `give_values` needs to put the tensor back as it was.
        """

    @abstractmethod
    def give_values(self, tensor: LiveTensor, array: Array, before: Any) -> None:
        """Give values to a tensor that has none.

        Args:
            tensor: The tensor.
            array: Its values.
            before: What `drop_values` returned.
        """

    @abstractmethod
    def before_state_dicts(self, modules: Iterable[Layer], call: Callable[[], None]) -> Undo:
        """Call a function before the state of any of some modules is read or loaded."""

    @abstractmethod
    def check_prefix(self, prefix: str, tensors: Sequence[LiveTensor]) -> None:
        """Refuse a faster way to run frozen modules that there is not where some tensors are.

        Raises:
            CacheError: The framework does not have it; the hint says which it has.
        """

    @abstractmethod
    def faster_forward(
        self, prefix: str, module: Layer, forward: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return a function that computes what a frozen module does, faster.

        It is called without stand-ins in the module, with inputs of one form and of any shapes.

        Args:
            prefix: Which way: "inference", "bfloat16" or "compile".
            module: The module.
            forward: Its forward function.
        """

    @abstractmethod
    def as_type(self, tensor: LiveTensor, like: LiveTensor) -> LiveTensor:
        """Return a tensor in the type of another one."""

    @abstractmethod
    def hooks_around(self, module: Layer) -> list[Any]:
        """Return the hooks around a module's forward pass."""

    def hooks_around_all(self) -> Sequence[dict[Any, Any]]:
        """Return the framework's own tables of hooks around the forward pass of every module."""
        return ()

    @abstractmethod
    def is_exact(self, tensor: LiveTensor) -> bool:
        """Return whether equal computations give equal bits where a tensor is: on the CPU."""

    @contextmanager
    def counting_operations(self) -> Iterator[Callable[[], int] | None]:
        """Count floating-point operations meanwhile; yields a function that returns their number.

        It yields None where the framework has no counter for all operations.
        """
        yield None

    @abstractmethod
    def keeping_for_backward(
        self, keeps: Callable[[LiveTensor], None]
    ) -> AbstractContextManager[Any]:
        """Call a function with each tensor that is kept for a backward pass meanwhile."""

    @contextmanager
    def counting_saved(self, parameters: Iterable[LiveTensor]) -> Iterator[Callable[[], int]]:
        """Count the bytes that are kept for a backward pass; yields a function that returns them.

        Args:
            parameters: Tensors that are kept anyway.
        """
        sizes: dict[Hashable, int] = {}
        known = {self.memory_of(tensor)[0] for tensor in parameters}

        def keeps(tensor: LiveTensor) -> None:
            place, size = self.memory_of(tensor)
            if place not in known:
                sizes[place] = max(size, sizes.get(place, 0))

        with self.keeping_for_backward(keeps):
            yield lambda: sum(sizes.values())

    @abstractmethod
    def memory_of(self, tensor: LiveTensor) -> tuple[Hashable, int]:
        """Return where the memory of a tensor is, and how many bytes it takes."""

    @abstractmethod
    def version(self) -> str:
        """Return the framework's name and version."""
