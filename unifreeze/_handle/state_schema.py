"""The shape of a run's saved state: types are checked as it is loaded, not at a later step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unifreeze.errors import ScheduleError, brief

_Count = Annotated[int, Field(ge=0)]
_Last = Annotated[int, Field(ge=-1)]
_Place = Annotated[list[_Last], Field(min_length=2, max_length=2)]


class _State(BaseModel):
    """Part of a state: numbers are numbers, and no key is unknown."""

    model_config = ConfigDict(extra="forbid", strict=True)


class WatchState(_State):
    """What the metric that a phase waits for has done; see `MetricWatch`."""

    best: float | None
    last: float | None
    since_best: _Count
    rising: _Count
    missed: _Count
    best_at: _Place | None


class ScheduleState(_State):
    """Where a run stands in its phases; see `Schedule`."""

    phase: _Count
    epoch: _Last
    step: _Last
    entered: _Place
    reported: _Place | None
    watch: WatchState


class CountsState(_State):
    """What is counted in the current phase; see `ResolvedPhases`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    taken: _Count
    sums: dict[str, float]
    measured: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], list[str]]


S = TypeVar("S", bound=_State)


def read_state(schema: type[S], state: Any, sort: str) -> S:
    """Check a part of a state.

    Raises:
        ScheduleError: It is not such a part; the message says which entry is wrong.
    """
    try:
        return schema.model_validate(dict(state) if isinstance(state, Mapping) else state)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ScheduleError(
            f"this is not a state of a {sort}: {brief(place)} is {brief(first['input'])}",
            context=first["msg"],
            hint="load the state as handle.state_dict() gave it",
        ) from None
