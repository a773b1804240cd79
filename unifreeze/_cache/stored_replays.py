"""What a folder says of its rows, so that a model whose frozen weights have no values can use them.

Without values nothing can be tried. The trial was made when the rows were kept; the file says for
which modules, modes and weights, and how the outputs are put together.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unifreeze._cache.dropped_weights import AbsentWeights
from unifreeze._cache.folder_store import REPLAY
from unifreeze._cache.frozen_part import FrozenPart
from unifreeze._cache.module_calls import CallKey
from unifreeze._cache.nested_values import Form, Place, contents
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.output_rows import Layout, Slot
from unifreeze._cache.replaying import Boundary
from unifreeze._cache.settings_watch import SettingsWatch
from unifreeze._cache.weight_watch import WeightWatch
from unifreeze._files import Format, Row, Saved
from unifreeze._modules.walking import Walk
from unifreeze.errors import CacheError

Key = tuple[tuple[str, int], ...]
_BUILTIN = {"tuple": tuple, "list": list, "dict": dict}
_DTYPES = ("float32", "float64", "int32", "int64", "bool")


class StoredSlot(Row):
    """One tensor of a call's result; see `Slot`."""

    axis: int | None
    shape: tuple[int, ...]
    entries: int
    order: tuple[int, ...]
    dtype: str
    constant: str | None


class StoredLayout(Row):
    """What one call returns for inputs of one signature."""

    key: Key
    form: Any
    text: str
    slots: tuple[StoredSlot, ...]


class StoredReplay(Saved):
    """How rows of one group are given back.

    Attributes:
        unifreeze_replay: Version of the format.
        group: The group of the rows.
        framework: Its name and version.
        about: Gradient and automatic casts.
        entry: Native path of the module that is called.
        dtype: How floating values are kept.
        modules: Path, class and mode of each frozen module.
        tensors: Path, type, shape and digest of each tensor that the rows depend on.
        kept: The calls of which something is kept, each with the numbers of its kept tensors.
        axes: All frozen calls, each with the axis of rows of each tensor.
        layouts: By signature of inputs, how outputs are put together.
    """

    format: ClassVar[Format] = Format(
        "unifreeze replay", "unifreeze_replay", 2, CacheError,
        "delete the folder that it is in, and fill the cache again", None,
    )  # fmt: skip
    unifreeze_replay: int = 2
    group: str
    framework: str
    about: str
    entry: str
    dtype: str
    modules: tuple[tuple[str, str, bool], ...]
    tensors: tuple[tuple[str, str, tuple[int, ...], str], ...]
    kept: tuple[tuple[Key, tuple[int, ...]], ...]
    axes: tuple[tuple[Key, tuple[int | None, ...]], ...]
    layouts: dict[str, tuple[StoredLayout, ...]]


def store_replay(folder: Path, backend: CacheOperations, walk: Walk, part: FrozenPart) -> None:
    """Write beside the rows of a frozen part how they are given back, if that can be written.

    Args:
        folder: The folder of all rows.
        backend: The model's backend.
        walk: The model as walked.
        part: The frozen part.
    """
    file, tree = folder / part.group / REPLAY, walk.tree
    layouts: dict[str, tuple[StoredLayout, ...]] = {}
    with suppress(CacheError, OSError):
        layouts.update(StoredReplay.load(file).layouts)
    for signature, by_call in part.layouts.items():
        with suppress(TypeError):  # an object that cannot be written
            rows = [_stored(walk, backend, *row) for row in (by_call or {}).items()]
            layouts[signature] = tuple(rows)
    tensors = zip(part.watch.tensors, part.watch.bits, strict=True)
    with suppress(CacheError, OSError):  # a full disk is told of by the store
        StoredReplay(
            group=part.group,
            framework=backend.version(),
            about=part.about,
            entry=tree.paths[part.entry],
            dtype=part.dtype,
            modules=_modules(walk, part.modes),
            tensors=tuple((path, *_kind(tensor), bits) for (path, tensor), bits in tensors),
            kept=tuple((_named(walk, k), tuple(n)) for k, n in part.boundary.kept.items()),
            axes=tuple((_named(walk, k), tuple(axes)) for k, axes in part.boundary.axes.items()),
            layouts={signature: rows for signature, rows in layouts.items() if rows},
        ).save(file)


