"""The values that a run has trained, and the digest of the base that they were trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from unifreeze._ports.weights import DTYPES
from unifreeze._protocol import Array, Backend, Digest
from unifreeze._resolution import Grounds, Resolution
from unifreeze._structure import ModelSpec
from unifreeze.errors import UnifreezeError, WeightFileError, WriteError, brief, counted

FORMAT = 1
KEY = "unifreeze_trained"
_LINES = 12
"""How many tensors that differ a message names."""
_PREFIX = 8
"""Hexadecimal digits that are kept of each base tensor's digest: they only name what differs."""

STATE = "the state"
"""The name in messages of a state that is not a file."""
_TABLES = {"tensors": object, "dtypes": str, "base_tensors": str, "digests": str}
"""What the mappings in a state hold."""
_SAME_MODEL = "build the model as it was trained: the same layers, sizes and dtypes"
_SAME_WEIGHTS = "load the weights it was trained on first, in the same dtype"
_SWITCH_ON = "adapters must be in use: load outside `with model.disable_adapter()`, and not merged"

Wanted = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of each trained tensor, by its native path."""


def trained_paths(
    backend: Backend, model: Any, resolutions: Sequence[Resolution]
) -> tuple[str, ...]:
    """Return native paths of the parameters and states that some phases may have moved.

    For layers that train, these include whole numbers and truth values that the layer's code
    writes: a flag that it has initialised itself, the zero point of a quantiser.
    """
    spec = resolutions[0].spec
    trained = np.logical_or.reduce([each.trainable | each.written for each in resolutions])
    held = set.intersection(*(set(resolution.held) for resolution in resolutions))
    names = [spec.tree.names[name] for name in spec.first_names[trained]]
    moving = {state.owner for state in spec.states if state.moves}
    grounds = Grounds(spec, trained, np.ones(len(spec), np.bool_))
    held |= {
        owner
        for owner in dict.fromkeys(state.owner for state in spec.states if state.flag)
        if owner not in moving and grounds.all_frozen(grounds.of_state(owner))
    }
    states = [s for s in spec.states if (s.moves or s.flag) and s.owner not in held]
    live = backend.objects(model)
    first = {id(live[state.path]): state.path for state in reversed(states) if state.path in live}
    return (*names, *reversed(first.values()))


def trained_state(
    backend: Backend, model: Any, resolutions: Sequence[Resolution]
) -> dict[str, Any]:
    """Return all trained values, and the entries that identify their base."""
    paths = trained_paths(backend, model, resolutions)
    return {
        **origin_of(backend, model, resolutions[0].spec, paths),
        "tensors": {path: backend.tensor(model, path) for path in paths},
        "dtypes": {p: d.dtype for p, d in backend.fingerprint(model, paths).items()},
    }


def origin_of(
    backend: Backend, model: Any, spec: ModelSpec, trained: Iterable[str]
) -> dict[str, Any]:
    """Return the entries that identify a base: one digest for all, and a line for each tensor."""
    base = _base(backend, model, spec, trained)
    return {
        KEY: FORMAT,
        "framework": backend.name,
        "base": _digest(base),
        "base_tensors": {path: _line(digest) for path, digest in base.items()},
    }


def load_state(
    backend: Backend, model: Any, spec: ModelSpec, state: Mapping[str, Any]
) -> tuple[str, ...]:
    """Write such a state into a model on the same base; on any error, nothing is written.

    Returns:
        Native paths of what was written.

    Raises:
        WeightFileError: It is not such a state, or is of another model or base.
    """
    check_format(backend, state, ("tensors",))
    tensors: Mapping[str, Any] = state["tensors"]
    dtypes: Mapping[str, str] = state["dtypes"]
    wanted = {path: (dtypes.get(path, "unknown"), _shape(array)) for path, array in tensors.items()}
    check_fit(backend, model, spec, state, wanted)
    arrays = {path: _as_announced(path, array, dtypes[path]) for path, array in tensors.items()}
    return write_all(backend, model, arrays, arrays.__getitem__)


def _as_announced(path: str, values: Any, dtype: str) -> Array:
    """Return values as an array of the dtype that they were saved in.

    Raises:
        WeightFileError: They are of another kind, such as text, or complex for real numbers.
    """
    array = np.asarray(values)  # it has a shape: check_fit has looked
    code = np.dtype(DTYPES[dtype]) if dtype in DTYPES else array.dtype
    plain = isinstance(values, list | tuple | int | float) and array.dtype.kind in "iu"
    if array.dtype.kind not in "biufc" or not (
        np.can_cast(array.dtype, code, "same_kind") or (plain and code.kind in "iu")
    ):
        raise WeightFileError(
            f"{STATE}: {path} was saved as {dtype}, and its values are {brief(array.dtype.name)}",
            context="nothing was written into the model",
            hint="give what handle.trainable_state_dict() returned",
        )
    return array.astype(code, copy=False)


def check_format(
    backend: Backend,
    state: Any,
    more: Sequence[str] = (),
    *,
    source: str = STATE,
    hint: str = "give what handle.trainable_state_dict() returned",
) -> None:
    """Check that a value is a state of trained values, in this release's format.

    Args:
        backend: The model's backend.
        state: The value to check.
        more: Further keys that it must have.
        source: Its name in messages.
        hint: Where to get such a state.

    Raises:
        WeightFileError: It is not, or it is of another framework.
    """
    version = state.get(KEY) if isinstance(state, Mapping) else None
    if version is None:
        raise WeightFileError(f"{source} is not the state of what was trained", hint=hint)
    if type(version) is not int or version != FORMAT:
        raise WeightFileError(
            f"{source} is of format {brief(version)}; this release reads {FORMAT}", hint=hint
        )
    needed = ("base", "dtypes", "framework", *more)
    if missing := [name for name in needed if name not in state]:
        raise WeightFileError(f"{source} lacks {', '.join(missing)}", hint=hint)
    wrong = [name for name in ("base", "framework") if not isinstance(state[name], str)]
    wrong += [name for name, kind in _TABLES.items() if not _is_table(state.get(name, {}), kind)]
    if wrong:
        raise WeightFileError(f"{source} is damaged: {', '.join(wrong)} cannot be read", hint=hint)
    if state["framework"] != backend.name:
        raise WeightFileError(
            f"{source} was trained in {state['framework']}, and this model is of {backend.name}",
            hint=f"load it into a {state['framework']} model, and carry that one's weights over: "
            "uf.port_weights(source, target, pairing=uf.pair(source, target, batch=batch))",
        )


def check_fit(
    backend: Backend,
    model: Any,
    spec: ModelSpec,
    state: Mapping[str, Any],
    wanted: Wanted,
    *,
    missing: Sequence[str] = (),
    extra: Sequence[str] = (),
    source: str = STATE,
) -> None:
    """Refuse trained tensors that a model has no place for, and a model on another base.

    Args:
        backend: The model's backend.
        model: The live model.
        spec: Its description.
        state: The entries that identify the base.
        wanted: The trained tensors of the state.
        missing: Trained tensors that the state lacks.
        extra: Tensors of the state that were not trained.
        source: The state's name in messages.

    Raises:
        WeightFileError: Naming everything that differs, trained tensors first.
    """
    unfit = [f"{path}: was trained, and is not in the file" for path in missing]
    unfit += [f"{path}: is in the file, and was not trained" for path in extra]
    misfits, off = _misfits(backend, model, wanted)
    unfit += misfits
    base = _base(backend, model, spec, (*wanted, *missing))
    same = _digest(base) == state["base"]
    differing = [] if same else _differences(state.get("base_tensors", {}), base)
    lines = [*unfit, *differing]
    shown = [*lines[:_LINES], *([f"… and {len(lines) - _LINES} more"] if lines[_LINES:] else [])]
    if unfit:
        fits = counted(len(unfit), "trained tensor does", "trained tensors do")
        raise WeightFileError(
            f"{source}: {fits} not fit this model",
            context="\n".join(shown),
            hint=_SWITCH_ON if off else _SAME_MODEL,
        )
    if not same:
        count = counted(len(differing), "tensor differs", "tensors differ")
        there = state.get("base_tensors", {})
        another = "base" if _same_layers(there, base) else "model"
        raise WeightFileError(
            f"{source} was trained on another {another}: {count if differing else 'some differ'}",
            context="\n".join(shown),
            hint=_SAME_WEIGHTS if another == "base" else _SAME_MODEL,
        )


def write_all(
    backend: Backend, model: Any, paths: Iterable[str], read: Callable[[str], Array]
) -> tuple[str, ...]:
    """Write values into a model's tensors; on any error, all of them are as they were.

    Raises:
        WriteError: The framework refused one.
    """
    kept: list[tuple[str, Array]] = []
    try:
        for path in paths:
            array = read(path)
            kept.append((path, backend.tensor(model, path)))
            backend.assign(model, path, array)
    except BaseException as error:
        for path, array in kept:
            with suppress(Exception):  # the one that was refused will be refused again
                backend.assign(model, path, array)
        if isinstance(error, UnifreezeError) or not isinstance(error, Exception):
            raise
        raise WriteError(
            f"{backend.name} refused to write {kept[-1][0] if kept else 'a tensor'}: {error}",
            context="nothing was changed",
        ) from error
    return tuple(path for path, _ in kept)


def _misfits(backend: Backend, model: Any, wanted: Wanted) -> tuple[list[str], bool]:
    """Describe the trained tensors that do not fit the model.

    Returns:
        A line for each, and whether the model has some that are switched off now.
    """
    live = backend.objects(model)
    now = backend.fingerprint(model, [path for path in wanted if path in live])
    lines, first, off = [], dict[int, str](), False
    for path, (dtype, shape) in wanted.items():
        saved = f"{dtype}{list(shape)}"
        if path not in live and _is_attribute(model, path):
            off = True
            lines.append(f"{path}: {saved} was trained, and is switched off, or merged, now")
        elif path not in live:
            lines.append(f"{path}: {saved} was trained, and is not in the model")
        elif not now[path].bits:
            lines.append(f"{path}: {saved} was trained, and has no values in the model")
        elif (now[path].dtype, now[path].shape) != (dtype, shape):
            lines.append(f"{path}: {saved} was trained, and is {_kind(now[path])} in the model")
        elif (twin := first.setdefault(id(live[path]), path)) != path:
            lines.append(f"{path}: is one tensor with {twin} in the model, and was trained apart")
    return lines, off


def _is_attribute(model: Any, path: str) -> bool:
    """Return whether a path leads to an object of the model, even one that it does not use now."""
    member = model
    for name in path.split("."):
        member = getattr(member, name, None)
    return member is not None


def _is_table(table: Any, kind: type) -> bool:
    return isinstance(table, Mapping) and all(
        isinstance(name, str) and isinstance(value, kind) for name, value in table.items()
    )


def _shape(array: Any) -> tuple[int, ...]:
    try:
        return np.shape(array)
    except ValueError:  # lists of unequal lengths
        return ()


def _same_layers(there: Mapping[str, str], here: Mapping[str, Digest]) -> bool:
    """Return whether a base has the tensors of a model, in the same shapes."""
    if not there:
        return True
    shapes = {path: line.partition("[")[2] for path, line in there.items()}
    now = {path: _kind(digest).partition("[")[2] for path, digest in here.items()}
    return shapes.keys() == now.keys() and all(
        shape == now[path] for path, shape in shapes.items() if shape
    )


def _differences(there: Mapping[str, str], here: Mapping[str, Digest]) -> list[str]:
    """Describe the tensors of the base that have changed; old states have digests alone."""
    lines = []
    for path in [*here, *(path for path in there if path not in here)]:
        if path not in here:
            lines.append(f"{path}: in the base, and not in the model")
        elif path not in there:
            lines.append(f"{path}: in the model, and not in the base")
        else:
            bits, _, kind = there[path].partition(" ")
            if kind and kind != _kind(here[path]):
                lines.append(f"{path}: {kind} in the base, {_kind(here[path])} in the model")
            elif bits != here[path].bits[:_PREFIX]:
                lines.append(f"{path}: other values than in the base")
    return lines


def _base(
    backend: Backend, model: Any, spec: ModelSpec, trained: Iterable[str]
) -> dict[str, Digest]:
    """Return the digest of every other parameter and moving state."""
    known, live = set(trained), backend.objects(model)
    same = {id(live[path]) for path in known if path in live}
    names = [spec.tree.names[name] for name in spec.first_names]
    names += [s.path for s in spec.states if s.moves and id(live.get(s.path)) not in same]
    others = sorted(name for name in names if name not in known)
    return backend.fingerprint(model, others, whole=True)


def _digest(base: Mapping[str, Digest]) -> str:
    lines = "\n".join(f"{path} {digest.bits}" for path, digest in sorted(base.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _line(digest: Digest) -> str:
    return f"{digest.bits[:_PREFIX]} {_kind(digest)}"


def _kind(digest: Digest) -> str:
    return f"{digest.dtype}{list(digest.shape)}" if digest.bits else "without values"
