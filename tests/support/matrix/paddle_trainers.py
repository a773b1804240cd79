"""Paddle's rows of trainers: PaddleNLP's `Trainer` and `paddle.Model.fit`, in two processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.matrix.cells import ELSEWHERE, Cell, Moved, Row
from tests.support.matrix.columns import COLUMNS, PLAN
from tests.support.matrix.paddle_kits import PLAIN, RATE, make
from unifreeze._protocol import backend_for
from unifreeze_paddle.trainers import model_fit

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
EPOCHS, BATCHES, SIZE, SAVED_AFTER = 4, 2, 4, 2
Train = Callable[..., None]
"""Trains a model: `train(model, folder, freeze, at, resume)`. `at` is called before each step;
`resume` is the folder of a run to go on from."""


class Rows(paddle.io.Dataset):
    """The rows of one process."""

    def __init__(self, *, named: bool) -> None:
        super().__init__()
        draw = np.random.default_rng(dist.get_rank())
        self._rows = draw.standard_normal((SIZE * BATCHES, 8)).astype("float32")
        self._named = named

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Any:
        row, label = self._rows[number], np.int64(number % 2)
        return {"x": row, "labels": label} if self._named else (row, label)


def with_paddlenlp(
    model: Any,
    folder: Path,
    plan: uf.FreezePlan | None = None,
    at: Callable[[], None] | None = None,
    resume: Path | None = None,
) -> Any:
    """Train in the Trainer; return the callback that carries the plan out."""
    import_torchvision()
    from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments

    from unifreeze_paddle.trainers.paddlenlp import FreezeCallback

    class At(TrainerCallback):  # type: ignore[misc]
        """Calls back before each step."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Call."""
            if at is not None:
                at()

    class Ordered(Trainer):  # type: ignore[misc]
        """Takes all rows of this process, in their order."""

        def _get_train_sampler(self) -> Any:
            return paddle.io.BatchSampler(dataset=self.train_dataset, batch_size=SIZE)

    saved = resume / f"checkpoint-{SAVED_AFTER * BATCHES}" if resume else None
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=SIZE,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        save_strategy="steps",
        save_steps=BATCHES,
        device="cpu",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    freeze = FreezeCallback(plan, resume=saved) if plan is not None else None
    Ordered(
        model,
        criterion=nn.CrossEntropyLoss(),
        args=arguments,
        train_dataset=Rows(named=True),
        callbacks=[*([freeze] if freeze else []), At()],
    ).train(resume_from_checkpoint=str(saved) if saved else None)
    return freeze


def with_fit(
    model: Any,
    folder: Path,
    plan: uf.FreezePlan | None = None,
    at: Callable[[], None] | None = None,
    resume: Path | None = None,
) -> Any:
    """Train in `paddle.Model.fit`; return the callback that carries the plan out."""

    class At(paddle.callbacks.Callback):
        """Calls back before each step."""

        def on_train_batch_begin(self, step: int, logs: Any = None) -> None:
            """Call."""
            if at is not None:
                at()

    saved = resume / str(SAVED_AFTER - 1) if resume else None
    freeze = model_fit.FreezeCallback(plan, resume=saved) if plan is not None else None
    high = paddle.Model(model)
    high.prepare(paddle.optimizer.AdamW(RATE, parameters=model.parameters()), nn.CrossEntropyLoss())
    high.fit(
        paddle.io.DataLoader(Rows(named=False), batch_size=SIZE),
        epochs=EPOCHS,
        save_dir=str(folder),
        verbose=0,
        callbacks=[*([freeze] if freeze else []), At()],
    )
    return freeze


