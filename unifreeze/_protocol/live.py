"""Names for live objects, whose classes only their frameworks know."""

from __future__ import annotations

from typing import Any, TypeAlias

Model: TypeAlias = Any
"""A live model, or several held as one."""
Layer: TypeAlias = Any
"""One module of a live model."""
LiveTensor: TypeAlias = Any
"""A tensor of the framework: a parameter, a statistic, an output or a gradient."""
LiveOptimizer: TypeAlias = Any
"""An optimizer of the framework."""