def stored_part(
    folder: Path | None,
    backend: CacheOperations,
    walk: Walk,
    absent: AbsentWeights,
    *,
    entry: int,
    about: str,
    dtype: str,
) -> FrozenPart:
    """Return the frozen part whose rows a folder holds, for a model without frozen weights.

    Args:
        folder: The folder of all rows; None for memory.
        backend: The model's backend.
        walk: The model as walked.
        absent: The weights that have no values.
        entry: The number of the module that is called.
        about: Gradient and automatic casts.
        dtype: How floating values are kept.

    Raises:
        CacheError: There are no such rows, or rows of several models.
    """
    files = [] if folder is None else sorted(folder.glob(f"*/{REPLAY}"))
    fitting = []
    other_way = "the model runs in a way for which no rows are kept"
    why = other_way if folder is None else f"{folder} holds no rows of it"
    for stored in map(StoredReplay.load, files):
        same = (stored.framework, stored.about, stored.entry, stored.dtype)
        if same != (backend.version(), about, walk.tree.paths[entry], dtype):
            why = other_way
        elif difference := _difference(backend, walk, absent, stored):
            why = difference
        else:
            fitting.append(stored)
    if len(fitting) > 1:
        why = f"{folder} holds rows of {len(fitting)} models of this structure"
    if len(fitting) != 1:
        absent.refuse(why)
    return _part(backend, walk, absent, fitting[0], entry)


def _difference(
    backend: CacheOperations, walk: Walk, absent: AbsentWeights, stored: StoredReplay
) -> str:
    """Return how a model differs from the one whose rows were kept; "" if it fits."""
    numbers = {path: n for n, path in reversed(list(enumerate(walk.tree.paths)))}
    modes = backend.modes(walk)
    for path, kind, mode in stored.modules:
        number = numbers.get(path)
        if number is None or (walk.tree.types[number], modes[number]) != (kind, mode):
            return f"{path} is not there, of another class, or in another mode than in the rows"
    live = dict(zip(walk.first_paths(), walk.tensors, strict=True))
    live |= {state.path: tensor for state, tensor in walk.states() if tensor is not None}
    away = set(map(id, absent.weights.values()))
    inside = {path for path, *_ in stored.modules}
    for path, dtype, shape, bits in stored.tensors:
        tensor = live.get(path)
        if tensor is None or _kind(tensor) != (dtype, shape):
            return f"{path} is not there, or of another type or shape than in the rows"
        if id(tensor) not in away and backend.has_values(tensor):
            watch = WeightWatch(backend, [(path, tensor)])
            if watch.bits[0] != bits:
                return f"{path} has other values than in the rows"
    owners = {walk.tree.paths[n] for n in walk.tree.owners}
    for path in absent.weights:
        if not any(path.startswith(f"{o}.") for o in owners & inside):
            return f"{path} is frozen and has no values, and no row stands for it"
    return ""


def _part(
    backend: CacheOperations,
    walk: Walk,
    absent: AbsentWeights,
    stored: StoredReplay,
    entry: int,
) -> FrozenPart:
    numbers = {path: n for n, path in reversed(list(enumerate(walk.tree.paths)))}

    def key(named: Key) -> CallKey:
        return tuple((numbers[path], count) for path, count in named)

    kept = {key(named): read for named, read in stored.kept}
    axes = {key(named): along for named, along in stored.axes}
    boundary = Boundary(kept, frozenset(axes.keys() - kept.keys()), axes)
    live = {state.path: tensor for state, tensor in walk.states() if tensor is not None}
    live |= dict(zip(walk.first_paths(), walk.tensors, strict=True))
    watched = [(row[0], live[row[0]]) for row in stored.tensors]
    away = set(map(id, absent.weights.values()))
    here = [r for r in watched if id(r[1]) not in away and backend.has_values(r[1])]
    watch = WeightWatch(backend, here)
    layouts: dict[str, Mapping[CallKey, Layout] | None] = {
        signature: {
            call: _layout(backend, walk, row).keeping(kept.get(call, ()))
            for call, row in ((key(row.key), row) for row in rows)
        }
        for signature, rows in stored.layouts.items()
    }
    kept_at = [walk.tree.paths[call[-1][0]] for call in kept]
    modes = {numbers[path]: mode for path, _, mode in stored.modules}
    around = {0, *(number for call in axes for number, _ in call[:-1])}
    settings = SettingsWatch(backend, walk, sorted(modes), sorted(around - modes.keys()))
    part = FrozenPart(
        boundary,
        watch,
        stored.group,
        kept_at,
        stored.dtype,
        entry,
        stored.about,
        modes,
        settings=settings,
    )
    part.layouts.update(layouts)
    return part


