"""The probe: the settings and the results of its seeded training steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unifreeze._protocol.batches import Batch
from unifreeze._protocol.optimizer_settings import OptimizerSpec
from unifreeze.errors import TargetError


def check_counts(*, steps: int, seed: int) -> None:
    """Refuse an impossible number of steps, or an impossible seed.

    Raises:
        TargetError: Naming it.
    """
    if steps < 1:
        raise TargetError(f"steps={steps} trains nothing", hint="a whole number from 1 on")
    if seed < 0:
        raise TargetError(f"seed={seed} is not a seed", hint="a whole number from 0 on")


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


@dataclass(frozen=True)
class ProbeRun:
    """Results of one optimizer's steps.

    Attributes:
        optimizer: Its name.
        flags: For each parameter, whether it read as trainable once the plan was written.
        gradients: Norm of each parameter's first gradient; None where there is none.
        before: Digest of each parameter and state tensor before the plan was written.
        after: The same after the last step.
        updates: Largest change of any value, for each parameter that changed.
        live: Stochastic layers that ran in training mode although the plan turns them off.
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
    """Results of the probe.

    Attributes:
        outputs: Shapes of the floating outputs by their keys, caches left out.
        reached: Native paths of the modules that ran and parameters that were read.
        runs: One per optimizer.
    """

    outputs: Mapping[str, tuple[int, ...]]
    reached: tuple[str, ...]
    runs: tuple[ProbeRun, ...]
