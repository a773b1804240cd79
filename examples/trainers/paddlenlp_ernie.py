"""Phases in PaddleNLP's Trainer: a small ERNIE on random words, saved and resumed half-way.

Run from the root of the repository: python -m examples.trainers.paddlenlp_ernie
"""

import logging
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import paddle

import unifreeze as uf
from examples.ernie.models import paddle_ernie
from examples.torchvision_on_cpu import import_torchvision

with suppress(ModuleNotFoundError):
    import_torchvision()  # PaddleNLP imports transformers, and that torchvision

from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments
from paddlenlp.utils.log import logger

from unifreeze_paddle.trainers.paddlenlp import FreezeCallback

PLAN = uf.FreezePlan.load(Path(__file__).parent / "phases.yaml")
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 16}


class Sentences(paddle.io.Dataset):
    """Random words with a label each."""

    def __len__(self) -> int:
        """Return how many there are."""
        return 16

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return one of them, the same each time."""
        words = np.random.default_rng(number).integers(1, SIZES["vocab_size"], 8)
        return {"input_ids": words, "labels": np.asarray(number % 2)}


class Show(TrainerCallback):
    """Prints what trains."""

    def __init__(self, freeze: FreezeCallback) -> None:
        self.freeze = freeze

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print it."""
        print(round(state.epoch), self.freeze.handle.phase.name, self.freeze.handle)


def train(folder: str, epochs: int, checkpoint: str | None = None) -> None:
    """Train up to an epoch, from the checkpoint if one is given."""
    freeze = FreezeCallback(PLAN)
    args = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        evaluation_strategy="epoch",
        save_strategy="epoch",
        device="cpu",
        disable_tqdm=True,
        report_to=[],
    )
    trainer = Trainer(
        paddle_ernie(**SIZES),
        args=args,
        train_dataset=Sentences(),
        eval_dataset=Sentences(),
        callbacks=[freeze, Show(freeze)],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    print(freeze.handle.verify())


if __name__ == "__main__":
    logger.logger.setLevel(logging.ERROR)
    with TemporaryDirectory() as folder:
        train(folder, epochs=3)
        train(folder, epochs=6, checkpoint=f"{folder}/checkpoint-12")
        print(sorted(file.name for file in Path(folder).glob("*.yaml")))