def _modules(walk: Walk, modes: Mapping[int, bool]) -> tuple[tuple[str, str, bool], ...]:
    tree = walk.tree
    return tuple((tree.paths[n], tree.types[n], bool(mode)) for n, mode in modes.items())


def _named(walk: Walk, key: CallKey) -> Key:
    return tuple((walk.tree.paths[number], count) for number, count in key)


def _kind(tensor: Any) -> tuple[str, tuple[int, ...]]:
    return str(tensor.dtype), tuple(map(int, tensor.shape))


def _stored(walk: Walk, backend: CacheOperations, key: CallKey, layout: Layout) -> StoredLayout:
    slots = []
    for slot in layout.slots:
        array = backend.to_array(slot.like)
        payload = backend.payload(slot.like)
        if payload is None or payload.dtype not in _DTYPES or str(array.dtype) != payload.dtype:
            raise TypeError(payload)
        constant = None
        if slot.constant is not None:
            constant = base64.b64encode(np.ascontiguousarray(slot.constant).tobytes()).decode()
        slots.append(
            StoredSlot(
                axis=slot.axis, shape=slot.shape, entries=slot.entries, order=slot.order,
                dtype=payload.dtype, constant=constant,
            )
        )  # fmt: skip
    form, text = _written(layout.form.value), layout.form.text
    return StoredLayout(key=_named(walk, key), form=form, text=text, slots=tuple(slots))


def _layout(backend: CacheOperations, walk: Walk, stored: StoredLayout) -> Layout:
    device = next(t for t in walk.tensors if backend.has_values(t))
    slots = []
    for slot in stored.slots:
        like = backend.from_input(np.zeros(1, slot.dtype), device)
        constant = None
        if slot.constant is not None:
            data = np.frombuffer(base64.b64decode(slot.constant), slot.dtype)
            constant = data.reshape(slot.shape).copy()
        slots.append(Slot(slot.axis, slot.shape, slot.entries, slot.order, like, constant))
    return Layout(Form(_read(stored.form), stored.text, ()), tuple(slots))


def _written(value: Any) -> Any:
    """Return a form as JSON; raises `TypeError` for an object that has none."""
    if isinstance(value, Place):
        return {"tensor": value.number}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    items = contents(value)
    kind = type(value)
    if items is None or not all(isinstance(key, str | int) for key, _ in items):
        raise TypeError(kind)
    name = kind.__name__ if kind in _BUILTIN.values() else f"{kind.__module__}:{kind.__qualname__}"
    return {"class": name, "items": [[key, _written(item)] for key, item in items]}


def _read(data: Any) -> Any:
    if "tensor" in data:
        return Place(data["tensor"])
    if "value" in data:
        return data["value"]
    items = [(key, _read(item)) for key, item in data["items"]]
    name = data["class"]
    kind = _BUILTIN.get(name) or _container(name)
    if issubclass(kind, tuple | list | dict) and kind in _BUILTIN.values():
        return dict(items) if kind is dict else kind(item for _, item in items)
    if issubclass(kind, tuple):
        return kind(*(item for _, item in items))
    return kind(**dict(items))


def _container(name: str) -> type:
    """Return a class of results; only of modules that are imported, and only plain containers."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not (
        is_dataclass(found) or issubclass(found, Mapping | tuple)
    ):
        raise CacheError(
            f"a frozen module returns {name}, which is not imported or not a container of values",
            hint="import the model's library first",
        )
    return found


def absent_weights(backend: CacheOperations, walk: Walk) -> AbsentWeights | None:
    """Return the frozen weights that have no values; None if all have."""
    rows = {
        path: tensor
        for path, tensor in zip(walk.first_paths(), walk.tensors, strict=True)
        if not backend.get_flag(tensor) and not backend.has_values(tensor)
    }
    return AbsentWeights(rows, sum(_sizes(rows))) if rows else None


def _sizes(weights: Mapping[str, Any]) -> Iterator[int]:
    for tensor in weights.values():
        yield int(np.prod(tuple(tensor.shape))) * int(tensor.element_size())
