"""Lets `paddle.DataParallel` exchange the gradients of what trains now, after flags changed.

A DataParallel builds its reducer when it is made, for the parameters that train then: one that is
thawed later would train on its own process's gradients, without an error. So each wrapper gets an
`Exchange` in the place of its reducer, with one reducer for each set of parameters that trained.
Paddle never lets go of a reducer, so after some sets gradients are averaged one by one instead.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import paddle

from unifreeze.backend import LiveTensor, WeakIdentitySet
from unifreeze.errors import UnifreezeWarning, UnsupportedPlanError
from unifreeze_paddle import _engines as engines

_MOST_REDUCERS = 16
"""How many reducers a wrapper gets: each keeps a buffer, and is called at each step for good."""
_wrappers = WeakIdentitySet()
"""The wrappers of this process whose exchange is ours."""


def rebuild(tensors: Sequence[LiveTensor]) -> None:
    """Let each wrapper exchange what trains now, after flags or parameters may have changed.

    Args:
        tensors: The parameters that a plan covers.
    """
    for wrapper, exchange in _around(tensors, look_anew=True):
        exchange.follow_flags(wrapper)


def rebuild_briefly(changed: Sequence[LiveTensor]) -> None:
    """Do the same where only flags have changed, for a while."""
    for wrapper, exchange in _around(changed, look_anew=False):
        exchange.follow_flags(wrapper)


def _around(tensors: Sequence[LiveTensor], *, look_anew: bool) -> Iterator[tuple[Any, Exchange]]:
    """Yield the wrappers that hold any of some parameters, with what they exchange."""
    wrappers = list(_wrappers)
    if not wrappers:
        return
    numbers = set(map(id, tensors))
    for wrapper in wrappers:
        exchange = vars(wrapper)["_reducer"]
        if look_anew:
            exchange.notice_parameters(wrapper)
        if not numbers.isdisjoint(exchange.numbers):
            yield wrapper, exchange


class Exchange:
    """Stands in the place of a wrapper's reducer, and passes on to the one for what trains now.

    Reducers that are no longer in use stay alive: parameters go on calling them. If a forward pass
    has prepared a reducer and no backward pass followed, it would answer those calls in a later
    phase, and fail. So a reducer is prepared only when a backward pass begins.

    Attributes:
        numbers: The identities of the parameters that the wrapper held when it was last looked at.
    """

    def __init__(self, wrapper: Any, reducer: Any) -> None:
        self.notice_parameters(wrapper)
        self._finds_unused = bool(wrapper.find_unused_parameters)
        self._reducer = reducer
        _keep_for(self._tensors, reducer)
        self._reducers: dict[tuple[int, ...], tuple[Any, list[LiveTensor]]] = {}
        """For each set of parameters that trained, by identity: its reducer, and what it holds."""
        self._first = reducer
        self._knows_unused: set[int] = set()
        """The reducers, by identity, that have looked through a whole pass already."""
        self._waits: tuple[Any, list[LiveTensor]] | None = None
        self._one_by_one = OneByOne(wrapper)

    def notice_parameters(self, wrapper: Any) -> None:
        """Look at which parameters the wrapper holds."""
        every = wrapper.parameters()
        self._tensors = [t for t in every if not getattr(t, "no_sync", False)]
        self.numbers = frozenset(map(id, self._tensors))

    def is_for_now(self) -> None:
        """Note that the reducer was built just now, for the parameters that train."""
        trained = self._trained()
        self._reducers[tuple(map(id, trained))] = self._reducer, trained

    def _trained(self) -> list[LiveTensor]:
        return [tensor for tensor in self._tensors if not tensor.stop_gradient]

    def prepare_for_backward(self, outputs: list[LiveTensor]) -> None:
        """Prepare the reducer once the backward pass begins; the wrapper calls it after forward."""
        if self._reducer is None:
            return
        through = [out for out in outputs if not out.stop_gradient and not out.is_leaf]
        if not through:
            self._reducer.prepare_for_backward(outputs)
            return
        # Outputs keep the whole pass alive, so they are kept only for a reducer that needs them.
        looks = self._finds_unused or id(self._reducer) not in self._knows_unused
        self._waits = self._reducer, outputs if looks else []
        for out in through:
            out.register_hook(self._begin)

    def _begin(self, gradient: LiveTensor) -> None:
        if self._waits is not None:
            (reducer, outputs), self._waits = self._waits, None
            self._knows_unused.add(id(reducer))
            reducer.prepare_for_backward(outputs)

    def uses(self, reducer: Any) -> bool:
        """Return whether a reducer is the one in use."""
        return self._reducer is reducer

    def follow_flags(self, wrapper: Any) -> None:
        """Use the reducer for the parameters that train now; build it if there is none yet."""
        trained = self._trained()
        key = tuple(map(id, trained))
        if not trained:
            self._reducer = None  # Paddle builds none for nothing; no gradient will come
        elif key in self._reducers:
            self._reducer = self._reducers[key][0]
        elif self._finds_unused or len(self._reducers) < _MOST_REDUCERS:
            try:
                self._reducer = _build(wrapper) or self._one_by_one
            finally:
                vars(wrapper)["_reducer"] = self
            self.is_for_now()
            _keep_for(trained, self._reducer)
        else:
            self._reducer = self._one_by_one
        if self._reducer is self._one_by_one:
            self._one_by_one.exchange(trained)


def _keep_for(tensors: Sequence[LiveTensor], reducer: Any) -> None:
    """Keep a reducer as long as any of its parameters: they call it, and do not keep it themselves.

    Without this a model that is wrapped anew, as by each `train()` of a trainer, calls reducers
    that have gone with its first wrapper.
    """
    for tensor in tensors:
        weakref.finalize(tensor, _let_go, reducer).atexit = False


def _let_go(reducer: Any) -> None:
    """Do nothing: the reducer was kept as what this is called with."""


class OneByOne:
    """Averages each gradient by itself when a backward pass has made it.

    It is used if Paddle's reducer cannot be built again, or was built often enough.
    """

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = weakref.ref(wrapper)
        self._seen = WeakIdentitySet()
        self._trained: frozenset[int] = frozenset()
        self._due: set[int] = set()
        """The parameters, by identity, whose gradients this backward pass is to average."""

    def exchange(self, trained: Sequence[LiveTensor]) -> None:
        """Average the gradients of these parameters from now on."""
        self._trained = frozenset(map(id, trained))
        for tensor in trained:
            if tensor not in self._seen:
                self._seen.add(tensor)
                tensor._register_backward_hook(partial(self._made, weakref.ref(tensor)))

    def prepare_for_backward(self, outputs: list[LiveTensor]) -> None:
        """Average what the backward pass that begins now will make."""
        self._due = set(self._trained)

    def _made(self, reference: Callable[[], LiveTensor | None]) -> None:
        """Average a parameter's gradient, with what was accumulated before."""
        tensor, wrapper = reference(), self._wrapper()
        if tensor is None or wrapper is None or id(tensor) not in self._due:
            return
        self._due.remove(id(tensor))
        if vars(wrapper)["_reducer"].uses(self):
            with paddle.no_grad():
                paddle.distributed.all_reduce(tensor.grad, group=wrapper.group)
                tensor.grad.scale_(1.0 / wrapper.group.nranks)


