"""Runs in which one process does something else than the others: who is told, and when."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import paddle
import paddle.distributed as dist

import unifreeze as uf
from tests.support.paddle_ranks.data_parallel import SHORT
from tests.support.paddle_ranks.fleets import begin, optimizer_of, wrapped_by
from tests.support.paddle_ranks.nets import Net, digests, loss_of
from unifreeze.errors import UnifreezeError, UnifreezeWarning

SECONDS = 1.0
"""How long a process waits for the others in these runs."""
WAITS_FOR_LOSS = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: all, when: {metric: loss, stalled_for: 2}, rules: [{train: all}]}
"""


class Apart:
    """A wrapped model in each process.

    Attributes:
        model: The bare model.
        engine: Who has wrapped it.
        wrapped: What exchanges its gradients.
        rank: The number of this process.
    """

    def __init__(self, engine: str) -> None:
        paddle.seed(0)
        self.model = Net()
        self.engine, self.wrapped = engine, wrapped_by(engine, self.model)
        self.rank = dist.get_rank()

    def plan(self, text: str) -> tuple[Any, Any]:
        """Apply a plan; return its handle and an optimizer."""
        handle = uf.FreezePlan.from_yaml(text).apply(self.model)
        optimizer = handle.optimizer(paddle.optimizer.SGD, lr=0.1)
        return handle, optimizer_of(self.engine, optimizer)

    def pass_forward(self) -> None:
        """Begin to train."""
        loss_of(self.wrapped, 0, self.rank)


def plans_differ(on: Apart) -> None:
    """Apply two plans of one size."""
    uf.FreezePlan().only(f"blocks[{on.rank}]").apply(on.model)
    on.pass_forward()


def held_layers_differ(on: Apart) -> None:
    """Apply two plans that train the same."""
    text = "unifreeze: 1\nrules: [{only: head}]\ndropout: "
    uf.FreezePlan.from_yaml(text + ("off" if on.rank else "live")).apply(on.model)
    on.pass_forward()


def later_phases_differ(on: Apart) -> None:
    """Begin alike, and enter phases that differ."""
    text = SHORT if on.rank else SHORT.replace("train: all", "only: stem")
    handle = uf.FreezePlan.from_yaml(text).apply(on.model)
    handle.optimizer(paddle.optimizer.SGD, lr=0.1)
    handle.step(step=2)


def epochs_differ(on: Apart) -> None:
    """Be in different epochs while a phase waits for a metric."""
    handle, _ = on.plan(WAITS_FOR_LOSS)
    handle.step(epoch=on.rank, metrics={"loss": 1.0})


def one_applies(on: Apart) -> None:
    """Apply a second plan in the first process alone, and train."""
    uf.FreezePlan().only("head").apply(on.model)
    on.pass_forward()
    if on.rank == 0:
        uf.FreezePlan().only("head | stem").apply(on.model)
        on.pass_forward()


def one_removes(on: Apart) -> None:
    """Remove the plan in the last process alone, and train."""
    handle = uf.FreezePlan().only("head").apply(on.model)
    on.pass_forward()
    if on.rank:
        handle.remove()
        on.pass_forward()


def one_steps_into_a_phase(on: Apart) -> None:
    """Enter a phase in the first process alone."""
    handle, _ = on.plan(SHORT)
    if on.rank == 0:
        handle.step(step=2)


def one_steps_while_a_phase_waits(on: Apart) -> None:
    """Report a metric in the last process alone."""
    handle, _ = on.plan(WAITS_FOR_LOSS)
    if on.rank:
        handle.step(epoch=0, metrics={"loss": 1.0})


RUNS: tuple[Callable[[Apart], None], ...] = (
    plans_differ,
    held_layers_differ,
    later_phases_differ,
    epochs_differ,
    one_applies,
    one_removes,
    one_steps_into_a_phase,
    one_steps_while_a_phase_waits,
)


def every_run(engine: str, sharding: int) -> dict[str, Any]:
    """Do every run; return what this process was told, and how long that took."""
    os.environ["UNIFREEZE_TIMEOUT"] = str(SECONDS)
    begin(sharding)
    told: dict[str, Any] = {}
    for run in RUNS:
        told[run.__name__] = _told(run, engine)
        dist.barrier()
    return told | {"metrics": _metrics(engine)}


def _told(run: Callable[[Apart], None], engine: str) -> tuple[str, float]:
    """Return the message, and the seconds until it came."""
    on = Apart(engine)
    begun = time.monotonic()
    try:
        run(on)
    except UnifreezeError as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - begun
    return "", 0.0


def _metrics(engine: str) -> dict[str, Any]:
    """Report metrics that stall in the first process alone, which lets a phase begin."""
    on = Apart(engine)
    handle, optimizer = on.plan(WAITS_FOR_LOSS)
    phases = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnifreezeWarning)
        for epoch in range(5):
            measured = {"loss": 1.0 - 0.1 * epoch * on.rank} if epoch else None
            handle.step(epoch=epoch, metrics=measured)
            phases.append(handle.phase.name)
            loss_of(on.wrapped, epoch, on.rank).backward()
            optimizer.step()
            optimizer.clear_grad()
    said = [str(w.message) for w in caught if issubclass(w.category, UnifreezeWarning)]
    return {"phases": phases, "said": said, "after": digests(on.model)}
