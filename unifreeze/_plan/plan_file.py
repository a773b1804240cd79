"""Read and write plan files: YAML 1.2, of which nothing is executed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from unifreeze._arguments.cures import is_plan_text, plan_reader
from unifreeze._files import read_text, writing_hint
from unifreeze._plan.document import read_document
from unifreeze._plan.model import FreezePlan
from unifreeze.errors import PlanFileError, brief


class _Loader(yaml.SafeLoader):
    """Reads plain words as YAML 1.2 does, where PyYAML follows YAML 1.1.

    `1e-4` is a number, `off` is a word and `1:30` is text; in YAML 1.1 they are text, false and 90.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own shape
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _read_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_FLOAT_PATTERN = re.compile(
    r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(_FLOAT, _FLOAT_PATTERN, list("-+0123456789."))
_Loader.add_constructor(_INT, _read_int)


def load_plan(path: Path) -> FreezePlan:
    """Read a plan file; raises as `FreezePlan.load` does."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if is_plan_text(str(path)):
            raise PlanFileError(
                brief(str(path)), ["is not the name of a file"], hint=plan_reader(str(path))
            ) from None
        raise PlanFileError(str(path), [f"cannot be read: {reason}"]) from None
    return parse_plan(text, source=str(path))


def parse_text(text: str) -> FreezePlan:
    """Read a plan from YAML text; raises as `FreezePlan.from_yaml` does."""
    try:
        return parse_plan(text, source="plan")
    except PlanFileError as error:
        hint = "" if not text.strip() or is_plan_text(text) else plan_reader(text)
        raise PlanFileError("plan", error.mistakes, hint=hint) from None


def parse_plan(text: str, *, source: str) -> FreezePlan:
    """Read a plan from YAML text; `source` is how messages name it."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise PlanFileError(source, [_yaml_mistake(error)]) from None
    except RecursionError:
        raise PlanFileError(source, ["it is nested too deeply"]) from None
    repeated = list(_repeated_keys(node))
    try:
        plan = read_document(data, source=source, places=_places(node, set()))
    except PlanFileError as error:
        raise PlanFileError(source, [*repeated, *error.mistakes]) from None
    if repeated:
        raise PlanFileError(source, repeated)
    return plan


def save_text(path: str | Path, text: str) -> None:
    """Write the text of a plan file.

    Raises:
        PlanFileError: The file cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        mistakes = [f"cannot be written: {error.strerror}"]
        raise PlanFileError(str(path), mistakes, hint=writing_hint(error)) from None


def plan_text(plan: FreezePlan) -> str:
    """Return a plan as YAML text; expressions are quoted, and a phase stands in one line."""
    document = plan.document()
    document |= {"phases": list(map(_Line, document["phases"]))} if plan.phases else {}
    for rows in _tables(document):
        rows.update({key: _Line(row) for key, row in rows.items() if isinstance(row, dict)})
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=100)


def _tables(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the mappings of a document whose members stand in one line each."""
    captured = document.get("captured", {})
    yield from (captured[key] for key in ("frozen", "layers") if key in captured)
    yield from (rows for sets in captured.get("branches", {}).values() for rows in sets)
    if "held" in captured:
        captured["held"] = _Line(captured["held"])


class _Line(dict[str, Any]):
    """A mapping to be written in one line, if it is short enough."""


class _Dumper(yaml.SafeDumper):
    """Puts every text but keys in quotes, so that no reader takes a selector for something else."""

    def represent_scalar(self, tag: str, value: Any, style: str | None = None) -> yaml.ScalarNode:
        """Write text in double quotes."""
        quoted = '"' if tag == "tag:yaml.org,2002:str" else style
        return super().represent_scalar(tag, value, style=quoted)

    def represent_mapping(
        self, tag: str, mapping: Any, flow_style: bool | None = None
    ) -> yaml.MappingNode:
        """Write keys without quotes; keys of a plan are plain words."""
        node = super().represent_mapping(tag, mapping, flow_style=flow_style)
        for key, _ in node.value:
            key.style = None
        return node


_Dumper.add_representer(
    _Line, lambda dumper, line: dumper.represent_mapping("tag:yaml.org,2002:map", line, True)
)
_Dumper.add_implicit_resolver(_FLOAT, _FLOAT_PATTERN, list("-+0123456789."))


def _yaml_mistake(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if tag := re.search(r"constructor for the tag '(.*)'", problem):
        problem = f"tag {tag[1]!r} is refused; plans are plain data, and nothing in them runs"
    elif "alias" in str(error):
        problem += '; put selectors in quotes: "**.bias"'
    return f"line {mark.line + 1}: {problem}" if mark else problem


def _repeated_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield a mistake for each key that a mapping has twice; YAML itself would drop the first."""
    for below in _nodes(node, set()):
        seen: set[str] = set()
        for key, _ in below.value if isinstance(below, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield f"line {key.start_mark.line + 1}: key {key.value!r} stands twice"
                seen.add(key.value)


def _nodes(node: yaml.Node | None, seen: set[int]) -> Iterator[yaml.Node]:
    """Yield a node and all below it, each once: an alias can refer to a node that it is in."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    yield node
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for below in child if isinstance(child, tuple) else (child,):
            yield from _nodes(below, seen)


def _places(node: yaml.Node | None, seen: set[int], path: str = "") -> dict[str, str]:
    """Map every path in a document to the line it stands on."""
    if node is None or id(node) in seen:
        return {}
    seen.add(id(node))
    places = {path: f"line {node.start_mark.line + 1}"} if path else {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = f"{path}.{key.value}" if path else str(key.value)
            places |= _places(value, seen, below)
            places[below] = f"line {key.start_mark.line + 1}"
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            places |= _places(value, seen, f"{path}[{number}]")
    return places
