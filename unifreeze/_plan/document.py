"""Read and write plans as documents; all mistakes of a document are reported at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from unifreeze._plan.captured_document import CapturedDocument
from unifreeze._plan.entry_document import ENTRIES
from unifreeze._plan.fields import (
    GroupDocument,
    NormRuleDocument,
    NormStatsField,
    RuleDocument,
    Strict,
    unknown_key,
    value_of,
)
from unifreeze._plan.generator_document import GENERATORS
from unifreeze._plan.limits import MOST_PHASES, beyond_limits
from unifreeze._plan.model import FORMAT, FreezePlan
from unifreeze._plan.phase_check import phase_mistakes
from unifreeze._plan.phase_document import (
    PhaseDocument,
    SmallestDocument,
    WarmUpDocument,
)
from unifreeze._plan.plain_parts import NUMBERS, plain
from unifreeze._plan.structure_document import StructureDocument
from unifreeze.errors import PlanFileError, PlanVersionError, brief

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""Numbers that YAML 1.1 takes for text."""


def _read_version(value: object) -> object:
    if isinstance(value, bool | float):
        # Both equal 1 in Python.
        raise PydanticCustomError("version", "should be {want}", {"want": FORMAT})
    return value


class PlanDocument(Strict):
    """A freeze plan."""

    unifreeze: Annotated[Literal[1], BeforeValidator(_read_version)] = Field(
        description="version of the plan format"
    )
    rules: list[RuleDocument] = Field(default_factory=list, description="last match wins")
    norm_stats: NormStatsField = Field(
        default="hold", description="what the running statistics of frozen norms do"
    )
    dropout: Literal["live", "off"] = Field(
        default="live", description="what stochastic layers in fully frozen blocks do"
    )
    groups: list[GroupDocument] = Field(default_factory=list, description="optimizer settings")
    phases: list[PhaseDocument] = Field(
        default_factory=list, max_length=MOST_PHASES, description="the life of a run"
    )
    moments: Literal["keep", "clear"] = Field(
        default="keep", description="what happens to the moments of parameters that a phase freezes"
    )
    order: Literal["executed", "as_described"] = Field(
        default="executed",
        description="how positions are counted; the first forward pass checks it",
    )
    structure: StructureDocument | None = Field(
        default=None, description="where parts of the model are, in place of what is derived"
    )
    captured: CapturedDocument | None = Field(
        default=None, description="what the plan decided where it was captured"
    )

    @field_validator("phases", mode="after")
    @classmethod
    def _can_be_entered(cls, phases: list[PhaseDocument]) -> list[PhaseDocument]:
        mistakes = list(phase_mistakes([phase.value() for phase in phases]))
        if mistakes:
            raise PydanticCustomError("phases", "{text}", {"text": "\n".join(mistakes)})
        return phases


def read_document(
    data: object, *, source: str, places: Mapping[str, str] | None = None
) -> FreezePlan:
    """Check a plan given as plain data.

    Args:
        data: What the file holds.
        source: Name of the file in messages.
        places: The place of each path (`rules[1].train`) in the file, such as "line 4".

    Raises:
        PlanFileError: With all mistakes, each at its path.
        PlanVersionError: The plan has another format version.
    """
    if not isinstance(data, Mapping):
        raise PlanFileError(
            source, [f"a plan is a mapping with unifreeze and rules, not {brief(data)}"]
        )
    if problem := beyond_limits(data):
        raise PlanFileError(source, [problem])
    _check_version(data, source)
    try:
        document = PlanDocument.model_validate(dict(data))
    except ValidationError as error:
        raise PlanFileError(source, _mistakes(error, places or {})) from None
    given = {n: value_of(v) for n, v in document if n != "unifreeze" and v is not None}
    return FreezePlan(**given)


def read_data(data: Mapping[str, Any]) -> FreezePlan:
    """Check plain data from any YAML reader; raises as `read_document` does.

    PyYAML follows YAML 1.1, in which `1e-3` is text and `off` is false.
    """
    if problem := beyond_limits(data):
        raise PlanFileError("plan", [problem])
    document = {key: _as_written(value) for key, value in data.items()}
    if document.get("dropout") is False:
        document["dropout"] = "off"
    return read_document(document, source="plan")


def _as_written(value: Any) -> Any:
    """Read numbers with an exponent where a number is wanted."""
    if isinstance(value, list | tuple):
        return [_as_written(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: float(item)
        if key in NUMBERS and isinstance(item, str) and _EXPONENT.fullmatch(item)
        else _as_written(item)
        for key, item in value.items()
    }


def _check_version(data: Mapping[Any, Any], source: str) -> None:
    version = data.get("unifreeze")
    if isinstance(version, int) and not isinstance(version, bool) and version != FORMAT:
        newer = version > FORMAT
        raise PlanVersionError(
            f"{source}: the plan is of format version {version}; this release reads {FORMAT}",
            hint="upgrade unifreeze" if newer else f"write unifreeze: {FORMAT}",
        )


def write_document(plan: FreezePlan) -> dict[str, Any]:
    """Return a plan as plain data; fields at their defaults are left out."""
    return {"unifreeze": FORMAT, "rules": [], **plain(plan)}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of plan files, for editors."""
    schema = PlanDocument.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _mistakes(error: ValidationError, places: Mapping[str, str]) -> list[str]:
    lines = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "phases":  # several, each with its own path
            lines += [
                _placed(line, line.split(" ")[0], places) for line in detail["msg"].splitlines()
            ]
            continue
        path = _path(detail["loc"])
        lines.append(_placed(f"{path or 'plan'}: {_message(detail)}", path, places))
    return list(dict.fromkeys(lines))


def _placed(text: str, path: str, places: Mapping[str, str]) -> str:
    return f"{place}: {text}" if (place := _place(path, places)) else text


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
        return f"{unknown_key(str(detail['loc'][-1]), known)} (known: {', '.join(known)})"
    if detail["type"] == "missing":
        return f"is missing{' (write unifreeze: 1)' if detail['loc'] == ('unifreeze',) else ''}"
    message = detail["msg"].replace("Input should be", "should be").replace("Input", "it")
    if detail["type"] in ("selector", "choice", "verbs", "keys"):
        return message
    if detail["type"] == "model_type":
        message = "should be a mapping"
    return f"{message}, not {brief(detail['input'])}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "rules": RuleDocument,
        "groups": GroupDocument,
        "norm_stats": NormRuleDocument,
        "phases": PhaseDocument,
        "add": RuleDocument,
        "warmup": WarmUpDocument,
        "freeze_smallest": SmallestDocument,
        **GENERATORS,
        "every": ENTRIES["after"],
        "captured": CapturedDocument,
        "structure": StructureDocument,
        **ENTRIES,
    }
    places = [step for step in location[:-1] if step in models]
    return list((models[str(places[-1])] if places else PlanDocument).model_fields)
