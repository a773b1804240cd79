"""The plan as a document: checked as a whole, every mistake reported at once with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from unifreeze.errors import PlanFileError, PlanVersionError, SelectorSyntaxError, nearest
from unifreeze.plan.model import (
    FORMAT,
    Choice,
    FreezePlan,
    Group,
    NormRule,
    NormStats,
    Rule,
    Verb,
)
from unifreeze.select import Selector

_SELECTOR_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "description": "a selector: head | blocks[-2:]"},
        {
            "type": "object",
            "description": "one selector per framework",
            "additionalProperties": {"type": "string", "minLength": 1},
            "minProperties": 1,
        },
    ]
}


def _read_choice(value: object) -> Choice:
    if isinstance(value, str | Selector):
        return _read_selector(value)
    if isinstance(value, Mapping) and value:
        for name, text in value.items():
            if not isinstance(name, str) or not isinstance(text, str | Selector):
                raise PydanticCustomError("choice", "framework names and selectors are text")
        return tuple(sorted((name, _read_selector(text)) for name, text in value.items()))
    raise PydanticCustomError(
        "selector",
        "should be a selector in text, or one per framework, not {got}",
        {"got": _name_of(value)},
    )


def _read_selector(text: str | Selector) -> Selector:
    try:
        return Selector(text)
    except SelectorSyntaxError as error:
        raise PydanticCustomError("selector", "{text}", {"text": str(error)}) from None


def _read_version(value: object) -> object:
    if isinstance(value, bool | float):
        # Both equal 1 in Python.
        raise PydanticCustomError("version", "should be {want}", {"want": FORMAT})
    return value


def _name_of(value: object) -> str:
    names = {bool: "a truth value", int: "a number", float: "a number", list: "a list"}
    return "nothing" if value is None else f"{names.get(type(value), 'a mapping')} ({value!r})"


_Choice = Annotated[Any, BeforeValidator(_read_choice), WithJsonSchema(_SELECTOR_SCHEMA)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _one_of(*keys: str) -> ConfigDict:
    """Tell editors, too, that exactly one of some keys is wanted."""
    return ConfigDict(json_schema_extra={"oneOf": [{"required": [key]} for key in keys]})


def _exactly_one(keys: tuple[str, ...], data: Mapping[Any, Any], *others: str) -> None:
    found = [key for key in keys if key in data]
    if len(found) != 1:
        wanted = ", ".join(keys[:-1]) + f" or {keys[-1]}"
        got = " and ".join(found) if found else "none"
        known = [*keys, *others]
        # Said here, as nothing else in this mapping is looked at any more.
        unknown = "".join(f"; {_unknown(str(key), known)}" for key in data if key not in known)
        raise PydanticCustomError(
            "verbs",
            "needs exactly one of {wanted}, has {got}{unknown}",
            {"wanted": wanted, "got": got, "unknown": unknown},
        )


def _unknown(key: str, known: list[str]) -> str:
    close = nearest(key, known, limit=1)
    return f"unknown key {key!r}" + (f", did you mean {close[0]!r}?" if close else "")


class RuleDocument(_Strict):
    """One rule: exactly one of freeze, train and only."""

    model_config = _one_of("freeze", "train", "only")

    freeze: _Choice = Field(default=None, description="freeze what is selected")
    train: _Choice = Field(default=None, description="train what is selected")
    only: _Choice = Field(default=None, description="freeze everything but what is selected")
    optional: bool = Field(default=False, description="the rule may match nothing")

    @model_validator(mode="before")
    @classmethod
    def _one_verb(cls, data: object) -> object:
        if isinstance(data, Mapping):
            _exactly_one(("freeze", "train", "only"), data, "optional")
        return data

    def value(self) -> Rule:
        """Return the rule."""
        verbs: tuple[Verb, ...] = ("freeze", "train", "only")
        verb = next(name for name in verbs if name in self.model_fields_set)
        return Rule(verb, getattr(self, verb), self.optional)


class NormRuleDocument(_Strict):
    """One rule for running statistics: exactly one of hold and update."""

    model_config = _one_of("hold", "update")

    hold: _Choice = Field(default=None, description="norms whose statistics hold still")
    update: _Choice = Field(default=None, description="norms whose statistics keep moving")

    @model_validator(mode="before")
    @classmethod
    def _one_verb(cls, data: object) -> object:
        if isinstance(data, Mapping):
            _exactly_one(("hold", "update"), data)
        return data

    def value(self) -> NormRule:
        """Return the rule."""
        if "hold" in self.model_fields_set:
            return NormRule("hold", self.hold)
        return NormRule("update", self.update)


_NormStats = Annotated[
    Annotated[Literal["hold", "update", "hold_all"], Tag("literal[]")]
    | Annotated[list[NormRuleDocument], Tag("list[]")],
    Discriminator(lambda value: "list[]" if isinstance(value, list | tuple) else "literal[]"),
]


class GroupDocument(_Strict):
    """Optimizer settings for what `match` selects."""

    match: _Choice = Field(description="what the settings are for")
    lr_scale: float | None = Field(default=None, ge=0, description="factor on the learning rate")
    weight_decay: float | None = Field(default=None, ge=0, description="weight decay")
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="factor on the rate per block away from the head"
    )


class PlanDocument(_Strict):
    """A freeze plan."""

    unifreeze: Annotated[Literal[1], BeforeValidator(_read_version)] = Field(
        description="version of the plan format"
    )
    rules: list[RuleDocument] = Field(default_factory=list, description="last match wins")
    norm_stats: _NormStats = Field(
        default="hold", description="what the running statistics of frozen norms do"
    )
    dropout: Literal["live", "off"] = Field(
        default="live", description="what stochastic layers in fully frozen blocks do"
    )
    groups: list[GroupDocument] = Field(default_factory=list, description="optimizer settings")
    phases: list[dict[str, JsonValue]] = Field(
        default_factory=list, description="the life of the run; kept, not yet carried out"
    )


def read_document(
    data: object, *, source: str, places: Mapping[str, str] | None = None
) -> FreezePlan:
    """Check a plan given as plain data.

    Args:
        data: What stood in the file.
        source: How messages name it.
        places: For each path (`rules[1].train`), where it stands, such as "line 4".

    Raises:
        PlanFileError: With all mistakes, each at its path.
        PlanVersionError: It is of another format version.
    """
    if not isinstance(data, Mapping):
        raise PlanFileError(source, [f"a plan is a mapping with unifreeze and rules, not {data!r}"])
    _check_version(data, source)
    try:
        document = PlanDocument.model_validate(dict(data))
    except ValidationError as error:
        raise PlanFileError(source, _mistakes(error, places or {})) from None
    return _plan(document)


def _check_version(data: Mapping[Any, Any], source: str) -> None:
    version = data.get("unifreeze")
    if isinstance(version, int) and not isinstance(version, bool) and version != FORMAT:
        newer = version > FORMAT
        raise PlanVersionError(
            f"{source}: the plan is of format version {version}; this release reads {FORMAT}",
            hint="upgrade unifreeze" if newer else f"write unifreeze: {FORMAT}",
        )


def _plan(document: PlanDocument) -> FreezePlan:
    stats = document.norm_stats
    norm_stats: NormStats = (
        stats if isinstance(stats, str) else tuple(rule.value() for rule in stats)
    )
    return FreezePlan(
        tuple(rule.value() for rule in document.rules),
        norm_stats,
        document.dropout,
        tuple(
            Group(group.match, group.lr_scale, group.weight_decay, group.layer_decay)
            for group in document.groups
        ),
        json.dumps(document.phases) if document.phases else "",
    )


def write_document(plan: FreezePlan) -> dict[str, Any]:
    """Return a plan as plain data; fields at their defaults are left out."""
    document: dict[str, Any] = {"unifreeze": FORMAT, "rules": [_rule(r) for r in plan.rules]}
    if plan.norm_stats != "hold":
        document["norm_stats"] = (
            plan.norm_stats
            if isinstance(plan.norm_stats, str)
            else [{rule.verb: _plain(rule.choice)} for rule in plan.norm_stats]
        )
    if plan.dropout != "live":
        document["dropout"] = plan.dropout
    if plan.groups:
        document["groups"] = [_group(group) for group in plan.groups]
    if plan.phases:
        document["phases"] = plan.phases
    return document


def _rule(rule: Rule) -> dict[str, Any]:
    return {rule.verb: _plain(rule.choice), **({"optional": True} if rule.optional else {})}


def _group(group: Group) -> dict[str, Any]:
    settings = {
        "lr_scale": group.lr_scale,
        "weight_decay": group.weight_decay,
        "layer_decay": group.layer_decay,
    }
    # Equal numbers are written alike: 0, 0.0 and -0.0.
    given = {key: float(value) + 0.0 for key, value in settings.items() if value is not None}
    return {"match": _plain(group.match), **given}


def _plain(choice: Choice) -> str | dict[str, str]:
    if isinstance(choice, Selector):
        return str(choice)
    return {name: str(selector) for name, selector in choice}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of plan files, for editors."""
    schema = PlanDocument.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _mistakes(error: ValidationError, places: Mapping[str, str]) -> list[str]:
    lines = []
    for detail in error.errors(include_url=False):
        path = _path(detail["loc"])
        where = f"{place}: " if (place := _place(path, places)) else ""
        lines.append(f"{where}{path or 'plan'}: {_message(detail)}")
    return list(dict.fromkeys(lines))


def _path(location: tuple[int | str, ...]) -> str:
    """Write a location as in `rules[1].train`, without pydantic's names for union members."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith(("literal[", "list[")):
            path += f".{step}" if path else step
    return path


def _place(path: str, places: Mapping[str, str]) -> str:
    while path and path not in places:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return places.get(path, "")


def _message(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        known = _keys(detail["loc"])
        return f"{_unknown(str(detail['loc'][-1]), known)} (known: {', '.join(known)})"
    if detail["type"] == "missing":
        return f"is missing{' (write unifreeze: 1)' if detail['loc'] == ('unifreeze',) else ''}"
    message = detail["msg"].replace("Input should be", "should be").replace("Input", "it")
    if detail["type"] in ("selector", "choice", "verbs"):
        return message
    if detail["type"] == "model_type":
        message = "should be a mapping"
    return f"{message}, not {detail['input']!r}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "rules": RuleDocument,
        "groups": GroupDocument,
        "norm_stats": NormRuleDocument,
    }
    model = models.get(str(location[0]), PlanDocument) if len(location) > 1 else PlanDocument
    return list(model.model_fields)
