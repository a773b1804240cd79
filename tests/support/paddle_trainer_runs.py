"""One small run with phases in each of Paddle's trainers, with what every step changed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.paddle_layers import bits
from tests.support.kits.paddle_nets import Stack
from unifreeze_paddle.trainers.model_fit import FreezeCallback as FitCallback

EPOCHS, BATCHES, ACCUMULATED, SIZE, RATE = 9, 6, 2, 4, 0.1
STEPS_PER_EPOCH = BATCHES // ACCUMULATED
PLAN = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.02}
  - {name: top, at: {epoch: 1}, add: [{train: "blocks[-1]"}], lr: 0.01}
  - {name: all, when: {metric: val_loss, stalled_for: 1, min_delta: 100}, add: [{train: all}]}
  - {name: head again, after: {steps: 4}, like: head}
  - {name: end, at: {epoch: 6}, stop: true}
"""
)
TIMELINE = ["head"] * 3 + ["top"] * 6 + ["all"] * 4 + ["head again"] * 5
"""Reports at the start of epochs 2 and 3 stall; four steps later the head trains alone again."""


def batch(number):
    """The rows and labels of a batch; the same in every epoch."""
    rows = np.random.default_rng(number).standard_normal((SIZE, 6)).astype("float32")
    return rows, np.arange(SIZE, dtype="int64") % 3


class Samples(paddle.io.Dataset):
    """The same, one by one, as pairs or by name."""

    def __init__(self, first=0, count=BATCHES, *, named=False):
        super().__init__()
        made = [batch(number) for number in range(first, first + count)]
        self.pairs = [(rows[n], labels[n]) for rows, labels in made for n in range(SIZE)]
        self.named = named

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, number):
        row, label = self.pairs[number]
        return {"x": row, "labels": label} if self.named else (row, label)


def share(logits, labels):
    """What a batch adds to the loss of a step."""
    return nn.functional.cross_entropy(logits, labels) / ACCUMULATED


@dataclass
class Trace:
    """What became of a run.

    Attributes:
        start: All bytes before it.
        phases: The phase of each of the optimizer's steps.
        after: All bytes after each.
        handle: The plan in force at the end.
        folder: Where it was saved.
        checkpoints: What it was saved as, by the number of steps made.
    """

    start: dict[str, bytes]
    phases: list[str] = field(default_factory=list)
    after: list[dict[str, bytes]] = field(default_factory=list)
    handle: uf.Handle | None = None
    folder: Path = Path()
    checkpoints: dict[int, Path] = field(default_factory=dict)

    def moved(self, phase):
        """Names of what any step of a phase changed."""
        before = [self.start, *self.after]
        return {
            name
            for number, here in enumerate(self.phases)
            for name, content in self.after[number].items()
            if here == phase and content != before[number][name]
        }


@contextmanager
def traced(model, handle, folder):
    """Follow the optimizer's steps, however they are taken; `handle` tells which is in force."""
    trace = Trace(bits(model), folder=Path(folder))
    own = paddle.optimizer.AdamW._apply_optimize

    def followed(optimizer, *args, **kwargs):
        made = own(optimizer, *args, **kwargs)
        phase = handle().phase
        trace.phases.append(phase and phase.name)
        trace.after.append(bits(model))
        return made

    paddle.optimizer.AdamW._apply_optimize = followed
    try:
        yield trace
    finally:
        paddle.optimizer.AdamW._apply_optimize = own
        trace.handle = handle()


def over_everything(model):
    return paddle.optimizer.AdamW(RATE, parameters=model.parameters(), weight_decay=0.0)


def validate(model):
    model.eval()
    rows, labels = map(paddle.to_tensor, batch(99))
    with paddle.no_grad():
        return float(nn.functional.cross_entropy(model(rows), labels))


