"""The door for authors of backends and of trainers' adapters: all that they import of unifreeze."""

from unifreeze._arguments.checked import checked as check_arguments
from unifreeze._cache.cached_run import CachedRun
from unifreeze._cache.nested_values import put_together as put_together
from unifreeze._cache.nested_values import take_apart as take_apart
from unifreeze._cache.operations import CacheOperations
from unifreeze._experiments.experiment_operations import GradientPass, Gradients, Outputs
from unifreeze._experiments.module_experiments import ModuleExperiments
from unifreeze._files import Format, Saved
from unifreeze._handle.handle import Handle
from unifreeze._handle.state_schema import CheckpointState, read_state
from unifreeze._handle.trainer_cache import CacheSettings
from unifreeze._handle.trainer_run import BEST_FOLDER, LastCallback, TrainerRun
from unifreeze._handle.verify_last import LastLook, calling_list
from unifreeze._identity import WeakIdentityDict, WeakIdentitySet
from unifreeze._modules.accounting import parameters_beside
from unifreeze._modules.class_tables import ClassTableReader, qualified_bases
from unifreeze._modules.common_checks import (
    freezes_any_of,
    inside_wrappers,
    modules_of,
    path_of,
    rewritten_tables,
)
from unifreeze._modules.common_layer_settings import (
    attention,
    average_pool,
    max_pool,
    pads,
    stored,
    transformer_layer,
)
from unifreeze._modules.digests import Payload
from unifreeze._modules.guard import Guard
from unifreeze._modules.guards_on_copies import CopiedGuard
from unifreeze._modules.held_rows import HeldRows, Rows
from unifreeze._modules.inference_mode import in_inference_mode
from unifreeze._modules.module_backend import ModuleBackend
from unifreeze._modules.module_operations import ModuleOperations
from unifreeze._modules.module_optimizers import ModuleOptimizers
from unifreeze._modules.neutral_settings import (
    LayerSettings,
    SettingsTable,
    activation,
    build_optimizer,
    clipped,
)
from unifreeze._modules.optimizer_rules import OWN_DECAY, refuse_lbfgs, takes_phase_decay
from unifreeze._modules.reader import DictColumns, Dicts, Reader
from unifreeze._modules.saved_states import check_names
from unifreeze._modules.structure_changes import MappingStructure, Structure
from unifreeze._modules.tapeless import Tapeless
from unifreeze._modules.tensor_operations import TensorOperations
from unifreeze._modules.walk_parts import Slot
from unifreeze._modules.walking import Walk
from unifreeze._modules.watching import (
    ForwardWatch,
    Hooks,
    Way,
    forget,
    tell_followed,
    watch_module,
)
from unifreeze._modules.wrapping import join as join_path
from unifreeze._modules.wrapping import wrappers
from unifreeze._numerics.projections import Sketch
from unifreeze._numerics.sharing import overlapping
from unifreeze._plan.phases import When
from unifreeze._ports.weights.allowed_in_pickles import ADMITTED as ADMITTED_IN_PICKLES
from unifreeze._ports.weights.checkpoint_parts import find_state
from unifreeze._ports.weights.contents import (
    DTYPES,
    WeightFile,
    broken_file,
    is_possible,
    make_entry,
    open_with,
    values_of,
)
from unifreeze._ports.weights.contents import Named as NamedWeight
from unifreeze._ports.weights.contents import TensorEntry as TensorEntry
from unifreeze._ports.weights.contents import TensorProgress as TensorProgress
from unifreeze._ports.weights.formats import WeightFormat
from unifreeze._ports.weights.safe_unpickling import read_pickle
from unifreeze._protocol.backend import Backend
from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.experiment_backend import ExperimentBackend
from unifreeze._protocol.freezing_backend import FreezingBackend
from unifreeze._protocol.live import Layer, LiveOptimizer, LiveTensor, Model
from unifreeze._protocol.optimizer_backend import OptimizerBackend
from unifreeze._protocol.optimizer_settings import Control, OptimizerSpec, ParamGroup, Rate
from unifreeze._protocol.probe_data import ProbeConfig, ProbeResult, ProbeRun
from unifreeze._protocol.processes import Processes
from unifreeze._protocol.processes import share as share_bytes
from unifreeze._protocol.registry import (
    backend_for,
    load_backend,
    override_backend,
)
from unifreeze._protocol.results import Capabilities, Digest, Finding, Undo
from unifreeze._protocol.sketch_data import SketchConfig, SketchRun
from unifreeze._protocol.step_data import StepConfig, StepRun
from unifreeze._resolution.decide import resolve_phases
from unifreeze._resolution.resolution import Resolution
from unifreeze._structure.tree import Mask, Tensor
from unifreeze._structure.words_in_names import CONTAINER, STOCHASTIC
from unifreeze._undo import undo_all

