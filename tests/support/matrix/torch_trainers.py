"""PyTorch's rows of trainers: accelerate, transformers and Lightning, each in two processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.matrix.cells import ELSEWHERE, Cell, Check, Moved, Row
from tests.support.matrix.columns import COLUMNS, PLAN, Kit, Run, cells_of
from tests.support.matrix.torch_kits import PLAIN, RATE, adamw
from tests.support.trainers_in_processes import Task, rows
from unifreeze._protocol import backend_for

PHASES = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: top, at: {epoch: 1}, add: [{train: "blocks[-1]"}]}
  - {name: head again, at: {epoch: 2}, like: head}
  - {name: all, at: {epoch: 3}, rules: [{train: all}]}
"""
)
EPOCHS = 4
SAVED_AFTER, SAVED_EARLY = 2, 1
"""Epochs before a checkpoint. In another number of processes an epoch has other steps, and the
Trainer counts steps: it goes on from the early one."""
Train = Callable[..., None]
"""Trains a model: `train(model, folder, callbacks, at, resume)`. `at` is called with the number of
each step before it, and a last time after all; `resume` is the folder of a run to go on from."""


# accelerate -----------------------------------------------------------------------------------


class _Latest:
    """The accelerator of the run that was begun last."""

    accelerator: Any = None


def _prepared(model: Any) -> Any:
    import_torchvision()
    from accelerate import Accelerator

    _Latest.accelerator = Accelerator(cpu=True)
    return _Latest.accelerator.prepare(model)


def _prepared_optimizer(handle: uf.Handle, model: Any) -> Any:
    return _Latest.accelerator.prepare(adamw(handle, model))


def _save_state(folder: Path, run: Run) -> None:
    _Latest.accelerator.register_for_checkpointing(run.handle)
    _Latest.accelerator.save_state(str(folder / "state"))
    dist.barrier()


def _load_state(folder: Path, run: Run) -> None:
    _Latest.accelerator.register_for_checkpointing(run.handle)
    _Latest.accelerator.load_state(str(folder / "state"))


ACCELERATE = replace(
    PLAIN,
    wrap=_prepared,
    optimizer=_prepared_optimizer,
    save=_save_state,
    load=_load_state,
)


# transformers and Lightning -------------------------------------------------------------------


@cache
def _know_numbered_cpus() -> None:
    """Let PyTorch load to "cpu:0", as the Trainer asks it to on a machine without a GPU."""
    torch.serialization.register_package(
        0, lambda _: None, lambda stored, place: stored if place.startswith("cpu:") else None
    )


def with_transformers(
    model: Any,
    folder: Path,
    plan: uf.FreezePlan | None = None,
    at: Callable[[int], None] | None = None,
    resume: Path | None = None,
    saved_after: int = SAVED_AFTER,
) -> Any:
    """Train in the Trainer; return the callback that carries the plan out."""
    import_torchvision()
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from unifreeze_torch.trainers.transformers import FreezeCallback

    class At(TrainerCallback):  # type: ignore[misc]
        """Calls back before each step."""

        def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            """Call."""
            if at is not None:
                at(state.global_step)

    _know_numbered_cpus()
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=4,
        save_strategy="epoch",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        label_names=["labels"],
    )
    freeze = FreezeCallback(plan) if plan is not None else None
    callbacks = [*([freeze] if freeze else []), At()]
    trainer = Trainer(model, arguments, train_dataset=rows(), callbacks=callbacks)
    checkpoints = {int(p.name.split("-")[1]): str(p) for p in (resume or folder).glob("check*")}
    saved = [checkpoints[number] for number in sorted(checkpoints)]
    trainer.train(resume_from_checkpoint=saved[saved_after - 1] if resume else None)
    return freeze


def with_lightning(
    model: Any,
    folder: Path,
    plan: uf.FreezePlan | None = None,
    at: Callable[[int], None] | None = None,
    resume: Path | None = None,
    saved_after: int = SAVED_AFTER,
) -> Any:
    """Train in Lightning's Trainer; return the callback that carries the plan out."""
    import_torchvision()
    import lightning.pytorch as pl

    from unifreeze_torch.trainers.lightning import FreezeCallback

    class Module(pl.LightningModule):  # type: ignore[misc]
        """The task as Lightning wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.task = model

        def training_step(self, batch: Any) -> Any:
            """Return the loss."""
            return self.task(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            """Build an optimizer over what requires a gradient."""
            return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=RATE)

        def on_train_batch_start(self, *_: Any) -> None:
            """Call back."""
            if at is not None:
                at(self.trainer.global_step)

    freeze = FreezeCallback(plan) if plan is not None else None
    saver = pl.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=dist.get_world_size(),
        strategy="ddp",
        max_epochs=EPOCHS,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*([freeze] if freeze else []), saver],
    )
    saved = resume / f"epoch={saved_after - 1}.ckpt" if resume else None
    loader = torch.utils.data.DataLoader(rows(), batch_size=4)
    trainer.fit(Module(), loader, ckpt_path=saved, weights_only=False)
    return freeze


# What each column tries in a trainer -------------------------------------------------------------


class _Watch:
    """Compares a model's values from step to step."""

    def __init__(self, model: Any, trains: Callable[[], set[str]]) -> None:
        self._model, self._trains = model, trains
        self._before = PLAIN.values(model)
        self.steps = 0

    def __call__(self, number: int) -> None:
        """Check that the step that has ended moved exactly what trained in it."""
        after = PLAIN.values(self._model)
        if self.steps:
            moved = {path for path, value in after.items() if value != self._before[path]}
            assert moved == self._wanted, (
                sorted(moved - self._wanted),
                sorted(self._wanted - moved),
            )
            assert PLAIN.same(PLAIN.digest(self._model)), "the processes have other values"
        self._before, self.steps = after, self.steps + 1
        self._wanted = self._trains()


