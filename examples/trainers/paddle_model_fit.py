"""Phases in `paddle.Model.fit`: a ResNet-18 on random images, saved and resumed half-way.

Run from the root of the repository: python -m examples.trainers.paddle_model_fit
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import paddle
from paddle.vision.models import resnet18

import unifreeze as uf
from unifreeze_paddle.trainers.model_fit import FreezeCallback

PLAN = uf.FreezePlan.load(Path(__file__).parent / "phases.yaml")
images, labels = paddle.randn([16, 3, 32, 32]), paddle.arange(16) % 5
data = paddle.io.TensorDataset([images, labels])


class Show(paddle.callbacks.Callback):
    """Prints what trains; `fit` counts epochs from 0 whenever it is called."""

    def __init__(self, freeze: FreezeCallback) -> None:
        super().__init__()
        self.freeze = freeze

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Print it."""
        print(epoch, self.freeze.handle.phase.name, self.freeze.handle)


def train(folder: str, epochs: int, checkpoint: str | None = None) -> None:
    """Train up to an epoch, from the checkpoint if one is given."""
    network = resnet18(num_classes=5)
    model = paddle.Model(network)
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=network.parameters())
    model.prepare(optimizer, paddle.nn.CrossEntropyLoss())
    freeze = FreezeCallback(PLAN, resume=checkpoint)
    model.fit(
        data,
        data,
        batch_size=4,
        epochs=epochs,
        callbacks=[freeze, Show(freeze)],
        save_dir=folder,
        verbose=0,
    )
    print(freeze.handle.verify())


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        train(f"{folder}/first", epochs=3)
        train(f"{folder}/second", epochs=6, checkpoint=f"{folder}/first/2")
        print(sorted(file.name for file in Path(folder, "first").glob("*.yaml")))
