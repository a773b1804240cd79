"""PaddleOCR's loop trains a text recogniser two steps under a plan, then as its tracker advises.

In an environment with paddleocr==2.10.0, its folder on the path as in a clone:
python -m examples.suites.paddleocr.train
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import yaml

import unifreeze as uf
from examples.suites.moved import Moved, stop_gradient_after
from examples.suites.paddleocr.crnn import CHARACTERS, build_loss, build_model, stand_in

stand_in()
from ppocr.utils.logging import get_logger  # noqa: E402
from tools import program  # noqa: E402

HERE = Path(__file__).parent


class Words(paddle.io.Dataset):
    """Random pictures of words with three characters."""

    need_reset = False

    def __len__(self) -> int:
        """Return how many there are."""
        return 4

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        """Return the picture, the characters and how many."""
        random = np.random.default_rng(number)
        picture = random.standard_normal((3, 16, 64)).astype("float32")
        return picture, random.integers(1, CHARACTERS, 3).astype("int32"), np.int64(3)


def build(config: dict[str, Any]) -> tuple[Any, Any]:
    """Build the network and its optimizer, as tools/train.py does."""
    model, given = build_model(config["Architecture"]), config["Optimizer"]
    optimizer = paddle.optimizer.Momentum(
        given["lr"]["learning_rate"],
        momentum=given["momentum"],
        parameters=model.parameters(),
        weight_decay=given["regularizer"]["factor"],
    )
    return model, optimizer


def train(config: dict[str, Any], model: Any, optimizer: Any) -> None:
    """Train as tools/train.py does."""
    program.train(
        config,
        paddle.io.DataLoader(Words(), batch_size=2),
        [],  # no validation
        "cpu",
        model,
        build_loss(config["Loss"]),
        optimizer,
        0.01,  # no scheduler
        None,
        SimpleNamespace(main_indicator="acc"),
        {},
        get_logger(),
        2,
    )


def train_with_plan(config: dict[str, Any]) -> None:
    """Train as tools/train.py does, with three more lines."""
    model, optimizer = build(config)
    moved = Moved(model.backbone)
    handle = uf.FreezePlan.load(HERE / "plan.yaml").apply(model)
    handle.check_optimizer(optimizer)
    train(config, model, optimizer)
    print(handle.verify())
    print(f"a plan: {moved}")


def train_as_advised(config: dict[str, Any], after_steps: int) -> Moved:
    """Train with `x.stop_gradient = True` after `x = self.backbone(x)`."""
    model, optimizer = build(config)
    moved = Moved(model.backbone, after_steps=after_steps)
    with stop_gradient_after(model.backbone, after_steps=after_steps):
        train(config, model, optimizer)
    return moved


if __name__ == "__main__":
    paddle.set_device("cpu")
    paddle.seed(0)
    config = yaml.safe_load((HERE / "rec_crnn.yml").read_text(encoding="utf-8"))
    with TemporaryDirectory() as folder:
        config["Global"]["save_model_dir"] = folder
        train_with_plan(config)
        for steps, when in enumerate(("from the start", "after a step")):
            print(f"x.stop_gradient = True {when}: {train_as_advised(config, steps)}")
