"""What a run has trained, apart from the base it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unifreeze.backend import Backend
from unifreeze.errors import WeightFileError, listing
from unifreeze.resolution import Resolution

FORMAT = 1
KEY = "unifreeze_trained"


def trained_paths(resolutions: Sequence[Resolution]) -> tuple[str, ...]:
    """Return native paths of parameters and statistics that any of some phases may have moved."""
    spec = resolutions[0].spec
    trained = np.logical_or.reduce([resolution.trainable for resolution in resolutions])
    held = set.intersection(*(set(resolution.held) for resolution in resolutions))
    names = [spec.tree.names[name] for name in spec.first_names[trained]]
    return (*names, *(s.path for s in spec.states if s.moves and s.owner not in held))


def trained_state(
    backend: Backend, model: Any, resolutions: Sequence[Resolution]
) -> dict[str, Any]:
    """Return the values of all that was trained, and what names the base they belong to."""
    paths = trained_paths(resolutions)
    base = _base(backend, model, resolutions[0], paths)
    return {
        KEY: FORMAT,
        "framework": backend.name,
        "base": _digest(base),
        "base_tensors": {path: bits[:8] for path, bits in base.items()},
        "tensors": {path: backend.tensor(model, path) for path in paths},
        "dtypes": {p: d.dtype for p, d in backend.fingerprint(model, paths).items()},
    }


def load_trained(
    backend: Backend, model: Any, resolution: Resolution, state: Mapping[str, Any]
) -> tuple[str, ...]:
    """Write such values into a model on the same base; all, or on any error none.

    Returns:
        Native paths of what was written.

    Raises:
        WeightFileError: It is no such state, or of another model or base.
    """
    _check_format(backend, state)
    tensors: Mapping[str, Any] = state["tensors"]
    _check_fit(backend, model, tensors, state["dtypes"])
    base = _base(backend, model, resolution, tensors)
    if _digest(base) != state["base"]:
        there = state.get("base_tensors", {})
        changed = [path for path, bits in base.items() if there.get(path) != bits[:8]]
        raise WeightFileError(
            f"it was trained on another base: {len(changed) or 'some'} tensors differ",
            context=listing(changed or sorted(set(there) - set(base))),
            hint="load the weights it was trained on first",
        )
    for path, array in tensors.items():
        backend.assign(model, path, np.asarray(array))
    return tuple(tensors)


def _check_format(backend: Backend, state: Mapping[str, Any]) -> None:
    found = state.get(KEY) if isinstance(state, Mapping) else None
    if found != FORMAT:
        what = "no state of what was trained" if found is None else f"of format {found}"
        raise WeightFileError(f"this is {what}; this release reads {FORMAT}")
    missing = [name for name in ("base", "tensors", "dtypes", "framework") if name not in state]
    if missing:
        raise WeightFileError(f"the state lacks {', '.join(missing)}")
    if state["framework"] != backend.name:
        raise WeightFileError(
            f"it was trained in {state['framework']}, and this model is of {backend.name}",
            hint="load it there, and carry the whole model over: uf.port_weights",
        )


def _check_fit(
    backend: Backend, model: Any, tensors: Mapping[str, Any], dtypes: Mapping[str, str]
) -> None:
    live = backend.objects(model)
    unknown = [path for path in tensors if path not in live]
    if unknown:
        raise WeightFileError(
            f"the model has no {listing(unknown)}", hint="it was trained on another model"
        )
    now = backend.fingerprint(model, tensors)
    problems = [
        f"{path} is {now[path].dtype}{list(live[path].shape)} here, "
        f"and {dtypes.get(path)}{list(np.shape(array))} there"
        for path, array in tensors.items()
        if tuple(live[path].shape) != np.shape(array) or now[path].dtype != dtypes.get(path)
    ]
    if problems:
        raise WeightFileError(
            f"{len(problems)} tensors do not fit", context="\n".join(problems[:5])
        )


def _base(
    backend: Backend, model: Any, resolution: Resolution, trained: Iterable[str]
) -> dict[str, str]:
    """Return the digest of every other parameter and moving state."""
    spec, known = resolution.spec, set(trained)
    names = [spec.tree.names[name] for name in spec.first_names]
    names += [state.path for state in spec.states if state.moves]
    rest = sorted(name for name in names if name not in known)
    return {path: found.bits for path, found in backend.fingerprint(model, rest).items()}


def _digest(base: Mapping[str, str]) -> str:
    lines = "\n".join(f"{path} {bits}" for path, bits in sorted(base.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
