"""The part of a plan file that says what a captured plan decided where it was captured."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from unifreeze._plan.captured import Captured, Order
from unifreeze._plan.fields import Strict
from unifreeze._structure.counted_layers import read_layer


def _share(numbers: list[int]) -> list[int]:
    if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1]:
        raise PydanticCustomError("share", "should be two numbers, the second at least as large")
    return numbers


def _layer(text: str) -> str:
    if read_layer(text) is None:
        raise PydanticCustomError("layer", "should be sizes as in 16x16")
    return text


_Share = Annotated[list[int], AfterValidator(_share)]
_Layer = Annotated[str, AfterValidator(_layer)]
_Letters = Annotated[str, Field(pattern="^[ftp]+$")]


class CapturedDocument(Strict):
    """What a plan decided where it was captured; checked on every model it is applied to."""

    part = Captured

    framework: str = Field(description="the framework of the model")
    order: Order | None = Field(default=None, description="what its names were counted by")
    frozen: dict[str, dict[str, _Share]] = Field(description="values frozen, of how many")
    held: dict[str, _Share] = Field(default_factory=dict, description="layers held, of how many")
    layers: dict[str, dict[str, list[_Layer]]] = Field(
        default_factory=dict, description="the layers that its names count"
    )
    branches: dict[str, list[dict[str, dict[str, _Letters]]]] = Field(
        default_factory=dict, description="equal branches, and which of their layers are frozen"
    )

    def value(self) -> Captured:
        """Return it as a value; branches stay lists, as they are found in a model."""
        captured: Captured = super().value()
        return replace(captured, branches=self.branches)
