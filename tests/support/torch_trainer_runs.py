"""One small run with phases in each of PyTorch's trainers, with what every step changed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.torch_nets import Stack, raw, rows

import_torchvision()
import lightning.pytorch as pl  # noqa: E402

EPOCHS, BATCHES, ACCUMULATED, SIZE = 9, 6, 2, 4
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


class Task(nn.Module):
    """A stack with its loss."""

    def __init__(self):
        super().__init__()
        self.net = Stack()

    def forward(self, inputs, labels):
        logits = self.net(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def task():
    torch.manual_seed(0)
    return Task()


def batch(number):
    """The inputs and labels of a batch; the same in every epoch."""
    return {"inputs": rows(SIZE, seed=number), "labels": torch.arange(SIZE) % 3}


def samples(first=0, count=BATCHES):
    """The same, one by one."""
    batches = [batch(number) for number in range(first, first + count)]
    return [{key: one[key][n] for key in one} for one in batches for n in range(SIZE)]


def bits(model):
    """Every parameter's and buffer's bytes."""
    return {name: raw(tensor) for name, tensor in model.state_dict().items()}


@dataclass
class Trace:
    """What became of a run.

    Attributes:
        start: All bytes before it.
        phases: The phase of each of the optimizer's steps.
        after: All bytes after each.
        handle: The plan in force at the end.
        checkpoints: Where it was saved, by the number of steps made.
    """

    start: dict[str, bytes]
    phases: list[str] = field(default_factory=list)
    after: list[dict[str, bytes]] = field(default_factory=list)
    handle: uf.Handle | None = None
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
def traced(model, handle):
    """Follow every optimizer's steps; `handle` tells which handle is in force."""
    trace = Trace(bits(model))

    def stepped(*_):
        phase = handle().phase
        trace.phases.append(phase and phase.name)
        trace.after.append(bits(model))

    hook = register_optimizer_step_post_hook(stepped)
    try:
        yield trace
    finally:
        hook.remove()
        trace.handle = handle()


def validate(model):
    model.eval()
    with torch.no_grad():
        return float(model(**batch(99))["loss"])


