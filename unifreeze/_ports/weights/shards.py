"""Weights in several files (shards): an index says which tensor is in which file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unifreeze._files import is_file, is_folder, read_text, unique_keys
from unifreeze._numerics.projections import Array
from unifreeze._ports.weights.contents import WeightFile, check_ordinary
from unifreeze.errors import WeightFileError, listing

INDEXES = (
    "model.safetensors.index.json",
    "model_state.pdparams.index.json",
    "pytorch_model.bin.index.json",
)
SINGLE = ("model.safetensors", "model_state.pdparams", "pytorch_model.bin")
MOST_INDEX = 50_000_000


def weights_in(folder: Path) -> Path:
    """Return the weight file, or the index, in a model's folder; safetensors if there is a choice.

    Raises:
        WeightFileError: There is no file with a usual name.
    """
    for index, single in zip(INDEXES, SINGLE, strict=True):
        for name in (single, index):
            if is_file(folder / name):
                return folder / name
    present = listing(sorted(entry.name for entry in folder.iterdir()))
    raise WeightFileError(
        f"{folder} is a folder without weights under a usual name",
        context=f"looked for {', '.join((*SINGLE, *INDEXES))}; found {present or 'nothing'}",
        hint="name the file",
    )


def files_of(path: Path) -> list[Path]:
    """Return all files that are read for a weight file, an index or a model's folder.

    Raises:
        WeightFileError: The index is broken, or there are no weights in the folder.
    """
    path = weights_in(path) if is_folder(path) else path
    if not path.name.endswith(".index.json"):
        return [path]
    placed = _weight_map(path)
    return [path, *(path.parent / name for name in dict.fromkeys(placed.values()))]


def open_index(path: Path, opening: Callable[[Path], WeightFile]) -> WeightFile:
    """Open all files that an index lists as one weight file.

    Args:
        path: The index.
        opening: Opens one file.

    Raises:
        WeightFileError: The index is broken, a file is missing or outside the folder, or a file
            does not hold exactly what the index says.
    """
    placed = _weight_map(path)
    with ExitStack() as stack:
        files = {}
        for name in dict.fromkeys(placed.values()):
            files[name] = stack.enter_context(opening(path.parent / name))
        _check_shards(path, placed, files)
        close = stack.pop_all().close

    def load(name: str) -> Array:
        return files[placed[name]].read(name)

    names = [name for file in files.values() for name in file.names]
    entries = {name: files[placed[name]].entry(name) for name in names}
    tied = {name: target for file in files.values() for name, target in file.aliases.items()}
    ignored = [f"{shard}: {key}" for shard, file in files.items() for key in file.ignored]
    metadata = {key: text for file in files.values() for key, text in file.metadata.items()}
    return WeightFile(
        str(path), entries, load, metadata=metadata, tied=tied, ignored=ignored, close=close
    )


def _read(path: Path) -> Any:
    try:
        check_ordinary(path)
        text = read_text(path, at_most=MOST_INDEX)
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise WeightFileError(f"{path} is not an index of weights", context=str(error)) from None


def _weight_map(path: Path) -> dict[str, str]:
    """Read which tensor is in which file, and check the files' names."""
    index = _read(path)
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(v, str) for v in placed.values()):
        raise WeightFileError(
            f"{path} is not an index of weights",
            context="it has no weight_map from names to files",
        )
    outside = sorted({file for file in placed.values() if not _is_plain_name(file)})
    if outside:
        raise WeightFileError(
            f"{path} names files outside its folder: {listing(map(repr, outside))}",
            hint="nothing was opened; files stand beside their index",
        )
    absent = sorted({file for file in placed.values() if not is_file(path.parent / file)})
    if absent:
        raise WeightFileError(
            f"{path} names files that are not there: {listing(absent)}",
            hint="download them into the folder of the index",
        )
    return placed


def _is_plain_name(file: str) -> bool:
    return bool(file) and file not in (".", "..") and not set(file) & set("/\\:\0")


def _check_shards(path: Path, placed: Mapping[str, str], files: Mapping[str, WeightFile]) -> None:
    held = {(name, shard) for shard, file in files.items() for name in file.names}
    lacking = sorted(f"{name} in {shard}" for name, shard in set(placed.items()) - held)
    beyond = sorted(f"{name} in {shard}" for name, shard in held - set(placed.items()))
    if lacking or beyond:
        rows = [f"missing: {listing(lacking)}"] * bool(lacking)
        rows += [f"not in the index: {listing(beyond)}"] * bool(beyond)
        raise WeightFileError(f"{path} and its files do not agree", context="\n".join(rows))
