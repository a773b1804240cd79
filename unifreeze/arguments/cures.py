"""What to write in place of a value of a wrong type, and how a type is called in words."""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from unifreeze.errors import nearest

_WORDS: dict[Any, str] = {
    types.NoneType: "None",
    str: "text",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    type: "a class",
}


def in_words(wanted: Any) -> str:
    """Write an annotation for people.

    >>> in_words(str | int | None), in_words(Literal["min", "max"]), in_words(Mapping[str, int])
    ('text, a whole number or None', '"min" or "max"', 'a mapping')
    """
    return _either(list(dict.fromkeys(_alternatives(wanted))))


def _alternatives(wanted: Any) -> list[str]:
    origin: Any = get_origin(wanted) or wanted
    args = get_args(wanted)
    if origin in (Union, types.UnionType):
        words = [word for one in args for word in _alternatives(one)]
        is_path, is_selector = Path in args, "a Selector" in words
        gone = {"text"} if is_path or is_selector else set[str]()
        words = ["a selector" if word == "a Selector" else word for word in words]
        return [word for word in words if word not in gone]
    if origin is Literal:
        return [f'"{one}"' for one in args]
    if wanted in _WORDS:
        return [_WORDS[wanted]]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return ["a mapping"]
    if origin is Callable and args and isinstance(args[0], list):
        count = len(args[0])
        return [f"a function of {count or 'no'} argument{'' if count == 1 else 's'}"]
    if origin is Callable:
        return ["a function"]
    if isinstance(origin, type) and issubclass(origin, Iterable) and args:
        return ["a tuple" if origin is tuple else "a list"]
    return [f"a {getattr(origin, '__name__', origin)}"]


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


_PLAN = 'a plan is made by FreezePlan().only("head"), or read: FreezePlan.load("plan.yaml")'
EXAMPLES = {
    "what": 'what="backbone"',
    "match": 'match="head"',
    "place": 'place="encoder"',
    "pattern": 'pattern="head.*"',
    "metrics": 'metrics={"val_loss": 0.41}',
    "metric": 'metric="loss"',
    "mode": 'mode="min"',
    "epoch": "epoch=3, counted from 0",
    "step": "step=100, counted from 0",
    "phase": 'phase=0, or phase="head"',
    "path": 'path="run/plan.yaml"',
    "folder": 'folder="run/best"',
    "lr": "lr=1e-3",
    "lr_scale": "lr_scale=0.1",
    "weight_decay": "weight_decay=0.01",
    "layer_decay": "layer_decay=0.9",
    "cls": "handle.optimizer(torch.optim.AdamW, lr=1e-3), the class itself",
    "examples": "examples=2000",
    "state": "what state_dict() returned",
    "call": "lambda phase: print(phase.name)",
    "policy": '"hold", or [{"hold": "norm & backbone"}, {"update": "norm & head"}]',
    "batch": 'batch=np.zeros((2, 3, 224, 224), "float32")',
    "hints": 'hints={"layer1.0.conv1.weight": "blocks.0.conv1.weight"}',
    "make_model": "make_model=lambda: Net(classes=5), a function that builds it",
    "train": "a function: def train(model, handle): …",
    "evaluate": "a function: def evaluate(model): return accuracy",
    "plans": 'plans={"head": FreezePlan().only("head"), "all": FreezePlan().train("all")}',
    "loss": "loss=lambda model, batch: model(batch[0]).square().mean()",
    "pairing": 'pairing=uf.pair(model, other, batch=batch), or Pairing.load("pairing.json")',
    "rules": 'FreezePlan().only("head").freeze("norm")',
    "groups": 'FreezePlan().with_group("head", lr_scale=10)',
}
"""What parameters of these names look like; one name means the same in every function."""


def cure(place: str, value: Any, wanted: Any) -> str:
    """Return what to write instead.

    Args:
        place: The parameter's name; and where in it the value stands, if not all of it is wrong.
        value: The value.
        wanted: The type of what should stand there.
    """
    name = place.partition("[")[0]
    kinds = {getattr(one, "__name__", "") for one in (wanted, *get_args(wanted))}
    if "Selector" in kinds and isinstance(value, list | tuple | set | frozenset) and value:
        if all(isinstance(one, str) for one in value):
            return f'several selectors are one, joined by |: "{" | ".join(map(str, value))}"'
        return 'several selectors are one, joined by |: "head | blocks[-2:]"'
    if "FreezePlan" in kinds or (name == "rules" and isinstance(value, Mapping)):
        return _plan_cure(value)
    if isinstance(value, type) and value.__name__ in kinds:
        return f"the class is given; an instance is wanted: {value.__name__}(…)"
    if "str" not in kinds and {"int", "float", "bool"} & kinds and _is_quoted(value):
        return f"without quotes: {name}={value}" if place == name else f"without quotes: {value}"
    words = [one for one in _literals(wanted) if isinstance(value, str)]
    if close := nearest(str(value), words, limit=1):
        return f'did you mean "{close[0]}"?'
    if isinstance(value, Mapping) and {"Iterable", "Sequence"} & kinds and "Mapping" not in kinds:
        return f"in a list: {name}=[…]"
    if "Callable" in kinds and name == "step":
        return "for example step=lambda: train_one_step(model), a function that runs one"
    if "Selector" in kinds and name not in EXAMPLES:
        return 'for example "head | blocks[-2:]"'
    if name in EXAMPLES:
        return f"for example {EXAMPLES[name]}"
    return f"leave {name} out, or give {in_words(wanted)}"


def _is_quoted(value: Any) -> bool:
    """Return whether a value is a number, or a truth value, in text."""
    return isinstance(value, str) and bool(
        re.fullmatch(r"[-+.\deE_]*\d[\deE_.]*|True|False", value)
    )


def _literals(wanted: Any) -> list[str]:
    inner = [word for one in get_args(wanted) for word in _literals(one)]
    return [str(one) for one in get_args(wanted)] if get_origin(wanted) is Literal else inner


def _plan_cure(value: Any) -> str:
    if isinstance(value, str | os.PathLike) and str(value).endswith((".yaml", ".yml", ".json")):
        return f"read the file: FreezePlan.load({str(value)!r})"
    if isinstance(value, str) and value.strip():
        return f"make a plan of it: FreezePlan().freeze({value!r}), or .only(…), .train(…)"
    if isinstance(value, Mapping):
        return "make a plan of plain data: FreezePlan.from_document(…)"
    return _PLAN