__all__ = [
    # Finding a backend
    "backend_for",
    "load_backend",
    "override_backend",
    # The three protocols, and all of them together
    "FreezingBackend",
    "OptimizerBackend",
    "ExperimentBackend",
    "Backend",
    # Their data
    "Array",
    "Batch",
    "Capabilities",
    "Control",
    "Digest",
    "Finding",
    "Layer",
    "LiveOptimizer",
    "LiveTensor",
    "Mask",
    "Model",
    "OptimizerSpec",
    "ParamGroup",
    "ProbeConfig",
    "ProbeResult",
    "ProbeRun",
    "Processes",
    "Rate",
    "share_bytes",
    "Resolution",
    "Sketch",
    "SketchConfig",
    "SketchRun",
    "StepConfig",
    "StepRun",
    "Undo",
    "undo_all",
    # Reading a framework's modules
    "CONTAINER",
    "DictColumns",
    "Dicts",
    "Structure",
    "MappingStructure",
    "Reader",
    "ClassTableReader",
    "qualified_bases",
    "STOCHASTIC",
    "Tensor",
    # A backend for a framework of modules
    "Guard",
    "CopiedGuard",
    "ModuleBackend",
    "ModuleOperations",
    "Payload",
    "Slot",
    "TensorOperations",
    "Walk",
    "WeakIdentityDict",
    "WeakIdentitySet",
    "join_path",
    "overlapping",
    "parameters_beside",
    "freezes_any_of",
    "in_inference_mode",
    "inside_wrappers",
    "modules_of",
    "path_of",
    "rewritten_tables",
    "wrappers",
    # Its optimizers
    "ModuleOptimizers",
    "build_optimizer",
    "check_names",
    "OWN_DECAY",
    "refuse_lbfgs",
    "takes_phase_decay",
    # Rows of its tables that stay
    "HeldRows",
    "Rows",
    # Its experiments
    "GradientPass",
    "Gradients",
    "ModuleExperiments",
    "Outputs",
    "Tapeless",
    # Its cache of frozen outputs
    "CacheOperations",
    # Settings of its layers
    "LayerSettings",
    "SettingsTable",
    "activation",
    "clipped",
    "attention",
    "average_pool",
    "max_pool",
    "pads",
    "stored",
    "transformer_layer",
    # Watching forward passes
    "ForwardWatch",
    "Hooks",
    "Way",
    "forget",
    "tell_followed",
    "watch_module",
    # Weight files of its own
    "ADMITTED_IN_PICKLES",
    "DTYPES",
    "NamedWeight",
    "TensorEntry",
    "WeightFile",
    "WeightFormat",
    "TensorProgress",
    "broken_file",
    "find_state",
    "is_possible",
    "make_entry",
    "open_with",
    "read_pickle",
    "values_of",
    # Adapters for trainers
    "Format",
    "Handle",
    "LastLook",
    "LastCallback",
    "TrainerRun",
    "BEST_FOLDER",
    "CheckpointState",
    "read_state",
    "CacheSettings",
    "CachedRun",
    "Saved",
    "When",
    "calling_list",
    "check_arguments",
    "resolve_phases",
]
