"""The shape of saved states: every part is written and read through the schema that stands here.

So types are checked as a state is loaded, not at a later step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unifreeze.errors import ScheduleError, brief, listing

STATE_FORMAT: Final = 3
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Last = Annotated[int, Field(ge=-1, lt=2**63)]
_Place = Annotated[list[_Last], Field(min_length=2, max_length=2)]
_Measured = float | Literal["nan", "inf", "-inf"]
"""A number as JSON can hold it: those that are not finite as words."""


class StatePart(BaseModel):
    """Part of a state: numbers are numbers, and no key is unknown."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def plain(self) -> dict[str, Any]:
        """Return the part as plain data, without the entries that were not given."""
        return self.model_dump(exclude_unset=True)


class Entries(StatePart):
    """Some of the entries of a state; further ones belong to other parts."""

    model_config = ConfigDict(extra="ignore", strict=True)


class OriginState(Entries):
    """Which plan and model a run's state is of; see `saved_state.py`."""

    unifreeze_state: Literal[3]
    plan: str
    plan_now: str
    plan_text: str
    model: str
    phase: str | None


class ProgressState(Entries):
    """What a run has noted, in any phase; see `SavedRun`."""

    told: bool
    history: Any
    run: str = ""


class WatchState(StatePart):
    """What the metric that a phase waits for has done; see `MetricWatch`."""

    best: float | None
    last: float | None
    since_best: _Count
    rising: _Count
    missed: _Count
    best_at: _Place | None


class ScheduleState(StatePart):
    """Where a run stands in its phases; see `Schedule`."""

    phase: _Count
    epoch: _Last
    step: _Last
    entered: _Place
    reported: _Place | None
    watch: WatchState


class CountsState(Entries):
    """What is counted in the current phase; see `ResolvedPhases`."""

    taken: _Count
    sums: dict[str, float]
    measured: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], list[str]]


class HistoryRowState(StatePart):
    """An epoch in one phase; see `HistoryRow`."""

    epoch: _Last | None
    step: _Count | None
    phase: str
    trainable: _Count
    total: _Count
    metrics: dict[str, _Measured]


class HistoryState(StatePart):
    """The notes on a run; see `History`."""

    rows: list[HistoryRowState]
    epoch: _Count | None
    step: _Count | None
    behind: bool
    reported: list[str]
    left_out: _Count

    @model_validator(mode="after")
    def _has_the_row_it_speaks_of(self) -> HistoryState:
        if self.behind and len(self.rows) < 2:
            raise ValueError("there is no row before the last")
        return self


class CheckpointState(Entries):
    """What a trainer's checkpoint holds of a run, beside the weights; see `TrainerRun`."""

    handle: dict[str, Any]
    metrics: dict[str, float]
    unmeasured: bool = False


class TrainedState(Entries):
    """The entries of trained values that name their base; see `trained_values.py`."""

    unifreeze_trained: Literal[1]
    framework: str
    base: str
    base_tensors: Mapping[str, str] = Field(default_factory=dict)
    dtypes: Mapping[str, str]
    digests: Mapping[str, str] = Field(default_factory=dict)


class TrainedArrays(TrainedState):
    """The state of trained values in memory, with the values themselves."""

    tensors: Mapping[str, Any]


class TrainedHeader(TrainedState):
    """The header of a file of trained values; the values are the file's tensors."""

    base_tensors: Mapping[str, str]
    digests: Mapping[str, str]
    plan: str = ""
    plan_text: str = ""


S = TypeVar("S", bound=StatePart)


def read_state(schema: type[S], state: Any, sort: str) -> S:
    """Check a part of a run's state.

    Raises:
        ScheduleError: It is not such a part; the message says which entry is wrong.
    """
    plain = dict(state) if isinstance(state, Mapping) else state
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        first = mistakes[0]
        place = ".".join(map(str, first["loc"])) or "it"
        missing = [".".join(map(str, row["loc"])) for row in mistakes if row["type"] == "missing"]
        wrong = f"{brief(place)} is {brief(first['input'])}"
        said = f"it lacks {listing(missing)}" if missing else wrong
        raise ScheduleError(
            f"this is not a state of a {sort}: {said}",
            context=first["msg"],
            hint="load the state as handle.state_dict() gave it",
        ) from None
