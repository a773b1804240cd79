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
    vision: _PlacesField = Field(default=None, description="the modules that pictures enter")
    audio: _PlacesField = Field(default=None, description="the modules that sound enters")
    text: _PlacesField = Field(
        default=None, description="the modules that tokens enter, with the head that gives tokens"
    )
    projector: _PlacesField = Field(
        default=None, description="the modules between a tower of pictures or sound and the words"
    )
    action: _PlacesField = Field(default=None, description="the modules that make actions")
    image_decoder: _PlacesField = Field(default=None, description="the modules that make pictures")

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        if not data:
            known = ", ".join(PARTS)
            raise PydanticCustomError("keys", "says nothing: write {known}", {"known": known})
        if "language" in data and "text" in data:
            raise PydanticCustomError("keys", "text and language are the same tower: write one")
        return {"text" if name == "language" else name: data[name] for name in data}

    def value(self) -> Structure:
        """Return it as a value."""
        given = {name: getattr(self, name) for name in PARTS if name in self.model_fields_set}
        return tuple(Part(name, places) for name, places in given.items())
