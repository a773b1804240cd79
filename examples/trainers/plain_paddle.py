"""Phases in a plain Paddle loop: a ResNet-18 on random images, saved and resumed half-way.

Run from the root of the repository: python -m examples.trainers.plain_paddle
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import paddle
from paddle.nn.functional import cross_entropy
from paddle.vision.models import resnet18

import unifreeze as uf

PLAN = uf.FreezePlan.load(Path(__file__).parent / "phases.yaml")
images, labels = paddle.randn([16, 3, 32, 32]), paddle.arange(16) % 5


def train(file: Path, epochs: int) -> None:
    """Train up to an epoch, from the checkpoint if there is one."""
    model = resnet18(num_classes=5)
    saved = paddle.load(str(file)) if file.exists() else None
    if saved:
        model.set_state_dict(saved["model"])
    handle = PLAN.apply(model)
    if saved:
        handle.load_state_dict(saved["plan"])
    optimizer = handle.optimizer(paddle.optimizer.AdamW)
    if saved:
        optimizer.set_state_dict(saved["optimizer"])

    for epoch in range(saved["epochs"] if saved else 0, epochs):
        measured = {"val_loss": validate(model)} if epoch else None
        handle.step(epoch=epoch, metrics=measured)
        print(epoch, handle.phase.name, handle)
        model.train()
        for batch in range(0, len(images), 4):
            picked = slice(batch, batch + 4)
            cross_entropy(model(images[picked]), labels[picked]).backward()
            optimizer.step()
            optimizer.clear_grad()
    print(handle.verify())
    state = {"model": model.state_dict(), "plan": handle.state_dict(), "epochs": epochs}
    paddle.save({**state, "optimizer": optimizer.state_dict()}, str(file))


def validate(model: paddle.nn.Layer) -> float:
    """Measure the loss."""
    model.eval()
    with paddle.no_grad():
        return float(cross_entropy(model(images), labels))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        for epochs in (3, 6):
            train(Path(folder) / "last.pdckpt", epochs)
