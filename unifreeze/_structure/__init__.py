"""The neutral description of a model: what a plan is a function *of*."""

from unifreeze._structure.atoms import Atoms
from unifreeze._structure.blocks import Run
from unifreeze._structure.spec import Mask, ModelSpec, Parameter, derive
from unifreeze._structure.tree import STATISTICS, State, Tensor, Trace, Tree, Unused, running_owners
from unifreeze._structure.words import CONTAINER, KINDS, LAYERS, STOCHASTIC
from unifreeze._structure.zones import Placement, Unit, Zone

__all__ = [
    "CONTAINER",
    "KINDS",
    "LAYERS",
    "STATISTICS",
    "STOCHASTIC",
    "Atoms",
    "Mask",
    "ModelSpec",
    "Parameter",
    "Placement",
    "Run",
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
