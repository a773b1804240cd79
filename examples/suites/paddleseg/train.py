"""PaddleSeg trains MobileSeg for two steps under a plan, then as its tracker advises.

In an environment with paddleseg: python -m examples.suites.paddleseg.train
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import paddle
from paddleseg.core import train
from paddleseg.cvlibs import Config, SegBuilder

import unifreeze as uf
from examples.suites.moved import Moved, stop_gradient_after

HERE = Path(__file__).parent


def train_with_plan(config: Config, folder: str) -> None:
    """Train as tools/train.py does, with three more lines."""
    builder = SegBuilder(config)
    moved = Moved(builder.model.backbone)
    handle = uf.FreezePlan.load(HERE / "plan.yaml").apply(builder.model)
    handle.check_optimizer(builder.optimizer)
    train(
        builder.model,
        builder.train_dataset,
        optimizer=builder.optimizer,
        save_dir=folder,
        iters=config.iters,
        batch_size=config.batch_size,
        losses=builder.loss,
    )
    print(handle.verify())
    print(f"a plan: {moved}")


def train_as_advised(config: Config, folder: str, after_steps: int) -> Moved:
    """Train with `x.stop_gradient = True` on the backbone's features."""
    builder = SegBuilder(config)
    backbone = builder.model.backbone
    moved = Moved(backbone, after_steps=after_steps)
    with stop_gradient_after(backbone, after_steps=after_steps):
        train(
            builder.model,
            builder.train_dataset,
            optimizer=builder.optimizer,
            save_dir=folder,
            iters=config.iters,
            batch_size=config.batch_size,
            losses=builder.loss,
        )
    return moved


def write_pictures(folder: Path, count: int = 4) -> None:
    """Write random pictures with a kind for each pixel, and the list of them."""
    random = np.random.default_rng(0)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.jpg"), random.integers(0, 255, (64, 64, 3), np.uint8))
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 3, (64, 64), np.uint8))
    lines = [f"{number}.jpg {number}.png\n" for number in range(count)]
    (folder / "train.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    paddle.set_device("cpu")
    paddle.seed(0)
    with TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        data = [f"train_dataset.dataset_root={folder}"]
        data.append(f"train_dataset.train_path={folder}/train.txt")
        config = Config(str(HERE / "mobileseg.yml"), opts=data)
        train_with_plan(config, folder)
        for steps, when in enumerate(("from the start", "after a step")):
            moved = train_as_advised(config, folder, steps)
            print(f"x.stop_gradient = True {when}: {moved}")
