"""Read YAML 1.2 as plain data: nothing runs, nothing is copied, and sizes have limits.

Aliases and merge keys are refused: with them, a few hundred characters stand for gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from unifreeze._plan.limits import (
    DEEPEST,
    LARGEST_NUMBER,
    MOST_CHARACTERS,
    MOST_VALUES,
    TOO_DEEP,
    TOO_LARGE,
    TOO_LONG,
    TOO_MANY,
)
from unifreeze.errors import brief, cut

INT, FLOAT, BOOL, NULL = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))
FLOAT_PATTERN = re.compile(
    r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"
)
_PATTERNS = {
    NULL: (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    BOOL: (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    INT: (re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")),
    FLOAT: (FLOAT_PATTERN, list("-+0123456789.")),
}


class _Loader(yaml.SafeLoader):
    """Reads plain words as YAML 1.2 does, where PyYAML follows YAML 1.1.

    `1e-4` is a number, `off` is a word and `1:30` is text; in YAML 1.1 they are text, false and 90.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own shape
    yaml_constructors = {  # noqa: RUF012 - PyYAML's own shape
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.endswith((":null", ":str", ":seq", ":map"))
    }
    values = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, unless it is an alias or more than a plan may hold."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.values, self.depth = self.values + 1, self.depth + 1
        if self.values > MOST_VALUES or self.depth > DEEPEST + 1:
            raise _refused(TOO_MANY if self.depth <= DEEPEST else TOO_DEEP, event)
        if isinstance(event, yaml.AliasEvent):
            name = cut(event.anchor or "", 40)
            hint = f'write it out; put selectors in quotes: "*{name}"'
            raise _refused(f"alias *{name} is refused; {hint}", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _refused(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _read_scalar(loader: _Loader, node: yaml.Node) -> Any:
    """Read a number or a truth value; a tag in the text can claim one where there is none."""
    text = loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else ""
    if not isinstance(node, yaml.ScalarNode) or not _PATTERNS[node.tag][0].match(text):
        raise _refused(f"{brief(text)} is not a YAML {node.tag.rpartition(':')[2]}", node)
    if node.tag == BOOL:
        return text.lower() == "true"
    if node.tag == FLOAT:
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    if len(text) > 20 or not -LARGEST_NUMBER <= int(text) <= LARGEST_NUMBER:
        raise _refused(TOO_LARGE, node)
    return int(text)


for _tag, (_pattern, _firsts) in _PATTERNS.items():
    _Loader.add_implicit_resolver(_tag, _pattern, _firsts)
    if _tag != NULL:
        _Loader.add_constructor(_tag, _read_scalar)


def read_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Read a text.

    Returns:
        The plain data, and the nodes it was read from, for their places in the text.

    Raises:
        ValueError: It is not YAML, or goes beyond what a plan may hold; the message names the line.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(TOO_LONG)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(_in_words(error)) from None


def _in_words(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    if tag := re.search(r"constructor for the tag '(.*)'", problem, re.DOTALL):
        name = brief(tag[1])
        problem = f"tag {name} is refused; plans are plain data, and nothing in them runs"
    elif "alias" in str(error) and "is refused" not in problem:
        problem += '; put selectors in quotes: "**.bias"'
    return f"line {mark.line + 1}: {cut(problem, 200)}" if mark else cut(problem, 200)


def repeated_and_merged_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield a mistake for each key that YAML itself would drop or replace without a word."""
    for below in _nodes(node):
        seen: set[str] = set()
        for key, _ in below.value if isinstance(below, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = f"line {key.start_mark.line + 1}"
            if key.value in seen:
                yield f"{line}: key {brief(key.value)} stands twice"
            elif key.value == "<<" and key.style is None:
                yield f"{line}: the merge key << is refused; write the keys out"
            seen.add(key.value)


def places(node: yaml.Node | None, path: str = "") -> dict[str, str]:
    """Map every path in a document to the line it stands on."""
    found: dict[str, str] = {}
    if node is not None:
        _add_places(node, path, found)
    return found


def _nodes(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield a node and all below it."""
    if node is None:
        return
    yield node
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for below in child if isinstance(child, tuple) else (child,):
            yield from _nodes(below)


def _add_places(node: yaml.Node, path: str, lines: dict[str, str]) -> None:
    if path:
        lines.setdefault(path, f"line {node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = cut(str(key.value), 80) if isinstance(key, yaml.ScalarNode) else "?"
            below = f"{path}.{name}" if path else name
            lines[below] = f"line {key.start_mark.line + 1}"
            _add_places(value, below, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _add_places(value, f"{path}[{number}]", lines)
