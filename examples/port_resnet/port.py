"""ResNet-50 for flowers, from torchvision to paddle.vision and back.

    python -m examples.port_resnet.port
    python -m examples.port_resnet.port --direction paddle-to-torch

docs/en/port-resnet.md shows what it prints.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np

from examples.porting_common import Task, arguments, run
from examples.porting_sides import Batch, import_quietly
from examples.resnet.models import paddle_resnet50, torch_resnet50


def flowers(rng: np.random.Generator, count: int, *, kinds: int, pixels: int) -> Batch:
    """Draw flowers: a kind has its number of petals and its colour, more or less.

    Place, size, turn and background vary; pixels are normalised to about ±1.
    """
    labels = rng.integers(0, kinds, count)
    images = np.stack([_flower(rng, int(kind), kinds, pixels) for kind in labels])
    return images.astype("float32"), labels


def _flower(rng: np.random.Generator, kind: int, kinds: int, pixels: int) -> np.ndarray:
    """Draw one flower as an array of shape (3, pixels, pixels)."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, pixels)] * 2) - rng.uniform(-0.3, 0.3, (2, 1, 1))
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    petals = 3 + kind % 5
    edge = rng.uniform(0.7, 0.9) * (0.7 + 0.3 * np.cos(petals * (angle + rng.uniform(0, 7))))
    image = _colour(rng.uniform(), 0.15) + rng.normal(0, 0.15, (3, pixels, pixels))
    petal = _colour(kind / kinds + rng.normal(0, 0.15 / kinds), 0.9)
    image = np.where(radius < edge, petal + rng.normal(0, 0.1, image.shape), image)
    return np.where(radius < 0.12, _colour(0.15, 0.9), image)


def _colour(hue: float, strength: float) -> np.ndarray:
    """Return red, green and blue around 0, of shape (3, 1, 1), for a hue in turns."""
    turns = hue + np.array([0, 1 / 3, 2 / 3])
    return strength * np.cos(2 * np.pi * turns)[:, None, None]


def task(*, full: bool) -> Task:
    """Say what to port and train: small pictures of 5 kinds, or large ones of 17."""
    kinds, pixels = (17, 224) if full else (5, 64)
    return Task(
        name="ResNet-50, flowers",
        folder="runs/port_resnet",
        ports={
            "torch": ("torchvision", partial(torch_resnet50, num_classes=kinds)),
            "paddle": ("paddle.vision", partial(paddle_resnet50, num_classes=kinds)),
        },
        plan=Path(__file__).with_name("plan.yaml"),
        optimizer={"torch": "SGD", "paddle": "Momentum"},
        settings={"lr": 0.001, "momentum": 0.9, "weight_decay": 1e-4},
        batch=partial(flowers, kinds=kinds, pixels=pixels),
        batch_size=16,
        # Weights are random here. With statistics of real activations, as a trained network has,
        # norms that the plan holds do their work.
        warm_up=20,
    )


def main() -> int:
    """Run the port; return 0 if everything that should be equal is."""
    parser = arguments(__doc__.partition("\n")[0], "torch-to-paddle", steps=120)
    options = parser.parse_args()
    import_quietly(one_thread=not options.full)
    return run(task(full=options.full), options)


if __name__ == "__main__":
    sys.exit(main())
