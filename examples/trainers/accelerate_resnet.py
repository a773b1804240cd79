"""Phases with accelerate: a ResNet-18 on random images, saved and resumed half-way.

Run from the root of the repository: python -m examples.trainers.accelerate_resnet
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision

torchvision = import_torchvision()
from accelerate import Accelerator  # noqa: E402

PLAN = uf.FreezePlan.load(Path(__file__).parent / "phases.yaml")
images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 5


def train(folder: Path, first: int, epochs: int) -> None:
    """Train from one epoch up to another; from the second on, from the last checkpoint."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = torchvision.models.resnet18(num_classes=5)
    handle = PLAN.apply(model)  # before prepare, and so is the optimizer
    optimizer = handle.optimizer(torch.optim.AdamW)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(handle)
    if first:
        accelerator.load_state(str(folder))

    for epoch in range(first, epochs):
        measured = {"val_loss": validate(model)} if epoch else None
        handle.step(epoch=epoch, metrics=measured)
        accelerator.log(handle.scalars(), step=epoch)
        accelerator.print(epoch, handle.phase.name, handle)
        model.train()
        for inputs, wanted in loader:
            with accelerator.accumulate(model):
                accelerator.backward(cross_entropy(model(inputs), wanted))
                optimizer.step()
                optimizer.zero_grad()
    accelerator.print(handle.verify())
    accelerator.save_state(str(folder))


def validate(model: torch.nn.Module) -> float:
    """Measure the loss."""
    model.eval()
    with torch.no_grad():
        return float(cross_entropy(model(images), labels))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        train(Path(folder), 0, epochs=3)
        train(Path(folder), 3, epochs=6)
