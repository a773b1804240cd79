"""What processes do together where they divide a model, or what its optimizer keeps for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from unifreeze._handle.verify import Drift
from unifreeze._protocol import Backend, Processes
from unifreeze._protocol.processes import share
from unifreeze.errors import WeightFileError


def together(backend: Backend, model: Any, action: str) -> Processes:
    """Return the processes that divide a model among them, once all of them have come here.

    Args:
        backend: The model's backend.
        model: The live model; where nothing is divided, this process is alone.
        action: What all processes should do now, for the message.

    Raises:
        RanksError: One of them does not do it in time.
    """
    if not backend.several() or not backend.is_divided(model):
        return Processes()
    processes = backend.processes(model)
    share(processes, "parts", b"", action)
    return processes


def one_verdict(processes: Processes, drifts: Sequence[Drift], action: str) -> list[Drift]:
    """Return what has drifted in the part of any process.

    Args:
        processes: The processes that divide the model.
        drifts: What has drifted in this one.
        action: What all processes do just now, for the message.

    Raises:
        RanksError: One of them does not verify in time.
    """
    if processes.count == 1:
        return list(drifts)
    rows = share(processes, "drifts", json.dumps(drifts).encode(), action)
    verdict: dict[tuple[str, str], Drift] = {}
    for row in rows:
        for path, kind, detail in json.loads(row):
            verdict.setdefault((path, kind), Drift(path, kind, detail))
    return list(verdict.values())


def write_once(processes: Processes, write: Callable[[], None]) -> None:
    """Write a file in the first process; the others return once it is there.

    Raises:
        WeightFileError: It could not be written; every process raises it.
    """
    if processes.count == 1:
        write()
        return
    problem = ""
    error: BaseException | None = None
    if processes.rank == 0:
        try:
            write()
        except Exception as reason:
            error, problem = reason, str(reason)
    first = share(processes, "file", problem.encode(), "save what was trained")[0].decode()
    if error is not None:
        raise error
    if first:
        raise WeightFileError(f"rank 0 could not write the file: {first}")
