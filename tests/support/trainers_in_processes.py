"""Small runs with phases in PyTorch's trainers, as each of several processes does them."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
from torch import nn

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.torch_processes import Net, bits

PLAN = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: top, at: {epoch: 1}, add: [{train: "blocks[-1]"}]}
  - {name: all, when: {metric: val_loss, stalled_for: 1, min_delta: 100}, add: [{train: all}]}
  - {name: head again, after: {epochs: 1}, like: head}
"""
)
EPOCHS = 5
Seen = list[tuple[str, str]]


class Task(nn.Module):
    """A model with its loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Net(width=16, blocks=2)

    def forward(self, inputs: Any, labels: Any) -> Any:
        """Return the loss."""
        logits = self.net(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def rows() -> list[dict[str, Any]]:
    """Return the samples; the processes divide them among themselves."""
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(7))
    return [{"inputs": inputs[n], "labels": n % 2} for n in range(16)]


def see(seen: Seen, handle: uf.Handle | None, model: nn.Module) -> None:
    """Note the phase and the bits of all parameters."""
    assert handle is not None
    assert handle.phase is not None
    seen.append((handle.phase.name, bits(model)))


def with_accelerate(folder: str) -> Seen:
    """Train in a loop of one's own."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, seen = Task(), Seen()
    handle = PLAN.apply(model)
    optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-2)
    loader = torch.utils.data.DataLoader(rows(), batch_size=4)
    engine, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(EPOCHS):
        handle.step(epoch=epoch, metrics={"val_loss": 1.0} if epoch else None)
        for batch in loader:
            accelerator.backward(engine(**batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        see(seen, handle, model)
    handle.verify()
    return seen


def with_transformers(folder: str) -> Seen:
    """Train in the Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from unifreeze_torch.trainers.transformers import FreezeCallback

    freeze, seen, model = FreezeCallback(PLAN), Seen(), Task()

    class Look(TrainerCallback):  # type: ignore[misc]
        """Sees what an epoch has trained; the plan goes on to the next after the evaluation."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Note it."""
            see(seen, freeze.handle, model)

    args = TrainingArguments(
        folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=4,
        eval_strategy="epoch",
        save_strategy="no",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        label_names=["labels"],
    )
    data = rows()
    Trainer(model, args, train_dataset=data, eval_dataset=data, callbacks=[freeze, Look()]).train()
    return seen


def with_lightning(folder: str) -> Seen:
    """Train in Lightning's Trainer."""
    import lightning.pytorch as pl

    from unifreeze_torch.trainers.lightning import FreezeCallback

    freeze, seen = FreezeCallback(PLAN), Seen()

    class Module(pl.LightningModule):  # type: ignore[misc]
        """The task as Lightning wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.task = Task()

        def training_step(self, batch: Any) -> Any:
            """Return the loss."""
            return self.task(**batch)["loss"]

        def validation_step(self, batch: Any) -> None:
            """Log a metric that no process shares."""
            self.log("val_loss", self.task(**batch)["loss"], sync_dist=True)

        def configure_optimizers(self) -> Any:
            """Build an optimizer over what requires a gradient."""
            trainable = [p for p in self.parameters() if p.requires_grad]
            return torch.optim.AdamW(trainable, lr=1e-2)

        def on_train_batch_end(self, *_: Any) -> None:
            """Note what a step has trained."""
            see(seen, freeze.handle, self)

    loader = torch.utils.data.DataLoader(rows(), batch_size=4)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=int(os.environ["WORLD_SIZE"]),
        strategy="ddp",
        max_epochs=EPOCHS,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[freeze],
    )
    trainer.fit(Module(), loader, loader)
    return seen


RUNS = {
    "accelerate": with_accelerate,
    "transformers": with_transformers,
    "lightning": with_lightning,
}


def runs(rank: int, count: int, port: int) -> dict[str, Seen]:
    """Train with each of the trainers."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(count),
        ACCELERATE_USE_CPU="true",
    )
    import_torchvision()
    results = {}
    for name, run in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = run(folder)
    return results
