"""The rows of a batch of inputs: which there are, a key for each, and smaller batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash

from unifreeze._cache.nested_values import Form, put_together, take_apart
from unifreeze._cache.operations import CacheOperations
from unifreeze._protocol.live import LiveTensor
from unifreeze.errors import CacheError


class Inputs(NamedTuple):
    """The inputs of one forward pass.

    Attributes:
        tensors: Its tensors, in order.
        form: What is around them.
        rows: The number of rows: the length of the first axis that tensors have in common.
        signature: Text that is equal for inputs of the same form, types and lengths of rows.
    """

    tensors: Sequence[LiveTensor]
    form: Form
    rows: int
    signature: str

    def has_rows(self, tensor: LiveTensor) -> bool:
        """Return whether a tensor has one entry for each row; others belong to all rows."""
        return len(tensor.shape) > 0 and int(tensor.shape[0]) == self.rows

    def first(self, count: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs of the first rows alone, as positional and named ones."""
        if count == self.rows:
            return self._inputs(self.tensors)  # the same tensors: code may write to them
        return self._inputs([t[:count] if self.has_rows(t) else t for t in self.tensors])

    def taken(self, rows: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return copies of the inputs of some rows, in that order."""
        chosen = list(rows)
        return self._inputs([t[chosen] if self.has_rows(t) else t.clone() for t in self.tensors])

    def copied(self) -> Inputs:
        """Return inputs in memory of their own; gradient flows on into the originals."""
        return self._replace(tensors=[tensor.clone() for tensor in self.tensors])

    def changed(self, change: Callable[[LiveTensor], LiveTensor]) -> Inputs:
        """Return inputs of which each tensor with rows is another one of as many rows."""
        tensors = [change(t) if self.has_rows(t) else t for t in self.tensors]
        return self._replace(tensors=tensors)

    def _inputs(self, tensors: Sequence[LiveTensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = put_together(self.form, tensors)
        return tuple(args), dict(kwargs)


def read_inputs(backend: CacheOperations, args: Sequence[Any], kwargs: dict[str, Any]) -> Inputs:
    """Read the inputs of a forward pass.

    Raises:
        CacheError: They hold an object that cannot be compared, or no tensor with rows.
    """
    tensors, form = take_apart((tuple(args), dict(kwargs)), backend.is_tensor)
    if form.opaque:
        raise CacheError(
            f"the model is called with an object of {form.opaque[0]}, which cannot be compared",
            context="rows are known again by the bytes of their inputs",
            hint="pass tensors, numbers and text; leave out caches: use_cache=False",
        )
    shapes = [tuple(map(int, tensor.shape)) for tensor in tensors]
    first = next((shape for shape in shapes if shape), None)
    if first is None or not first[0]:
        raise CacheError(
            "the model is called without a tensor that has rows",
            hint="pass a batch whose first axis counts rows",
        )
    rows = first[0]
    lengths = [
        f"{t.dtype}{list(s[1:]) if s and s[0] == rows else ('all', s)}"
        for t, s in zip(tensors, shapes, strict=True)
    ]
    return Inputs(tensors, form, rows, f"{form.text} {' '.join(lengths)}")


def row_keys(backend: CacheOperations, inputs: Inputs) -> list[str]:
    """Return a name for the exact bytes of each row, with what belongs to all rows.

    The digest is xxHash's XXH3 with 128 bits: it detects accidents, not forgeries.
    """
    common = xxhash.xxh3_128(inputs.signature.encode())
    parts = []
    for tensor in inputs.tensors:
        payload = backend.payload(tensor)
        if payload is None:
            raise CacheError("an input has no values")
        if inputs.has_rows(tensor):
            parts.append(np.ascontiguousarray(payload.data).reshape(inputs.rows, -1))
        else:
            common.update(payload.data.tobytes())
    keys = []
    for row in range(inputs.rows):
        hasher = common.copy()
        for part in parts:
            hasher.update(part[row].data)
        keys.append(hasher.hexdigest())
    return keys
