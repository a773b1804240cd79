"""What a backend remembers of a model until the model's structure changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unifreeze._modules.guard import Guard
from unifreeze._protocol.live import LiveTensor
from unifreeze._resolution import Resolution
from unifreeze._structure import Mask, ModelSpec


@dataclass
class WalkMemo:
    """What is remembered of a walked model; None where it has not been asked for yet.

    Attributes:
        spec: The description derived from the walk.
        types: Class of each parameter when walked.
        sizes: What shows whether a parameter is resized in place; see `ModuleOperations.sizes`.
        dtypes: The framework's dtype of each parameter.
        flags: Whether each parameter was trainable when last read.
        guards: The last resolution, and the guards that it wants.
        objects: Live parameters by every name they have.
        new: The model was walked as a block began that trusts its structure, and is not used yet.
        having: For attributes, the modules that had one of their own when last looked at.
    """

    spec: ModelSpec | None = None
    types: list[type] = field(default_factory=list)
    sizes: list[Any] | None = None
    dtypes: list[Any] = field(default_factory=list)
    flags: Mask | None = None
    guards: tuple[Resolution, dict[int, Guard]] | None = None
    objects: dict[str, LiveTensor] | None = None
    new: bool = False
    having: dict[str, list[int]] = field(default_factory=dict)
