"""Phases in the Trainer of transformers: a small BERT, saved and resumed half-way.

Run from the root of the repository: python -m examples.trainers.transformers_bert
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision

import_torchvision()
from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from unifreeze_torch.trainers.transformers import FreezeCallback  # noqa: E402

PLAN = uf.FreezePlan.load(Path(__file__).parent / "phases.yaml")
CONFIG = BertConfig(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    num_labels=5,
)
words = torch.randint(99, (32, 12))
mask = torch.ones(12, dtype=torch.long)
data = [{"input_ids": words[n], "attention_mask": mask, "labels": n % 5} for n in range(32)]


class Show(TrainerCallback):
    """Prints what trains."""

    def __init__(self, freeze: FreezeCallback) -> None:
        self.freeze = freeze

    def on_epoch_begin(self, args, state, control, **objects):
        """Print it."""
        print(round(state.epoch), self.freeze.handle.phase.name, self.freeze.handle)


def train(folder: str, epochs: int, checkpoint: str | None = None) -> None:
    """Train up to an epoch, from a checkpoint if one is given."""
    freeze = FreezeCallback(PLAN)
    args = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        lr_scheduler_type="constant",  # shapes the rate that a phase sets
        eval_strategy="epoch",  # measures eval_loss, which is val_loss to the plan
        save_strategy="epoch",
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},  # frozen embeddings need it
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(
        BertForSequenceClassification(CONFIG),
        args,
        train_dataset=data,
        eval_dataset=data,
        callbacks=[freeze, Show(freeze)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    print(freeze.handle.verify())


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        train(folder, epochs=3)
        train(folder, epochs=6, checkpoint=f"{folder}/checkpoint-12")
        print(sorted(file.name for file in Path(folder).glob("*.yaml")))
