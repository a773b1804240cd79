"""The ids of samples, by which rows are known again in place of the bytes of their inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import xxhash

from unifreeze._cache.input_rows import Inputs
from unifreeze._cache.module_calls import Forward
from unifreeze._cache.operations import CacheOperations
from unifreeze.errors import CacheError, brief, counted

Ids: TypeAlias = str | Callable[..., Any]
"""The name of an input that holds ids, or a function that gets the model's inputs."""


class SampleIds:
    """Reads the ids of the rows of a batch."""

    def __init__(self, backend: CacheOperations, ids: Ids) -> None:
        self._backend, self._ids = backend, ids

    def read(
        self, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the ids of a batch, and its named inputs without them.

        An input that is there for its ids alone is not passed on to the model.

        Raises:
            CacheError: There are none.
        """
        if not isinstance(self._ids, str):
            return self._ids(*args, **kwargs), kwargs
        name = self._ids
        if name in kwargs:
            takes = name in inspect.signature(forward).parameters
            rest = kwargs if takes else {k: v for k, v in kwargs.items() if k != name}
            return kwargs[name], rest
        for batch in args:
            if isinstance(batch, Mapping) and name in batch:
                return batch[name], kwargs
        raise CacheError(
            f"ids={name!r}, and the model is called without an input of that name",
            context=f"named inputs: {', '.join(map(repr, kwargs)) or 'none'}",
            hint=f"call the model with {name}=…, or give a function: ids=lambda *inputs: …",
        )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Say of an error that rows differ that the ids may be to blame."""
        try:
            yield
        except CacheError as error:
            raise CacheError(
                error.fact,
                context="rows are known by ids: the same id may stand for other inputs; "
                f"otherwise {error.context}",
                hint="give each sample, and each view of it, an id of its own; or leave out ids=",
            ) from error

    def keys(self, ids: Any, inputs: Inputs) -> list[str]:
        """Return a name for each row.

        Raises:
            CacheError: There are not as many ids as rows, or one is neither a number nor text.
        """
        if self._backend.is_tensor(ids):
            ids = self._backend.to_array(ids)
        if isinstance(ids, np.ndarray):
            ids = ids.tolist()
        whole = isinstance(ids, Sequence) and not isinstance(ids, str)
        if not whole or len(ids) != inputs.rows:
            have = counted(len(ids), "id") if whole else brief(ids)
            raise CacheError(
                f"{have} for a batch of {counted(inputs.rows, 'row')}",
                hint="give one id for each row, as a list or an array of one axis",
            )
        for single in ids:
            if not isinstance(single, int | str) or isinstance(single, bool):
                raise CacheError(
                    f"the id {brief(single)} is neither a whole number nor text",
                    hint="for example the sample's number in its data set",
                )
        start = xxhash.xxh3_128(f"ids {inputs.signature}".encode())
        keys = []
        for single in ids:
            hasher = start.copy()
            hasher.update(repr(single).encode())
            keys.append(hasher.hexdigest())
        return keys
