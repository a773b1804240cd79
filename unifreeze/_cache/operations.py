"""What a framework adds so that outputs of frozen modules can be kept and given back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from unifreeze._experiments.module_experiments import ModuleExperiments
from unifreeze._protocol.live import Layer, LiveTensor


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
    def trace_of(self, tensor: LiveTensor) -> Hashable:
        """Return what most writes to a tensor change, without a look at its values."""

    @abstractmethod
    def placeholder(self, shape: Sequence[int], like: LiveTensor) -> LiveTensor:
        """Return a tensor of NaN; it may share memory with others."""

    @abstractmethod
    def other_values(self, tensors: Iterable[LiveTensor]) -> AbstractContextManager[None]:
        """Give tensors other values meanwhile, in other memory, without a trace of it."""

    @abstractmethod
    def hooks_around(self, module: Layer) -> list[Any]:
        """Return the hooks around a module's forward pass."""

    @abstractmethod
    def is_exact(self, tensor: LiveTensor) -> bool:
        """Return whether equal computations give equal bits where a tensor is: on the CPU."""

    @abstractmethod
    def version(self) -> str:
        """Return the framework's name and version."""
