"""What a captured plan came to on the model it was captured from; part of the plan, not its rules.

Another port of the network must come to the same, or the plan means something else there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from unifreeze.plan.fields import Strict
from unifreeze.structure.likeness import Groups, Shares, read_row

Order = Literal["registration", "execution"]


@dataclass(frozen=True)
class Captured:
    """What a plan came to where it was captured.

    Attributes:
        framework: The framework that the model is written in.
        order: What positions and names were counted by; None where both orders come to the same.
        frozen: How many values it freezes, by zone and sort of parameter.
        held: How many layers with running statistics hold them, by zone; empty where the plan
            does not tell norms apart.
        layers: The layers that its canonical names count.
    """

    framework: str
    order: Order | None
    frozen: Shares
    held: Mapping[str, tuple[int, int]]
    layers: Groups


def _share(numbers: list[int]) -> list[int]:
    if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1]:
        raise PydanticCustomError("share", "should be two numbers, the second no smaller")
    return numbers


def _layer(text: str) -> str:
    if read_row(text) is None:
        raise PydanticCustomError("layer", "should be sizes as in 16x16")
    return text


_Share = Annotated[list[int], AfterValidator(_share)]
_Layer = Annotated[str, AfterValidator(_layer)]


class CapturedDocument(Strict):
    """What a plan came to where it was captured; checked on every model it is applied to."""

    framework: str = Field(description="the framework of the model")
    order: Order | None = Field(default=None, description="what its names were counted by")
    frozen: dict[str, dict[str, _Share]] = Field(description="values frozen, of how many")
    held: dict[str, _Share] = Field(default_factory=dict, description="layers held, of how many")
    layers: dict[str, dict[str, list[_Layer]]] = Field(
        default_factory=dict, description="the layers that its names count"
    )

    def value(self) -> Captured:
        """Return it as a value."""
        frozen = {
            zone: {sort: (share[0], share[1]) for sort, share in rows.items()}
            for zone, rows in self.frozen.items()
        }
        held = {zone: (share[0], share[1]) for zone, share in self.held.items()}
        layers = {
            unit: {kind: tuple(rows) for kind, rows in kinds.items()}
            for unit, kinds in self.layers.items()
        }
        return Captured(self.framework, self.order, frozen, held, layers)


def plain_captured(captured: Captured) -> dict[str, Any]:
    """Return it as plain data."""
    data: dict[str, Any] = {"framework": captured.framework}
    if captured.order:
        data["order"] = captured.order
    data["frozen"] = {
        zone: {sort: list(share) for sort, share in rows.items()}
        for zone, rows in captured.frozen.items()
    }
    if captured.held:
        data["held"] = {zone: list(share) for zone, share in captured.held.items()}
    if captured.layers:
        data["layers"] = {
            unit: {kind: list(rows) for kind, rows in kinds.items()}
            for unit, kinds in captured.layers.items()
        }
    return data
