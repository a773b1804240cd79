"""The door for authors of backends and of trainers' adapters: all that they import of unifreeze."""

from unifreeze._arguments.checked import checked
from unifreeze._files import Format, Saved
from unifreeze._handle.handle import Handle
from unifreeze._handle.verify_last import LastLook, calling_list, take_out
from unifreeze._identity import WeakIdentitySet
from unifreeze._modules.accounting import parameters_beside
from unifreeze._modules.digests import Payload
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
from unifreeze._modules.orientation import computes_otherwise, declared_turned, turned_in_subclass
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
from unifreeze._ports.weights.checkpoint_parts import find_state
from unifreeze._ports.weights.contents import (
    COPY_AGAIN,
    DTYPES,
    Named,
    TensorEntry,
    TensorProgress,
    WeightFile,
    make_entry,
    values_of,
)
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
from unifreeze._structure.spec import Mask
from unifreeze._structure.tree import Tensor
from unifreeze._structure.words import CONTAINER, STOCHASTIC

__all__ = [
    "Array",
    "Backend",
    "Batch",
    "CONTAINER",
    "COPY_AGAIN",
    "Capabilities",
    "Control",
    "DTYPES",
    "Dicts",
    "Digest",
    "TensorEntry",
    "Finding",
    "Format",
    "ForwardWatch",
    "Guard",
    "Handle",
    "Hooks",
    "LastLook",
    "Mask",
    "ModuleBackend",
    "Named",
    "OptimizerSpec",
    "ParamGroup",
    "Payload",
    "ProbeConfig",
    "ProbeResult",
    "ProbeRun",
    "TensorProgress",
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
    "Undo",
    "Walk",
    "Way",
    "WeakIdentitySet",
    "WeightFile",
    "When",
    "activation",
    "backend_for",
    "backend_names",
    "build_optimizer",
    "calling_list",
    "check_names",
    "checked",
    "clipped",
    "computes_otherwise",
    "declared_turned",
    "find_state",
    "forget",
    "is_installed",
    "join",
    "load_backend",
    "make_entry",
    "missing_framework",
    "optimizer_defaults",
    "overlapping",
    "override_backend",
    "parameters_beside",
    "read_settings",
    "refuse_unsupported",
    "resolve_phases",
    "take_out",
    "tell_followed",
    "turned_in_subclass",
    "values_of",
    "watch_module",
    "wrappers",
]
