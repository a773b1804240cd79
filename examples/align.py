"""The acceptance reports of two networks at full size, in English and in Chinese.

Run it with `make align`, or `python -m examples.align` where both frameworks are installed. Each
network is measured once, and both languages are written from that. Weights are random, from a seed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "align"


class Report(NamedTuple):
    """A network and its port, and the batch that both are run on."""

    name: str
    title: str
    one: str
    other: str
    batch: tuple[str, ...]


REPORTS = (
    Report(
        "ernie",
        "ERNIE base for sequences: PaddleNLP to transformers",
        "examples.align:ernie_in_paddlenlp",
        "examples.ernie.models:torch_ernie",
        ("input_ids=int64[2,16]<5:40000>", "attention_mask=int64[2,16]<1:2>"),
    ),
    Report(
        "resnet50",
        "ResNet-50: torchvision to paddle.vision",
        "examples.resnet.models:torch_resnet50",
        "examples.resnet.models:paddle_resnet50",
        ("float32[4,3,64,64]",),
    ),
)


def ernie_in_paddlenlp() -> Any:
    """Build PaddleNLP's ERNIE with a row of zeros for padding.

    PaddleNLP reads that row as zeros whatever it holds, transformers as it is: with a random row
    there, the two are not one function.
    """
    from examples.ernie.models import paddle_ernie

    model = paddle_ernie()
    table = model.ernie.embeddings.word_embeddings.weight
    values = table.numpy()
    values[0] = 0
    table.set_value(values)
    return model


def write(report: Report) -> int:
    """Measure a port and write its report in both languages; return the exit code."""
    print(f"\n{report.title}\n{'-' * len(report.title)}", flush=True)
    saved = OUT / f"{report.name}.json"
    command = [sys.executable, "-W", "ignore", "-m", "unifreeze", "align"]
    batch = [f"--batch={spec}" for spec in report.batch]
    english, chinese = (OUT / f"{report.name}{end}.md" for end in ("", ".zh-CN"))
    start = time.perf_counter()
    measure = [report.one, report.other, *batch, "-o", str(english), "--json", str(saved)]
    code = subprocess.run([*command, *measure], cwd=ROOT, check=False).returncode
    print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    if code < 2:
        again = [str(saved), "--language", "zh", "-o", str(chinese)]
        subprocess.run([*command, *again], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        print(f"written: {english.relative_to(ROOT)} and {chinese.relative_to(ROOT)}", flush=True)
    return code


def main() -> int:
    """Write the reports that are named on the command line, or all; return the exit code."""
    OUT.mkdir(parents=True, exist_ok=True)
    chosen = [row for row in REPORTS if row.name in (sys.argv[1:] or [r.name for r in REPORTS])]
    return max([write(report) for report in chosen])


if __name__ == "__main__":
    sys.exit(main())
