"""What the two full ports share: sides, the course of a port, its report and its picture.

`examples/port_ernie/port.py` and `examples/port_resnet/port.py` say which models, data and plan;
here a model is paired with its port, both get one plan and train on the same batches, and what was
trained goes back through files to where it came from.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import unifreeze as uf
from examples.porting_sides import SIDES, Batch, Side
from unifreeze import port_file

LIMIT = 1e-9
"""Largest difference of a logit, relative to the largest logit, that counts as equal in float64.

Both sides are evaluated in double precision: in single precision rounding alone, which differs from
one processor to another, grows to some 1e-5 through fifty layers of random weights. The bits ported
back are compared exactly."""

HELD_OUT = 256
"""Examples that nothing is trained on."""


class Task(NamedTuple):
    """One network in two frameworks, and what to train it on.

    Attributes:
        name: Name of the network, for the report and the picture.
        folder: Where results go unless the command line says otherwise.
        ports: Library and builder of the network, by framework.
        plan: The plan file, the same for both.
        optimizer: Name of the optimizer class, by framework.
        settings: Its settings, by their neutral names.
        batch: Makes a batch of so many examples.
        batch_size: Examples in a training batch.
        warm_up: Batches that the source sees first, to have statistics worth holding.
    """

    name: str
    folder: str
    ports: Mapping[str, tuple[str, Callable[[], Any]]]
    plan: Path
    optimizer: Mapping[str, str]
    settings: Mapping[str, float]
    batch: Callable[[np.random.Generator, int], Batch]
    batch_size: int
    warm_up: int = 0


def arguments(about: str, direction: str, steps: int) -> argparse.ArgumentParser:
    """Return what both scripts take on the command line."""
    parser = argparse.ArgumentParser(description=about)
    ways = ["torch-to-paddle", "paddle-to-torch"]
    parser.add_argument("--direction", choices=ways, default=direction)
    parser.add_argument("--steps", type=int, default=steps, help="training steps on each side")
    parser.add_argument("--full", action="store_true", help="the network at its real size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for weights, losses and the picture")
    return parser


def run(task: Task, options: argparse.Namespace) -> int:
    """Port, train on both sides, port back; return the exit code."""
    out = options.out or Path(task.folder)
    out.mkdir(parents=True, exist_ok=True)
    source, target = (
        SIDES[name](*task.ports[name], seed)
        for seed, name in enumerate(options.direction.split("-to-"), start=options.seed)
    )
    course = Course(task, source, target, out, options)
    course.port()
    course.train()
    course.port_back()
    course.draw()
    return course.report()


class Course:
    """One port from a source to a target and back."""

    def __init__(self, task: Task, source: Side, target: Side, out: Path, options: Any) -> None:
        self.task, self.source, self.target, self.out = task, source, target, out
        self.sides = (source, target)
        self.steps, self.seed = options.steps, options.seed
        self.held_out = self.batch("held out", HELD_OUT)

    def batch(self, purpose: str, size: int, number: int = 0) -> Batch:
        """Make one batch; the same purpose and number give the same batch."""
        rng = np.random.default_rng([self.seed, *purpose.encode(), number])
        return self.task.batch(rng, size)

    def port(self) -> None:
        """Give the target the source's weights, found by pairing the two; apply the plan."""
        for number in range(self.task.warm_up):
            self.source.see(self.batch("warm up", self.task.batch_size, number)[0])
        few = self.batch("pairing", 2)[0]
        self.pairing = uf.pair(self.source.model, self.target.model, batch=few)
        self.pairing.save(self.out / "pairing.json")
        self.ported = uf.port_weights(self.source.model, self.target.model, pairing=self.pairing)
        self.start = self.source.state()
        self.before = self.evaluations()
        plan = uf.FreezePlan.load(self.task.plan)
        for side in self.sides:
            side.put_under(plan, self.task.optimizer[side.framework], self.task.settings)

    def train(self) -> None:
        """Train both sides on the same batches, and verify what is frozen."""
        columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
        loss = TextColumn("loss {task.fields[loss]:.3f}")
        with Progress(*columns, loss, console=Console(stderr=True)) as bar:
            row = bar.add_task("training both", total=self.steps, loss=float("nan"))
            for number in range(self.steps):
                batch = self.batch("training", self.task.batch_size, number)
                for side in self.sides:
                    side.train_on(batch)
                bar.update(row, advance=1, loss=self.source.losses[-1])
        self.verified = [_verify(side) for side in self.sides]
        self.after = self.evaluations()

    def port_back(self) -> None:
        """Carry the target's trained weights to a new source model, through files."""
        trained = self.out / f"trained{self.target.suffix}"
        back = self.out / f"trained_and_back{self.source.suffix}"
        self.target.save(trained)
        self.returned = port_file(trained, back, self.pairing, reverse=True)
        library, build = self.task.ports[self.source.framework]
        home = type(self.source)(library, build, self.seed + 2)
        home.load(back, self.pairing.one.own_state)
        self.home = home.evaluate(self.held_out[0], HELD_OUT)
        state, held = home.state(), self.frozen()
        self.kept = [name for name in held if _same_bits(state[name], self.start[name])]

    def frozen(self) -> list[str]:
        """Name the source's tensors that the plan holds, statistics included."""
        resolution = self.source.handle.resolution
        frozen = set(resolution.frozen_paths)
        layers = {path.rpartition(".")[0] for path in frozen}
        return [
            pair.one
            for pair in self.pairing.pairs
            if pair.one in frozen or (pair.state and pair.one.rpartition(".")[0] in layers)
        ]

    def evaluations(self) -> list[np.ndarray]:
        """Return both sides' logits on the held-out set."""
        return [side.evaluate(self.held_out[0], HELD_OUT) for side in self.sides]

    def plans_agree(self) -> bool:
        """Tell whether the plan froze the same tensors on both sides, by the pairing."""
        here, there = (set(side.handle.resolution.frozen_paths) for side in self.sides)
        pairs = [pair for pair in self.pairing.pairs if not pair.state]
        return all((pair.one in here) == (pair.other in there) for pair in pairs)

    def report(self) -> int:
        """Print what happened; return 1 if anything that should be equal is not, else 0."""
        console = Console(width=100, highlight=False)
        names = " to ".join(side.label for side in self.sides)
        console.print(f"{self.task.name}, {names}\n{self.pairing.certificate}", soft_wrap=True)
        carried = f"{self.ported.tensors} tensors with {self.ported.values:,} values carried over"
        console.print(f"{carried}\n", markup=False)
        console.print(self._table())
        gaps = np.abs(np.subtract(*(side.losses for side in self.sides)))
        console.print(
            f"the two losses differ by {gaps[0]:.1e} at the first step, "
            f"{gaps.max():.1e} at most, {np.median(gaps):.1e} in the median"
        )
        checks = self._checks()
        for holds, text in checks:
            console.print(f"{'holds' if holds else 'FAILS'}  {text}", markup=False, soft_wrap=True)
        console.print(f"weights, losses and the picture are in {self.out}", soft_wrap=True)
        return 0 if all(holds for holds, _ in checks) else 1

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for side in self.sides:
            table.add_column(side.label, justify="right")

        def row(title: str, *values: object) -> None:
            table.add_row(title, *map(str, values))

        resolutions = [side.handle.resolution for side in self.sides]
        row("parameters", *(len(r.frozen_paths) + len(r.trainable_paths) for r in resolutions))
        row("frozen", *(len(r.frozen_paths) for r in resolutions))
        row("first loss", *(f"{side.losses[0]:.4f}" for side in self.sides))
        last = f"mean of the last {min(10, self.steps)}"
        row(last, *(f"{np.mean(side.losses[-10:]):.4f}" for side in self.sides))
        row("held-out accuracy, ported", *(self._accuracy(e) for e in self.before))
        row("held-out accuracy, trained", *(self._accuracy(e) for e in self.after))
        return table

    def _checks(self) -> list[tuple[bool, str]]:
        first, second = self.sides
        moved = _gap(*self.before)
        back = _gap(self.after[1], self.home)
        accuracies = self._accuracy(self.after[1]), self._accuracy(self.home)
        held = len(self.frozen())
        return [
            (moved <= LIMIT, f"ported weights compute the same: logits within {moved:.1e}"),
            (self.plans_agree(), "the plan froze the same parameters on both sides"),
            *[
                (error is None, f"{side.framework}: {error or text}")
                for side, (error, text) in zip(self.sides, self.verified, strict=True)
            ],
            (
                len(self.kept) == held,
                f"{len(self.kept)} of {held} frozen tensors came back to {first.framework} "
                "with every bit",
            ),
            (
                back <= LIMIT and accuracies[0] == accuracies[1],
                f"trained in {second.framework}, evaluated in {first.framework}: accuracy "
                f"{accuracies[0]} and {accuracies[1]}, "
                f"logits within {back:.1e} (limit {LIMIT:.0e})",
            ),
        ]

    def _accuracy(self, logits: np.ndarray) -> str:
        return f"{(logits.argmax(-1) == self.held_out[1]).mean():.4f}"

    def draw(self) -> None:
        """Draw both loss curves, and what lies between them, into one picture."""
        losses = {side.label: np.array(side.losses) for side in self.sides}
        columns = np.column_stack([np.arange(1, self.steps + 1), *losses.values()])
        header = "step," + ",".join(side.framework for side in self.sides)
        np.savetxt(self.out / "losses.csv", columns, "%.9g", ",", header=header, comments="")
        subject = "both trained from the same ported weights, on the same batches"
        draw_losses(f"{self.task.name}: {subject}", losses, self.out / "losses.png")


def draw_losses(title: str, losses: Mapping[str, np.ndarray], file: Path) -> None:
    """Draw two curves, the first broad and light under the second, and their difference below."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=[3, 2], layout="constrained"
    )
    (one, first), (other, second) = losses.items()
    steps = np.arange(1, len(first) + 1)
    above.plot(steps, first, color="#f5a742", linewidth=5, solid_capstyle="round", label=one)
    above.plot(steps, second, color="#1b3a5c", linewidth=1.2, label=other)
    above.set(ylabel="training loss\n(cross-entropy, nats)")
    above.set_ylim(bottom=0)
    above.legend(frameon=False)
    gap = np.abs(first - second)
    below.plot(steps, np.where(gap > 0, gap, np.nan), ".", markersize=4, color="#8c2d3f")
    below.set_yscale("log")
    below.set(xlabel="training step", ylabel="absolute difference\nof the two losses (nats)")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _verify(side: Side) -> tuple[str | None, str]:
    try:
        return None, str(side.handle.verify())
    except uf.FrozenDriftError as error:
        return str(error), ""


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value."""
    return float(np.abs(one - other).max() / np.abs(one).max())


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()
