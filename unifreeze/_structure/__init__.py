"""The neutral description of a model: what a plan is a function *of*."""

from unifreeze._structure.atoms import Atoms
from unifreeze._structure.blocks import BlockRun
from unifreeze._structure.corrections import Correction
from unifreeze._structure.parameters import Parameter
from unifreeze._structure.spec import ModelSpec, derive
from unifreeze._structure.tree import (
    STATISTICS,
    Mask,
    State,
    Tensor,
    Trace,
    Tree,
    Unused,
    running_owners,
)
from unifreeze._structure.words_in_names import CONTAINER, KINDS, LAYERS, STOCHASTIC
from unifreeze._structure.zones import Placement, Unit, Zone

__all__ = [
    "CONTAINER",
    "KINDS",
    "LAYERS",
    "STATISTICS",
    "STOCHASTIC",
    "Atoms",
    "BlockRun",
    "Correction",
    "Mask",
    "ModelSpec",
    "Parameter",
    "Placement",
    "State",
    "Tensor",
    "Trace",
    "Tree",
    "Unit",
    "Unused",
    "Zone",
    "derive",
    "running_owners",
]
