"""The part of a saved state that names its plan and model, and the check that they are these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import unified_diff
from hashlib import sha256
from typing import Any

from unifreeze._handle.state_schema import STATE_FORMAT, OriginState, ProgressState, read_state
from unifreeze._plan import FreezePlan
from unifreeze._structure import ModelSpec
from unifreeze.errors import ScheduleError, brief, counted


def origin_of(
    plan: FreezePlan, spec: ModelSpec, phase: str | None, *, digest: str, digest_now: str
) -> dict[str, Any]:
    """Return the part of a run's state that names its plan and model.

    Args:
        plan: The plan as it was given.
        spec: The model's description.
        phase: The name of the current phase; None for a plan without phases.
        digest: Digest of the plan with plain phases.
        digest_now: Digest of that plan with everything that was measured so far.
    """
    return OriginState(
        unifreeze_state=STATE_FORMAT,
        plan=digest,
        plan_now=digest_now,
        plan_text=plan.to_yaml(),
        model=_name_of(spec),
        phase=phase,
    ).plain()


def check_format(state: Any) -> ProgressState:
    """Check that a value is the state of a run in this release's format.

    Returns:
        What the run has noted.

    Raises:
        ScheduleError: It is not.
    """
    if not isinstance(state, Mapping):
        raise ScheduleError(
            f"{brief(state)} is not a state", hint="pass what state_dict() returned"
        )
    version = state.get("unifreeze_state")
    if type(version) is not int or version != STATE_FORMAT:
        known = version is not None
        problem = f"of state format {brief(version)}" if known else "not a state of a plan"
        raise ScheduleError(
            f"this is {problem}; this release reads {STATE_FORMAT}",
            hint="pass what handle.state_dict() returned; the optimizer's state goes to the "
            "optimizer, and the model's to the model",
        )
    read_state(OriginState, state, "plan")
    return read_state(ProgressState, state, "plan")


def check_origin(
    state: Mapping[str, Any], plan: FreezePlan, spec: ModelSpec, *, digest: str
) -> None:
    """Check that a state is of this plan and model.

    Args:
        state: The state.
        plan: The plan as it was given.
        spec: The model's description.
        digest: Digest of the plan with plain phases.

    Raises:
        ScheduleError: It is of another plan or model; the message shows the difference.
    """
    if state["model"] != _name_of(spec):
        raise ScheduleError(
            f"the state is of another model than this one ({counted(len(spec), 'parameter')})",
            context="their canonical names or shapes differ",
            hint="`unifreeze show` lists them; load it into the model that it was saved for",
        )
    # A plan that was saved beside the run contains what was measured until then.
    if digest not in (state["plan"], state["plan_now"]):
        raise _other_plan(state, plan, digest)


def _other_plan(state: Mapping[str, Any], plan: FreezePlan, digest: str) -> ScheduleError:
    saved, now = str(state["plan_text"]).splitlines(), plan.to_yaml().splitlines()
    lines = unified_diff(saved, now, "saved", "now", "", "", 0)
    phase = "" if state["phase"] is None else f", in phase {state['phase']!r}"
    return ScheduleError(
        f"the state is of another plan ({state['plan']}{phase}), not of this one ({digest})",
        context="\n".join(list(lines)[2:22]),
        hint="load it under the plan that it was saved under; save plans beside runs",
    )


def _name_of(spec: ModelSpec) -> str:
    """Return a name for a model's structure, the same in every framework."""
    if "name" not in spec.memo:
        rows = sorted((row.name, list(row.neutral_shape)) for row in spec.parameters)
        spec.memo["name"] = sha256(json.dumps(rows).encode()).hexdigest()[:16]
    name: str = spec.memo["name"]
    return name