class _Watch:
    """Compares a model's values from step to step, with the flags that it had."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before = PLAIN.values(model)
        self._wanted: set[str] = set()
        self.steps = 0

    def __call__(self) -> None:
        """Check that the step that has ended moved exactly what trained in it."""
        after = PLAIN.values(self._model)
        if self.steps:
            moved = {path for path, value in after.items() if value != self._before[path]}
            assert moved == self._wanted, (sorted(moved), sorted(self._wanted))
            assert PLAIN.same(PLAIN.digest(self._model)), "the processes have other values"
        self._before, self.steps = after, self.steps + 1
        self._wanted = _flagged(self._model)

    def goes_on(self) -> None:
        """Take in that flags have changed before the step."""
        self._wanted = _flagged(self._model)


def _flagged(model: Any) -> set[str]:
    return {path for path, trains in backend_for(model).read(model).items() if trains}


def _trained(train: Train, plan: uf.FreezePlan, folder: Path, **others: Any) -> tuple[Any, Any]:
    """Train under a plan, looking at each step; return the model and the callback."""
    dist.init_parallel_env()
    model = make()
    watch = _Watch(model)
    freeze = train(model, folder, plan, at=watch, **others)
    watch()
    assert watch.steps > EPOCHS - SAVED_AFTER
    freeze.handle.verify()
    return model, freeze


def _place() -> Path:
    """Return a new folder, the same for all processes."""
    dist.init_parallel_env()
    names: list[Any] = [tempfile.mkdtemp()]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(names, src=0)
    return Path(names[0])


def _before(train: Train, _folder: Path) -> None:
    model, freeze = _trained(train, PLAN, _place())
    assert _flagged(model) == set(freeze.handle.resolution.trainable_paths)


def _after(train: Train, _folder: Path) -> None:
    """Apply a plan to the bare model in the middle of training."""
    place = _place()
    model = make()
    handles: list[uf.Handle] = []
    watch = _Watch(model)

    def at() -> None:
        watch()
        if watch.steps == 3:
            handles.append(PLAN.apply(model))
            watch.goes_on()

    train(model, place, None, at=at)
    watch()
    handles[0].verify()


def _phases(train: Train, _folder: Path) -> None:
    _, freeze = _trained(train, PHASES, _place())
    assert freeze.handle.phase.name == "all"


def _save(train: Train, folder: Path) -> None:
    model, _ = _trained(train, PHASES, folder / "run")
    (folder / f"end-{dist.get_rank()}").write_text(PLAIN.digest(model))
    PLAIN.same("saved")


def _go_on(train: Train, folder: Path, *, equal: bool) -> None:
    """Go on after the second epoch; with the same number of processes the end is the same."""
    model, freeze = _trained(train, PHASES, _place(), resume=folder / "run")
    assert freeze.handle.phase.name == "all"
    if equal:
        assert PLAIN.digest(model) == (folder / "end-0").read_text(), "the end is another one"


def _resume(train: Train, folder: Path) -> None:
    place = folder / "resumed"
    place.mkdir(exist_ok=True)
    _save(train, place)
    _go_on(train, place, equal=True)


def _remove(train: Train, _folder: Path) -> None:
    """Train, remove the plan, train again: everything moves."""
    model, freeze = _trained(train, PLAN, _place())
    freeze.handle.remove()
    assert _flagged(model) == set(backend_for(model).read(model))
    watch = _Watch(model)
    train(model, _place(), None, at=watch)
    watch()


def _verify(train: Train, _folder: Path) -> None:
    """Change a frozen parameter while the trainer trains; it raises at the end."""
    place = _place()
    model = make()
    steps: list[int] = []

    def at() -> None:
        steps.append(1)
        if len(steps) == 3:
            PLAIN.spoil(model, "stem.weight")

    named: list[str] = []
    try:
        train(model, place, PLAN, at=at)
    except uf.errors.FrozenDriftError as error:
        named = [drift.path for drift in error.drifts]
    if named != ["stem.weight"]:
        raise AssertionError(f"of a frozen parameter that was changed, verify has named {named}")


def _row(name: str, train: Train) -> Row:
    checks: dict[str, Callable[[Train, Path], None]] = {
        "plan before": _before,
        "plan after": _after,
        "phase change": _phases,
        "resume": _resume,
        "remove": _remove,
        "verify": _verify,
    }
    cells: dict[str, Cell] = {column: partial(check, train) for column, check in checks.items()}
    # It divides the data in another way.
    cells[ELSEWHERE] = Moved(partial(_save, train), partial(_go_on, train, equal=False))
    ordered = {column: cells[column] for column in COLUMNS}
    return Row(name, "trainers", "Paddle", ordered, processes=2, fast=False)


ROWS = [_row("PaddleNLP's `Trainer`", with_paddlenlp), _row("`paddle.Model.fit`", with_fit)]
