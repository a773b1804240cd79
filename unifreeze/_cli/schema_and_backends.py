"""`schema` and `backends`: the format of plan files, and the installed frameworks."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from unifreeze._cli.find_model import read_plan
from unifreeze._cli.output import JsonOption, say, write_json
from unifreeze._files import read_text
from unifreeze._plan.document import json_schema
from unifreeze._plan.plan_file import SCHEMA_NAME, save_text, with_schema_line
from unifreeze._protocol import backend_names, is_installed, load_backend


def schema(
    json: Annotated[str, typer.Option("--json", metavar="FILE", help="Write it to a file.")] = "",
    install: Annotated[
        Path | None,
        typer.Option(metavar="PLAN", help="Write it beside this plan, and name it in the plan."),
    ] = None,
) -> None:
    """Print the JSON Schema of plan files, for editors."""
    if install is None or json:
        write_json(json_schema(), json or "-")
    if install is not None:
        read_plan(install)
        write_json(json_schema(), str(install.parent / SCHEMA_NAME))
        save_text(install, with_schema_line(read_text(install)))
        say(f"{install.parent / SCHEMA_NAME} written; {install} names it")


def backends(json: JsonOption = "") -> None:
    """List the backends, and which frameworks are installed."""
    rows = [_row(name) for name in backend_names()]
    if json:
        write_json(rows, json)
        return
    for row in rows:
        state = f"{row['version']}, devices: {', '.join(row['devices'])}"
        say(f"{row['name']}: {state if row['installed'] else 'not installed'}")


def _row(name: str) -> dict[str, Any]:
    if not is_installed(name):
        return {"name": name, "installed": False, "version": None, "devices": []}
    devices = list(load_backend(name).capabilities.devices)
    number = getattr(sys.modules.get(name), "__version__", None) or _version(name)
    return {"name": name, "installed": True, "version": str(number), "devices": devices}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
