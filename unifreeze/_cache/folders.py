"""Folders of kept rows, looked at from outside of a run: listed, checked, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unifreeze._cache.folder_store import MANIFEST, REPLAY, Manifest
from unifreeze._cache.shards import Shard
from unifreeze._files import is_folder
from unifreeze._whole_files import clear_unfinished
from unifreeze._wrong_files import meant
from unifreeze.errors import CacheError


class KeptGroup(NamedTuple):
    """The rows of one frozen part in a folder.

    Attributes:
        folder: Their folder.
        manifest: What they are of.
        files: How many files they are in.
        rows: How many there are.
        nbytes: How many bytes they take.
    """

    folder: Path
    manifest: Manifest
    files: int
    rows: int
    nbytes: int


def groups_in(folder: Path, *, values: bool = False) -> Iterator[KeptGroup]:
    """Yield the groups of rows in a folder.

    Args:
        folder: The folder that a cached block was given.
        values: Read all values and compare their digests, too.

    Raises:
        CacheError: It is not such a folder, or a file in it is damaged.
    """
    for place in _places(folder):
        manifest = Manifest.load(place / MANIFEST)
        shards = [Shard(path, manifest.group) for path in sorted(place.glob("*.safetensors"))]
        if values:
            for shard in shards:
                shard.check()
        rows = {key for shard in shards for key in shard.keys}
        size = sum(shard.nbytes for shard in shards)
        yield KeptGroup(place, manifest, len(shards), len(rows), size)


def clear(folder: Path) -> int:
    """Delete the rows in a folder, and nothing else; return how many bytes that frees.

    Raises:
        CacheError: It is not a folder of kept rows, or cannot be deleted. Where it holds a
            manifest that is not of kept rows, nothing is deleted.
    """
    freed, places = 0, _places(folder)
    for place in places:
        if Manifest.load(place / MANIFEST).group != place.name:
            raise CacheError(f"{place / MANIFEST} is of other rows than its folder")
    for place in places:
        try:
            own = [place / REPLAY] if (place / REPLAY).exists() else []
            for file in [*place.glob("*.safetensors"), *own, place / MANIFEST]:
                freed += file.lstat().st_size
                file.unlink()
            clear_unfinished(place)
            if not any(place.iterdir()):
                place.rmdir()
        except OSError as error:
            raise CacheError(f"cannot delete {place}: {error.strerror or error}") from None
    return freed


def _places(folder: Path) -> list[Path]:
    """Return the folders of groups."""
    if not is_folder(folder):
        hint = meant(folder, ()) or "give the folder of a cached block"
        raise CacheError(f"there is no folder {folder}", hint=hint)
    places = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not places:
        raise CacheError(
            f"{folder} holds no kept rows", hint="give the folder that handle.cached was given"
        )
    return places