def _flagged(model: Any) -> set[str]:
    """Return what requires a gradient; the flags are checked against the plan beside it."""
    return {path for path, trains in backend_for(model).read(model).items() if trains}


def _trained(train: Train, plan: uf.FreezePlan, folder: Path, **others: Any) -> tuple[Any, Any]:
    """Train under a plan, looking at each step; return the model and the callback."""
    model = Task()
    watch = _Watch(model, lambda: _flagged(model))
    freeze = train(model, folder, plan, at=watch, **others)
    watch(-1)
    assert watch.steps > EPOCHS - SAVED_AFTER
    freeze.handle.verify()
    return model, freeze


def _place() -> Path:
    """Return a new folder, the same for all ranks."""
    names = [tempfile.mkdtemp()]
    dist.broadcast_object_list(names)
    return Path(names[0])


def _before(train: Train, _folder: Path) -> None:
    model, freeze = _trained(train, PLAN, _place())
    paths = freeze.handle.resolution.trainable_paths
    assert _flagged(model) == {path.removeprefix("task.") for path in paths}


def _after(train: Train, _folder: Path) -> None:
    """Apply a plan to the bare model in the middle of training."""
    model = Task()
    handles: list[uf.Handle] = []
    watch = _Watch(model, lambda: _flagged(model))

    def at(number: int) -> None:
        watch(number)
        if number == 2:
            handles.append(PLAN.apply(model))
            watch._wanted = set(handles[0].resolution.trainable_paths)

    train(model, _place(), None, at=at)
    watch(-1)
    handles[0].verify()


def _phases(train: Train, _folder: Path) -> None:
    _, freeze = _trained(train, PHASES, _place())
    assert freeze.handle.phase.name == "all"


def _save(train: Train, folder: Path) -> None:
    model, _ = _trained(train, PHASES, folder / "run")
    if dist.get_rank() == 0:
        (folder / "end").write_text(PLAIN.digest(model))
    dist.barrier()


def _go_on(train: Train, folder: Path, *, equal: bool) -> None:
    """Go on after the second epoch; with the same number of processes the end is the same."""
    after = SAVED_AFTER if equal else SAVED_EARLY
    resumed = {"resume": folder / "run", "saved_after": after}
    model, freeze = _trained(train, PHASES, _place(), **resumed)
    assert freeze.handle.phase.name == "all"
    if equal:
        assert PLAIN.digest(model) == (folder / "end").read_text(), "the end is another one"


def _resume(train: Train, folder: Path) -> None:
    place = folder / "resumed"
    place.mkdir(exist_ok=True)
    _save(train, place)
    _go_on(train, place, equal=True)


def _remove(train: Train, _folder: Path) -> None:
    """Train, remove the plan, train again: everything moves."""
    model, freeze = _trained(train, PLAN, _place())
    freeze.handle.remove()
    everything = set(backend_for(model).read(model))
    watch = _Watch(model, lambda: everything)
    train(model, _place(), None, at=watch)
    watch(-1)


def _verify(train: Train, _folder: Path) -> None:
    """Change a frozen parameter while the trainer trains; it raises at the end."""
    model = Task()
    path = next(path for path in backend_for(model).read(model) if "stem" in path)

    def at(number: int) -> None:
        if number == 3:
            PLAIN.spoil(model, path)

    try:
        train(model, _place(), PLAN, at=at)
    except uf.errors.FrozenDriftError as error:
        named = [drift.path for drift in error.drifts]
    else:
        raise AssertionError("nobody has seen that a frozen parameter was changed")
    assert [name.removeprefix("task.") for name in named] == [path]


def _cells(train: Train) -> dict[str, Cell]:
    checks: dict[str, Callable[[Train, Path], None]] = {
        "plan before": _before,
        "plan after": _after,
        "phase change": _phases,
        "resume": _resume,
        "remove": _remove,
        "verify": _verify,
    }
    cells: dict[str, Cell] = {name: partial(check, train) for name, check in checks.items()}
    go_on: Check = partial(_go_on, train, equal=False)  # it divides the data in another way
    cells[ELSEWHERE] = Moved(partial(_save, train), go_on)
    return {column: cells[column] for column in COLUMNS}


def _row(name: str, cells: dict[str, Cell]) -> Row:
    return Row(name, "trainers", "PyTorch", cells, processes=2, fast=False)


def _never(kit: Kit, why: str) -> dict[str, Cell]:
    return dict.fromkeys(cells_of(kit), why)


ROWS = [
    _row("accelerate", cells_of(ACCELERATE, processes=2)),
    _row("transformers' `Trainer`", _cells(with_transformers)),
    _row("Lightning's `Trainer`, `ddp`", _cells(with_lightning)),
    _row("accelerate's FSDP plug-in", _never(PLAIN, "on a CPU it wraps in DDP")),
]
