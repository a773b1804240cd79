"""What a backend is: it describes one framework's model neutrally and writes the answer back.

Keys are native paths throughout. `unifreeze.testing` holds the contract every backend must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from unifreeze._numerics.measurements import MeasureConfig, MeasureRun
from unifreeze._numerics.outputs import Seen
from unifreeze._numerics.projections import Parts, Sketch
from unifreeze._protocol.batches import Array as Array
from unifreeze._protocol.batches import Batch as Batch
from unifreeze._resolution import Resolution
from unifreeze._structure import ModelSpec, Trace
from unifreeze.errors import TargetError

Undo = Callable[[], None]
"""Puts flags, modes and hooks back as they were before a write; values stay."""


@dataclass(frozen=True)
class Finding:
    """Something that does not hold, or that the user should know.

    Attributes:
        subject: The parameter, layer or rule it is about.
        message: What was found.
        hint: What to write instead.
        severity: An `error` makes a check fail; a `note` does not.
    """

    subject: str
    message: str
    hint: str = ""
    severity: Literal["error", "note"] = "error"

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class Capabilities:
    """Facts about a framework, as data.

    Attributes:
        devices: Kinds of device it can compute on here, "cpu" first.
        group_rates: What a param group's learning rate is: `absolute`, or a `scale` on the
            optimizer's.
    """

    devices: tuple[str, ...] = ("cpu",)
    group_rates: Literal["absolute", "scale"] = "absolute"


@dataclass(frozen=True, eq=False)
class Digest:
    """A name for a tensor's exact bits.

    Attributes:
        bits: 128-bit XXH3 over dtype, shape and bytes as hex; "" where there are no values.
        dtype: Neutral dtype name.
        sums: Interleaved sums of the values, where they were asked for.
        count: Number of values.
        shape: As stored.
    """

    bits: str
    dtype: str
    count: int = 0
    sums: Array | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with one set of optimizer settings.

    Attributes:
        name: Says what sets it apart, such as "lrx0.1, decay 0".
        paths: Native paths, in canonical order.
        lr_scale: Factor on the learning rate.
        weight_decay: Weight decay, None for the optimizer's own.
    """

    name: str
    paths: tuple[str, ...]
    lr_scale: float
    weight_decay: float | None


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer that every framework has, with explicit settings."""

    name: Literal["adamw", "sgd"]
    lr: float
    weight_decay: float
    momentum: float = 0.0


@dataclass(frozen=True)
class ProbeConfig:
    """The seeded training steps that parity looks at.

    Attributes:
        batch: Inputs.
        steps: Steps per optimizer.
        seed: Seed of gradients planted, loss weights and random layers.
        outputs: Keys of the outputs the loss may use; None for all.
        optimizers: One run each.
    """

    batch: Batch
    steps: int = 2
    seed: int = 0
    outputs: tuple[str, ...] | None = None
    optimizers: tuple[OptimizerSpec, ...] = (
        OptimizerSpec("adamw", lr=1e-3, weight_decay=0.1),
        OptimizerSpec("sgd", lr=1e-2, weight_decay=1e-2, momentum=0.9),
    )

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, seed=self.seed)


def check_counts(*, steps: int, seed: int) -> None:
    """Refuse a number of steps, or a seed, that there cannot be.

    Raises:
        TargetError: Naming it.
    """
    if steps < 1:
        raise TargetError(f"steps={steps} trains nothing", hint="a whole number from 1 on")
    if seed < 0:
        raise TargetError(f"seed={seed} is not a seed", hint="a whole number from 0 on")


@dataclass(frozen=True)
class ProbeRun:
    """What one optimizer's steps showed.

    Attributes:
        optimizer: Its name.
        flags: For each parameter, whether it read as trainable once the plan was written.
        gradients: Norm of each parameter's first gradient; None where there is none.
        before: Digest of each parameter and state tensor before the plan was written.
        after: The same after the last step.
        updates: Largest change of any value, for each parameter that changed.
        live: Stochastic layers that the plan turns off and that ran in training mode all the same.
    """

    optimizer: str
    flags: Mapping[str, bool]
    gradients: Mapping[str, float | None]
    before: Mapping[str, str]
    after: Mapping[str, str]
    updates: Mapping[str, float]
    live: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeResult:
    """What the probe showed.

    Attributes:
        outputs: Shapes of the floating outputs by their keys, caches left out.
        reached: Native paths of the modules that ran and parameters that were read.
        runs: One per optimizer.
    """

    outputs: Mapping[str, tuple[int, ...]]
    reached: tuple[str, ...]
    runs: tuple[ProbeRun, ...]


Chosen = Mapping[str, str]
"""Outputs that a loss is made of, by their keys, with the names that their weights follow from."""


@dataclass(frozen=True)
class SketchConfig:
    """One run to be sketched.

    Attributes:
        batch: Inputs.
        values: Gives each parameter and statistic, by its first native path and shape as stored,
            the values it runs with; None leaves it as it is.
        choose: Chooses outputs for the loss, once they are there; None for all, by their keys.
        seed: Seed of the loss's weights.
        parts: For a fused tensor, by its path: an axis, and by name where along it each part lies.
    """

    batch: Batch
    values: Callable[[str, tuple[int, ...]], Array | None]
    choose: Callable[[Mapping[str, Seen]], Chosen] | None = None
    seed: int = 0
    parts: Parts = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_counts(steps=1, seed=self.seed)


@dataclass(frozen=True)
class SketchRun:
    """What one run gave.

    Attributes:
        dtype: Neutral name of the floating dtype it ran in.
        outputs: Every floating output by its key.
        chosen: Those that the loss was made of.
        gradients: Sketch of every parameter's gradient by its first native path, or those of its
            parts by their names; none for those that got no gradient.
        calls: Native paths in order of first use.
        layers: For each module that ran and returned a floating tensor, in order: its path, the
            shape of that and its sketch.
        passed: Sketches of what modules were given and none returned.
        caches: Key-value caches of several tensors, which are not among the outputs.
    """

    dtype: str
    outputs: Mapping[str, Seen]
    chosen: Chosen
    gradients: Mapping[str, Sketch]
    calls: tuple[str, ...]
    layers: tuple[tuple[str, tuple[int, ...], Sketch], ...]
    passed: tuple[Sketch, ...] = ()
    caches: tuple[str, ...] = ()


class Rate(NamedTuple):
    """What a phase makes of an optimizer's settings.

    Attributes:
        factor: On the learning rate of every group.
        weight_decay: Instead of the optimizer's own; None for that. Groups to which the plan gives
            a decay of their own keep it.
        fresh: Identities of parameters that have just been unfrozen.
        fresh_factor: On their learning rate, besides.
    """

    factor: float = 1.0
    weight_decay: float | None = None
    fresh: frozenset[int] = frozenset()
    fresh_factor: float = 1.0


class Control(Protocol):
    """What steers an optimizer: asked at each of its steps."""

    def begin_step(self) -> None:
        """Take notice of a step; called once, just before it."""

    def rate(self) -> Rate:
        """Return what the step is taken with."""

    def warmed_sets(self) -> list[frozenset[int]]:
        """Return each set of parameters that will have a rate of their own for a while."""

    def rebase(self, rate: float) -> None:
        """Take in that the optimizer has another rate of its own, as if built with it."""


@dataclass(frozen=True)
class StepConfig:
    """Training steps to be compared with another model's.

    Attributes:
        batch: Inputs.
        values: What parameters and statistics hold meanwhile, by native path, in the framework's
            layout; the others keep what they hold.
        chosen: Outputs that the loss is made of; None for all, by their keys.
        seed: Seed of the loss's weights.
        double: Compute in double precision, where the framework can.
        nudge: Move floating inputs and lookup tables by about one unit in the last place.
        steps: Steps per optimizer.
        parts: As for `SketchConfig`.
        optimizers: One run each; by default with settings that are exact in single precision, in
            which Paddle keeps them.
    """

    batch: Batch
    values: Mapping[str, Array] = field(default_factory=dict)
    chosen: Chosen | None = None
    seed: int = 0
    double: bool = True
    nudge: bool = False
    steps: int = 1
    parts: Parts = field(default_factory=dict)
    optimizers: tuple[OptimizerSpec, ...] = (
        OptimizerSpec("sgd", lr=2**-7, weight_decay=2**-7, momentum=0.875),
        OptimizerSpec("adamw", lr=2**-10, weight_decay=0.125),
    )

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, seed=self.seed)


@dataclass(frozen=True)
class StepRun:
    """What the steps gave; outputs, gradients and statistics are the first step's.

    Attributes:
        dtype: Neutral name of the floating dtype of the outputs.
        outputs: Every floating output by its key.
        chosen: Those that the loss was made of.
        gradients: Sketch of every parameter's gradient by its first native path; none for those
            that got no gradient.
        weights: Norm of every parameter before the steps.
        updates: For each optimizer, sketch of what its steps added to every parameter.
        statistics: Each running mean and variance before and after the first forward pass.
        counts: For each layer with running statistics, how many values per channel each of its
            calls in that pass saw.
        changed: Frozen parameters and held statistics whose bits changed, with the optimizer.
        states: Sketch of all state that is saved, after the first forward pass.
    """

    dtype: str
    outputs: Mapping[str, Seen]
    chosen: Chosen
    gradients: Mapping[str, Sketch]
    weights: Mapping[str, float]
    updates: Mapping[str, Mapping[str, Sketch]]
    statistics: Mapping[str, tuple[Array, Array]]
    counts: Mapping[str, tuple[int, ...]]
    changed: tuple[tuple[str, str], ...]
    states: Mapping[str, Sketch] = field(default_factory=dict)


@runtime_checkable
class Backend(Protocol):
    """One framework: describes its models, writes decisions, runs the probe."""

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """Facts about the framework."""

    def root(self, model: Any) -> Any:
        """Return the model itself, seen through its wrappers."""

    def describe(self, model: Any, batch: Batch | None = None) -> ModelSpec:
        """Describe a model; with a batch, positions follow one traced forward pass."""

    def settled(self, model: Any) -> AbstractContextManager[None]:
        """Promise that a model's structure stays as it is, so that it need not be looked at again.

        Around several calls that belong together, such as those of one `apply`.
        """

    def check(self, model: Any, resolution: Resolution) -> list[Finding]:
        """Say what this framework would get wrong, before anything is written."""

    def write(
        self, model: Any, resolution: Resolution, found: Mapping[int, Any] | None = None
    ) -> Undo:
        """Write the decisions, all or nothing: flags, held state, and no stale gradients.

        Args:
            model: A live model.
            resolution: The decisions.
            found: What `guards` gave before any plan; modules that no plan covers get it back.
        """

    def guards(self, model: Any) -> dict[int, Any]:
        """Return what modules do differently now because a plan asked for it, by identity."""

    def contents(self, model: Any) -> Any:
        """Return what a model consists of now, for `departed` to compare with later."""

    def departed(self, model: Any, contents: Any) -> Any | None:
        """Return the parts that have left a model since, held as one; None if none has."""

    def unheld(self, model: Any, resolution: Resolution) -> list[str]:
        """Return the paths of layers that should hold still under a resolution and do not."""

    def read(self, model: Any) -> dict[str, bool]:
        """Return for each parameter whether it is trainable now."""

    def objects(self, model: Any) -> dict[str, Any]:
        """Return the live parameter and state tensors by every name they have."""

    def fingerprint(
        self, model: Any, paths: Iterable[str], *, sums: bool = False
    ) -> dict[str, Digest]:
        """Return a digest over dtype, shape and bytes of each tensor, each tensor read once."""

    def offloaded(self, model: Any) -> list[str]:
        """Return the native paths of tensors whose values are kept outside of the model.

        Their objects change all the time; `fingerprint` and `tensor` read the values themselves.
        """

    def tensor(self, model: Any, path: str) -> Array:
        """Return a tensor's values as a NumPy array of its own, in the framework's layout."""

    def assign(self, model: Any, path: str, array: Array) -> None:
        """Write values into a tensor in place, in the framework's layout."""

    def gradients(self, model: Any) -> dict[str, float | None]:
        """Return the norm of every parameter's gradient; None where there is none."""

    def param_groups(
        self, model: Any, groups: Sequence[ParamGroup], *, lr: float | None
    ) -> list[dict[str, Any]]:
        """Build param groups as this framework's optimizers take them."""

    def optimizer(
        self, model: Any, cls: type, groups: Sequence[ParamGroup], settings: Mapping[str, Any]
    ) -> Any:
        """Build an optimizer; `settings` use neutral names (`lr`, `weight_decay`)."""

    def optimizer_parameters(self, optimizer: Any) -> list[Any]:
        """Return the live tensors that an optimizer updates."""

    def without_rate(self, model: Any, optimizer: Any) -> dict[str, str]:
        """Return what has a learning rate of 0 for good, by native path, with what says so.

        Args:
            model: A live model.
            optimizer: What trains it, or None.
        """

    def first_gradients(
        self, model: Any, batch: Batch
    ) -> tuple[dict[str, float | None], frozenset[str]]:
        """Run one forward and backward pass; the model is restored bit for bit.

        Returns:
            The norm of every parameter's gradient (None where there is none), and the native paths
            of the modules that ran and of parameters read by their parents.
        """

    def training(self, model: Any) -> dict[str, bool]:
        """Tell of each layer with running statistics whether a forward pass would move them.

        Under "" stands whether the model itself is in training mode.
        """

    def flags(self, model: Any, *, trainable: bool) -> Undo:
        """Set every parameter's flag, cheaply; gradient still flows through the model."""

    def freeze_briefly(self, model: Any, resolution: Resolution) -> Undo:
        """Freeze for a while what a resolution freezes, and hold what it holds.

        Flags and layers that it does not concern stay as they are, plans in force included.
        """

    def watch_loads(self, model: Any) -> tuple[Callable[[], Mapping[str, str]], Undo]:
        """Watch for state dicts being loaded.

        Returns:
            A function that gives the digests right after the last load ({} before any), and one
            that stops watching.
        """

    def watch_order(
        self, model: Any, tops: Sequence[str], done: Callable[[str, Trace], bool], lost: Undo
    ) -> Undo:
        """Watch forward passes of a model or of parts of it, each as a whole.

        Args:
            model: A live model, or several held as one.
            tops: Native paths of what is watched; "" is the model.
            done: Gets a path of `tops`, and what a pass without an error showed; returns True if
                it is watched no more. Whatever it raises, the pass raises.
            lost: Called where a compiler runs the model, so that nothing can be seen.

        Returns:
            What stops it.
        """

    def on_step(self, optimizer: Any, call: Callable[[Any], bool]) -> None:
        """Call a function with an optimizer after its steps, until it returns True.

        Of what only wraps an optimizer, steps may go unnoticed.
        """

    def has_gradients(self, optimizer: Any) -> bool:
        """Tell whether anything that an optimizer updates has a gradient."""

    def watch_training(self, model: Any, call: Callable[[], None]) -> Undo:
        """Call a function when a model, or one of its parts, begins a forward pass of training.

        Such a pass is in training mode and with gradient. Copies of the model do not call.

        Returns:
            A function that stops it, and that does not keep the model alive.
        """

    def probe(self, model: Any, resolution: Resolution, config: ProbeConfig) -> ProbeResult:
        """Run the seeded training steps that parity looks at; the model is restored bit for bit."""

    def sketch(self, model: Any, config: SketchConfig) -> SketchRun:
        """Run a model once on given values and sketch it; the model is restored bit for bit."""

    def step(self, model: Any, resolution: Resolution, config: StepConfig) -> StepRun:
        """Run comparable training steps under a plan; the model is restored bit for bit."""

    def measure(self, model: Any, config: MeasureConfig) -> MeasureRun:
        """Measure gradients and passed-by modules; the model is restored bit for bit."""

    def layer_settings(self, model: Any) -> dict[str, dict[str, Any]]:
        """Return each layer's settings in neutral terms, by native path."""

    def base_rate(self, optimizer: Any) -> float | None:
        """Return the learning rate an optimizer was built with; None if it has none."""

    def rates(self, optimizer: Any, tensors: Sequence[Any]) -> list[float]:
        """Return the learning rate that an optimizer has for each of some tensors now.

        It is what a scheduler says now, times what the tensor's group scales it by; without a
        phase's factor, which `steer` multiplies it by at each step.
        """

    def steer(self, optimizer: Any, control: Control) -> Undo:
        """Take learning rate and weight decay from a phase, at each of an optimizer's steps.

        What a scheduler makes of the rate is multiplied, and left as it is: schedulers and saved
        states know nothing of phases.

        Args:
            optimizer: A live optimizer.
            control: What says them.

        Raises:
            OptimizerError: It cannot be steered, or breaks when flags change; with the reason.
        """

    def unset_groups(
        self, model: Any, built: Sequence[Any], groups: Sequence[ParamGroup]
    ) -> list[ParamGroup]:
        """Return those of a plan's groups whose settings some optimizers were not built with."""

    def clear_moments(self, optimizer: Any, tensors: Sequence[Any]) -> None:
        """Make an optimizer forget what it has gathered about some parameters."""

    def values_written(self, optimizer: Any, tensors: Sequence[Any]) -> None:
        """Let an optimizer that keeps values of its own take in those of some parameters."""

    def name_states(self, optimizer: Any, paths: Mapping[int, str]) -> None:
        """Let an optimizer's saved states carry parameters' names, and be matched by them.

        Args:
            optimizer: A live optimizer.
            paths: Native path of each of its parameters, by identity.
        """

    def processes(self) -> int:
        """Return how many processes train together."""

    def shipped_map(self, model: Any, others: Iterable[str]) -> dict[str, str]:
        """Return which of the other port's tensors is which, as the model's own library has it.

        Args:
            model: A live model.
            others: Native paths of the other port.
        """

    def optimizer_defaults(self) -> dict[str, dict[str, Any]]:
        """Return what the framework's optimizers do if nobody says otherwise, by their names."""

    def train_mode(self, model: Any) -> None:
        """Do what a training loop does before an epoch."""

    def inputs(self, model: Any, batch: Batch) -> tuple[list[Any], dict[str, Any]]:
        """Return a batch as a model's positional and named inputs."""

    def run(self, model: Any, batch: Batch) -> Any:
        """Call a model on a batch; a watch on the model does not take it for training."""

    def group(self, models: Mapping[str, Any]) -> Any:
        """Hold several models as one, so that one plan can take them all in."""

    def place(self, model: Any, device: str) -> Any:
        """Move a model to a device kind, "cpu" or "gpu"."""

    def device_of(self, model: Any) -> str:
        """Return the kind of device a model is on, "cpu" or "gpu"."""

    def seed(self, seed: int) -> None:
        """Seed the framework's random generators."""
