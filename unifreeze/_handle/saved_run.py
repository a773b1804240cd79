"""Saves and loads a run: where it stands, and the values that it has trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unifreeze._handle.best_values import BestValues
from unifreeze._handle.history import History
from unifreeze._handle.in_force import PlanInForce
from unifreeze._handle.saved_state import check_format
from unifreeze._handle.shards import together
from unifreeze._handle.state_schema import ProgressState
from unifreeze._handle.trained_file import save_trained
from unifreeze._handle.trained_values import load_state, trained_state
from unifreeze._handle.training import Training

PACKED = "state"
"""The only key of a state that is saved as one value."""


class SavedRun:
    """The states and values of one run, to be saved and loaded."""

    def __init__(self, plan: PlanInForce, training: Training, best: BestValues) -> None:
        self._plan, self._training, self._best = plan, training, best

    def state(self) -> dict[str, Any]:
        """Return where the run stands; the best values that the state refers to are kept."""
        self._best.refer()
        history, told = self._training.history.state(), self._training.told
        run = {"run": self._best.run} if self._plan.phases.schedule.steers else {}
        progress = ProgressState(told=told, history=history, **run)
        state = {**self._plan.phases.state(), **progress.plain()}
        return {PACKED: (state,)} if self._plan.backend.saves_in_parts() else state

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where a run was saved; raises as `Handle.load_state_dict` does."""
        self._plan.check_present("load a state")
        state = _unpacked(state)
        progress = check_format(state)
        phases = self._plan.phases.restored(state)
        self._training.go_on(phases, History.restored(progress.history))
        self._best.identity = progress.run or self._best.identity
        self._plan.rebase()

    def trained(self) -> dict[str, Any]:
        """Return the values of all that has been trained so far, and the digest of their base."""
        plan = self._plan
        plan.check_present("save what was trained")
        plan.bring_back()
        together(plan.backend, plan.model, "save what was trained")
        return trained_state(plan.backend, plan.model, plan.phases.so_far)

    def save_trained(self, path: str | Path) -> None:
        """Write those values as a file; raises as `Handle.save_trained` does."""
        plan = self._plan
        plan.check_present("save what was trained")
        plan.bring_back()
        save_trained(plan.backend, plan.model, plan.phases.so_far, plan.phases.expanded, path)

    def load_trained(self, state: Mapping[str, Any]) -> None:
        """Write such values into the model; raises as `Handle.load_trainable_state_dict` does."""
        plan = self._plan
        plan.check_present("load what was trained")
        plan.bring_back()
        together(plan.backend, plan.model, "load what was trained")
        paths = load_state(plan.backend, plan.model, plan.resolution.spec, state)
        self._training.values_written(paths)
        plan.rebase()


def _unpacked(state: Any) -> Any:
    """Return a state as `state` has made it, if it was saved as one value."""
    packed = state.get(PACKED) if isinstance(state, Mapping) and len(state) == 1 else None
    return packed[0] if isinstance(packed, tuple | list) and len(packed) == 1 else state
