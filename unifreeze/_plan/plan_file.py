"""Read and write plan files: YAML 1.2, of which nothing is executed, with limits on its size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from unifreeze._arguments.cures import is_plan_text, plan_reader
from unifreeze._files import read_text
from unifreeze._plan.document import read_document
from unifreeze._plan.limits import MOST_CHARACTERS
from unifreeze._plan.model import FreezePlan
from unifreeze._plan.yaml_text import (
    FLOAT,
    FLOAT_PATTERN,
    places,
    read_yaml,
    repeated_and_merged_keys,
)
from unifreeze._whole_files import write_text, writing_hint
from unifreeze._wrong_files import meant
from unifreeze.errors import PlanFileError, brief

PLAN_SUFFIXES = (".yaml", ".yml")
SCHEMA_NAME = "unifreeze-plan.schema.json"
SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA_NAME}"
"""What the YAML servers of VS Code, Neovim and the JetBrains editors look for."""


def load_plan(path: Path) -> FreezePlan:
    """Read a plan file; raises as `FreezePlan.load` does."""
    try:
        text = read_text(path, at_most=4 * MOST_CHARACTERS)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if is_plan_text(str(path)):
            raise PlanFileError(
                brief(str(path)), ["is not the name of a file"], hint=plan_reader(str(path))
            ) from None
        hint = meant(path, PLAN_SUFFIXES)
        if isinstance(error, FileNotFoundError) and not hint:
            hint = f"give a file that is there; looked in {path.absolute().parent}"
        if "looks like" in str(reason):
            hint = "a plan file is YAML, such as: unifreeze: 1, rules: [{only: head}]"
        raise PlanFileError(str(path), [f"cannot be read: {reason}"], hint=hint) from None
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
        data, node = read_yaml(text)
    except ValueError as error:
        raise PlanFileError(source, [str(error)]) from None
    dropped = list(repeated_and_merged_keys(node))
    try:
        plan = read_document(data, source=source, places=places(node))
    except PlanFileError as error:
        raise PlanFileError(source, [*dropped, *error.mistakes]) from None
    if dropped:
        raise PlanFileError(source, dropped)
    return plan


def save_text(path: str | Path, text: str) -> None:
    """Write the text of a plan file; a reader sees all of it or the file that was there before.

    If the schema of plan files stands beside it, the first line tells editors to use it. Without
    the schema the line would be an error in every editor.

    Raises:
        PlanFileError: The file cannot be written.
    """
    try:
        has_schema = (Path(path).parent / SCHEMA_NAME).is_file()
        write_text(Path(path), with_schema_line(text) if has_schema else text)
    except (OSError, ValueError) as error:
        mistakes = [f"cannot be written: {getattr(error, 'strerror', None) or error}"]
        raise PlanFileError(str(path), mistakes, hint=writing_hint(error)) from None


def with_schema_line(text: str) -> str:
    """Return the text of a plan file with the line that names its schema to editors."""
    return text if SCHEMA_LINE in text.splitlines() else f"{SCHEMA_LINE}\n{text}"


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
_Dumper.add_implicit_resolver(FLOAT, FLOAT_PATTERN, list("-+0123456789."))
