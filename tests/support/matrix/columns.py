"""What each column tries, for whatever can be described by a `Kit`; of no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import unifreeze as uf
from tests.support.matrix.cells import COLUMNS, ELSEWHERE, Cell, Moved
from unifreeze._protocol import backend_for

PLAN = uf.FreezePlan().only("head")
SECOND = uf.FreezePlan().train("all").freeze("stem")
PHASES = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: top, at: {step: 2}, add: [{train: "blocks[-1]"}], lr: 0.005}
  - {name: head again, at: {step: 4}, like: head}
  - {name: all, at: {step: 6}, rules: [{train: all}]}
"""
)
STEPS, SAVED_AT = 8, 5
ALONE = "it is of one process"


@dataclass
class Run:
    """A model in training under a plan.

    Attributes:
        model: The bare model.
        called: What is called in training: a wrapper, or the model itself.
        handle: The plan in force.
        optimizer: Its optimizer.
    """

    model: Any
    called: Any
    handle: uf.Handle
    optimizer: Any


@dataclass(frozen=True)
class Kit:
    """How a wrapper, compiler or optimizer does what all of them do.

    Attributes:
        make: Builds the bare model, with a stem, blocks and a head; the same values each time.
        wrap: Returns what is called in training. It may be the model itself.
        optimizer: Builds an optimizer: from the handle, and the bare model.
        step: Trains the step of a number. If the last argument is true each process takes rows of
            its own; if not, all take the same, and so the end is the same in any number of them.
        values: Returns all parameters' bytes by native path, whole ones; all processes call it.
        spoil: Changes the value of a parameter of the bare model, by its path.
        same: Returns whether all processes have the same text; all of them call it.
        save: Writes values, the optimizer's state and the handle's into a folder; all call it.
        load: Reads these into a run that has just begun; all call it.
        target: What a plan is applied to after wrapping: from what is called and the bare model.
        rests: True for an optimizer that may leave a parameter where it is in some step.
        sums_alike: False where another number of processes adds up in another order.
    """

    make: Callable[[], Any]
    wrap: Callable[[Any], Any]
    optimizer: Callable[[uf.Handle, Any], Any]
    step: Callable[[Run, int, bool], None]
    values: Callable[[Any], dict[str, bytes]]
    spoil: Callable[[Any, str], None]
    same: Callable[[str], bool]
    save: Callable[[Path, Run], None]
    load: Callable[[Path, Run], None]
    target: Callable[[Any, Any], Any] = lambda called, model: called
    rests: bool = False
    sums_alike: bool = True

    def began(self, plan: uf.FreezePlan = PHASES) -> Run:
        """Apply a plan, wrap, build an optimizer."""
        model = self.make()
        handle = plan.apply(model)
        called = self.wrap(model)
        return Run(model, called, handle, self.optimizer(handle, model))

    def digest(self, model: Any) -> str:
        """Return a digest of all parameters."""
        rows = sorted(self.values(model).items())
        return sha256(b"".join(path.encode() + value for path, value in rows)).hexdigest()

    def check_step(self, run: Run, number: int, *, own: bool = True) -> None:
        """Train a step; exactly what the plan trains must have moved, alike in all processes."""
        before = self.values(run.model)
        self.step(run, number, own)
        after = self.values(run.model)
        moved = {path for path, value in after.items() if value != before[path]}
        wanted = set(run.handle.resolution.trainable_paths)
        if moved != wanted and not self.rests:
            self.step(run, number, own)  # a refusal comes with the second step at the latest
        assert moved <= wanted, sorted(moved - wanted)
        assert self.rests or moved == wanted, sorted(wanted - moved)
        assert self.same(self.digest(run.model)), "the processes have other values"
        run.handle.verify()

    def go_on(self, run: Run, steps: Sequence[int], *, own: bool = True) -> list[str]:
        """Train some steps with phases; return the name of the phase of each."""
        names = []
        for number in steps:
            run.handle.step(step=number)
            self.check_step(run, number, own=own)
            assert run.handle.phase is not None
            names.append(run.handle.phase.name)
        return names


def plan_before(kit: Kit, _folder: Path) -> None:
    """Apply a plan, wrap, train."""
    run = kit.began(PLAN)
    for number in range(2):
        kit.check_step(run, number)


