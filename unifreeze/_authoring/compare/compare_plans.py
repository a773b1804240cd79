"""Training a model under several plans, each from the same start, and judging what came of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from traceback import extract_tb
from typing import Any

from rich.console import Console
from rich.progress import Progress

from unifreeze._arguments import checked
from unifreeze._authoring.compare.checked_inputs import (
    Metrics,
    Plans,
    check_in_place,
    named_plans,
    read_metrics,
)
from unifreeze._authoring.compare.comparison import Comparison, PlanRow, PlanRun
from unifreeze._authoring.compare.start import Start
from unifreeze._handle import Handle, apply
from unifreeze._handle.step_reminders import untold_error
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Batch
from unifreeze._resolution import Resolution
from unifreeze.errors import TargetError, UnifreezeError, counted, listing

_HERE = str(Path(__file__).parent)


@checked
def compare_plans(
    plans: Plans,
    make_model: Callable[[], Any],
    train: Callable[[Any, Handle], Any],
    evaluate: Callable[[Any], Metrics],
    *,
    batch: Any = None,
    repeats: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Train a model under each of several plans, from the same weights, and compare.

    For each plan a fresh model is made, the plan applied, `train` timed, everything frozen verified
    and the model evaluated. A plan that fails is told with its reason, and the others still run.
    Before each model is made, and once more before it is trained, `random`, NumPy and the framework
    are seeded; the time includes waiting for the device, and in a process's first run what
    frameworks load when they are first used: compare times of repeats. What the device held at most
    is known to the framework's own counter: `evaluate` may return it among its metrics.

    Args:
        plans: Plans or plan files by name; or a list, then named by position or file.
        make_model: Builds the model, or several in a mapping; called twice more than there are
            runs.
        train: Trains the model in place; builds its optimizer from the handle.
        evaluate: Returns a number, or several by name.
        batch: One batch of inputs; positions then count in order of execution.
        repeats: Runs of each plan, with seeds of their own: medians and spread are then told.
        seed: Seed of the first run; each further one counts up.
        progress: Show a bar on standard error, if that is a terminal.

    Raises:
        PlanError: There is no plan, or a name is given twice.
        TargetError: `make_model` returns one model twice, or models that begin differently.

    >>> compare_plans({"head": FreezePlan().only("head")}, make, train, test)  # doctest: +SKIP
    """
    named = named_plans(plans)
    if repeats < 1:
        raise TargetError(f"repeats is {repeats}", hint="a whole number from 1 on")
    if seed < 0:
        raise TargetError(f"seed is {seed}", hint="a whole number from 0 on")
    inputs = None if batch is None else Batch.of(batch)
    start = Start(make_model, seed)
    trials: dict[str, list[_Trial]] = {name: [] for name in named}
    with _bar(len(named) * repeats, shown=progress) as done:
        for number in range(repeats):
            for name, plan in named.items():
                trial = _Trial(start, seed + number)
                trial.run(plan, train, evaluate, inputs)
                trials[name].append(trial)
                done()
    rows = tuple(_row(name, runs) for name, runs in trials.items())
    return Comparison(rows, start.backend.name, start.device)


class _Trial:
    """One run of one plan, and what it showed; the model is let go."""

    def __init__(self, start: Start, seed: int) -> None:
        self._start, self._seed = start, seed
        self.result = PlanRun(seed)
        self.most: tuple[int, int, int] | None = None

    def run(
        self,
        plan: FreezePlan,
        train: Callable[[Any, Handle], Any],
        evaluate: Callable[[Any], Metrics],
        batch: Batch | None,
    ) -> None:
        """Train and judge a fresh model; whatever goes wrong from here on is this plan's result."""
        model = self._start.model(self._seed)
        seconds = None
        try:
            handle = apply(plan, model, batch=batch)
            self._follow(handle)
            seconds = self._train(model, handle, train)
            metrics = read_metrics(evaluate(model))
            self.result = PlanRun(self._seed, metrics, seconds)
        except Exception as error:
            self.result = PlanRun(self._seed, {}, seconds, _told(error))
        del model
        gc.collect()

    def _follow(self, handle: Handle) -> None:
        """Keep count of what trains, in this phase and all that begin."""

        def look(_: object = None) -> None:
            found = _counted(handle.resolution)
            self.most = found if self.most is None else max(self.most, found)

        look()
        handle.on_phase(look)

    def _train(self, model: Any, handle: Handle, train: Callable[[Any, Handle], Any]) -> float:
        """Train in place, and return how long it took."""
        before = _parameters(handle, self._start.objects(model))
        self._start.seed(self._seed)
        self._wait(handle)
        began = perf_counter()
        returned = train(model, handle)
        self._wait(handle)
        seconds = perf_counter() - began
        check_in_place(model, returned)
        if not handle.verify().told:
            raise untold_error(handle.plan.phases, "train has returned")
        _check_kept(before, self._start.objects(model))
        return seconds

    def _wait(self, handle: Handle) -> None:
        """Wait for the device: reading any tensor does."""
        spec = handle.resolution.spec
        path = spec.tree.names[spec.first_names[int(spec.counts.argmin())]]
        self._start.backend.tensor(handle.model, path)


def _row(name: str, trials: Sequence[_Trial]) -> PlanRow:
    known = [trial.most for trial in trials if trial.most is not None]
    most = max(known) if known else (None, None, None)
    return PlanRow(name, tuple(trial.result for trial in trials), *most)


def _counted(resolution: Resolution) -> tuple[int, int, int]:
    """Return the number of trainable values, of all, and the bytes of the gradients."""
    sizes = resolution.spec.sizes
    return *resolution.counts(), int(sizes[resolution.trainable].sum())


def _parameters(handle: Handle, objects: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out buffers, which layers may make anew as they run."""
    return {path: objects[path] for path in handle.resolution.spec.tree.names}


def _check_kept(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    replaced = [path for path, tensor in before.items() if after.get(path) is not tensor]
    if replaced:
        raise TargetError(
            f"train replaced {counted(len(replaced), 'parameter')}: {listing(replaced)}",
            context="what the plan decided, and what the optimizer holds, are the old ones",
            hint="train in place; build and change models in make_model",
        )


def _told(error: Exception) -> str:
    """Say what went wrong, and where in the user's own code."""
    frames = extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_HERE)]
    place = f" ({Path(own[0].filename).name}:{own[0].lineno})" if own else ""
    is_ours = isinstance(error, UnifreezeError)
    return f"{type(error).__name__}: {error}" + ("" if is_ours else place)


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Show how many runs are done, on standard error, if that is a terminal."""
    hidden = not shown or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=hidden) as bar:
        task = bar.add_task("comparing plans", total=total)
        yield lambda: bar.advance(task)
