"""Phases in a plain PyTorch loop: a ResNet-18 on random images, saved and resumed half-way.

Run from the root of the repository: python -m examples.trainers.plain_torch
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import cross_entropy

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision

PLAN = uf.FreezePlan.load(Path(__file__).parent / "phases.yaml")
images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 5


def train(file: Path, epochs: int) -> None:
    """Train up to an epoch, from the checkpoint if there is one."""
    model = import_torchvision().models.resnet18(num_classes=5)
    saved = torch.load(file, weights_only=True) if file.exists() else None
    if saved:
        model.load_state_dict(saved["model"])
    handle = PLAN.apply(model)
    if saved:
        handle.load_state_dict(saved["plan"])
    optimizer = handle.optimizer(torch.optim.AdamW)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])

    for epoch in range(saved["epochs"] if saved else 0, epochs):
        measured = {"val_loss": validate(model)} if epoch else None
        handle.step(epoch=epoch, metrics=measured)
        print(epoch, handle.phase.name, handle)
        model.train()
        for batch in range(0, len(images), 4):
            picked = slice(batch, batch + 4)
            cross_entropy(model(images[picked]), labels[picked]).backward()
            optimizer.step()
            optimizer.zero_grad()
    print(handle.verify())
    state = {"model": model.state_dict(), "plan": handle.state_dict(), "epochs": epochs}
    torch.save({**state, "optimizer": optimizer.state_dict()}, file)


def validate(model: torch.nn.Module) -> float:
    """Measure the loss."""
    model.eval()
    with torch.no_grad():
        return float(cross_entropy(model(images), labels))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        train(Path(folder) / "last.pt", epochs=3)
        train(Path(folder) / "last.pt", epochs=6)