def plan_after(kit: Kit, _folder: Path) -> None:
    """Wrap, apply a plan to the wrapper, train; then another one to the bare model."""
    model = kit.make()
    called = kit.wrap(model)
    for target, plan in ((kit.target(called, model), PLAN), (model, SECOND)):
        handle = plan.apply(target)
        run = Run(model, called, handle, kit.optimizer(handle, model))
        for number in range(2):
            kit.check_step(run, number)


def phase_change(kit: Kit, _folder: Path) -> None:
    """Train through four phases, one of which freezes again what the one before has thawed."""
    names = kit.go_on(kit.began(), range(STEPS))
    assert list(dict.fromkeys(names)) == ["head", "top", "head again", "all"]


def save(kit: Kit, folder: Path, *, own: bool) -> None:
    """Save a run in its third phase, and note what an unbroken run ends with.

    Its optimizer has moments of what that phase froze, which a later one thaws.
    """
    run = kit.began()
    kit.go_on(run, range(SAVED_AT), own=own)
    kit.save(folder, run)
    kit.go_on(run, range(SAVED_AT, STEPS), own=own)
    (folder / "end").write_text(kit.digest(run.model))


def go_on(kit: Kit, folder: Path, *, own: bool) -> None:
    """Go on from what was saved; the end is that of the unbroken run, to the bit.

    Where all processes take the same rows, they may be another number than before.
    """
    run = kit.began()
    kit.load(folder, run)
    assert run.handle.phase is not None
    assert run.handle.phase.name == "head again"
    run.handle.verify()
    kit.go_on(run, range(SAVED_AT, STEPS), own=own)
    if own or kit.sums_alike:
        assert kit.digest(run.model) == (folder / "end").read_text(), "the end is another one"


def resume(kit: Kit, folder: Path) -> None:
    """Save a run and go on from there, in the same number of processes."""
    place = folder / "resumed"
    place.mkdir(exist_ok=True)
    save(kit, place, own=True)
    assert kit.same("saved")
    go_on(kit, place, own=True)


def remove(kit: Kit, _folder: Path) -> None:
    """Train under a plan, remove it: what trained before the plan trains, alike in all ranks."""
    model = kit.make()
    backend = backend_for(model)
    found = backend.read(model)
    handle = PLAN.apply(model)
    called = kit.wrap(model)
    kit.check_step(Run(model, called, handle, kit.optimizer(handle, model)), 0)
    handle.remove()
    assert backend.read(model) == found
    optimizer = kit.optimizer(uf.FreezePlan().train("all").apply(model), model)
    handle = PLAN.apply(model)  # it takes the place of the other, and gives back the same
    handle.remove()
    before = kit.values(model)
    kit.step(Run(model, called, handle, optimizer), 1, True)
    after = kit.values(model)
    moved = {path for path, value in after.items() if value != before[path]}
    assert moved == {path for path, trains in found.items() if trains}, sorted(moved)
    assert kit.same(kit.digest(model)), "the processes have other values"


def verify(kit: Kit, _folder: Path) -> None:
    """No alarm after training; a frozen parameter that was changed is named."""
    run = kit.began(PLAN)
    kit.check_step(run, 0)
    assert run.handle.verify().parameters
    path = run.handle.resolution.frozen_paths[0]
    kit.spoil(run.model, path)
    try:
        run.handle.verify()
    except uf.errors.FrozenDriftError as error:
        named = list(error.drifts)
    else:
        raise AssertionError("verify has not seen that a frozen parameter was changed")
    assert [drift.path for drift in named] == [path], named


CHECKS: Mapping[str, Callable[[Kit, Path], None]] = {
    "plan before": plan_before,
    "plan after": plan_after,
    "phase change": phase_change,
    "resume": resume,
    "remove": remove,
    "verify": verify,
}


def cells_of(kit: Kit, *, processes: int = 1, **others: Cell) -> dict[str, Cell]:
    """Return the cells of a row for what a kit describes.

    Args:
        kit: How it does what all of them do.
        processes: In how many processes the row runs.
        **others: Cells that are otherwise here, by column with "_" for spaces.
    """
    cells: dict[str, Cell] = {name: partial(check, kit) for name, check in CHECKS.items()}
    cells[ELSEWHERE] = ALONE
    if processes > 1:
        cells[ELSEWHERE] = Moved(partial(save, kit, own=False), partial(go_on, kit, own=False))
    cells |= {name.replace("_", " "): cell for name, cell in others.items()}
    return {column: cells[column] for column in COLUMNS}
