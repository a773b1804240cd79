"""The figures of the benchmark of fine-tuning as lines, as a page, and as a picture."""

from __future__ import annotations

import json
from math import log10
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fine_tuning_networks import NAMES, TRAINED
from benchmarks.fine_tuning_ways import PEERS
from unifreeze._drawing.markup import Markup, element, joined
from unifreeze._drawing.palette import Look
from unifreeze._drawing.picture import Picture, drawing, rectangle
from unifreeze._drawing.treemap import Box

DOCS = Path(__file__).resolve().parent.parent / "docs"
ORDER = (
    "full", "by hand", "timm", "Lightning", "finetuning-scheduler", "fastai",
    "two-stage", "by plan", "cached", "faster",
)  # fmt: skip
COLUMNS = (
    "step, ms", "spread", "epoch 1", "epoch 2", "3 epochs", "10 epochs", "memory, MB", "GPU step",
)  # fmt: skip
INTRODUCTION = """\
# What fine-tuning costs

Written by `benchmarks/fine_tuning.py`; its docstring says what each row is. Ratios are how many
times as fast as training everything, in the same run. An epoch has 16 batches. What is marked with
~ is derived from steps or epochs that were run: 3 and 10 epochs from epochs 1 and 2, except where
three epochs were run, and epochs of which four steps were run. Memory is how much the process grows
over the built model, at most: in epoch 1, and in epoch 2. Plans for text models say `dropout: off`.

Before each cached step flags, modes, traces of writes and the bytes of the batch are looked at, and
the model's own code is called. A step takes longer than one in two stages by that:
{longer}.
That is much beside a linear head alone, and nothing beside two layers. A cache that looks at less
comes closer to two stages, and does not see it if a weight, a flag, a mode or a hook changes
between two steps. All bits of frozen weights are compared when an epoch begins, and one step in a
hundred is computed as a whole, too; both are in epochs, and not in the median step. Machines
differ in speed: compare within a table. These figures are of turns of four steps in all ways; the
script runs an epoch of short steps in one turn now.
"""
FRAMEWORKS = {"torch": "PyTorch", "paddle": "PaddlePaddle"}


def read(device: str = "cpu") -> dict[str, Any]:
    """Return the figures of earlier runs, by case."""
    file = _file(device)
    figures: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return figures


def _file(device: str) -> Path:
    return DOCS / ("fine-tuning.json" if device == "cpu" else "fine-tuning-gpu.json")


def write(results: dict[str, Any], device: str) -> None:
    """Write the figures, and the page and the picture of all of them."""
    _file(device).write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    cpu, gpu = read("cpu"), read("cuda")
    (DOCS / "en" / "fine-tuning.md").write_text(page(cpu, gpu), "utf-8")
    picture(cpu).save(DOCS / "pictures" / "fine-tuning.svg")


class Row:
    """One way to train.

    Attributes:
        step: Median seconds of a step of the last epoch.
        spread: The shortest and the longest of them.
        epochs: Seconds of each epoch that was run.
        derived: For each of them, whether less than all of its steps was run.
    """

    def __init__(self, epochs: list[list[float]], batches: int) -> None:
        # The first steps make an optimizer's state.
        settled = epochs[1] or epochs[0][1:]
        self.step, self.spread = median(settled), (min(settled), max(settled))
        self.derived = [len(steps) < batches for steps in epochs]
        self.epochs = [
            self.step * batches if less else sum(steps)
            for steps, less in zip(epochs, self.derived, strict=True)
        ]

    def together(self, epochs: int) -> float:
        """Return the seconds of some epochs; those after the last that was run take as long."""
        missing = epochs - len(self.epochs)
        return sum(self.epochs[:epochs]) + max(missing, 0) * self.epochs[-1]


def rows_of(figures: dict[str, Any]) -> dict[str, Row]:
    """Return the rows of a case, in order."""
    seconds = figures["seconds"]
    return {way: Row(seconds[way], figures["batches"]) for way in ORDER if way in seconds}


def lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures of a case as lines of text."""
    if "failed" in figures:
        return [f"failed: {figures['failed']}"]
    rows = rows_of(figures)
    full = rows["full"]
    shown = [
        f"{'':21} {'step':>9} {'spread':>17} {'epoch 1':>8} {'2':>8} {'3 epochs':>8} {'10':>8}"
    ]
    for way, row in rows.items():
        ratios = [a / b for a, b in zip(full.epochs[:2], row.epochs[:2], strict=True)]
        ratios += [full.together(n) / row.together(n) for n in (3, 10)]
        spread = " to ".join(f"{1e3 * v:.4g}" for v in row.spread)
        shown.append(
            f"{way:21} {1e3 * row.step:7.4g}ms {spread:>17} "
            + " ".join(f"{ratio:7.2f}x" for ratio in ratios)
        )
    estimate = figures["estimate"]
    shown += [f"{way:21} {why}" for way, why in figures["absent"].items()]
    shown.append(
        f"limit by operations: {estimate['limit']:.2f}x without, {times(estimate['cached_limit'])} "
        "with a cache"
    )
    shown += [f"a cached step: {text}" for text in comparisons(figures)]
    shown += [f"estimate: {text}" for text in predictions(figures)]
    shown += [f"losses of {way}: within {gap:.1e}" for way, gap in figures["gaps"].items()]
    for way, peaks in figures.get("memory", {}).items():
        shown.append(f"memory of {way}: {_megabytes(peaks)}")
    return [*shown, *figures["run"].splitlines()]


def predictions(figures: dict[str, Any]) -> list[str]:
    """Return what the estimate predicted of steps, next to what was measured."""
    rows, estimate = rows_of(figures), figures["estimate"]
    texts = []
    for way, key in (("by plan", "predicted"), ("cached", "predicted_cached")):
        if way in rows:
            measured = rows["full"].step / rows[way].step
            off = estimate[key] / measured - 1
            texts.append(f"{way} {times(estimate[key])}, measured {times(measured)} ({off:+.1%})")
    return texts


def times(ratio: float) -> str:
    """Return a ratio with three digits.

    >>> times(2.4849), times(5376.8)
    ('2.48x', '5,380x')
    """
    return f"{ratio:.3g}x" if ratio < 1000 else f"{float(f'{ratio:.3g}'):,.0f}x"


def comparisons(figures: dict[str, Any]) -> list[str]:
    """Return how a cached step of epoch 2 compares with the limit and with other ways."""
    rows = rows_of(figures)
    if "cached" not in rows:
        return []
    cached = rows["cached"].step
    texts = [f"{rows['full'].step / cached / figures['estimate']['cached_limit']:.0%} of the limit"]
    uncached = [way for way in ("by hand", *PEERS) if way in rows]
    if uncached:
        nearest = min(rows[way].step for way in uncached) / cached
        texts.append(f"at least {times(nearest)} as fast as by hand and by libraries")
    if "two-stage" in rows:
        texts.append(f"{rows['two-stage'].step / cached:.2f}x as fast as two-stage")
    return texts


def page(cpu: dict[str, Any], gpu: dict[str, Any]) -> str:
    """Return the page, in Markdown."""
    text = [*INTRODUCTION.format(longer=_longer(cpu)).splitlines()]
    for case, figures in cpu.items():
        framework, kind, plan = case.split("/")
        title = f"{NAMES[kind]}, {TRAINED[kind, plan]}: {FRAMEWORKS[framework]}"
        text += ["", f"## {title}", ""]
        if "failed" in figures:
            text.append(f"Failed: {figures['failed']}")
            continue
        text += _table(figures, gpu.get(case))
        unit = "pixels" if kind == "resnet" else "tokens"
        text += [
            "",
            f"Batches of {figures['rows']}, {figures['length']} {unit}. {_remarks(figures)}",
        ]
    machines = dict.fromkeys(", ".join(f["machine"]) for f in cpu.values() if "machine" in f)
    text += ["", "## Machine", ""]
    text += [f"{m}; one thread, CPU time." for m in machines]
    more = dict.fromkeys(", ".join(f["machine"]) for f in gpu.values() if "machine" in f)
    text += [f"GPU: {', '.join(more)}." if gpu else "GPU: not run; `ci/gpu.sh --bench` does it."]
    return "\n".join(text) + "\n"


def _longer(cpu: dict[str, Any]) -> str:
    """Return by how much a cached step takes longer than one in two stages, for heads alone."""
    found = []
    for case, figures in cpu.items():
        rows = {} if "failed" in figures else rows_of(figures)
        if case.endswith("/head") and {"cached", "two-stage"} <= rows.keys():
            framework, kind, _ = case.split("/")
            gap = 1e3 * (rows["cached"].step - rows["two-stage"].step)
            found.append(f"{gap:.1f} ms for {NAMES[kind]} in {FRAMEWORKS[framework]}")
    return ", ".join(found) or "not measured"


def _table(figures: dict[str, Any], gpu: dict[str, Any] | None) -> list[str]:
    rows = rows_of(figures)
    full = rows["full"]
    table = [
        f"| | {' | '.join(COLUMNS)} |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    on_gpu = rows_of(gpu) if gpu and "failed" not in gpu else {}
    for way in ORDER:
        if way not in rows:
            if way in figures["absent"]:
                why = figures["absent"][way].partition("\n")[0]
                table.append(f"| {way} | {why} | | | | | | | |")
            continue
        row = rows[way]
        first, second = (
            f"{'~' if less else ''}{times(whole / seconds)}"
            for whole, seconds, less in zip(
                full.epochs[:2], row.epochs[:2], row.derived[:2], strict=True
            )
        )
        about = "" if len(row.epochs) == 3 and not any(row.derived) else "~"
        on = on_gpu.get(way)
        cells = [
            way,
            f"{1e3 * row.step:.4g}",
            " to ".join(f"{1e3 * value:.4g}" for value in row.spread),
            first,
            second,
            f"{about}{times(full.together(3) / row.together(3))}",
            f"~{times(full.together(10) / row.together(10))}",
            _megabytes(figures.get("memory", {}).get(way)),
            f"{times(on_gpu['full'].step / on.step)}" if on else "not run",
        ]
        table.append(f"| {' | '.join(cells)} |")
    estimate = figures["estimate"]
    limits = [f"{times(estimate['limit'])}", f"{times(estimate['cached_limit'])}"]
    table.append(f"| limit, by operations | | | {' | '.join(limits)} | | | | |")
    return table


def _remarks(figures: dict[str, Any]) -> str:
    texts = ["`estimate` predicted: " + "; ".join(predictions(figures)) + "."]
    gaps = [f"{way} {gap:.1e}" for way, gap in figures["gaps"].items()]
    if compared := comparisons(figures):
        texts.append(f"A cached step has {', is '.join(compared)}.")
    if gaps:
        texts.append(f"Losses differ from those by hand by at most: {', '.join(gaps)}.")
    return " ".join(texts)


def _megabytes(peaks: Any) -> str:
    if not isinstance(peaks, list):
        return str(peaks or "not run")
    return ", ".join(f"{value / 1e6:,.0f}" for value in peaks)


WIDTH, LEFT, BAR, GAP = 960.0, 330.0, 13.0, 26.0
SHOWN = ("by hand", "by plan", "two-stage", "cached", "faster")
LOOKS = {"by hand": Look.FROZEN, "by plan": Look.HELD, "two-stage": Look.TRAINABLE}


def picture(results: dict[str, Any]) -> Picture:
    """Draw how many times as fast epoch 2 is, a group of bars for each case, on a log scale."""
    groups = [(case, rows_of(f)) for case, f in results.items() if "failed" not in f]
    most = max([10.0, *(_gain(rows, way) for _, rows in groups for way in rows)])
    pieces: list[Markup] = []
    y = 40.0
    for case, rows in groups:
        framework, kind, plan = case.split("/")
        label = f"{NAMES[kind]}, {TRAINED[kind, plan]}"
        pieces.append(element("text", label, x=0.0, y=y + 11, class_="uf-big"))
        pieces.append(element("text", FRAMEWORKS[framework], x=0.0, y=y + 26, class_="uf-soft"))
        for way in SHOWN:
            if way in rows:
                gain = _gain(rows, way)
                length = max((WIDTH - LEFT - 160) * log10(max(gain, 1.02)) / log10(most), 1.0)
                style = LOOKS.get(way, Look.NEW).style
                pieces.append(rectangle(Box(LEFT, y, length, BAR - 2), style))
                words = f"{times(gain)} {way}"
                pieces.append(element("text", words, x=LEFT + length + 5, y=y + 10))
                y += BAR
        y += GAP
    title = "Epoch 2: times as fast as training everything"
    head = element("text", f"{title} (logarithmic)", x=0.0, y=14.0, class_="uf-big")
    return Picture(drawing(WIDTH, y, head, joined(*pieces), title=title))


def _gain(rows: dict[str, Row], way: str) -> float:
    return rows["full"].epochs[1] / rows[way].epochs[1]
