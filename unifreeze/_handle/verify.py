"""What `verify` compares: frozen tensors kept, moved, reloaded, cast, replaced, thawed or new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from unifreeze._handle.baseline import OFFLOADED, Baseline, live_tensors
from unifreeze._handle.kept_rows import changed_rows
from unifreeze._handle.schedule import UNTOLD
from unifreeze._modules.digests import change_at_least
from unifreeze._protocol import Backend, Digest
from unifreeze.errors import FrozenDriftError, counted

_ADVICE = {
    "moved": "find what writes to it: an average of weights that is copied back (EMA, SWA), "
    "an optimizer that makes up gradients, a hook, a copy_",
    "reloaded": "if the loaded values are wanted: handle.rebase()",
    "resized": "if the new shape is wanted: handle.rebase()",
    "cast": "if the new dtype or device is wanted: handle.rebase()",
    "filled": "run one batch, or load the weights, before the plan is applied; or, if the values "
    "of now are the ones to hold: handle.rebase()",
    "replaced": "take new modules into the plan: handle.reapply()",
    "new": "take new modules into the plan: handle.reapply()",
    "missing": "take the new structure into the plan: handle.reapply()",
    "thawed": "something set the flag again: handle.reapply()",
    "switched off": "something set the flag again: handle.reapply(), or say it in the plan",
    "released": "something set the mode again, past train(): handle.reapply()",
}

_OF_OTHERS = {"switched off", "released"}
"""Kinds of what is not a frozen tensor."""


class Drift(NamedTuple):
    """What is not as the plan wrote it, or a frozen tensor that has changed.

    Attributes:
        path: Native path.
        kind: `moved`, `reloaded`, `resized`, `cast`, `filled`, `replaced`, `new`, `missing`,
            `thawed`, `switched off` (a trainable parameter's flag) or `released` (a held layer).
        detail: How large the change is, or the old and the new state.
    """

    path: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}{f' ({self.detail})' if self.detail else ''}"


class Verified(NamedTuple):
    """What a successful `verify` has checked.

    Attributes:
        parameters: Number of frozen parameters that kept every bit.
        states: Number of statistics and other held state tensors that did.
        unchecked: Number of frozen parameters and held state tensors without values to compare:
            they are on the meta device, not initialised yet, or offloaded and cannot be read.
        told: False if later phases wait to begin, and `Handle.step` was never called.
        unseen: Why it is not known that layers run in the order in which the plan counts them; ""
            if it is known.
        rows: Number of rows that kept every bit in tables of which other rows train.
    """

    parameters: int
    states: int
    unchecked: int = 0
    told: bool = True
    unseen: str = ""
    rows: int = 0

    @property
    def ordered(self) -> bool:
        """False if the plan rests on an order of layers that no forward pass has shown."""
        return not self.unseen

    def __str__(self) -> str:
        text = (
            f"unchanged: {counted(self.parameters, 'frozen parameter')}, "
            f"{counted(self.states, 'held state tensor')}"
        )
        if self.rows:
            text += f", {counted(self.rows, 'row')} of tables that train in part"
        if self.unchecked:
            text += f"; not checked: {self.unchecked} that have no values here"
        if self.unseen:
            text += f"; {self.unseen}"
        return text if self.told else f"{text}; {UNTOLD}"


def count_unchanged(baseline: Baseline, away: Set[int] = frozenset()) -> Verified:
    """Count what is unchanged; a tensor without values cannot be called unchanged.

    Args:
        baseline: The tensors when the plan took effect.
        away: Identities of tensors whose values are out of memory.
    """
    with_values = [
        [p for p in paths if baseline.digests[p].bits and id(baseline.objects.get(p)) not in away]
        for paths in (baseline.parameters, baseline.states)
    ]
    parameters, states = map(len, with_values)
    rows = sum(kept.rows.kept for kept in baseline.rows.values())
    return Verified(parameters, states, len(baseline.paths) - parameters - states, rows=rows)


def find_drifts(
    backend: Backend,
    model: Any,
    baseline: Baseline,
    loaded: Mapping[str, str],
    away: Set[int] = frozenset(),
) -> list[Drift]:
    """Compare frozen tensors with their baseline.

    Args:
        backend: The model's backend.
        model: The live model.
        baseline: The tensors when the plan took effect.
        loaded: Digests right after the last state dict was loaded, {} if none was.
        away: Identities of tensors whose values are out of memory.
    """
    objects = live_tensors(backend, model)
    present = [path for path in baseline.paths if path in objects]
    drifts = [Drift(path, "missing", "") for path in baseline.paths if path not in objects]
    states = set(baseline.states)
    same: list[str] = []
    for path in present:
        stays = objects[path] is OFFLOADED or objects[path] is baseline.objects[path]
        if path not in states and not stays:
            new = backend.fingerprint(model, [path])[path]
            drifts.append(_replaced(path, baseline.digests[path], new))
        else:
            same.append(path)
    here = [path for path in same if id(objects[path]) not in away]
    now = backend.fingerprint(model, here)
    changed = [path for path in here if now[path].bits != baseline.digests[path].bits]
    drifts += [_changed(backend, model, baseline, path, now, loaded) for path in changed]
    return [*drifts, *_rows_changed(backend, model, baseline, loaded, objects)]


def _rows_changed(
    backend: Backend,
    model: Any,
    baseline: Baseline,
    loaded: Mapping[str, str],
    objects: Mapping[str, Any],
) -> Iterator[Drift]:
    """Yield the tables of which rows have changed that should stay."""
    for path, kept in baseline.rows.items():
        if path not in objects:
            yield Drift(path, "missing", "")
            continue
        if objects[path] is not baseline.objects[path]:
            yield Drift(path, "replaced", "another table stands in its place")
            continue
        now = backend.fingerprint(model, [path])[path]
        if now.bits and (drift := _of_another_form(path, kept.table, now)):
            yield drift
        elif which := changed_rows(backend, model, kept):
            yield Drift(path, "reloaded" if loaded.get(path) == now.bits else "moved", which)


def _replaced(path: str, before: Digest, new: Digest) -> Drift:
    if before.bits and new.bits and before.shape != new.shape:
        shapes = f"{list(new.shape)} stands in the place of one of {list(before.shape)}"
        return Drift(path, "resized", f"another object, of shape {shapes}")
    return Drift(path, "replaced", "another object stands in its place")


def _changed(
    backend: Backend,
    model: Any,
    baseline: Baseline,
    path: str,
    now: Mapping[str, Digest],
    loaded: Mapping[str, str],
) -> Drift:
    before = baseline.digests[path]
    if not before.dtype:
        return Drift(path, "filled", "it had no values when the plan took effect")
    if (drift := _of_another_form(path, before, now[path])) is not None:
        return drift
    kind = "reloaded" if loaded.get(path) == now[path].bits else "moved"
    return Drift(path, kind, _amount(backend, model, baseline, path))


def _of_another_form(path: str, before: Digest, now: Digest) -> Drift | None:
    """Return the drift of a tensor that has another dtype or shape than before."""
    if before.dtype != now.dtype:
        return Drift(path, "cast", f"{before.dtype} to {now.dtype or 'none'}")
    if before.shape != now.shape:
        return Drift(path, "resized", f"shape {list(before.shape)} to {list(now.shape)}")
    return None


def _amount(backend: Backend, model: Any, baseline: Baseline, path: str) -> str:
    if path in baseline.values:
        before, after = baseline.values[path], backend.tensor(model, path)
        if before.shape != after.shape:
            return f"shape {before.shape} to {after.shape}"
        wide = np.complex128 if np.iscomplexobj(before) else np.float64
        difference = np.abs(after.astype(wide) - before.astype(wide))
        return _bounded("at most", float(np.max(difference, initial=0.0)))
    digest = baseline.digests[path]
    now = backend.fingerprint(model, [path], sums=True)[path]
    if digest.sums is None or now.sums is None or digest.count != now.count:
        return ""
    bound = change_at_least(digest.sums, now.sums, digest.count)
    return _bounded("at least", bound) + (", a lower bound" if np.isfinite(bound) else "")


def _bounded(how: str, change: float) -> str:
    return f"by {how} {change:.3g}" if np.isfinite(change) else "to or from what is not finite"


def drift_error(drifts: Iterable[Drift]) -> FrozenDriftError:
    """Build the error that names what drifted and how to go on."""
    drifts = tuple(drifts)
    kinds = list(dict.fromkeys(drift.kind for drift in drifts))
    shown = [str(drift) for drift in drifts[:20]]
    if len(drifts) > len(shown):
        shown.append(f"… and {len(drifts) - len(shown)} more")
    advice = list(dict.fromkeys(_ADVICE[kind] for kind in kinds))
    if any("lower bound" in drift.detail for drift in drifts):
        advice.append("apply(…, keep_values=True) gives exact changes")
    error = FrozenDriftError(
        f"{_subject(drifts)}: {', '.join(kinds)}",
        context="\n".join(shown),
        hint="; ".join(advice),
    )
    error.drifts = drifts
    return error


def _subject(drifts: Sequence[Drift]) -> str:
    if any(drift.kind in _OF_OTHERS for drift in drifts):
        count = counted(len(drifts), "tensor or layer is", "tensors or layers are")
        return f"{count} not as the plan wrote {'them' if len(drifts) > 1 else 'it'}"
    count = counted(len(drifts), "frozen tensor is", "frozen tensors are")
    return f"{count} not as {'they were' if len(drifts) > 1 else 'it was'}"
