"""Batches of inputs, in every form that users pass: arrays, or texts that stand for arrays."""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifreeze._wrong_files import appearance, meant
from unifreeze.errors import TargetError, brief, listing

Array = NDArray[Any]
_LAST_SEED = 2**63 - 1
"""The largest seed that every framework takes."""
_TEXT = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<dtype>[a-z]+\d*)\[(?P<shape>[\d,\s]*)\]"
    r"(?:<(?P<low>[^:<>]+):(?P<high>[^:<>]+)>?)?"
)
_FORMS = 'forms: "float32[2,3,64,64]", "ids=int64[2,16]<1:1000>", or a .npz file'
_SENTENCES = '; sentences go through a tokenizer: dict(tokenizer(sentences, return_tensors="np"))'


@dataclass(frozen=True)
class Batch:
    """One batch of inputs as NumPy arrays: positional ones, then named ones."""

    args: tuple[Array, ...] = ()
    kwargs: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def for_sides(
        cls, batch: object, names: tuple[str, str], *, seed: int = 0
    ) -> tuple[Batch, Batch]:
        """Read a batch for two models: one for both, or one by the framework of each.

        Texts stand for the same numbers on both sides. Equal texts are matched by name where all
        names are the same, otherwise by order.

        Raises:
            TargetError: A batch is missing for a framework, or is for another framework.
        """
        known = set(names)
        if not isinstance(batch, Mapping) or not known & set(batch):
            return cls.of(batch, seed=seed), cls.of(batch, seed=seed)
        if set(batch) != known:
            raise TargetError(
                f"the batch is for {listing(map(str, batch))}, and the models are of "
                f"{' and '.join(sorted(known))}",
                hint="give one batch for both models, or one by the name of each one's framework",
            )
        first, second = batch[names[0]], batch[names[1]]
        if isinstance(first, Mapping) and isinstance(second, Mapping) and set(first) == set(second):
            second = {name: second[name] for name in first}
        return cls.of(first, seed=seed), cls.of(second, seed=seed)

    @classmethod
    def of(cls, batch: object, *, seed: int = 0) -> Batch:
        """Read what users pass as a batch: an array, a sequence of them, a mapping, or a Batch.

        In place of an array there may be text: `float32[2,3,64,64]`, `ids=int64[2,16]<1:1000>`, or
        the name of a .npz file. Floats are then standard normal, or uniform between the bounds;
        whole numbers are uniform from the first bound up to, not including, the second. In a file,
        arrays called arr_0, arr_1 … are positional. The numbers depend on the text and on how many
        equal texts came before it, not on names.

        Args:
            batch: The batch.
            seed: Seed of the arrays that texts stand for.

        Raises:
            TargetError: It is not a batch, or a text cannot be read.
        """
        _check_seed(seed)
        if isinstance(batch, Batch):
            return batch
        drawing = _Drawing(seed)
        if isinstance(batch, Mapping):
            named = {str(name): _named(name, value, drawing) for name, value in batch.items()}
            return cls((), named)
        return cls._in_order(batch if isinstance(batch, tuple | list) else [batch], drawing)

    @classmethod
    def _in_order(cls, batch: Iterable[object], drawing: _Drawing) -> Batch:
        args: list[Array] = []
        kwargs: dict[str, Array] = {}
        for value in batch:
            text = _text_of(value)
            if text.endswith(".npz"):
                _read_file(text, args, kwargs)
                continue
            name, array = _made(text, drawing) if text else ("", _input(value))
            if name in kwargs:
                raise TargetError(f"batch names {name!r} twice", hint="give each input once")
            if name:
                kwargs[name] = array
            else:
                args.append(array)
        return cls(tuple(args), kwargs)


def _check_seed(seed: int) -> None:
    if not 0 <= seed <= _LAST_SEED:
        raise TargetError(f"seed={seed} is not a seed", hint="a whole number from 0 on: seed=0")


def is_made_up(batch: object) -> bool:
    """Return whether a batch has texts in it that stand for random numbers."""
    values = [batch] if isinstance(batch, str) else batch
    values = list(values.values()) if isinstance(values, Mapping) else values
    listed = values if isinstance(values, tuple | list) else ()
    return any(isinstance(value, str) and not value.endswith(".npz") for value in listed)


