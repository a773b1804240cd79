"""Turns the parts of a plan into plain data; what is at its default is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from unifreeze._plan.generators import StopOnRise
from unifreeze._plan.parts import NormRule, Rule
from unifreeze._plan.phases import After, At, When
from unifreeze._plan.selectors import Selector
from unifreeze._plan.structure import Part, plain_structure

NUMBERS = ("lr", "weight_decay", "lr_scale", "layer_decay", "divisor", "min_delta")
"""Settings that may have a fraction."""
_ALWAYS = ("seed", "frozen")
"""What is written at its default, too."""


def plain(part: Any) -> Any:
    """Return a part of a plan, or several in a tuple or mapping, as plain data."""
    match part:
        case Rule(verb, choice, optional):
            return {verb: plain(choice), **({"optional": True} if optional else {})}
        case NormRule(verb, choice):
            return {verb: plain(choice)}
        case At(unit, count):
            return {unit: count}
        case After(unit, count):
            return {f"{unit}s": count}
        case When():
            given = _settings(part)
            turned = f"{given.pop('turn')}_for"
            return {"metric": given.pop("metric"), turned: given.pop("reports"), **given}
        case StopOnRise(when):
            condition = plain(when)
            return {"reports": condition.pop("risen_for"), **condition}
        case Selector():
            return str(part)
        case [(str(), Selector()), *_]:  # a choice by framework
            return {name: str(selector) for name, selector in part}
        case [Part(), *_]:
            return plain_structure(part)
        case tuple() | list():
            return [plain(item) for item in part]
        case Mapping():
            return {key: plain(value) for key, value in part.items()}
    return _settings(part) if hasattr(part, "__dataclass_fields__") else part


def _settings(part: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for field in fields(part):
        value, default = getattr(part, field.name), field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        if value == default and field.name not in _ALWAYS:
            continue
        if field.name == "entry":
            settings[type(value).__name__.lower()] = plain(value)
        elif field.name == "generator":
            settings[value.key] = plain(value)
        elif field.name == "when":  # of a generator
            settings |= plain(value)
        else:
            # Equal numbers look equal, so -0.0 becomes 0.0.
            settings[field.name] = float(value) + 0.0 if field.name in NUMBERS else plain(value)
    return settings
