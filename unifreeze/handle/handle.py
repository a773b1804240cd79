"""The plan in force on one live model: its optimizer, its verification, its removal."""

from __future__ import annotations

from typing import Any

import numpy as np

from unifreeze.backend import Batch, Finding, ParamGroup
from unifreeze.errors import OptimizerError, UnifreezeError, listing
from unifreeze.handle.drift import (
    Baseline,
    Drift,
    Verified,
    drift_error,
    find_drifts,
    take_baseline,
)
from unifreeze.handle.lease import Target
from unifreeze.plan import FreezePlan, refuse_phases
from unifreeze.resolution import Resolution, resolve_spec


class Handle:
    """A plan in force on a live model; made by `unifreeze.apply`.

    Attributes:
        plan: The plan.
        model: The live model.
        resolution: What the plan decided for it.
    """

    def __init__(
        self,
        plan: FreezePlan,
        target: Target,
        *,
        batch: Batch | None,
        keep_values: bool,
    ) -> None:
        self.plan, self.model = plan, target.model
        self._target, self._backend = target, target.backend
        self._batch, self._keep_values = batch, keep_values
        self._put_in_force()

    def _put_in_force(self) -> None:
        refuse_phases(self.plan)
        with self._backend.settled(self.model):
            self.resolution, self._lease, self._baseline = self._target.put_in_force(
                self.plan, self._batch, self._take_baseline
            )
            self._watch_loads()

    def _watch_loads(self) -> None:
        self._lease.stop_watching()
        self._loads, self._lease.stop_watching = self._backend.watch_loads(self.model)

    def _take_baseline(self, resolution: Resolution) -> Baseline:
        return take_baseline(
            self._backend,
            self.model,
            resolution.frozen_paths,
            _held_states(resolution),
            keep_values=self._keep_values,
        )

    def verify(self) -> Verified:
        """Check that everything frozen is bit for bit as it was when the plan took effect.

        Returns:
            How much was checked.

        Raises:
            FrozenDriftError: Naming each tensor that moved, or was reloaded, cast, replaced,
                thawed, removed or is new, with how much. The amount is exact if the plan was
                applied with `keep_values=True`, else a lower bound.
        """
        self._check_in_force("verify")
        with self._backend.settled(self.model):
            drifts = find_drifts(self._backend, self.model, self._baseline, self._loads())
            drifts += self._new_parts()
        if drifts:
            raise drift_error(drifts)
        return Verified(len(self._baseline.parameters), len(self._baseline.states))

    def _new_parts(self) -> list[Drift]:
        """Parameters and layers that came after the plan took effect, and that it would hold."""
        spec = self._backend.describe(self.model)
        if spec.tree is self.resolution.spec.tree:
            return []
        known = set(self.resolution.spec.tree.names)
        unheld: list[str] = []
        try:
            resolution = resolve_spec(self.plan, spec)
            frozen = set(resolution.frozen_paths)
            unheld = self._backend.unheld(self.model, resolution)
        except UnifreezeError:
            # The plan no longer fits; then any new parameter is news.
            frozen = set(spec.tree.names)
        new = [
            Drift(path, "new", "the plan would freeze it")
            for path, trainable in self._backend.read(self.model).items()
            if path not in known and trainable and path in frozen
        ]
        swapped = "its statistics or other state should hold, and do not"
        return new + [Drift(path, "replaced", swapped) for path in unheld]

    def rebase(self) -> None:
        """Accept the values that frozen tensors have now as the ones to hold.

        Raises:
            UnifreezeError: A frozen tensor is no longer there; that takes `reapply`.
        """
        self._check_in_force("rebase")
        present = self._backend.objects(self.model)
        missing = [path for path in self._baseline.paths if path not in present]
        if missing:
            raise UnifreezeError(
                f"cannot rebase: {len(missing)} frozen tensors are no longer there",
                context=listing(missing),
                hint="take the new structure into the plan: handle.reapply()",
            )
        self._baseline = self._take_baseline(self.resolution)
        self._watch_loads()

    def reapply(self) -> None:
        """Take in modules that were replaced or added after the plan took effect.

        The plan is resolved and written again. Tensors that were frozen before and are still the
        same objects keep their baseline, so that a change they suffered is still found.
        """
        self._check_in_force("reapply")
        old = self._baseline
        self._put_in_force()
        new = self._baseline
        for path in new.paths:
            if path in old.digests and new.objects[path] is old.objects.get(path):
                new.digests[path] = old.digests[path]
                if path in old.values:
                    new.values[path] = old.values[path]

    def remove(self) -> None:
        """Put flags, modes and hooks back as they were before the first plan; values stay."""
        self._check_in_force("remove")
        self._lease.end()

    def _check_in_force(self, what: str) -> None:
        if self._lease is not self._target.lease():
            raise UnifreezeError(
                f"cannot {what}: this handle's plan is no longer in force",
                context="it was removed, or another plan was applied to the model",
                hint="use the handle of the last apply",
            )

    def check_gradients(self) -> tuple[Finding, ...]:
        """Look at the gradients a backward pass left; call it before the optimizer clears them.

        Returns:
            One finding per trainable parameter without a gradient, frozen parameter with one, and
            gradient that is not finite; empty when all is well.
        """
        flags = self.resolution.trainable
        names = dict(zip(self._paths(), flags.tolist(), strict=True))
        findings = []
        for path, norm in self._backend.gradients(self.model).items():
            trainable = names.get(path)
            if norm is None and trainable:
                findings.append(Finding(path, "is trainable and has no gradient"))
            elif norm is not None and trainable is False:
                findings.append(Finding(path, "is frozen and has a gradient"))
            if norm is not None and not np.isfinite(norm):
                findings.append(Finding(path, f"has a gradient of norm {norm}"))
        return tuple(findings)

    def _paths(self) -> list[str]:
        spec = self.resolution.spec
        return [spec.tree.names[name] for name in spec.first_names]

    def groups(self) -> tuple[ParamGroup, ...]:
        """Return the plan's param groups: trainable parameters with one set of settings each.

        Parameters are in canonical order, groups in the order of their first parameter; both are
        the same in every framework and from run to run.
        """
        return param_groups(self.resolution)

    def param_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Build param groups as the framework's optimizers take them.

        Args:
            lr: Base learning rate. PyTorch's group rates are absolute, so it is needed there when
                a group scales it; Paddle's are scales on the optimizer's rate.
        """
        return self._backend.param_groups(self.model, self._some_groups(), lr=lr)

    def optimizer(self, cls: type, **settings: Any) -> Any:
        """Build an optimizer over what the plan trains, with the plan's group settings.

        Args:
            cls: The framework's optimizer class.
            **settings: Its settings under neutral names (`lr`, `weight_decay`, …).

        Raises:
            OptimizerError: The optimizer is known to move frozen parameters, is no optimizer of
                this framework, or there is nothing to train.

        >>> optimizer = handle.optimizer(AdamW, lr=1e-3, weight_decay=0.01)  # doctest: +SKIP
        """
        return self._backend.optimizer(self.model, cls, self._some_groups(), settings)

    def _some_groups(self) -> tuple[ParamGroup, ...]:
        self._check_in_force("build param groups")
        groups = self.groups()
        if not groups:
            raise OptimizerError("the plan leaves nothing to train")
        return groups

    def __str__(self) -> str:
        trainable, total = self.resolution.counts()
        share = 100 * trainable / total if total else 0.0
        return (
            f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {share:.4f}"
        )

    def __repr__(self) -> str:
        return f"<unifreeze.Handle on {type(self.model).__name__}: {self}>"


def param_groups(resolution: Resolution) -> tuple[ParamGroup, ...]:
    """Group a resolution's trainable parameters by their optimizer settings."""
    spec = resolution.spec
    members: dict[tuple[float, float | None], list[str]] = {}
    for number in spec.canonical_order:
        if resolution.trainable[number]:
            decay = float(resolution.weight_decay[number])
            key = (float(resolution.lr_scale[number]), None if np.isnan(decay) else decay)
            path = spec.tree.names[spec.first_names[number]]
            members.setdefault(key, []).append(path)
    return tuple(
        ParamGroup(_group_name(*key), tuple(paths), *key) for key, paths in members.items()
    )


def _group_name(lr_scale: float, weight_decay: float | None) -> str:
    decay = "" if weight_decay is None else f", weight decay {weight_decay:g}"
    return f"lr x {lr_scale:g}{decay}"


def _held_states(resolution: Resolution) -> tuple[str, ...]:
    held = set(resolution.held)
    return tuple(
        state.path for state in resolution.spec.states if state.moves and state.owner in held
    )
