"""`schema` and `backends`: the format of plan files, and the installed frameworks."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from unifreeze._cli.output import JsonOption, say, write_json
from unifreeze._plan.document import json_schema
from unifreeze._protocol import backend_names, is_installed, load_backend


def schema(
    json: Annotated[str, typer.Option("--json", metavar="FILE", help="Write it to a file.")] = "-",
) -> None:
    """Print the JSON Schema of plan files, for editors."""
    write_json(json_schema(), json)


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
