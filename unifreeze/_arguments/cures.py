"""What to write instead of a value of a wrong type, and the names of types in plain words."""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from unifreeze.errors import counted, nearest

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
        words = [word for arg in args for word in _alternatives(arg)]
        is_path, is_selector = Path in args, "a Selector" in words
        gone = {"text"} if is_path or is_selector else set[str]()
        words = ["a selector" if word == "a Selector" else word for word in words]
        return [word for word in words if word not in gone]
    if origin is Literal:
        return [f'"{arg}"' for arg in args]
    if wanted in _WORDS:
        return [_WORDS[wanted]]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return ["a mapping"]
    if origin is Callable and args and isinstance(args[0], list):
        count = len(args[0])
        return [f"a function of {counted(count, 'argument') if count else 'no arguments'}"]
    if origin is Callable:
        return ["a function"]
    if isinstance(origin, type) and issubclass(origin, Iterable) and args:
        return ["a tuple" if origin is tuple else "a list"]
    return [f"a {getattr(origin, '__name__', origin)}"]


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


_PLAN = 'a plan is made by FreezePlan().only("head"), or read: FreezePlan.load("plan.yaml")'
AT_EPOCH = 'at={"epoch": 5}, counted from 0'
_FILE = 'path="run/trained.safetensors"'
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
    "name": 'name="top"',
    "at": AT_EPOCH,
    "after": 'after={"epochs": 2}',
    "when": 'when={"metric": "val_loss", "stalled_for": 2}',
    "like": 'like="head", the name of an earlier phase',
    "add": 'add=[{"train": "blocks[-2:]"}]',
    "warmup": 'warmup={"steps": 100, "divisor": 10}',
    "norm_stats": 'norm_stats="hold", or [{"hold": "norm & backbone"}, {"update": "norm & head"}]',
    "freeze_smallest": 'freeze_smallest={"share": 20}',
    "gradual_unfreezing": 'gradual_unfreezing={"by": "stages", "every": {"epochs": 2}}',
    "adaptive": 'adaptive={"share": 20, "metric": "val_loss", "stalled_for": 2}',
    "by_gradient": 'by_gradient={"every": {"epochs": 1}, "share": 20, "times": 3}',
    "lisa": 'lisa={"blocks": 2, "every": {"steps": 100}, "periods": 10}',
    "stop_on_rise": 'stop_on_rise={"metric": "val_loss", "reports": 3}',
    "lr": "lr=1e-3",
    "lr_scale": "lr_scale=0.1",
    "weight_decay": "weight_decay=0.01",
    "layer_decay": "layer_decay=0.9",
    "cls": "handle.optimizer(torch.optim.AdamW, lr=1e-3), the class itself",
    "examples": "examples=2000",
    "state": "state=saved, which handle.state_dict() returned",
    "Handle.save_trained.path": _FILE,
    "load_trained.path": _FILE,
    "Saved.save.path": 'path="record.json"',
    "Saved.load.path": 'path="record.json"',
    "RunReport.to_csv.path": 'path="run/report.csv"',
    "Handle.load_trainable_state_dict.state": "state=saved, which handle.trainable_state_dict() "
    "returned",
    "port_file.source": 'source="model.safetensors"; of a live model, uf.port_weights(…)',
    "port_file.target": 'target="model.pdparams"; into a live model, uf.port_weights(…)',
    "port_weights.source": "a live model; of a file, uf.port_file(…)",
    "FreezePlan.from_document.data": 'data={"unifreeze": 1, "rules": [{"only": "head"}]}',
    "FreezePlan.from_yaml.text": "text=plan.to_yaml()",
    "call": "lambda phase: print(phase.name)",
    "policy": '"hold", or [{"hold": "norm & backbone"}, {"update": "norm & head"}]',
    "batch": 'batch=np.zeros((2, 3, 224, 224), "float32"), or "float32[2,3,224,224]"',
    "batches": "batches=loader, or a list: batches=[batch]",
    "hints": 'hints={"layer1.0.conv1.weight": "blocks.0.conv1.weight"}',
    "make_model": "make_model=lambda: Net(classes=5), a function that builds it",
    "train": "a function: def train(model, handle): …",
    "evaluate": "a function: def evaluate(model): return accuracy",
    "layer": 'layer="package.module.MLPLayer", or the class itself',
    "kind": 'kind="linear"',
    "matrix": 'matrix="in x out"',
    "roles": 'roles={"kernel": "weight", "offset": "bias"}',
    "plans": 'plans={"head": FreezePlan().only("head"), "all": FreezePlan().train("all")}',
    "loss": "loss=lambda model, batch: model(batch[0]).square().mean()",
    "pairing": 'pairing=uf.pair(model, other, batch=batch), or Pairing.load("pairing.json")',
    "rules": 'FreezePlan().only("head").freeze("norm")',
    "groups": 'FreezePlan().with_group("head", lr_scale=10)',
}
"""Examples by the name of a parameter; with a function's name before it, for that function only."""
_NORMS = ("policy", "norm_stats")
"""Parameters that take rules for running statistics, or one word for all of them."""


