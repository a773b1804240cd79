"""`cache`: the kept rows in a folder, listed, checked or deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unifreeze._cache.folders import KeptGroup, clear, groups_in
from unifreeze._cli.output import JsonOption, say, write_json
from unifreeze._tables import human_bytes
from unifreeze.errors import TargetError, counted, listing

_ACTIONS = ("info", "check", "clear")


def cache(
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="info, check or clear.", show_default=False)
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Of a cached block.", show_default=False),
    ],
    json: JsonOption = "",
) -> None:
    """List, check or delete the rows that a cached block has kept in a folder."""
    if action not in _ACTIONS:
        raise TargetError(
            f"{action!r} is not something to do with a cache",
            hint=f"one of {listing(_ACTIONS)}: unifreeze cache info {folder}",
        )
    if action == "clear":
        freed = clear(folder)
        write_json({"freed": freed}, json) if json else say(f"{human_bytes(freed)} deleted")
        return
    groups = list(groups_in(folder, values=action == "check"))
    if json:
        write_json([_plain(group) for group in groups], json)
        return
    for group in groups:
        manifest = group.manifest
        say(f"{group.folder.name}: {manifest.model}, {manifest.framework}")
        say(f"  {counted(group.rows, 'row')} in {counted(group.files, 'file')}, "
            f"{human_bytes(group.nbytes)}, as {manifest.dtype}")  # fmt: skip
        say(f"  outputs of {listing(manifest.outputs_of)}")
        say(f"  same bits: {manifest.exact}")
    if action == "check":
        say("all files are whole")


def _plain(group: KeptGroup) -> dict[str, Any]:
    manifest = group.manifest.model_dump()
    return {**manifest, "files": group.files, "rows": group.rows, "bytes": group.nbytes}
