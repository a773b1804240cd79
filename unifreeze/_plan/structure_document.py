"""The part of a plan file that says where parts of the model are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from unifreeze._plan.fields import Strict
from unifreeze._plan.structure import PARTS, Part, Places, Structure, read_places
from unifreeze.errors import SelectorSyntaxError

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_SCHEMA = {
    "anyOf": [
        {**_TEXT, "description": "native paths: trunk.cells[*]"},
        {"type": "array", "items": _TEXT, "minItems": 1},
        {
            "type": "object",
            "description": "native paths per framework",
            "additionalProperties": _TEXTS,
            "minProperties": 1,
        },
    ]
}


def _read(value: object) -> Places:
    try:
        return read_places(value)
    except SelectorSyntaxError as error:
        raise PydanticCustomError("selector", "{text}", {"text": str(error)}) from None


_PlacesField = Annotated[Any, BeforeValidator(_read), WithJsonSchema(_SCHEMA)]


class StructureDocument(Strict):
    """Where parts of the model are, if the structure that is derived is wrong."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    stem: _PlacesField = Field(default=None, description="the modules that make up the stem")
    blocks: _PlacesField = Field(
        default=None, description="the blocks, in order; each text of a list is one run"
    )
    head: _PlacesField = Field(default=None, description="the modules that make up the head")

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, data: object) -> object:
        if isinstance(data, Mapping) and not data:
            raise PydanticCustomError("keys", "says nothing: write stem, blocks or head")
        return data

    def value(self) -> Structure:
        """Return it as a value."""
        given = {name: getattr(self, name) for name in PARTS if name in self.model_fields_set}
        return tuple(Part(name, places) for name, places in given.items())