def plain(folder, plan=PLAN, *, checkpoint=None, optimizer=over_everything, epochs=EPOCHS):
    """The loop written out."""
    model = Stack()
    saved = paddle.load(str(checkpoint)) if checkpoint else None
    if saved:
        model.set_state_dict(saved["model"])
    handle = plan.apply(model)
    handle.keep_best(Path(folder) / "best")
    if saved:
        handle.load_state_dict(saved["handle"])
    made = optimizer(model)
    if plan.phases:
        handle.attach(made)
    if saved:
        made.set_state_dict(saved["optimizer"])
    with traced(model, lambda: handle, folder) as trace:
        _loop(trace, model, handle, made, saved["step"] if saved else 0, epochs)
        handle.verify()
    return trace


def _loop(trace, model, handle, optimizer, step, epochs):
    for epoch in range(step // STEPS_PER_EPOCH, epochs):
        metrics = {"val_loss": validate(model)} if epoch else None
        for number in range(STEPS_PER_EPOCH):
            handle.step(epoch=epoch, step=step, metrics=None if number else metrics)
            if handle.stopped:
                return
            model.train()
            for part in range(ACCUMULATED):
                rows, labels = map(paddle.to_tensor, batch(number * ACCUMULATED + part))
                share(model(rows), labels).backward()
            optimizer.step()
            optimizer.clear_grad()
            step += 1
        trace.checkpoints[step] = trace.folder / f"{step}.pdckpt"
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        paddle.save({**state, "handle": handle.state_dict()}, str(trace.checkpoints[step]))


def model_fit(
    folder,
    plan=PLAN,
    *,
    checkpoint=None,
    optimizer=over_everything,
    epochs=EPOCHS,
    callback=None,
    others=(),
    later=(),
    validated=True,
    **settings,
):
    """`paddle.Model.fit`."""
    network = Stack()
    freeze = callback or FitCallback(plan, resume=checkpoint)
    model = paddle.Model(network)
    model.prepare(optimizer(network), share)
    settings = {"accumulate_grad_batches": ACCUMULATED, "save_dir": str(folder)} | settings
    with traced(network, lambda: freeze.handle, folder) as trace:
        model.fit(
            Samples(),
            Samples(99, 1) if validated else None,
            batch_size=SIZE,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[*others, freeze, *later],
            **settings,
        )
    for file in Path(folder).glob("?.pdparams"):  # a resumed run counts them from 0 again
        trace.checkpoints[(int(file.stem) + 1) * STEPS_PER_EPOCH] = file.with_suffix("")
    return trace


def trainer_of(
    folder, callbacks, *, model=None, optimizer=None, epochs=EPOCHS, batches=BATCHES, **more
):
    """PaddleNLP's Trainer on the task, in the order of the samples."""
    import_torchvision()
    from paddlenlp.trainer import Trainer, TrainingArguments

    class Ordered(Trainer):
        def _get_train_sampler(self):
            return paddle.io.BatchSampler(dataset=self.train_dataset, batch_size=SIZE)

    settings = {
        "per_device_train_batch_size": SIZE,
        "per_device_eval_batch_size": SIZE,
        "gradient_accumulation_steps": ACCUMULATED,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "evaluation_strategy": "epoch",
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_strategy": "no",
    } | more
    args = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        device="cpu",
        report_to=[],
        disable_tqdm=True,
        **settings,
    )
    model = model or Stack()
    return Ordered(
        model,
        criterion=nn.CrossEntropyLoss(),
        args=args,
        train_dataset=Samples(count=batches, named=True),
        eval_dataset=Samples(99, 1, named=True),
        callbacks=callbacks,
        optimizers=(optimizer(model) if optimizer else None, None),
    )


def paddlenlp(
    folder, plan=PLAN, *, checkpoint=None, callback=None, others=(), later=(), **settings
):
    """PaddleNLP's Trainer."""
    import_torchvision()
    from unifreeze_paddle.trainers.paddlenlp import FreezeCallback

    freeze = callback or FreezeCallback(plan, resume=checkpoint)
    trainer = trainer_of(folder, [*others, freeze, *later], **settings)
    with traced(trainer.model, lambda: freeze.handle, folder) as trace:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    files = Path(folder).glob("checkpoint-*")
    trace.checkpoints = {int(file.name.removeprefix("checkpoint-")): file for file in files}
    return trace


RUNS = {"plain": plain, "model_fit": model_fit, "paddlenlp": paddlenlp}
