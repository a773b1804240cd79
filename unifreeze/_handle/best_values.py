"""The best values of a phase, kept in files until the next phase begins from them."""

from __future__ import annotations

import errno
import json
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from unifreeze._files import read_json
from unifreeze._handle.in_force import PlanInForce
from unifreeze._handle.shards import together
from unifreeze._handle.trained_values import trained_state
from unifreeze._plan import Phase
from unifreeze._ports.weights import Named, open_weights, save_weights
from unifreeze._whole_files import writing_hint
from unifreeze.errors import ScheduleError, UnifreezeWarning, WeightFileError

Place = tuple[int, int]
"""An epoch and a step."""
_RUN = "unifreeze.run"
"""The entry of a file that says of which run it is."""
_OWN_FOLDER = "give each run a folder of its own: handle.keep_best(folder)"
STATES = 3
"""Number of saved states whose best values are kept."""
_NAME = re.compile(r"best-(-?\d+)-(-?\d+)\.safetensors")


class BestValues:
    """The best values of the current phase, for a next phase that begins from them.

    Attributes:
        identity: The run's, which its files carry: two runs may be given one folder.
    """

    def __init__(self, plan: PlanInForce) -> None:
        self._plan = plan
        self.identity = token_hex(8)
        self._files: BestFolder | None = None

    @property
    def run(self) -> str:
        """The identity in files; "" where several processes, each with its own, write them."""
        return "" if self._plan.backend.several() else self.identity

    def keep_in(self, folder: str | Path) -> None:
        """Keep best values in a folder from now on.

        Raises:
            WeightFileError: The path cannot be used as a folder.
        """
        if self._plan.phases.schedule.steers:  # without phases there is nothing to keep
            self._files = BestFolder(folder)
            self.refer()

    def refer(self) -> None:
        """Keep the values that the next phase would begin from: a saved state refers to them."""
        if self._files is not None:
            self._files.refer(self._plan.phases.schedule.watch.best_at)

    def save(self, place: Place | None) -> None:
        """Save the current values, the best ones of a place, if the next phase needs them."""
        plan, phases = self._plan, self._plan.phases
        following = phases.following
        if following is not None and following.restore_best and place is not None:
            plan.bring_back()
            folder = self._folder(following)
            together(plan.backend, plan.model, "save the best values")
            state = trained_state(plan.backend, plan.model, [phases.resolution])
            if plan.backend.processes(plan.model).rank == 0:
                folder.save(place, state, self.run)

    def load(self, phase: Phase, place: Place | None) -> dict[str, Any] | None:
        """Return the values that a phase begins from; None if it goes on with the current values.

        Args:
            phase: The phase that begins.
            place: Where the phase before had its best report.
        """
        if not phase.restore_best or place is None:
            return None
        return self._folder(phase).load(place, self.run)

    def _folder(self, phase: Phase) -> BestFolder:
        if self._files is None:
            raise ScheduleError(
                f"phase {phase.name!r} begins from the best values, but none are kept",
                hint="name a folder before training: handle.keep_best(folder)",
            )
        return self._files


class BestFolder:
    """A folder with the best values, by the epoch and step at which they were measured.

    It holds the latest ones, and those that the last saved states of the run refer to: a run that
    is killed goes on from one of these states, whose best values are not the latest.

    Attributes:
        folder: Its path.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            if self.folder.exists() and not self.folder.is_dir():
                raise OSError(errno.ENOTDIR, "it is a file")
        except (OSError, ValueError) as error:  # fail now, not when the first values are saved
            raise _unusable(self.folder, error) from None
        self._told = False
        self._referred: list[Place] = []
        self._latest: Place | None = None

    def refer(self, place: Place | None) -> None:
        """Keep the values of a place, as a saved state refers to them."""
        if place is not None and place not in self._referred:
            self._referred.append(place)
            for old in self._referred[:-STATES]:
                self._drop(old)
            del self._referred[:-STATES]

    def save(self, place: Place, state: Mapping[str, Any], run: str) -> None:
        """Write trained values of a run, and delete those that no saved state refers to.

        Files of later places are dropped, too: a killed run has left them, and this run has not
        come to these places yet.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise _unusable(self.folder, error) from None
        plain = {key: value for key, value in state.items() if key != "tensors"}
        rows = [_row(path, array) for path, array in state["tensors"].items()]
        texts = {"unifreeze": json.dumps(plain), _RUN: run}
        places = [saved for saved in self._places() if self._is_of(saved, run)]
        save_weights(self._file(place), rows, metadata=texts)
        for saved in places:
            if saved > place or (saved == self._latest and saved not in (*self._referred, place)):
                self._drop(saved)
        self._latest = place

    def load(self, place: Place, run: str) -> dict[str, Any]:
        """Return the values that a run saved at a place.

        Raises:
            WeightFileError: It is missing, or broken.
        """
        file = self._file(place)
        with open_weights(file) as weights:
            text = weights.metadata.get("unifreeze")
            if text is None:
                raise WeightFileError(
                    f"{file} holds no best values of a run",
                    hint="give the folder that handle.keep_best filled in that run",
                )
            if _is_another(weights.metadata, run):
                raise WeightFileError(
                    f"{file} holds the best values of another run",
                    hint=_OWN_FOLDER,
                )
            return {**_read(text, file), "tensors": {name: weights.read(name) for name in weights}}

    def _is_of(self, place: Place, run: str) -> bool:
        """Return whether a file is this run's; tell once of files that are another run's."""
        try:
            with open_weights(self._file(place)) as weights:
                other = _is_another(weights.metadata, run)
        except WeightFileError:  # broken: it is written anew or dropped
            return True
        if other and not self._told:
            self._told = True
            warnings.warn(
                f"{self.folder} holds the best values of another run too: {_OWN_FOLDER}",
                UnifreezeWarning,
                stacklevel=2,
            )
        return not other

    def _drop(self, place: Place) -> None:
        with suppress(OSError):  # a file that stays does no harm
            self._file(place).unlink()

    def _file(self, place: Place) -> Path:
        return self.folder / f"best-{place[0]}-{place[1]}.safetensors"

    def _places(self) -> list[Place]:
        matches = (_NAME.fullmatch(file.name) for file in self.folder.glob("best-*.safetensors"))
        return sorted((int(match[1]), int(match[2])) for match in matches if match)


def _is_another(texts: Mapping[str, str], run: str) -> bool:
    """Return whether a file names another run; where either has no name, that is not known."""
    there = texts.get(_RUN, "")
    return bool(run and there) and there != run


def _read(text: str, file: Path) -> dict[str, Any]:
    try:
        plain = read_json(text)
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict):
        raise WeightFileError(f"{file} is damaged: what it says of its base cannot be read")
    return plain


def _unusable(folder: Path, error: OSError | ValueError) -> WeightFileError:
    reason = getattr(error, "strerror", None) or error
    return WeightFileError(
        f"cannot keep the best values in {folder}: {reason}",
        hint=writing_hint(error),
    )


def _row(path: str, array: Any) -> Named:
    return Named(path, tuple(array.shape), str(array.dtype), lambda: array)
