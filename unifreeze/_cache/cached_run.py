"""A block in which the frozen part of a model runs once for each row, and later is given back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from unifreeze._arguments import checked
from unifreeze._cache.dropped_weights import DroppedWeights
from unifreeze._cache.extending import Extending, recording_of, try_to_extend
from unifreeze._cache.faster_prefix import EXACT
from unifreeze._cache.frozen_part import FrozenPart
from unifreeze._cache.given_back import CHECK_EVERY, GivenBack
from unifreeze._cache.input_rows import Inputs, read_inputs, row_keys
from unifreeze._cache.known_parts import KnownParts
from unifreeze._cache.module_calls import Forward, ModuleCalls, Pass, Plain, is_stand_in
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.replaying import Recording
from unifreeze._cache.row_store import RowStore
from unifreeze._cache.run_counts import Counts, Epochs
from unifreeze._cache.run_report import report_lines
from unifreeze._cache.sample_ids import Ids, SampleIds
from unifreeze._cache.stored_replays import absent_weights
from unifreeze._cache.trial_passes import remember_generators, state_kept
from unifreeze._cache.two_stages import TwoStages
from unifreeze._pictures import html_of
from unifreeze._protocol.live import LiveTensor, Model
from unifreeze._protocol.results import Undo
from unifreeze.errors import CacheError, UnifreezeWarning


class CachedRun(GivenBack, TwoStages, AbstractContextManager["CachedRun"]):
    """A block in which outputs of frozen modules are kept and given back.

    Made by `Handle.cached`; printing it shows what it has done.

    Attributes:
        counts: Rows that were given back, computed and kept, and computed without being kept.
        lasts: Returns whether the loop that began the block still runs. Trainers do not tell of
            errors; then the block is left when the model runs next.
    """

    def __init__(
        self,
        backend: CacheOperations,
        model: Model,
        store: RowStore,
        *,
        dtype: str,
        plan: str = "",
        prefix: str = EXACT,
        epoch: Callable[[], int | None] = lambda: None,
        ids: Ids | None = None,
        phased: bool = False,
        folder: Path | None = None,
        dropped: Callable[[Iterable[LiveTensor], Undo], None] = lambda *_: None,
    ) -> None:
        """Prepare; nothing changes before the block begins.

        Args:
            backend: The model's backend.
            model: The live model, under a plan.
            store: Where rows are kept.
            dtype: The type in which floating values are stored.
            plan: The plan, as YAML.
            prefix: In which way frozen modules run.
            epoch: Returns the epoch that the run was last told of, if any.
            ids: What tells the ids of samples; None to know rows again by their inputs' bytes.
            phased: True if the plan has phases, in some of which nothing may be frozen.
            folder: Where files of this run are.
            dropped: Is told which tensors have no values meanwhile, and what puts these back.
        """
        self._folder, self._dropped = folder, dropped
        self._epoch, self._told = epoch, Epochs()
        self.counts = Counts()
        self._backend, self._model, self._store, self._dtype = backend, model, store, dtype
        self._known = KnownParts(
            backend, store, dtype=dtype, plan=plan, prefix=prefix, phased=phased, folder=folder
        )
        self._ids = None if ids is None else SampleIds(backend, ids)
        self.lasts: Callable[[], bool] = lambda: True
        self._declined = ""
        self._flags: list[bool] = []
        self._begun = self._left = False
        self._served = 0

    @property
    def _parts(self) -> list[FrozenPart]:
        """The frozen parts of the model, one for each context in which it has run."""
        return list(self._known)

    def __enter__(self) -> CachedRun:
        if self._begun:
            raise CacheError(
                "this block has been used already", hint="with handle.cached() as run:"
            )
        self._begun = True
        self._walk = self._backend.walk(self._model)
        if self._backend.is_compiled(self._walk):
            raise CacheError(
                "a part of the model is compiled, so its modules are not called one by one",
                hint="begin the block with the model as it was before it was compiled",
            )
        if is_stand_in(vars(self._walk.root).get("forward")):
            raise CacheError(
                "this model is in a cached block already", hint="leave that block first"
            )
        self._away = absent_weights(self._backend, self._walk)
        self._calls = ModuleCalls(self._backend, self._walk, self._pass, self._part_alone)
        self._calls.put_in()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._left:
            return
        self._left = True
        self._calls.take_out()
        self._store.close()
        self._known.drop_copies()
        if isinstance(self._away, DroppedWeights):
            self.restore_frozen()
        if error is None and not self._known.accepted and self._known.why_not:
            why = next(iter(self._known.why_not.values()))
            warnings.warn(f"this block has kept nothing: {why}", UnifreezeWarning, stacklevel=3)

    @checked
    def check(self) -> None:
        """Compare all bits of what is frozen with those that kept rows belong to.

        Each epoch begins with it.

        Raises:
            CacheError: A frozen weight has changed; it is named.
        """
        for part in self._known:
            part.watch.check_all()

    def _part_alone(
        self, number: int, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Run a part of the model that is called by itself."""
        if self._backend.runs_itself:
            return self._plainly(forward, args, kwargs)  # flags of a trial are no change
        self._take_changes_in()
        if self._walk.holds_frozen(number, self._flags):
            return self._pass(forward, args, kwargs, number)
        self._calls.outside += 1
        return self._plainly(forward, args, kwargs)

    def _pass(
        self, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any], entry: int = 0
    ) -> Any:
        """Run one forward pass of the model, or of the part with a number."""
        if self._backend.runs_itself:
            return forward(*args, **kwargs)
        if not self.lasts():
            self.__exit__(None, None, None)
            return forward(*args, **kwargs)
        self._take_changes_in()
        if self._told.pass_in(self._epoch(), self.counts):
            self.check()
        ids = None
        if self._ids is not None:
            ids, kwargs = self._ids.read(forward, args, kwargs)
        inputs = read_inputs(self._backend, args, kwargs)
        part = None
        if not self._declined or self._known.faster is not None:
            part = self._known.part(self._walk, self._calls, entry, forward, inputs, self._away)
        self.counts.batches += 1
        if part is None or part.layouts.get(inputs.signature, ()) is None:
            return self._uncached(forward, args, kwargs, inputs, entry)
        part.watch.check_step()
        self._check_all_weights(part, inputs)
        keys = self._keys(inputs, ids)
        part.example = inputs, keys, forward
        if self._away is not None and (inputs.signature not in part.layouts):
            self._away.refuse("inputs of this form are new")
        if inputs.signature not in part.layouts:
            exact = self._held(part, inputs, forward)
            if part.refuses(inputs):
                return self._uncached(forward, args, kwargs, inputs, entry)
            result, recording = part.learn(
                self._backend, self._walk, self._calls, forward, inputs, exact
            )
            result = self._keep(part, inputs, keys, result, recording)
            self._known.learned(self._walk, part)
            if self._ids is not None:
                self._known.unproved.add(part.group)
            apart = partial(self._apart, forward=forward, inputs=inputs)
            try_to_extend(self._backend, self._store, part, inputs, keys, apart)
            return result
        rows = None if self._declined else self._store.get(part.group, keys)
        if rows is not None:
            return self._replay(part, inputs, rows, forward)
        if self._away is not None:
            self._away.refuse(f"of this batch of {inputs.rows} not all rows are kept")
        self._held(part, inputs, forward)
        if part.refuses(inputs):
            return self._uncached(forward, args, kwargs, inputs, entry)
        if self._store.full or self._declined:
            return self._unkept(part, forward, inputs)
        recording = recording_of(self._backend, self._store, part, inputs, keys)
        self.counts.extended += inputs.rows * isinstance(recording, Extending)
        result = self._recorded(recording, forward, inputs)
        return self._keep(part, inputs, keys, result, recording)

    def _keys(self, inputs: Inputs, ids: Any) -> list[str]:
        if self._ids is None:
            return row_keys(self._backend, inputs)
        return self._ids.keys(ids, inputs)

    def _uncached(
        self, forward: Forward, args: Any, kwargs: dict[str, Any], inputs: Inputs, entry: int
    ) -> Any:
        if self._away is not None and self._away.inside(self._walk, entry):
            self._away.refuse("rows of this form are not kept")
        self._not_kept(inputs.rows)
        return self._plainly(forward, args, kwargs)

    def _unkept(self, part: FrozenPart, forward: Forward, inputs: Inputs) -> Any:
        """Run a pass whose rows are not kept."""
        self._not_kept(inputs.rows)
        recording = part.recording(self._backend, keep=False)
        result = self._recorded(recording, forward, inputs)
        part.took(recording, inputs.rows)
        return result

    def _held(self, part: FrozenPart, inputs: Inputs, forward: Forward) -> Recording | None:
        """Compare the faster way to run frozen modules with the modules, where that is due.

        Returns:
            A pass by the modules as they are, if there was one.
        """
        faster = part.faster
        if faster is None:
            return None
        if part.is_suspect(self._backend, self._walk):
            self._known.unproved.add(part.group)
            faster.doubt()
        if not faster.is_due(part.group, inputs):
            return None
        return faster.compare(
            part.group,
            part.boundary,
            inputs,
            lambda running: self._apart(running, forward, inputs.copied()),
        )

    def _plainly(self, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        with self._calls.during(Plain()):
            return forward(*args, **kwargs)

    def _take_changes_in(self) -> None:
        """Begin anew if modules were replaced, or if flags say that other parts train."""
        backend = self._backend
        walk = backend.walk(self._model)
        if walk is not self._walk:
            self._calls.take_out()
            self._walk = walk
            self._calls = ModuleCalls(backend, walk, self._pass, self._part_alone)
            self._calls.put_in()
            self._flags = []
        flags = backend.get_flags(walk.tensors)
        if flags != self._flags:
            self._flags = flags
            self._known.forget()
            self._told.begin_again(self.counts)

    def _apart(self, running: Any, forward: Forward, inputs: Inputs) -> Any:
        """Run a pass of our own, and put state and generators back."""
        backend, put_back = self._backend, remember_generators(self._backend)
        outer = backend.runs_itself
        try:
            backend.runs_itself = True
            with state_kept(backend, self._walk):
                return self._recorded(running, forward, inputs)
        finally:
            backend.runs_itself = outer
            put_back()

    def _check_all_weights(self, part: FrozenPart, inputs: Inputs) -> None:
        """Compare all bits once for each time that as many rows were given as are kept."""
        self._served += inputs.rows
        if self._served >= max(self._store.count(), CHECK_EVERY * inputs.rows):
            self._served = 0
            part.watch.check_all()

    def _recorded(self, running: Pass, forward: Forward, inputs: Inputs) -> Any:
        args, kwargs = inputs.first(inputs.rows)
        with self._calls.during(running):
            return forward(*args, **kwargs)

    def _keep(
        self,
        part: FrozenPart,
        inputs: Inputs,
        keys: Sequence[str],
        result: Any,
        recording: Recording,
    ) -> Any:
        """Keep the rows of a whole pass; return its result."""
        layouts = part.layouts.get(inputs.signature)
        # Outputs of another shape: the model has cut the batch by what is in it.
        if layouts is None or not (recording.complete and recording.fits(layouts, inputs.rows)):
            self._not_kept(inputs.rows)
            part.why_not.setdefault(
                inputs.signature, "a batch of this form returned outputs of another shape"
            )
            return result
        part.took(recording, inputs.rows)
        self.counts.misses += inputs.rows
        self._given_since = 0
        self.counts.computed += recording.seconds
        for key, kept in zip(keys, part.to_keep(self._backend, inputs, recording), strict=True):
            self._store.put(part.group, key, kept)
        return result

    _repr_html_ = html_of

    def __str__(self) -> str:
        outside = self._calls.outside if self._begun else 0
        parts = list(self._known)
        why = [*self._known.why_not.values(), *(w for p in parts for w in p.why_not.values())]
        lines = report_lines(self.counts, self._store, parts, why, self._dtype, outside)
        if self._known.faster is not None:
            lines += self._known.faster.told()
        lines += [self._away.told()] if self._away else []
        lines += [f"given up: {self._declined}"] if self._declined else []
        return "\n".join(lines)