def _text_of(value: object) -> str:
    """Return the text, or the name of a file, that stands for arrays; "" for anything else."""
    if isinstance(value, str) and not value:
        raise TargetError("batch '' cannot be read", hint=_FORMS)
    return os.fsdecode(value) if isinstance(value, str | os.PathLike) else ""


def _named(name: object, value: object, drawing: _Drawing) -> Array:
    """Return one array of a mapping; the mapping names it, not its text."""
    text = _text_of(value)
    return _made(f"{name}={text}", drawing)[1] if text else _input(value)


def _input(value: object) -> Array:
    reason = ""
    if str(getattr(value, "dtype", "")).endswith(".bfloat16"):  # of Paddle's, NumPy makes uint16
        float32 = "float()" if type(value).__module__ == "torch" else 'astype("float32")'
        raise TargetError(
            "a batch holds arrays, and NumPy has no bfloat16",
            hint=f"tensor.detach().{float32}.cpu().numpy()",
        )
    try:
        array = np.asarray(value)
    except Exception as error:
        array, reason = np.asarray(None), f"{type(error).__name__}: {error}"
    if array.dtype.kind not in "biufc":
        raise TargetError(
            f"a batch holds arrays of numbers, and not {brief(value)}",
            context=reason,
            hint="an array, a sequence of arrays, or a mapping from names to arrays; a tensor as "
            "tensor.detach().cpu().numpy()",
        )
    return array


def _read_file(path: str, args: list[Array], kwargs: dict[str, Array]) -> None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                if re.fullmatch(r"arr_\d+", name):
                    args.append(arrays[name])
                else:
                    kwargs[name] = arrays[name]
    except Exception as error:
        kind = appearance(Path(path))
        reason = error if not kind or kind.startswith("a zip") else f"it looks like {kind}"
        hint = meant(Path(path), (".npz",)) or "write it with np.savez(path, ids=ids)"
        raise TargetError(f"cannot read the batch {path}: {reason}", hint=hint) from None


def _made(text: str, drawing: _Drawing) -> tuple[str, Array]:
    """Make the array that a text stands for."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        sentences = "" if "[" in text else _SENTENCES
        kind = appearance(Path(text))
        raise TargetError(
            f"batch {brief(text)} cannot be read",
            context=f"it is a file that looks like {kind}" if kind else "",
            hint=f"{_FORMS}{sentences}",
        )
    name = match["name"] or ""
    try:
        dtype = np.dtype(match["dtype"])
        shape = tuple(int(part) for part in match["shape"].split(",") if part.strip())
        return name, drawing.draw(dtype, shape, match["low"], match["high"])
    except MemoryError:
        size = dtype.itemsize * prod(shape) / 2**30
        raise TargetError(
            f"batch {brief(text)} does not fit into memory: it takes {size:,.1f} GiB",
            hint=f"give smaller sizes; {_FORMS}",
        ) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise TargetError(f"batch {brief(text)} cannot be read: {error}", hint=_FORMS) from None


class _Drawing:
    """Draws the arrays of one batch."""

    def __init__(self, seed: int) -> None:
        self._seed, self._alike = seed, Counter[str]()

    def draw(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], low: str | None, high: str | None
    ) -> Array:
        """Draw an array; the next one of the same shape and range has other numbers."""
        text = f"{dtype.kind}{shape}{low}:{high}"
        seed = [self._seed, zlib.crc32(text.encode()), self._alike[text]]
        self._alike[text] += 1
        generator = np.random.default_rng(seed)
        if dtype.kind == "b":
            return generator.integers(0, 2, shape).astype(dtype)
        if dtype.kind == "f":
            if low is None or high is None:
                return generator.standard_normal(shape).astype(dtype)
            if not float(low) < float(high):
                raise ValueError(f"{low} is not below {high}")
            return generator.uniform(float(low), float(high), shape).astype(dtype)
        if dtype.kind not in "iu":
            raise ValueError(f"a batch holds floats, whole numbers or truth values, not {dtype}")
        if low is None or high is None:
            raise ValueError(f"{dtype} needs a range, such as <0:1000>, 1000 left out")
        if int(high) - 1 > np.iinfo(dtype).max or int(low) < np.iinfo(dtype).min:
            raise ValueError(f"<{low}:{high}> goes past what {dtype} can hold")
        return generator.integers(int(low), int(high), shape).astype(dtype)
