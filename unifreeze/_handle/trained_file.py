"""The file of trained values: written by a handle, and loaded without a plan onto the same base."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unifreeze._arguments import checked
from unifreeze._files import is_file, is_folder, read_json
from unifreeze._handle.lease import all_leases, leases_over
from unifreeze._handle.shards import together, write_once
from unifreeze._handle.state_schema import TrainedHeader
from unifreeze._handle.target import Target
from unifreeze._handle.trained_values import (
    KEY,
    check_fit,
    check_format,
    origin_of,
    trained_paths,
    write_all,
)
from unifreeze._modules.digests import Payload, digest
from unifreeze._plan import FreezePlan
from unifreeze._ports.weights import Named, WeightFile, open_weights, save_weights
from unifreeze._ports.weights.formats import format_by_name
from unifreeze._protocol import Array, Backend, Digest, backend_for
from unifreeze._resolution import Resolution
from unifreeze._structure import ModelSpec
from unifreeze._wrong_files import meant
from unifreeze.errors import WeightFileError, counted, listing

_SUFFIX = ".safetensors"
_UNSAVED = ("float8", "complex128")
"""Dtypes that no optimizer trains, or that safetensors cannot hold."""
_COPY_AGAIN = "copy it again from where it was saved; nothing was written into the model"
_READERS = {"torch": "torch.load(path, weights_only=True)", "paddle": "paddle.load(path)"}
"""What reads files that are not safetensors."""
_FORMATS = {"torch": "pt"}
"""What libraries that load such files call the framework; "np" is for everyone."""


def save_trained(
    backend: Backend,
    model: Any,
    resolutions: Sequence[Resolution],
    plan: FreezePlan,
    path: str | Path,
) -> None:
    """Write what was trained; raises as `Handle.save_trained` does."""
    path = Path(path)
    _check_place(path)
    processes = together(backend, model, "save what was trained")
    paths = trained_paths(backend, model, resolutions)
    digests = backend.fingerprint(model, paths, whole=True)
    _check_values(digests)
    header = TrainedHeader(
        **origin_of(backend, model, resolutions[0].spec, paths),
        dtypes={name: digest.dtype for name, digest in digests.items()},
        digests={name: digest.bits for name, digest in digests.items()},
        plan=plan.digest,
        plan_text=plan.to_yaml(),
    ).plain()
    read = partial(_stored, backend, model)
    if processes.count > 1:  # all processes gather all of it before the first one writes
        arrays = {name: read(name, now.dtype) for name, now in digests.items()}
        read = partial(_gathered, arrays if processes.rank == 0 else {})
    rows = [
        Named(name, now.shape, now.dtype, partial(read, name, now.dtype))
        for name, now in digests.items()
    ]
    texts = {"format": _FORMATS.get(backend.name, "np"), KEY: json.dumps(header)}
    write_once(processes, partial(save_weights, path, rows, metadata=texts))


def _gathered(arrays: Mapping[str, Array], name: str, _dtype: str) -> Array:
    return arrays[name]


@checked
def load_trained(model: Any, path: str | Path) -> tuple[str, ...]:
    """Write what `Handle.save_trained` saved into a model on the same base; all, or nothing.

    No plan is needed, and flags are not touched. All other parameters and running statistics must
    be, to the bit, those that the saved ones were trained on. The values that are replaced, such as
    those of a new head, do not matter. A plan in force holds the new values from then on. Call it
    before an optimizer's first step: Paddle's optimizers keep copies in mixed precision.

    Args:
        model: A live model, or several in a mapping from names to models, as the plan had them.
        path: The file.

    Returns:
        Native paths of what was written.

    Raises:
        WeightFileError: The file is not such a file, is damaged, or is of another model, base or
            framework; everything that differs is named, and nothing was written.

    >>> handle.save_trained(folder / "head.safetensors")
    >>> load_trained(model, folder / "head.safetensors")
    ('head.weight', 'head.bias')
    """
    target, path = Target(model, backend_for(model)), Path(path)
    backend = target.backend
    _check_is_file(path)
    with backend.settled(target.model), open_weights(path) as weights:
        spec = backend.describe(target.model)
        header = _read_header(backend, weights)
        digests = header.digests
        entries = {name: weights.entry(name) for name in weights}
        check_fit(
            backend,
            target.model,
            spec,
            header,
            {name: (row.dtype, row.shape) for name, row in entries.items() if name in digests},
            missing=[name for name in digests if name not in entries],
            extra=[name for name in entries if name not in digests],
            source=str(path),
        )
        _check_intact(weights, digests)
        written = write_all(backend, target.model, weights, partial(_values, weights))
        _accept(backend, target.model, spec, written)
    return written


def _check_place(path: Path) -> None:
    """Refuse a path where the file cannot be written, before anything is computed.

    Raises:
        WeightFileError: With a path that can be written.
    """
    if is_folder(path):
        raise WeightFileError(
            f"cannot write {path}: it is a folder",
            hint=f'name the file: handle.save_trained("{(path / "trained").as_posix()}{_SUFFIX}")',
        )
    if path.suffix != _SUFFIX:
        raise WeightFileError(
            f"{path} is not named as a safetensors file, which is what save_trained writes",
            hint=f'handle.save_trained("{path.with_suffix(_SUFFIX).as_posix()}")',
        )
    if not is_folder(path.parent):
        raise WeightFileError(
            f"cannot write {path}: there is no folder {path.parent}",
            hint=f'make it first: Path("{path.parent.as_posix()}").mkdir(parents=True)',
        )


def _check_values(digests: Mapping[str, Digest]) -> None:
    """Refuse trained tensors whose values are not here, or cannot be saved exactly.

    Raises:
        WeightFileError: Naming them.
    """
    if absent := [name for name, now in digests.items() if not now.bits]:
        raise WeightFileError(
            f"{counted(len(absent), 'trained tensor has', 'trained tensors have')} no values "
            f"here: {listing(absent)}",
            context="they are on the meta device, not initialised yet, or offloaded",
            hint="save when they have values",
        )
    lost = [f"{name} ({d.dtype})" for name, d in digests.items() if d.dtype.startswith(_UNSAVED)]
    if lost:
        raise WeightFileError(
            f"{counted(len(lost), 'trained tensor is', 'trained tensors are')} of a dtype that "
            f"is not saved: {listing(lost)}",
            hint="freeze them, or train them in another dtype",
        )


def _stored(backend: Backend, model: Any, name: str, dtype: str) -> Array:
    """Return a tensor's values as a file holds them: bfloat16 as bit patterns."""
    array = backend.tensor(model, name)
    if dtype != "bfloat16":
        return array
    return (
        (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16).reshape(array.shape)
    )


