"""Plan files: YAML read so that it means what it looks like, and nothing in it is executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from unifreeze.errors import PlanFileError
from unifreeze.plan.document import read_document
from unifreeze.plan.model import FreezePlan


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of plain words, where PyYAML has 1.1's.

    `1e-4` is a number and `off` is a word; in YAML 1.1 the first is text and the second false.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own shape
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing a key that stands twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|nan)$"),
    list("-+0123456789."),
)


def load_plan(path: Path) -> FreezePlan:
    """Read a plan file; raises as `FreezePlan.load` does."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PlanFileError(str(path), [f"cannot be read: {reason}"]) from None
    return parse_plan(text, source=str(path))


def parse_plan(text: str, *, source: str) -> FreezePlan:
    """Read a plan from YAML text; `source` is how messages name it."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise PlanFileError(source, [_yaml_mistake(error)]) from None
    return read_document(data, source=source, places=_places(node))


def plan_text(plan: FreezePlan) -> str:
    """Return a plan as YAML text; expressions are quoted."""
    return yaml.dump(
        plan.document(), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=100
    )


class _Dumper(yaml.SafeDumper):
    """Quotes every text but keys, so that no reader takes an expression for something else."""

    def represent_mapping(
        self, tag: str, mapping: Any, flow_style: bool | None = None
    ) -> yaml.MappingNode:
        """Write keys plain and text values in double quotes."""
        node = super().represent_mapping(tag, mapping, flow_style=flow_style)
        for key, value in node.value:
            key.style = None
            if isinstance(value, yaml.ScalarNode) and value.tag == "tag:yaml.org,2002:str":
                value.style = '"'
        return node


def _yaml_mistake(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if tag := re.search(r"constructor for the tag '(.*)'", problem):
        problem = f"tag {tag[1]!r} is refused; plans are plain data, and nothing in them runs"
    elif "alias" in str(error):
        problem += '; put selectors in quotes: "**.bias"'
    return f"line {mark.line + 1}: {problem}" if mark else problem


def _places(node: yaml.Node | None, path: str = "") -> dict[str, str]:
    """Map every path in a document to the line it stands on."""
    if node is None:
        return {}
    places = {path: f"line {node.start_mark.line + 1}"} if path else {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = f"{path}.{key.value}" if path else str(key.value)
            places |= _places(value, below)
            places[below] = f"line {key.start_mark.line + 1}"
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            places |= _places(value, f"{path}[{number}]")
    return places