def example(function: str, name: str) -> str:
    """Return an example of a parameter; "" if none is known."""
    return EXAMPLES.get(f"{function}.{name}") or EXAMPLES.get(name, "")


def cure(
    function: str,
    place: str,
    value: Any,
    wanted: Any,
    whole: Any = None,
    *,
    needed: bool = False,
) -> str:
    """Return what to write instead.

    Args:
        function: The function's qualified name.
        place: The parameter's name; and where in it the value stands, if not all of it is wrong.
        value: The value.
        wanted: The type of what should stand there.
        whole: The whole argument, if the value is a part of it.
        needed: It cannot be left out.
    """
    name = place.partition("[")[0]
    kinds = {getattr(alternative, "__name__", "") for alternative in (wanted, *get_args(wanted))}
    return (
        _selectors_cure(name, value, value if whole is None else whole, kinds)
        or _form_cure(name, value, wanted, kinds, part=place != name)
        or _reader(function, value)
        or _example_cure(function, name, kinds)
        or f"{'' if needed else f'leave {name} out, or '}give {in_words(wanted)}"
    )


def _selectors_cure(name: str, value: Any, whole: Any, kinds: set[str]) -> str:
    """Return what to write instead of selectors, or of anything else, where rules are wanted."""
    selector = _as_one(whole)
    if selector and (name in ("rules", "add") or (name in _NORMS and "Mapping" in kinds)):
        return _rule_cure(name, selector, kinds)
    if "Selector" in kinds and isinstance(value, list | tuple | set | frozenset) and value:
        joined = _as_one(value) or '"head | blocks[-2:]"'
        return f"several selectors are one, joined by |: {joined}"
    if "FreezePlan" in kinds or (name == "rules" and isinstance(value, Mapping)):
        return _plan_cure(value)
    return ""


def _form_cure(name: str, value: Any, wanted: Any, kinds: set[str], *, part: bool) -> str:
    """Return what to write instead of a value that is only given in a wrong form."""
    if isinstance(value, type) and value.__name__ in kinds:
        return f"the class is given; an instance is wanted: {value.__name__}(…)"
    if "str" not in kinds and {"int", "float", "bool"} & kinds and _is_quoted(value):
        return f"without quotes: {value}" if part else f"without quotes: {name}={value}"
    words = _literals(wanted) if isinstance(value, str) else []
    if close := nearest(str(value), words, limit=1):
        return f'did you mean "{close[0]}"?'
    if isinstance(value, Mapping) and {"Iterable", "Sequence"} & kinds and "Mapping" not in kinds:
        return f"in a list: {name}=[…]"
    return ""


