"""`compare_plans`: train a model under several plans, each from the same weights, and compare."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from traceback import extract_tb
from typing import Any

from unifreeze._arguments import checked
from unifreeze._authoring.compare.checked_inputs import (
    Metrics,
    Plans,
    check_same_model,
    named_plans,
    read_metrics,
)
from unifreeze._authoring.compare.comparison import Comparison, PlanRow, PlanRun
from unifreeze._authoring.compare.fresh_models import FreshModels
from unifreeze._handle import Handle, apply
from unifreeze._handle.step_reminders import untold_error
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Batch
from unifreeze._protocol.live import Model
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

    For each plan a fresh model is made, the plan is applied, `train` is timed, everything frozen is
    verified and the model is evaluated. A plan that fails is listed with its error, and the others
    still run. `random`, NumPy and the framework are seeded before each model is made, and again
    before it is trained. The time includes waiting for the device, and in a process's first run
    also what the framework loads on first use: compare times of repeats. The peak memory of the
    device is known to the framework: `evaluate` may return it among its metrics.

    Args:
        plans: Plans or plan files by name; or a list, then named by position or file.
        make_model: Builds the model, or several in a mapping; it is called two more times than
            there are runs.
        train: Trains the model in place; builds its optimizer from the handle.
        evaluate: Returns a number, or several by name.
        batch: One batch of inputs; positions then count in order of execution.
        repeats: Runs of each plan, with different seeds; the table then shows median and spread.
        seed: Seed of the first run; each further one counts up.
        progress: Show a bar on standard error, if that is a terminal and `rich` is installed.

    Raises:
        PlanError: There is no plan, or a name is given twice.
        TargetError: `make_model` returns one model twice, or models that begin differently.

    >>> plans = {"head": FreezePlan().only("head"), "all": FreezePlan().train("all")}
    >>> compared = compare_plans(plans, make_model, fit, evaluate)
    >>> [(row.name, row.trainable) for row in compared.rows]
    [('head', 21), ('all', 213)]
    """
    named = named_plans(plans)
    if repeats < 1:
        raise TargetError(f"repeats is {repeats}", hint="a whole number from 1 on")
    if seed < 0:
        raise TargetError(f"seed is {seed}", hint="a whole number from 0 on")
    inputs = None if batch is None else Batch.of(batch)
    models = FreshModels(make_model, seed)
    trials: dict[str, list[_Trial]] = {name: [] for name in named}
    with _bar(len(named) * repeats, shown=progress) as done:
        for number in range(repeats):
            for name, plan in named.items():
                trial = _Trial(models, seed + number)
                trial.run(plan, train, evaluate, inputs)
                trials[name].append(trial)
                done()
    rows = tuple(_row(name, runs) for name, runs in trials.items())
    return Comparison(rows, models.backend.name, models.device)


class _Trial:
    """One run of one plan, and its result; the model is dropped afterwards."""

    def __init__(self, models: FreshModels, seed: int) -> None:
        self._models, self._seed = models, seed
        self.result = PlanRun(seed)
        self.most: tuple[int, int, int] | None = None

    def run(
        self,
        plan: FreezePlan,
        train: Callable[[Any, Handle], Any],
        evaluate: Callable[[Any], Metrics],
        batch: Batch | None,
    ) -> None:
        """Train and evaluate a fresh model; any error is this plan's result."""
        model = self._models.model(self._seed)
        seconds = None
        try:
            handle = apply(plan, model, batch=batch)
            self._follow(handle)
            seconds = self._train(model, handle, train)
            metrics = read_metrics(evaluate(model))
            self.result = PlanRun(self._seed, metrics, seconds)
        except Exception as error:
            self.result = PlanRun(self._seed, {}, seconds, _failure(error))
        del model
        gc.collect()

    def _follow(self, handle: Handle) -> None:
        """Keep the largest count of trainable values, over all phases."""

        def look(_: object = None) -> None:
            counts = _counts(handle.resolution)
            self.most = counts if self.most is None else max(self.most, counts)

        look()
        handle.on_phase(look)

    def _train(self, model: Model, handle: Handle, train: Callable[[Any, Handle], Any]) -> float:
        """Train in place, and return the time in seconds."""
        before = _parameters(handle, self._models.objects(model))
        self._models.seed(self._seed)
        self._wait(handle)
        began = perf_counter()
        returned = train(model, handle)
        self._wait(handle)
        seconds = perf_counter() - began
        check_same_model(model, returned)
        if not handle.verify().told:
            raise untold_error(handle.plan.phases, "train has returned")
        _check_kept(before, self._models.objects(model))
        return seconds

    def _wait(self, handle: Handle) -> None:
        """Wait for the device, by reading its smallest tensor."""
        spec = handle.resolution.spec
        path = spec.tree.names[spec.first_names[int(spec.counts.argmin())]]
        self._models.backend.tensor(handle.model, path)


def _row(name: str, trials: Sequence[_Trial]) -> PlanRow:
    known = [trial.most for trial in trials if trial.most is not None]
    most = max(known) if known else (None, None, None)
    return PlanRow(name, tuple(trial.result for trial in trials), *most)


def _counts(resolution: Resolution) -> tuple[int, int, int]:
    """Return the number of trainable values, of all values, and the bytes of the gradients."""
    sizes = resolution.spec.sizes
    return *resolution.counts(), int(sizes[resolution.trainable].sum())


def _parameters(handle: Handle, objects: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without buffers, which layers may replace as they run."""
    return {path: objects[path] for path in handle.resolution.spec.tree.names}


def _check_kept(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    replaced = [path for path, tensor in before.items() if after.get(path) is not tensor]
    if replaced:
        raise TargetError(
            f"train replaced {counted(len(replaced), 'parameter')}: {listing(replaced)}",
            context="what the plan decided, and what the optimizer holds, are the old ones",
            hint="train in place; build and change models in make_model",
        )


def _failure(error: Exception) -> str:
    """Describe an error, and where in the user's code it was raised."""
    frames = extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(_HERE)]
    place = f" ({Path(outside[0].filename).name}:{outside[0].lineno})" if outside else ""
    is_ours = isinstance(error, UnifreezeError)
    return f"{type(error).__name__}: {error}" + ("" if is_ours else place)


def _bar(total: int, *, shown: bool) -> AbstractContextManager[Callable[[], object]]:
    """Show how many runs are done, on standard error, if that is a terminal and `rich` is there."""
    if not shown or not sys.stderr.isatty() or find_spec("rich") is None:
        return nullcontext(lambda: None)
    return _rich_bar(total)


@contextmanager
def _rich_bar(total: int) -> Iterator[Callable[[], object]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("comparing plans", total=total)
        yield lambda: bar.advance(task)
