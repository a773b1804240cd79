"""`cache`: the kept rows in a folder: filled before training, listed, checked or deleted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from unifreeze._cache.folders import KeptGroup, clear, groups_in
from unifreeze._cli.find_model import load_data, load_model_with, read_plan
from unifreeze._cli.output import (
    BROKEN,
    BackendOption,
    JsonOption,
    SeedOption,
    complain,
    say,
    write_json,
)
from unifreeze._cli.progress_bars import progress_bars
from unifreeze._handle import Handle
from unifreeze._tables import human_bytes
from unifreeze.errors import TargetError, counted, listing

_ACTIONS = ("info", "check", "clear", "fill")
_FILL = "unifreeze cache fill plan.yaml ./nets.py:make ./data.py:batches -o rows"


def cache(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="info, check, clear or fill.")],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER | PLAN MODEL DATA",
            help="The folder of a cached block; for fill a plan file, a model, and what yields "
            "the batches that it is called with: package.module:factory or ./file.py:factory.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="The folder to fill.")
    ] = None,
    ids: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the input that holds the ids of samples.")
    ] = "",
    dtype: Annotated[str, typer.Option(help="How floating values are kept.")] = "float32",
    prefix: Annotated[
        str,
        typer.Option(help="How frozen modules run: exact, inference, bfloat16 or compile."),
    ] = "exact",
    budget: Annotated[str, typer.Option(help="The most bytes that are kept.")] = "20GB",
    validation: Annotated[
        bool,
        typer.Option("--validation", help="Keep rows of the model in eval mode, without gradient."),
    ] = False,
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Fill a cache before training; list, check or delete the rows in its folder."""
    if action not in _ACTIONS:
        raise TargetError(
            f"{action!r} is not something to do with a cache",
            hint=f"one of {listing(_ACTIONS)}: unifreeze cache info {words[0]}",
        )
    if action == "fill":
        if len(words) != 3 or output is None:
            given = counted(len(words), "word")
            raise TargetError(
                f"fill takes a plan, a model, data and a folder, and has {given}"
                f"{'' if output else ' and no -o'}",
                hint=_FILL,
            )
        settings = {"folder": output, "dtype": dtype, "budget": budget, "ids": ids or None}
        settings["prefix"] = prefix
        plan, (live, framework) = (
            read_plan(Path(words[0])),
            load_model_with(backend, words[1], seed=seed),
        )
        batches = load_data(words[2], seed=seed)
        handle = plan.apply(live)
        framework.train_mode(live)
        _fill(handle, framework, batches, settings, json, validation=validation)
        return
    if len(words) != 1:
        raise TargetError(
            f"{action} takes one folder, and has {counted(len(words), 'word')}",
            hint=f"unifreeze cache {action} {words[0]}",
        )
    _look(action, Path(words[0]), json)


def _fill(
    handle: Handle,
    backend: Any,
    batches: Iterable[Any],
    settings: dict[str, Any],
    json: str,
    *,
    validation: bool,
) -> None:
    """Keep the rows of all batches, and print what was kept; ends with 1 if some were not."""
    with handle.cached(**settings) as run, progress_bars() as show:
        if validation:
            handle.model.eval()
        with backend.with_gradient(enabled=not validation):
            run.fill(batches, show)
    counts = run.counts
    if json:
        kept = {"kept": counts.misses, "known": counts.hits, "uncached": counts.uncached}
        write_json({**kept, "folder": str(settings["folder"])}, json)
    else:
        say(str(run))
    if not run.complete:
        complain(f"some rows could not be kept in {settings['folder']}")
        raise typer.Exit(BROKEN)


def _look(action: str, folder: Path, json: str) -> None:
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
        if manifest.prefix != "exact":
            say(f"  prefix: {manifest.prefix}")
        say(f"  outputs of {listing(manifest.outputs_of)}")
        say(f"  same bits: {manifest.exact}")
    if action == "check":
        say("all files are whole")


def _plain(group: KeptGroup) -> dict[str, Any]:
    manifest = group.manifest.model_dump()
    return {**manifest, "files": group.files, "rows": group.rows, "bytes": group.nbytes}
