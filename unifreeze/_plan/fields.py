"""The parts of a plan document: rules, statistics, groups, and what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from unifreeze._plan.parts import (
    Choice,
    Group,
    NormRule,
    Rule,
    Verb,
)
from unifreeze._plan.selectors import Selector, check_verb
from unifreeze.errors import SelectorSyntaxError, brief, nearest


def _schema_of(text: str) -> dict[str, Any]:
    return {
        "anyOf": [
            {"type": "string", "minLength": 1, "description": text},
            {
                "type": "object",
                "description": "one selector per framework",
                "additionalProperties": {"type": "string", "minLength": 1},
                "minProperties": 1,
            },
        ]
    }


_SELECTOR_SCHEMA = _schema_of("a selector: head | blocks[-2:]")
_TRAIN_SCHEMA = _schema_of(
    'a selector: head | blocks[-2:]; or rows of a lookup table: rows("word_embeddings", 30000:)'
)


def _read_choice(value: object) -> Choice:
    if isinstance(value, str | Selector):
        return _read_selector(value)
    if isinstance(value, Mapping) and value:
        for name, text in value.items():
            if not isinstance(name, str) or not isinstance(text, str | Selector):
                raise PydanticCustomError(
                    "choice",
                    "framework names and selectors are text{cure}",
                    {"cure": _joined(text)},
                )
        return tuple(sorted((name, _read_selector(text)) for name, text in value.items()))
    raise PydanticCustomError(
        "selector",
        "should be a selector in text, or one per framework, not {got}{cure}",
        {"got": _name_of(value), "cure": _joined(value)},
    )


JOIN = ", write them as one: "
"""What a message says before several selectors, written as one."""


def _joined(value: object) -> str:
    """Say how several selectors are written as one."""
    if not isinstance(value, list | tuple | set | frozenset) or not value:
        return ""
    given = value if isinstance(value, list | tuple) else sorted(value, key=str)
    words = [str(item) for item in given if isinstance(item, str | Selector)]
    return f'{JOIN}"{" | ".join(words)}"' if len(words) == len(value) else ""


def _read_selector(text: str | Selector) -> Selector:
    try:
        return Selector(text)
    except SelectorSyntaxError as error:
        raise PydanticCustomError("selector", "{text}", {"text": str(error)}) from None


def _name_of(value: object) -> str:
    names = {bool: "a truth value", int: "a number", float: "a number", list: "a list"}
    return "nothing" if value is None else f"{names.get(type(value), 'a mapping')} ({brief(value)})"


def _without_rows(value: object, info: ValidationInfo) -> Choice:
    choice = _read_choice(value)
    selectors = [choice] if isinstance(choice, Selector) else [each for _, each in choice]
    try:
        check_verb(info.field_name or "", (selector.expression for selector in selectors))
    except SelectorSyntaxError as error:
        raise PydanticCustomError("selector", "{text}", {"text": str(error)}) from None
    return choice


ChoiceField = Annotated[Any, BeforeValidator(_without_rows), WithJsonSchema(_SELECTOR_SCHEMA)]
TrainField = Annotated[Any, BeforeValidator(_read_choice), WithJsonSchema(_TRAIN_SCHEMA)]
"""A selector of a train rule, which may be rows of a table."""


class Strict(BaseModel):
    """Part of a document: an unknown key, or a number in quotes, is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    part: ClassVar[type]

    def value(self) -> Any:
        """Return the part of a plan, or what else it describes."""
        return self.part(**{name: value_of(given) for name, given in self if given is not None})


def value_of(given: Any) -> Any:
    """Return the value of a document, or of several in a list or mapping."""
    if isinstance(given, Strict):
        return given.value()
    if isinstance(given, list):
        return tuple(map(value_of, given))
    return {k: value_of(v) for k, v in given.items()} if isinstance(given, dict) else given


def _tell_editors(schema: dict[str, Any], kind: type[OneOf]) -> None:
    """Say in the schema: exactly one of these keys is required."""
    schema["oneOf"] = [{"required": [key]} for key in kind.choices]


