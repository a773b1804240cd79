"""Checks that the processes that train one model wrote the same decisions into it.

What was written is compared once, at the first forward pass of training after a write: before
gradients are exchanged again, and not in `apply`, which a script may call in one process alone.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from unifreeze._identity import WeakIdentityDict
from unifreeze._modules.module_operations import ModuleOperations
from unifreeze._protocol.processes import agree
from unifreeze._protocol.results import Undo
from unifreeze._resolution import Resolution
from unifreeze._structure import Mask
from unifreeze._undo import undo_all
from unifreeze.errors import counted

AGREED = "the decisions written into it differ"


Text = Callable[[], str]


def _no_text() -> str:
    return ""


@dataclass
class Written:
    """What was last written into a model.

    Attributes:
        text: Returns what is compared; "" before anything is written.
        agreed: The text on which the processes agreed last.
        stop: Ends the watch for the next forward pass of training; None while there is none.
    """

    text: Text = _no_text
    agreed: str = ""
    stop: Undo | None = None


class Agreements:
    """What was written into each model, and whether the other processes wrote the same."""

    def __init__(self) -> None:
        self._written: WeakIdentityDict[Written] = WeakIdentityDict()

    def text_on(self, root: Any) -> Text:
        """Return what returns the text of the last write into a model."""
        written = self._written.get(root)
        return _no_text if written is None else written.text

    def note(self, backend: ModuleOperations, root: Any, text: Text) -> None:
        """Note what is now written into a model; the next pass of training compares it.

        Args:
            backend: The model's backend.
            root: The model.
            text: What returns `described`, or `text_on` before.
        """
        written = self._written.setdefault(root, Written())
        if written.stop is not None:
            written.stop()
        written.text, written.stop = text, None
        self.watch(backend, root)

    def watch(self, backend: ModuleOperations, root: Any) -> None:
        """Compare what is written into a model at its next forward pass of training.

        Nothing is compared in one process. It may become one of several after the write.
        """
        written = self._written.get(root)
        if written is None or written.stop is not None or not backend.several():
            return
        if written.text() == written.agreed:
            return
        members = backend.reader.dicts(root)[0].values() if _is_group(backend, root) else [root]
        stops: list[Undo] = []
        written.stop = partial(undo_all, stops)
        for member in members:
            watch = _NextPass(backend, member, root, written)
            stops.append(backend.on_forward(member, watch))


class _NextPass:
    """Compares what was written at the next forward pass of training."""

    def __init__(self, backend: Any, member: Any, root: Any, written: Written) -> None:
        self._backend, self._written = backend, written
        self._member, self._root = weakref.ref(member), weakref.ref(root)

    def begins(self) -> None:
        """Compare, and watch no more."""
        if self._trains() and self._agreed():
            stop, self._written.stop = self._written.stop, None
            if stop is not None:
                stop()

    def followed(self) -> None:
        """Compare; the hooks stay while a compiler counts on them."""
        if self._trains():
            self._agreed()

    def ends(self, *, complete: bool) -> None:
        """Do nothing."""

    def _trains(self) -> bool:
        return not self._backend.runs_itself and self._backend.trains(self._member())

    def _agreed(self) -> bool:
        """Return whether the processes agree; False if nothing exchanges gradients yet."""
        root, written = self._root(), self._written
        text = written.text()
        if root is None or text == written.agreed:
            return True
        processes = self._backend.processes(root)
        if processes.count == 1:
            return False
        agree(processes, "written", text, "train under a plan just written", AGREED)
        written.agreed = text
        return True


def described(resolution: Resolution, trainable: Mask) -> str:
    """Return what the processes compare of a write: plan, decisions and held layers, in one line.

    Args:
        resolution: What was written.
        trainable: The flags that it has led to.
    """
    spec = resolution.spec
    names = (spec.tree.names[name] for name in spec.first_names[trainable])
    held = (spec.tree.paths[n] for n in sorted({*resolution.held, *resolution.quiet}))
    digest = hashlib.sha256("\n".join([*names, "", *held]).encode()).hexdigest()[:12]
    count = counted(int(trainable.sum()), "parameter trains", "parameters train")
    return f"plan {resolution.plan.digest}, {count} (decisions {digest})"


def _is_group(backend: Any, root: Any) -> bool:
    return bool(backend.is_group(root))