def _example_cure(function: str, name: str, kinds: set[str]) -> str:
    """Return an example of what a parameter takes; "" if none is known."""
    if "Callable" in kinds and name == "step":
        return "for example step=lambda: train_one_step(model), a function that runs one"
    known = example(function, name)
    if "Selector" in kinds and not known:
        known = '"head | blocks[-2:]"'
    return f"for example {known}" if known else ""


def _reader(function: str, value: Any) -> str:
    """Return which function reads a plan in the form of a value; "" if none does."""
    if function.rpartition(".")[2] not in ("from_document", "from_yaml", "load"):
        return ""
    if not function.startswith("FreezePlan."):
        return ""
    if isinstance(value, Mapping):
        return "plain data is read by FreezePlan.from_document(…)"
    if isinstance(value, os.PathLike):
        return f"a file is read by FreezePlan.load({os.fsdecode(value)!r})"
    if isinstance(value, str) and value.strip():
        return plan_reader(value)
    return ""


def plan_reader(text: str) -> str:
    """Return which function reads a text, which is a plan or the name of a file."""
    if is_plan_text(text):
        return "the text of a plan is read by FreezePlan.from_yaml(text)"
    return f"a file is read by FreezePlan.load({text!r})"


def is_plan_text(text: str) -> bool:
    """Return whether a text is more likely a plan than the name of a file."""
    return "\n" in text or bool(re.match(r"\s*[{]|\s*\w+:(\s|$)", text))


def path_problem(value: Any, wanted: Any) -> tuple[str, str]:
    """Return why a text cannot be the path that is wanted, and what to write; "" if it can."""
    if Path not in (wanted, *get_args(wanted)) or not isinstance(value, str | os.PathLike):
        return "", ""
    text = os.fsdecode(value)
    if "\0" in text:
        return r"and a path cannot hold the character \0", r'r"C:\data", with an r before it'
    home = text.replace("\\", "/").partition("/")[0]
    if home.startswith("~") and not _exists(home):
        return (
            f"and there is no folder {home}: Python does not replace it",
            f"Path({text!r}).expanduser()",
        )
    return "", ""


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # the name is too long
        return False


def _as_one(value: Any) -> str:
    """Join one or several selectors in text to one, in quotes; "" for anything else."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple | set | frozenset) or not given:
        return ""
    given = sorted(given, key=str) if isinstance(given, set | frozenset) else given
    words = [str(item) for item in given if type(item).__name__ in ("str", "Selector")]
    return f'"{" | ".join(words)}"' if len(words) == len(given) and "".join(words) else ""


def _rule_cure(name: str, selector: str, kinds: set[str]) -> str:
    """Write a selector that is given instead of rules as a rule."""
    if kinds & {"tuple", "Rule"}:
        return f"a plan is made by FreezePlan().only({selector}), .freeze(…) and .train(…)"
    verb = {"rules": "only", "add": "train"}.get(name, "hold")
    return f'a rule says what to do: {name}=[{{"{verb}": {selector}}}]'


def _is_quoted(value: Any) -> bool:
    """Return whether a value is a number, or a truth value, in text."""
    return isinstance(value, str) and bool(
        re.fullmatch(r"[-+.\deE_]*\d[\deE_.]*|True|False", value)
    )


def _literals(wanted: Any) -> list[str]:
    if get_origin(wanted) is Literal:
        return [str(word) for word in get_args(wanted)]
    return [word for alternative in get_args(wanted) for word in _literals(alternative)]


def _plan_cure(value: Any) -> str:
    if isinstance(value, str | os.PathLike) and str(value).endswith((".yaml", ".yml", ".json")):
        return f"read the file: FreezePlan.load({str(value)!r})"
    if isinstance(value, str) and is_plan_text(value):
        return plan_reader(value)
    if isinstance(value, str) and value.strip():
        return f"make a plan of it: FreezePlan().freeze({value!r}), or .only(…), .train(…)"
    if isinstance(value, Mapping):
        return "make a plan of plain data: FreezePlan.from_document(…)"
    return _PLAN
