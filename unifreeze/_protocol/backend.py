"""What a whole backend is: the three protocols together.

Keys are native paths throughout. `unifreeze.testing` holds the contract every backend must pass.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from unifreeze._protocol.experiment_backend import ExperimentBackend
from unifreeze._protocol.freezing_backend import FreezingBackend
from unifreeze._protocol.optimizer_backend import OptimizerBackend


@runtime_checkable
class Backend(FreezingBackend, OptimizerBackend, ExperimentBackend, Protocol):
    """One framework: describes its models, writes decisions, trains and runs experiments."""
