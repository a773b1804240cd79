"""Backends: the protocol, how one is found, and what module-based ones share."""

from unifreeze.backend.projections import Sketch
from unifreeze.backend.protocol import (
    Backend,
    Batch,
    Capabilities,
    Digest,
    Finding,
    OptimizerSpec,
    ParamGroup,
    ProbeConfig,
    ProbeResult,
    ProbeRun,
    SketchConfig,
    SketchRun,
    Undo,
)
from unifreeze.backend.registry import (
    backend_for,
    backend_names,
    is_installed,
    load_backend,
    missing_framework,
    override_backend,
    refuse_unsupported,
)

__all__ = [
    "Backend",
    "Batch",
    "Capabilities",
    "Digest",
    "Finding",
    "OptimizerSpec",
    "ParamGroup",
    "ProbeConfig",
    "ProbeResult",
    "ProbeRun",
    "Sketch",
    "SketchConfig",
    "SketchRun",
    "Undo",
    "backend_for",
    "backend_names",
    "is_installed",
    "load_backend",
    "missing_framework",
    "override_backend",
    "refuse_unsupported",
]
