"""Epoch 1 with a faster prefix: steps without a cache, with one, and with each faster prefix.

    python benchmarks/faster_prefix.py            # both networks, both frameworks
    python benchmarks/faster_prefix.py paddle text --quick

Contenders train copies of one model on the same batches in turn; no row repeats. Ratios are of
processor time, over the plan without a cache: of the whole epoch, in which everything is prepared,
and of the median step after the first.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
from statistics import median
from time import process_time

import numpy as np

import unifreeze as uf
from unifreeze.errors import UnifreezeError

BATCHES, TEXTS, PICTURES = 16, (4, 128), (8, 3, 224, 224)
QUICK = 6, (2, 64), (2, 3, 112, 112)
TEXT = uf.FreezePlan.from_yaml(
    "unifreeze: 1\nrules: [{only: 'head | blocks[-2:]'}]\ndropout: off\n"
)
IMAGES = uf.FreezePlan.from_yaml("unifreeze: 1\nrules: [{only: head}]\n")
DRAW = np.random.default_rng(0)


def torch_text():
    """Return BERT base in PyTorch."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(num_labels=3))


def torch_images():
    """Return ResNet-50 in PyTorch."""
    from torchvision.models import resnet50

    return resnet50()


def paddle_text():
    """Return ERNIE base in Paddle."""
    from paddlenlp.transformers import ErnieConfig, ErnieForSequenceClassification

    return ErnieForSequenceClassification(ErnieConfig(num_labels=3))


def paddle_images():
    """Return ResNet-50 in Paddle."""
    from paddle.vision.models import resnet50

    return resnet50()


def loop(framework, model, plan, prefix):
    """Return what runs a step on a batch, and the cached block."""
    handle = plan.apply(model)
    model.train()
    if framework == "torch":
        import torch

        optimizer, tensor = handle.optimizer(torch.optim.AdamW, lr=1e-4), torch.tensor
    else:
        import paddle

        optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=1e-4)
        tensor = paddle.to_tensor
    block = contextlib.nullcontext() if prefix == "none" else handle.cached(prefix=prefix)

    def step(rows):
        out = model(tensor(rows))
        out = out if hasattr(out, "mean") else out[0]
        (out**2).mean().backward()
        optimizer.step()
        optimizer.clear_grad() if framework == "paddle" else optimizer.zero_grad()

    return step, block


def compare(framework, kind, prefixes, size):
    """Print the ratios of one network."""
    count, texts, pictures = size
    make = globals()[f"{framework}_{kind}"]
    plan = TEXT if kind == "text" else IMAGES
    first = make()
    times, runs = {}, {}
    with contextlib.ExitStack() as stack:
        steps = {}
        for prefix in prefixes:
            try:
                step, block = loop(framework, copy.deepcopy(first), plan, prefix)
                runs[prefix], steps[prefix] = stack.enter_context(block), step
                times[prefix] = []
            except UnifreezeError as error:
                print(f"  {prefix}: refused: {error.fact}")
        for _ in range(count):
            rows = DRAW.integers(1, 9000, texts)
            if kind == "images":
                rows = DRAW.standard_normal(pictures).astype(np.float32)
            for prefix, step in steps.items():
                start = process_time()
                step(rows)
                times[prefix].append(process_time() - start)
    print(f"{framework}, {kind}:")
    for prefix, those in times.items():
        epoch, steady = sum(times["none"]) / sum(those), median(times["none"]) / median(those[1:])
        line = (
            f"  {prefix}: epoch 1 {epoch:.2f}x, later steps {steady:.2f}x; first {those[0]:.1f} s"
        )
        told = [line for line in str(runs[prefix]).splitlines() if line.startswith("prefix")]
        print("; ".join([line, *told]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    frameworks = [w for w in sys.argv[1:] if w in ("torch", "paddle")] or ["torch", "paddle"]
    kinds = [w for w in sys.argv[1:] if w in ("text", "images")] or ["text", "images"]
    for framework in frameworks:
        faster = ["bfloat16", "compile"] if framework == "torch" else ["inference", "bfloat16"]
        for kind in kinds:
            size = QUICK if "--quick" in sys.argv else (BATCHES, TEXTS, PICTURES)
            compare(framework, kind, ["none", "exact", *faster], size)
