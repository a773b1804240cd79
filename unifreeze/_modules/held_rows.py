"""Rows of lookup tables that stay as they are, while the other rows of the same table train.

A framework has one flag for a whole table. So the gradients of the rows that stay are set to zero
before anything else sees them, and around each step of an optimizer the rows themselves are copied
and put back: weight decay, momentum and existing moments move rows without any gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from unifreeze._identity import WeakIdentityDict
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveOptimizer, LiveTensor
from unifreeze.errors import OptimizerError

_TRIED = (256, 48)
"""Shape of the table on which an unknown optimizer is tried.

Some keep 8 bits of each value, with one scale for blocks of 32 to 2,048 values, but only of tables
as large as this. Here such a block reaches over the end of the rows that stay.
"""
_STAY = 3
"""Rows of it that stay."""
_STEPS = 3


class Rows(NamedTuple):
    """The rows of a table that train: from `start` up to `stop`."""

    start: int
    stop: int


class _Table:
    """One table of which some rows stay.

    Attributes:
        rows: The rows that train.
        hook: What takes the hook off its gradients.
        kept: Copies of the rows that stay, as they were before the step.
        stepping: Whether a step that updates it is under way.
    """

    def __init__(self, rows: Rows, hook: Any) -> None:
        self.rows, self.hook = rows, hook
        self.kept: list[LiveTensor] = []
        self.stepping = False


class HeldRows(ABC):
    """The tables of a framework of which only some rows train; optimizers ask it at each step."""

    elementwise: frozenset[type] = frozenset()
    """The framework's optimizers whose update of a value depends on that value's history alone."""

    def __init__(self) -> None:
        self._tables: WeakIdentityDict[_Table] = WeakIdentityDict()
        self._right: WeakIdentityDict[bool] = WeakIdentityDict()
        """Optimizers that were looked at, and move no row by what is in another."""

    def now(self, tensors: Iterable[LiveTensor]) -> dict[int, Rows]:
        """Return by its number the rows that train, for each table of which only some do."""
        if not self._tables:
            return {}
        tables = self._tables
        return {n: tables[t].rows for n, t in enumerate(tensors) if t in tables}

    def hold(self, tensors: list[LiveTensor], wanted: Mapping[int, Rows]) -> None:
        """Let exactly these rows train; of all other parameters, the flag decides.

        Args:
            tensors: The parameters of a model.
            wanted: The rows that train, by the number of their table.
        """
        before = self.now(tensors)
        for number in before.keys() | wanted.keys():
            tensor, rows = tensors[number], wanted.get(number)
            if before.get(number) == rows:
                continue
            if (table := self._tables.pop(tensor, None)) is not None:
                self.unhook(tensor, table.hook)
            if rows is not None:
                self._tables[tensor] = _Table(rows, self.hook(tensor, rows))
                self.watch_steps()

    @contextmanager
    def around_step(
        self, optimizer: LiveOptimizer, tensors: Iterable[LiveTensor]
    ) -> Iterator[None]:
        """Put back the rows that stay, of each table that an optimizer updates inside.

        A step may call another one: of a class above, or of an optimizer that it wraps. Rows are
        put back after each of them, as they were before the outermost; after one that raised, too,
        so that nobody sees them moved, and nothing is left to undo once other values are loaded.

        Raises:
            OptimizerError: It would move rows that train by what is in the others.
        """
        begun: list[tuple[LiveTensor, _Table]] = []
        outermost: list[_Table] = []
        try:
            for tensor in tensors:
                if (table := self._tables.get(tensor)) is None:
                    continue
                self.check(optimizer)
                if not table.stepping:
                    self._keep(tensor, table)
                    outermost.append(table)
                    table.stepping = True
                begun.append((tensor, table))
            yield
        finally:
            for table in outermost:
                table.stepping = False
            for tensor, table in begun:
                self._put_back(tensor, table)
                for master in self.masters(optimizer, tensor):
                    self._put_back(master, table)

    def _keep(self, tensor: LiveTensor, table: _Table) -> None:
        parts = self._parts(tensor, table)
        same = [tuple(k.shape) for k in table.kept] == [tuple(p.shape) for p in parts]
        if same and table.kept and table.kept[0].dtype == tensor.dtype:
            for kept, part in zip(table.kept, parts, strict=True):
                self.copy(part, kept)
        else:
            table.kept = [self.clone(part) for part in parts]

    def _put_back(self, tensor: LiveTensor, table: _Table) -> None:
        for part, kept in zip(self._parts(tensor, table), table.kept, strict=True):
            self.copy(kept, part)

    def _parts(self, tensor: LiveTensor, table: _Table) -> list[LiveTensor]:
        """Return the stretches of a table that stay, over its own memory."""
        start, stop = table.rows
        count = int(tensor.shape[0])
        stretches = [(0, start), (stop, count)]
        return [self.stretch(tensor, low, high) for low, high in stretches if low < high]

    def check(self, optimizer: LiveOptimizer) -> None:
        """Refuse an optimizer that moves rows that train by what is in the other rows.

        One that the framework does not know is tried on a small table.

        Raises:
            OptimizerError: It does, or it cannot be tried.
        """
        if optimizer in self._right or type(optimizer) in self.elementwise:
            return
        name = type(optimizer).__name__
        try:
            mixes = self._mixes_rows(optimizer)
        except Exception as error:
            raise OptimizerError(
                f"rows of a table train, and {name} cannot be tried on a small table: {error}",
                context="it might move the rows that train by what is in the others",
                hint="use an optimizer that updates each value by itself: AdamW, SGD, RMSprop",
            ) from error
        if mixes:
            raise OptimizerError(
                f"rows of a table train, and {name} moves each row by what is in the others",
                context="it computes a norm, an average or a direction over the whole table",
                hint="use an optimizer that updates each value by itself: AdamW, SGD, RMSprop",
            )
        self._right[optimizer] = True

    def _mixes_rows(self, optimizer: LiveOptimizer) -> bool:
        """Train two small tables that differ in the rows that stay, and compare the others."""
        drawn = np.random.default_rng(0).standard_normal((1 + _STEPS, *_TRIED)).astype(np.float32)
        stay, ends = _STAY, list[Array]()
        for scale in (1.0, 3.0):
            values, gradients = drawn[0].copy(), [np.array(drawn[1 + n]) for n in range(_STEPS)]
            values[:stay] *= scale
            gradients[0][:stay] *= scale  # moments of the rows that stay may be older than a plan
            for later in gradients[1:]:
                later[:stay] = 0.0
            ends.append(self.trial(optimizer, values, gradients)[stay:])
        if np.array_equal(ends[0], drawn[0][stay:]):
            raise OptimizerError("it does not move it")
        return not np.array_equal(ends[0], ends[1])

    @abstractmethod
    def hook(self, tensor: LiveTensor, rows: Rows) -> Any:
        """Set gradients of other rows to zero as soon as they are computed; return the hook."""

    @abstractmethod
    def unhook(self, tensor: LiveTensor, hook: Any) -> None:
        """Take such a hook off."""

    @abstractmethod
    def masked(self, gradient: LiveTensor, rows: Rows) -> LiveTensor:
        """Return a gradient in which only some rows are left, and the others are zero."""

    @abstractmethod
    def stretch(self, tensor: LiveTensor, start: int, stop: int) -> LiveTensor:
        """Return rows of a tensor over its own memory, outside the gradient."""

    @abstractmethod
    def copy(self, source: LiveTensor, into: LiveTensor) -> None:
        """Write values into a stretch, in place, in its dtype."""

    @abstractmethod
    def clone(self, stretch: LiveTensor) -> LiveTensor:
        """Copy a stretch."""

    def masters(self, optimizer: LiveOptimizer, tensor: LiveTensor) -> list[LiveTensor]:
        """Return the copies in higher precision that an optimizer keeps of a tensor."""
        return []

    @abstractmethod
    def trial(self, optimizer: LiveOptimizer, values: Array, gradients: list[Array]) -> Array:
        """Build an optimizer of the same class and settings; return what it makes of a table."""

    @abstractmethod
    def watch_steps(self) -> None:
        """Run each step of every optimizer inside `around_step` from now on."""
