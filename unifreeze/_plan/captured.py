"""What a captured plan decided on the model that it was captured from; kept beside its rules.

On another port of the network it must decide the same; otherwise it is refused there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from unifreeze._structure.branches import Branches
from unifreeze._structure.counted_layers import Groups
from unifreeze._structure.frozen_shares import Shares

Order = Literal["registration", "execution"]


@dataclass(frozen=True)
class Captured:
    """What a plan decided where it was captured.

    Attributes:
        framework: The framework that the model is written in.
        order: What positions and names were counted by; None where both orders decide the same.
        frozen: How many values it freezes, by zone and sort of parameter.
        held: How many layers with running statistics hold them, by zone; empty where the plan
            does not tell norms apart.
        layers: The layers that its canonical names count.
        branches: Equal branches that it tells apart, by their native names.
    """

    framework: str
    order: Order | None = None
    frozen: Shares = field(default_factory=dict)
    held: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    layers: Groups = field(default_factory=dict)
    branches: Branches = field(default_factory=dict)