def _values(weights: WeightFile, name: str) -> Array:
    """Return a tensor's values as backends take them: bfloat16 as float32."""
    array = weights.read(name)
    if weights.entry(name).dtype != "bfloat16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _check_is_file(path: Path) -> None:
    if is_file(path):
        return
    fact = f"{path} is a folder" if is_folder(path) else f"there is no file {path}"
    folder = path if is_folder(path) else path.parent
    there = []
    if is_folder(folder):
        there = sorted(file.as_posix() for file in folder.glob(f"*{_SUFFIX}"))
    raise WeightFileError(
        fact,
        context=f"there are: {listing(there)}" if there else "",
        hint=meant(path, (_SUFFIX,)) or "give the file that handle.save_trained wrote",
    )


def _read_header(backend: Backend, weights: WeightFile) -> TrainedHeader:
    """Return the header, which names the base; raises as `load_trained` does."""
    text = weights.metadata.get(KEY)
    if text is None:
        named = format_by_name(Path(weights.source))
        framework = named.name if named else "safetensors"
        read = _READERS.get(framework, f"safetensors.{backend.name}.load_file(path)")
        raise WeightFileError(
            f"{weights.source} is not a file of handle.save_trained: it does not name its base",
            context=f"{counted(len(weights), 'tensor')}: {listing(weights.names)}",
            hint=f"load it by hand: {read}, and then the model's own load_state_dict(…, "
            "strict=False) or set_state_dict(…)",
        )
    try:
        header = read_json(text)
    except (ValueError, RecursionError):
        header = None
    return check_format(TrainedHeader, backend, header, source=weights.source, hint=_COPY_AGAIN)


def _check_intact(weights: WeightFile, digests: Mapping[str, str]) -> None:
    """Refuse a file that does not hold, to the bit, what was saved.

    Raises:
        WeightFileError: Naming what has changed.
    """
    changed = [name for name in weights if _bits(weights, name) != digests[name]]
    if changed:
        raise _damaged(weights, *(f"{name}: other values than were saved" for name in changed))


def _bits(weights: WeightFile, name: str) -> str:
    entry, data = weights.entry(name), weights.read(name).reshape(-1).view(np.uint8)
    return digest(Payload(entry.dtype, entry.shape, data)).bits


def _damaged(weights: WeightFile, *lines: str) -> WeightFileError:
    return WeightFileError(
        f"{weights.source} was changed after it was saved",
        context="\n".join(lines[:12]),
        hint=_COPY_AGAIN,
    )


def _accept(backend: Backend, model: Any, spec: ModelSpec, written: Iterable[str]) -> None:
    """Let plans in force hold the written values from now on."""
    live = backend.objects(model)
    new = {id(live[path]) for path in written}
    for lease in leases_over(spec, all_leases()):
        leased, baseline = lease.model(backend), lease.baseline
        here = backend.objects(leased)
        moved = [path for path in baseline.paths if path in here and id(here[path]) in new]
        baseline.hold(backend, leased, baseline.parameters, baseline.states, moved)