def exactly_one(keys: tuple[str, ...], data: Mapping[Any, Any], *allowed: str) -> None:
    """Refuse a mapping without exactly one of the keys; `allowed` may stand beside it."""
    given = [key for key in keys if key in data]
    if len(given) != 1:
        wanted = ", ".join(keys[:-1]) + f" or {keys[-1]}"
        got = " and ".join(given) if given else "none"
        known = [*keys, *allowed]
        # Unknown keys are named here, because nothing else in this mapping is checked any more.
        unknown = "".join(f"; {unknown_key(str(key), known)}" for key in data if key not in known)
        raise PydanticCustomError(
            "verbs",
            "needs exactly one of {wanted}, has {got}{unknown}",
            {"wanted": wanted, "got": got, "unknown": unknown},
        )


def unknown_key(key: str, known: list[str]) -> str:
    """Say that a key is unknown, and which one was likely meant."""
    close = nearest(key, known, limit=1)
    return f"unknown key {brief(key)}" + (f", did you mean {close[0]!r}?" if close else "")


class OneOf(Strict):
    """Part of a document that needs exactly one of some keys.

    Attributes:
        choices: Those keys.
    """

    model_config = ConfigDict(json_schema_extra=_tell_editors)
    choices: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _has_one(cls, data: object) -> object:
        if isinstance(data, Mapping):
            allowed = [name for name in cls.model_fields if name not in cls.choices]
            exactly_one(cls.choices, data, *allowed)
            chosen = next(name for name in cls.choices if name in data)
            if data[chosen] is None and cls.model_fields[chosen].annotation is not Any:
                raise PydanticCustomError("keys", "{key} needs a value", {"key": chosen})
        return data


class RuleDocument(OneOf):
    """One rule: exactly one of freeze, train and only."""

    choices: ClassVar[tuple[str, ...]] = ("freeze", "train", "only")

    freeze: ChoiceField = Field(default=None, description="freeze what is selected")
    train: TrainField = Field(default=None, description="train what is selected")
    only: ChoiceField = Field(default=None, description="freeze everything but what is selected")
    optional: bool = Field(default=False, description="the rule may match nothing")

    def value(self) -> Rule:
        """Return the rule."""
        verbs: tuple[Verb, ...] = ("freeze", "train", "only")
        verb = next(name for name in verbs if name in self.model_fields_set)
        return Rule(verb, getattr(self, verb), self.optional)


class NormRuleDocument(OneOf):
    """One rule for running statistics: exactly one of hold and update."""

    choices: ClassVar[tuple[str, ...]] = ("hold", "update")

    hold: ChoiceField = Field(default=None, description="norms whose statistics hold still")
    update: ChoiceField = Field(default=None, description="norms whose statistics keep moving")

    def value(self) -> NormRule:
        """Return the rule."""
        if "hold" in self.model_fields_set:
            return NormRule("hold", self.hold)
        return NormRule("update", self.update)


NormStatsField = Annotated[
    Annotated[Literal["hold", "update", "hold_all"], Tag("literal[]")]
    | Annotated[list[NormRuleDocument], Tag("list[]")],
    Discriminator(lambda value: "list[]" if isinstance(value, list | tuple) else "literal[]"),
]


class GroupDocument(Strict):
    """Optimizer settings for what `match` selects."""

    part = Group
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": [key]} for key in ("lr_scale", "weight_decay", "layer_decay")]
        }
    )

    match: ChoiceField = Field(description="the parameters that get these settings")
    lr_scale: float | None = Field(default=None, ge=0, description="factor on the learning rate")
    weight_decay: float | None = Field(default=None, ge=0, description="weight decay")
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="factor on the rate per block away from the head"
    )

    @model_validator(mode="after")
    def _sets_something(self) -> GroupDocument:
        given = self.lr_scale, self.weight_decay, self.layer_decay
        if all(value is None for value in given):
            raise PydanticCustomError(
                "keys", "sets nothing: write lr_scale, weight_decay or layer_decay"
            )
        return self
