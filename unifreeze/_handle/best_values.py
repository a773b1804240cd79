"""The best values of a phase, kept in files until the next one begins from them."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unifreeze._files import writing_hint
from unifreeze._ports.weights import Named, open_weights, save_weights
from unifreeze.errors import WeightFileError

Place = tuple[int, int]
STATES = 3
"""How many saved states' best values are kept."""
_NAME = re.compile(r"best-(-?\d+)-(-?\d+)\.safetensors")


class Best:
    """A folder with the best values, by the epoch and step at which they were measured.

    There are the latest ones, and those that the last saved states of the run refer to: a run that
    is killed goes on from one of these, and its best values then are not the latest.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            if self.folder.exists() and not self.folder.is_dir():
                raise OSError(errno.ENOTDIR, "it is a file")
        except OSError as error:  # now, and not once the first values are to be kept
            raise _unusable(self.folder, error) from None
        self._referred: list[Place] = []
        self._latest: Place | None = None

    def refer(self, place: Place | None) -> None:
        """Keep the values of a place, as a saved state refers to them."""
        if place is not None and place not in self._referred:
            self._referred.append(place)
            for old in self._referred[:-STATES]:
                self._drop(old)
            del self._referred[:-STATES]

    def save(self, place: Place, state: Mapping[str, Any]) -> None:
        """Write what was trained, and drop what no saved state refers to.

        What a killed run has left of later places is dropped, too: this run has not been there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.folder, error) from None
        plain = {key: value for key, value in state.items() if key != "tensors"}
        rows = [_row(path, array) for path, array in state["tensors"].items()]
        save_weights(self._file(place), rows, metadata={"unifreeze": json.dumps(plain)})
        for other in self._places():
            if other > place or (other == self._latest and other not in (*self._referred, place)):
                self._drop(other)
        self._latest = place

    def load(self, place: Place) -> dict[str, Any]:
        """Return what was saved at a place.

        Raises:
            WeightFileError: It is not there, or broken.
        """
        file = self._file(place)
        with open_weights(file) as weights:
            text = weights.metadata.get("unifreeze")
            if text is None:
                raise WeightFileError(
                    f"{file} holds no best values of a run",
                    hint="give the folder that handle.keep_best filled in that run",
                )
            return {**json.loads(text), "tensors": {name: weights.read(name) for name in weights}}

    def _drop(self, place: Place) -> None:
        self._file(place).unlink(missing_ok=True)

    def _file(self, place: Place) -> Path:
        return self.folder / f"best-{place[0]}-{place[1]}.safetensors"

    def _places(self) -> list[Place]:
        found = (_NAME.fullmatch(file.name) for file in self.folder.glob("best-*.safetensors"))
        return sorted((int(match[1]), int(match[2])) for match in found if match)


def _unusable(folder: Path, error: OSError) -> WeightFileError:
    return WeightFileError(
        f"cannot keep the best values in {folder}: {error.strerror or error}",
        hint=writing_hint(error),
    )


def _row(path: str, array: Any) -> Named:
    return Named(path, tuple(array.shape), str(array.dtype), lambda: array)
