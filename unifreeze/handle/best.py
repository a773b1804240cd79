"""The best values of a phase, kept in files until the next one begins from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unifreeze.errors import WeightFileError
from unifreeze.weights import Named, open_weights, save_weights

Place = tuple[int, int]
_NAME = re.compile(r"best-(-?\d+)-(-?\d+)\.safetensors")


class Best:
    """A folder with the best values, by the epoch and step at which they were measured.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def save(self, place: Place, state: Mapping[str, Any]) -> None:
        """Write what was trained; the one before is kept, in case this run is killed now.

        What a killed run has left of later places is removed: this run has not been there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self._places()
        for later in [one for one in known if one >= place] + [one for one in known if one < place][
            :-1
        ]:
            self._file(later).unlink()
        plain = {key: value for key, value in state.items() if key != "tensors"}
        rows = [_row(path, array) for path, array in state["tensors"].items()]
        save_weights(self._file(place), rows, metadata={"unifreeze": json.dumps(plain)})

    def load(self, place: Place) -> dict[str, Any]:
        """Return what was saved at a place.

        Raises:
            WeightFileError: It is not there, or broken.
        """
        file = self._file(place)
        with open_weights(file) as weights:
            text = weights.metadata.get("unifreeze")
            if text is None:
                raise WeightFileError(f"{file} holds no best values of a run")
            return {**json.loads(text), "tensors": {name: weights.read(name) for name in weights}}

    def _file(self, place: Place) -> Path:
        return self.folder / f"best-{place[0]}-{place[1]}.safetensors"

    def _places(self) -> list[Place]:
        found = (_NAME.fullmatch(file.name) for file in self.folder.glob("best-*.safetensors"))
        return sorted((int(match[1]), int(match[2])) for match in found if match)


def _row(path: str, array: Any) -> Named:
    return Named(path, tuple(array.shape), str(array.dtype), lambda: array)
