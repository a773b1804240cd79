"""What a backend is: three protocols, their data, and the registry that finds a backend."""

from unifreeze._numerics.projections import Sketch
from unifreeze._protocol.backend import Backend
from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.curve_data import CurveConfig, TokenConfig, TokenRun
from unifreeze._protocol.experiment_backend import ExperimentBackend
from unifreeze._protocol.freezing_backend import FreezingBackend
from unifreeze._protocol.live import Layer, LiveOptimizer, LiveTensor, Model
from unifreeze._protocol.optimizer_backend import OptimizerBackend
from unifreeze._protocol.optimizer_settings import Control, OptimizerSpec, ParamGroup, Rate
from unifreeze._protocol.probe_data import ProbeConfig, ProbeResult, ProbeRun
from unifreeze._protocol.processes import Processes
from unifreeze._protocol.registry import (
    backend_for,
    backend_names,
    is_claimed,
    is_installed,
    load_backend,
    missing_framework,
    override_backend,
    refuse_unsupported,
)
from unifreeze._protocol.results import Capabilities, Digest, Finding, Undo
from unifreeze._protocol.sketch_data import Chosen, SketchConfig, SketchRun
from unifreeze._protocol.step_data import StepConfig, StepRun
