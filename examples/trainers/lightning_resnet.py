"""Phases in Lightning's Trainer: a ResNet-18 on random images, saved and resumed half-way.

Run from the root of the repository: python -m examples.trainers.lightning_resnet
"""

import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision

torchvision = import_torchvision()
import lightning  # noqa: E402

from unifreeze_torch.trainers.lightning import FreezeCallback  # noqa: E402

PLAN = uf.FreezePlan.load(Path(__file__).parent / "phases.yaml")
images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 5
loader = DataLoader(TensorDataset(images, labels), batch_size=4)


class Classifier(lightning.LightningModule):
    """A ResNet-18 with its loss; it knows nothing of the plan."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torchvision.models.resnet18(num_classes=5)

    def training_step(self, batch):
        """Return the loss."""
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch):
        """Log what the plan waits for."""
        self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        """Build an optimizer over everything; phases set its rate."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Show(lightning.Callback):
    """Prints what trains."""

    def __init__(self, freeze: FreezeCallback) -> None:
        self.freeze = freeze

    def on_train_epoch_start(self, trainer, pl_module):
        """Print it."""
        print(trainer.current_epoch, self.freeze.handle.phase.name, self.freeze.handle)


def train(folder: str, epochs: int, checkpoint: str | None = None) -> str:
    """Train up to an epoch; return the last checkpoint."""
    freeze = FreezeCallback(PLAN)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[freeze, Show(freeze)],
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), loader, loader, ckpt_path=checkpoint)
    print(freeze.handle.verify())
    return trainer.checkpoint_callback.best_model_path


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*(num_workers|in eval mode|LeafSpec|not empty).*")
    with TemporaryDirectory() as folder:
        half = train(folder, epochs=3)
        train(folder, epochs=6, checkpoint=half)
        print(sorted(file.name for file in Path(folder).glob("*.yaml")))
