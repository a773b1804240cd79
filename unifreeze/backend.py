"""The door for authors of backends and of trainers' adapters: all that they import of unifreeze."""

from unifreeze._arguments.checked import checked
from unifreeze._files import Format, Saved
from unifreeze._handle.handle import Handle
from unifreeze._handle.trainer_run import LastCallback, TrainerRun
from unifreeze._handle.verify_last import LastLook, calling_list
from unifreeze._identity import WeakIdentitySet
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
from unifreeze._modules.guards_on_copies import CopiedGuard
from unifreeze._modules.module_backend import ModuleBackend
from unifreeze._modules.neutral_settings import (
    Settings,
    Table,
    activation,
    build_optimizer,
    clipped,
    optimizer_defaults,
    read_settings,
)
from unifreeze._modules.operations import Guard
from unifreeze._modules.optimizer_rules import OWN_DECAY, refuse_lbfgs, takes_phase_decay
from unifreeze._modules.reader import Dicts, Reader
from unifreeze._modules.saved_states import check_names
from unifreeze._modules.walking import Slot, Walk
from unifreeze._modules.watching import (
    ForwardWatch,
    Hooks,
    Way,
    forget,
    tell_followed,
    watch_module,
)
from unifreeze._modules.wrapping import join, wrappers
from unifreeze._numerics.projections import Sketch
from unifreeze._numerics.sharing import overlapping
from unifreeze._plan.phases import When
from unifreeze._ports.weights.contents import (
    COPY_AGAIN,
    DTYPES,
    Entry,
    Named,
    Progress,
    WeightFile,
    make_entry,
    values_of,
)
from unifreeze._ports.weights.nested import find_state
from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.protocol import (
    Backend,
    Capabilities,
    Control,
    Digest,
    Finding,
    OptimizerSpec,
    ParamGroup,
    ProbeConfig,
    ProbeResult,
    ProbeRun,
    Rate,
    SketchConfig,
    SketchRun,
    StepConfig,
    StepRun,
    Undo,
)
from unifreeze._protocol.registry import (
    backend_for,
    backend_names,
    is_installed,
    load_backend,
    missing_framework,
    override_backend,
    refuse_unsupported,
)
from unifreeze._resolution.decide import resolve_phases
from unifreeze._resolution.resolution import Resolution
from unifreeze._structure.tree import Mask, Tensor
from unifreeze._structure.words import CONTAINER, STOCHASTIC

__all__ = [
    "Array",
    "Backend",
    "Batch",
    "CONTAINER",
    "COPY_AGAIN",
    "Capabilities",
    "ClassTableReader",
    "Control",
    "CopiedGuard",
    "DTYPES",
    "Dicts",
    "Digest",
    "Entry",
    "Finding",
    "Format",
    "ForwardWatch",
    "Guard",
    "Handle",
    "Hooks",
    "LastCallback",
    "LastLook",
    "Mask",
    "ModuleBackend",
    "Named",
    "OWN_DECAY",
    "OptimizerSpec",
    "ParamGroup",
    "Payload",
    "ProbeConfig",
    "ProbeResult",
    "ProbeRun",
    "Progress",
    "Rate",
    "Reader",
    "Resolution",
    "STOCHASTIC",
    "Saved",
    "Settings",
    "Sketch",
    "SketchConfig",
    "SketchRun",
    "Slot",
    "StepConfig",
    "StepRun",
    "Table",
    "Tensor",
    "TrainerRun",
    "Undo",
    "Walk",
    "Way",
    "WeakIdentitySet",
    "WeightFile",
    "When",
    "activation",
    "attention",
    "average_pool",
    "backend_for",
    "backend_names",
    "build_optimizer",
    "calling_list",
    "check_names",
    "checked",
    "clipped",
    "find_state",
    "forget",
    "freezes_any_of",
    "inside_wrappers",
    "is_installed",
    "join",
    "load_backend",
    "make_entry",
    "max_pool",
    "missing_framework",
    "modules_of",
    "optimizer_defaults",
    "overlapping",
    "override_backend",
    "pads",
    "parameters_beside",
    "path_of",
    "qualified_bases",
    "read_settings",
    "refuse_lbfgs",
    "refuse_unsupported",
    "resolve_phases",
    "rewritten_tables",
    "stored",
    "takes_phase_decay",
    "tell_followed",
    "transformer_layer",
    "values_of",
    "watch_module",
    "wrappers",
]