def _build(wrapper: Any) -> Any:
    """Build a reducer for the parameters that train now; return None if Paddle cannot."""
    before = vars(wrapper)["_reducer"]
    try:
        _init_reducer(wrapper)
        if vars(wrapper)["_reducer"] is not before:
            return vars(wrapper)["_reducer"]
        reason: object = "it left the wrapper as it was"
    except (AttributeError, TypeError, KeyError) as error:
        reason = error
    if wrapper.find_unused_parameters:
        raise UnsupportedPlanError(
            "DataParallel cannot exchange the gradients of what the plan trains now",
            context=f"its init_reducer does not work a second time: {reason}",
            hint="wrap with find_unused_parameters=False, or apply the plan before you wrap",
        )
    warnings.warn(
        f"init_reducer of paddle {paddle.__version__} does not work a second time ({reason}), so "
        "gradients are averaged one by one: the results are the same, a step takes longer",
        UnifreezeWarning,
        stacklevel=2,
    )
    return None


def _adopt(wrapper: Any, *, is_new: bool) -> None:
    """Put an exchange in the place of the reducer that a wrapper has built."""
    reducer = vars(wrapper)["_reducer"]
    if not isinstance(reducer, Exchange):
        exchange = vars(wrapper)["_reducer"] = Exchange(wrapper, reducer)
        if is_new:
            exchange.is_for_now()
        _wrappers.add(wrapper)


def _built(wrapper: Any) -> None:
    engines.notice(wrapper)
    _adopt(wrapper, is_new=True)


_init_reducer = engines.call_after(paddle.DataParallel, "init_reducer", _built)
for _older in engines.older():
    if "_reducer" in vars(_older):
        _adopt(_older, is_new=False)
