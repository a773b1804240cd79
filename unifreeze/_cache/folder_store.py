"""Rows kept in a folder: files that several processes read, each of which writes its own."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from unifreeze._cache.row_store import Kept
from unifreeze._cache.shards import Shard, shapes_of, write_shard
from unifreeze._files import Format, Saved
from unifreeze._tables import human_bytes
from unifreeze._whole_files import writing_hint
from unifreeze.errors import CacheError, UnifreezeWarning

SHARD_BYTES = 64_000_000
"""A file is written once so many bytes wait for it; a kill loses no more than that."""
MANIFEST = "manifest.json"
REPLAY = "replay.json"
"""How rows are given back where frozen weights were never in memory."""


class Manifest(Saved):
    """What the rows in one folder are of; people read it, and nothing is decided by it.

    Attributes:
        unifreeze_cache: Version of the format.
        group: A digest of all that the rows depend on.
        model: Class of the model.
        plan: The plan that was in force, as YAML.
        framework: Its name and version.
        weights: A digest of the frozen weights.
        outputs_of: The modules whose outputs are kept.
        dtype: How floating values are kept.
        prefix: In which way frozen modules ran.
        exact: When replayed batches have the same bits as whole passes.
    """

    format: ClassVar[Format] = Format(
        "unifreeze cache", "unifreeze_cache", 1, CacheError, "give the folder of a cached block"
    )
    unifreeze_cache: int = 1
    group: str
    model: str
    plan: str
    framework: str
    weights: str
    outputs_of: tuple[str, ...]
    dtype: str
    prefix: str = "exact"
    exact: str


class FolderStore:
    """Keeps rows in a folder; each group of rows has a folder of its own in it.

    Attributes:
        budget: The most bytes that are kept.
        nbytes: How many bytes are kept in the groups that were opened.
        full: Why nothing more is kept; "" while there is room.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        """Make the folder.

        Raises:
            CacheError: It cannot be made.
        """
        self.budget, self.nbytes, self.full = budget, 0, ""
        self._folder = folder
        self._shards: dict[str, dict[str, tuple[Shard, int]]] = {}
        self._files: dict[str, set[str]] = {}
        self._looked: dict[str, int] = {}
        self._waiting: dict[str, dict[str, Kept]] = {}
        self._bytes_waiting = 0
        self._bfloat16 = False
        self._written = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise CacheError(
                f"cannot keep rows in {folder}: {getattr(error, 'strerror', None) or error}",
                hint="give a folder of yours, or none for memory",
            ) from None

    def open(self, group: str, about: Mapping[str, Any]) -> int:
        """Read which rows of a group are there, and return how many.

        Raises:
            CacheError: A file is damaged, or is of another group.
        """
        if group in self._shards:
            return 0  # they are of this run
        self._bfloat16 = about["dtype"] == "bfloat16"
        place = self._place(group)
        rows: dict[str, tuple[Shard, int]] = {}
        self._shards[group], self._waiting[group], self._files[group] = rows, {}, set()
        self._take_new_files(group)
        manifest = place / MANIFEST
        if manifest.exists():
            if Manifest.load(manifest).group != group:
                raise CacheError(
                    f"{manifest} is of other rows than its folder", hint="delete the folder"
                )
            return len(rows)
        try:
            place.mkdir(exist_ok=True)
            Manifest(group=group, **about).save(manifest)
        except (OSError, CacheError) as error:
            self._stop(str(error).splitlines()[0])
        return len(rows)

    def describe(self, group: str, about: Mapping[str, Any]) -> None:
        """Write the manifest of a group anew; a folder that cannot be written to stays as it is."""
        with suppress(OSError, CacheError):
            Manifest(group=group, **about).save(self._place(group) / MANIFEST)

    def get(self, group: str, keys: Sequence[str]) -> list[Kept] | None:
        """Return the rows of some keys; None unless all are there."""
        shards, waiting = self._shards[group], self._waiting[group]
        if not all(key in shards or key in waiting for key in keys):
            self._take_new_files(group)
            if not all(key in shards or key in waiting for key in keys):
                return None
        rows = []
        for key in keys:
            row = waiting.get(key)
            if row is None:
                shard, number = shards[key]
                row = shard.row(number)
            rows.append(row)
        return rows

    def _take_new_files(self, group: str) -> None:
        """Take in the files that are new in a group's folder; other processes write there, too."""
        place, seen = self._place(group), self._files[group]
        changed = place.stat().st_mtime_ns if place.exists() else 0
        if changed == self._looked.get(group, 0):
            return
        self._looked[group] = changed
        for path in sorted(place.glob("*.safetensors")):
            if path.name not in seen:
                seen.add(path.name)
                shard = Shard(path, group)
                self.nbytes += shard.nbytes
                for number, key in enumerate(shard.keys):
                    self._shards[group].setdefault(key, (shard, number))

    def put(self, group: str, key: str, kept: Kept) -> None:
        """Keep a row, if there is room."""
        if self.full or key in self._shards[group] or key in self._waiting[group]:
            return
        size = sum(array.nbytes for call in kept for array in call)
        if self.nbytes + size > self.budget:
            self._stop(f"the budget of {human_bytes(self.budget)} is used up")
            return
        self._waiting[group][key] = kept
        self.nbytes += size
        self._bytes_waiting += size
        if self._bytes_waiting >= SHARD_BYTES:
            self.close()

    def count(self, group: str = "") -> int:
        """Return the number of rows: of a group, or of all of them."""
        groups = [group] if group else list(self._shards)
        return sum(len(self._shards[name]) + len(self._waiting[name]) for name in groups)

    def close(self) -> None:
        """Write what is not written yet."""
        for group, waiting in self._waiting.items():
            alike: dict[Any, dict[str, Kept]] = {}
            for key, kept in waiting.items():
                alike.setdefault(shapes_of(kept), {})[key] = kept
            waiting.clear()
            for rows in alike.values():
                self._write(group, rows)
        self._bytes_waiting = 0

    def _write(self, group: str, rows: dict[str, Kept]) -> None:
        name = f"{os.getpid()}-{secrets.token_hex(4)}-{self._written:05d}.safetensors"
        path = self._place(group) / name
        self._written += 1
        try:
            write_shard(path, group, rows, bfloat16=self._bfloat16)
        except OSError as error:
            reason = f"cannot write to {path.parent}: {error.strerror or error}"
            self._stop(f"{reason} ({writing_hint(error)})")
            self.nbytes -= sum(a.nbytes for kept in rows.values() for call in kept for a in call)
            return
        shard = Shard(path, group)
        self._files[group].add(name)
        self._shards[group].update((key, (shard, n)) for n, key in enumerate(shard.keys))

    def _stop(self, why: str) -> None:
        self.full = why
        warnings.warn(
            f"no more rows are kept: {why}; training goes on without",
            UnifreezeWarning,
            stacklevel=2,
        )

    def _place(self, group: str) -> Path:
        return self._folder / group