def plain(folder, plan=PLAN, *, checkpoint=None, optimizer=None, epochs=EPOCHS):
    """The loop written out."""
    model = task()
    saved = torch.load(checkpoint, weights_only=True) if checkpoint else None
    if saved:
        model.load_state_dict(saved["model"])
    handle = plan.apply(model)
    if saved:
        handle.load_state_dict(saved["handle"])
    if optimizer:
        made = optimizer(model)
        handle.attach(made)
    else:
        made = handle.optimizer(torch.optim.AdamW, weight_decay=0.0)
    if saved:
        made.load_state_dict(saved["optimizer"])
    metrics, step = None, saved["step"] if saved else 0
    with traced(model, lambda: handle) as trace:
        for epoch in range(step // STEPS_PER_EPOCH, epochs):
            metrics = {"val_loss": validate(model)} if epoch else None
            for number in range(STEPS_PER_EPOCH):
                handle.step(epoch=epoch, step=step, metrics=metrics if number == 0 else None)
                if handle.stopped:
                    return trace
                model.train()
                for part in range(ACCUMULATED):
                    loss = model(**batch(number * ACCUMULATED + part))["loss"]
                    (loss / ACCUMULATED).backward()
                made.step()
                made.zero_grad()
                step += 1
            trace.checkpoints[step] = Path(folder) / f"{step}.pt"
            trace.checkpoints[step].parent.mkdir(exist_ok=True)
            state = {"model": model.state_dict(), "optimizer": made.state_dict(), "step": step}
            torch.save({**state, "handle": handle.state_dict()}, trace.checkpoints[step])
        handle.verify()
    return trace


def accelerated(folder, plan=PLAN, *, checkpoint=None, optimizer=None, epochs=EPOCHS):
    """The loop with accelerate."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    model = task()
    handle = plan.apply(model)
    if optimizer:
        made = optimizer(model)
        handle.attach(made)
    else:
        made = handle.optimizer(torch.optim.AdamW, weight_decay=0.0)
    loader = DataLoader(samples(), batch_size=SIZE)
    wrapped, made, loader = accelerator.prepare(model, made, loader)
    accelerator.register_for_checkpointing(handle)
    step = 0
    if checkpoint:
        accelerator.load_state(str(checkpoint))
        step = int(checkpoint.name)
    with traced(model, lambda: handle) as trace:
        for epoch in range(step // STEPS_PER_EPOCH, epochs):
            metrics = {"val_loss": validate(wrapped)} if epoch else None
            wrapped.train()
            for number, one in enumerate(loader):
                if number % ACCUMULATED == 0:
                    handle.step(epoch=epoch, step=step, metrics=None if number else metrics)
                if handle.stopped:
                    return trace
                with accelerator.accumulate(wrapped):
                    accelerator.backward(wrapped(**one)["loss"])
                    made.step()
                    made.zero_grad()
                step += accelerator.sync_gradients
            trace.checkpoints[step] = Path(folder) / str(step)
            accelerator.save_state(str(trace.checkpoints[step]))
        handle.verify()
    return trace


def lightning_module(optimizer=None):
    """The task as a LightningModule."""

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = Stack()

        def forward(self, inputs, labels):
            return Task.forward(self, inputs, labels)["loss"]

        def training_step(self, batch):
            return self(**batch)

        def validation_step(self, batch):
            self.log("val_loss", self(**batch))

        def configure_optimizers(self):
            if optimizer:
                return optimizer(self)
            trained = [p for p in self.parameters() if p.requires_grad]
            return torch.optim.AdamW(trained, 0.1, weight_decay=0.0)

    return Module()


def lightning(
    folder,
    plan=PLAN,
    *,
    checkpoint=None,
    optimizer=None,
    epochs=EPOCHS,
    module=None,
    callback=None,
    others=(),
    later=(),
    **settings,
):
    """The trainer of Lightning."""
    from torch.utils.data import DataLoader

    from unifreeze_torch.trainers.lightning import FreezeCallback

    module = module or lightning_module(optimizer)
    freeze = callback or FreezeCallback(plan)
    settings = {"accumulate_grad_batches": ACCUMULATED, "logger": False} | settings
    keep = pl.callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[keep, *others, freeze, *later],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )
    train, check = DataLoader(samples(), SIZE), DataLoader(samples(99, 1), SIZE)
    with traced(module, lambda: freeze.handle) as trace:
        trainer.fit(module, train, check, ckpt_path=checkpoint, weights_only=False)
    files = Path(folder).glob("step=*.ckpt")
    trace.checkpoints = {int(file.stem.removeprefix("step=")): file for file in files}
    return trace


def hugging_face_trainer(folder, callbacks, *, model=None, optimizer=None, epochs=EPOCHS, **more):
    """The Trainer of transformers on the task, in the order of the samples."""
    import transformers

    class Ordered(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    settings = {
        "per_device_train_batch_size": SIZE,
        "per_device_eval_batch_size": SIZE,
        "gradient_accumulation_steps": ACCUMULATED,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "max_grad_norm": 0.0,
        "eval_strategy": "epoch",
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_strategy": "no",
    } | more
    args = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        label_names=["labels"],
        **settings,
    )
    model = model or task()
    return Ordered(
        model,
        args,
        train_dataset=samples(),
        eval_dataset=samples(99, 1),
        callbacks=callbacks,
        optimizers=(optimizer(model) if optimizer else None, None),
    )


def hugging_face(
    folder, plan=PLAN, *, checkpoint=None, callback=None, others=(), later=(), **settings
):
    """The Trainer of transformers."""
    from unifreeze_torch.trainers.transformers import FreezeCallback

    freeze = callback or FreezeCallback(plan)
    trainer = hugging_face_trainer(folder, [*others, freeze, *later], **settings)
    with traced(trainer.model, lambda: freeze.handle) as trace:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    files = Path(folder).glob("checkpoint-*")
    trace.checkpoints = {int(file.name.removeprefix("checkpoint-")): file for file in files}
    return trace


RUNS = {
    "plain": plain,
    "accelerate": accelerated,
    "lightning": lightning,
    "transformers": hugging_face,
}
