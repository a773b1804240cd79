"""Notice, before each step, that a setting of frozen modules was changed from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from types import CellType, FunctionType
from typing import Any

from unifreeze._cache.code_watch import CodeWatch
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.python_state import (
    NOTHING,
    PLAIN,
    Place,
    PythonState,
    is_filled,
)
from unifreeze._identity import identities
from unifreeze._modules.walking import Walk


class SettingsWatch:
    """What frozen modules hold in Python, looked at before each step.

    Of other modules that run before them, plain values and code are looked at.
    """

    def __init__(
        self, backend: CacheOperations, walk: Walk, inside: Sequence[int], around: Sequence[int]
    ) -> None:
        """Remember what they hold now.

        Args:
            backend: The model's backend.
            walk: The model as walked.
            inside: The numbers of the frozen modules.
            around: The numbers of the modules whose own code calls them.
        """
        self._backend, self._walk, self._inside = backend, walk, inside
        self._around = [(walk.tree.paths[n], walk.module(n)) for n in around]
        self._times: dict[Place, int] = {}
        self._code = self._read_code()
        self.refresh()

    def refresh(self) -> None:
        """Take what is there now as right."""
        self._state = PythonState(self._backend, self._walk, self._inside, hooks=True)
        cells = [h for h in self._state.holders if isinstance(h.value, CellType)]
        rest = [h.value for h in self._state.holders if not isinstance(h.value, CellType)]
        # Most are empty tables of hooks, which are told apart to be looked at quickly.
        self._empty = [v for v in rest if not v]
        self._views = [v.values() if isinstance(v, dict) else v for v in rest if v]
        self._cells = [cell.value for cell in cells]
        self._before = self._state.remember()
        self._values, self._plain = list(self._now()), self._plain_now()
        self._identities = identities(self._values)

    def _read_code(self) -> CodeWatch:
        walk = self._walk
        inside = [(walk.tree.paths[n], walk.module(n)) for n in self._inside]
        return CodeWatch([*inside, *self._around], self._backend.module_class)

    def digest(self) -> str:
        """Return text that is equal where the frozen modules have the same plain settings."""
        texts = [
            f"{self._walk.tree.paths[number]}.{name}={value!r}"
            for number in self._inside
            for name, value in vars(self._walk.module(number)).items()
            if isinstance(value, bool | int | float | str | tuple | list | None)
            # Names that a framework gives differ from run to run, and so do marks of a first pass.
            and not (name.startswith("_") and isinstance(value, str | bool))
            and name not in ("training", "name")
            and _is_plain(value)
        ]
        return "\n".join(texts)

    def changed(self) -> list[str]:
        """Return names of what was changed since the last time, and is worth a look.

        What changes again and again is named after 1, 2, 4, 8, … changes.
        """
        plain = self._plain_now()
        same = not any(self._empty) and identities(self._now()) == self._identities
        same_code = self._code.unchanged()
        if same and same_code and plain == self._plain:
            return []
        changes, again = {} if same else self._state.changes(self._before), False
        if not same_code:
            places, again = self._code.take_in()
            changes.update(dict.fromkeys(places, ""))
        if again:
            self._code = self._read_code()
        for place in {**self._plain, **plain}:
            if self._plain.get(place, NOTHING) != plain.get(place, NOTHING):
                changes[place] = ""
        if again or not same or plain != self._plain:
            self.refresh()
        named = []
        for place in changes:
            if place[1] != "training":
                count = self._times[place] = self._times.get(place, 0) + 1
                named += [".".join(filter(None, place))] * (count & (count - 1) == 0)
        return named

    def _now(self) -> Iterator[Any]:
        cells = [cell.cell_contents for cell in self._cells if is_filled(cell)]
        return chain(chain.from_iterable(self._views), cells)

    def _plain_now(self) -> dict[Place, Any]:
        return {
            (path, name): value
            for path, module in self._around
            for name, value in vars(module).items()
            if isinstance(value, (*PLAIN, FunctionType)) and name != "training"
        }


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)
