"""ERNIE sentiment classification, from PaddleNLP to transformers and back.

    python -m examples.port_ernie.port
    python -m examples.port_ernie.port --direction torch-to-paddle

docs/en/port-ernie.md shows what it prints.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from examples.ernie.models import paddle_ernie, torch_ernie
from examples.porting_common import Task, arguments, run
from examples.porting_sides import Batch, import_quietly

SMALL = {
    "vocab_size": 2000,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
    "initializer_range": 0.125,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""No two frameworks draw the same random masks; without any, the curves can be compared."""

PAD, START, END = 0, 1, 2
GOOD, BAD = np.arange(10, 15), np.arange(15, 20)
PLAIN = 100
"""Words from here on say nothing about the mood of a sentence."""


def torch_small() -> Any:
    """Build the small ERNIE of transformers."""
    return torch_ernie(**SMALL, **NO_DROPOUT)


def paddle_small() -> Any:
    """Build the small ERNIE of PaddleNLP."""
    return paddle_ernie(**SMALL, **NO_DROPOUT)


def sentences(rng: np.random.Generator, count: int, *, words: int, length: int) -> Batch:
    """Make up sentences whose mood is that of most of their three, five or seven opinions."""
    ids = np.full((count, length), PAD)
    moods = np.zeros(count, dtype="int64")
    for number, row in enumerate(ids):
        size = int(rng.integers(length // 2, length - 1))
        row[0], row[size] = START, END
        row[1:size] = rng.integers(PLAIN, words, size - 1)
        opinions = rng.choice([3, 5, 7])
        places = rng.choice(np.arange(1, size), opinions, replace=False)
        good = rng.random(opinions) < 0.5
        row[places] = np.where(good, rng.choice(GOOD, opinions), rng.choice(BAD, opinions))
        moods[number] = good.sum() * 2 > opinions
    # Without a mask PaddleNLP leaves padding out and transformers attends to it.
    mask = (ids != PAD).astype("int64")
    return {"input_ids": ids, "attention_mask": mask}, moods


def task(*, full: bool) -> Task:
    """Say what to port and train, small or at the size of ernie-3.0-base."""
    builders = (torch_ernie, paddle_ernie)
    build = [partial(b, **NO_DROPOUT) for b in builders] if full else [torch_small, paddle_small]
    words, length = (40000, 64) if full else (SMALL["vocab_size"], 24)
    return Task(
        name="ERNIE, sentiment",
        folder="runs/port_ernie",
        ports={"torch": ("transformers", build[0]), "paddle": ("PaddleNLP", build[1])},
        plan=Path(__file__).with_name("plan.yaml"),
        optimizer={"torch": "AdamW", "paddle": "AdamW"},
        settings={"lr": 5e-5 if full else 7e-4, "weight_decay": 0.01},
        batch=partial(sentences, words=words, length=length),
        batch_size=16 if full else 32,
    )


def main() -> int:
    """Run the port; return 0 if everything that should be equal is."""
    parser = arguments(__doc__.partition("\n")[0], "paddle-to-torch", steps=300)
    options = parser.parse_args()
    import_quietly(one_thread=not options.full)
    return run(task(full=options.full), options)


if __name__ == "__main__":
    sys.exit(main())
