"""unifreeze: write one freeze plan, run it on PyTorch and on PaddlePaddle, and know that it held.

A plan is a function from a model's parameters to frozen or trainable; a backend describes one
framework's model in neutral terms and writes the answer back; parity is the evidence that two
backends wrote the same answer and that training kept it.

Names are loaded on first use, so that `import unifreeze` costs nothing and loads no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unifreeze._authoring.capture import capture, translate
    from unifreeze._authoring.compare import compare_plans
    from unifreeze._authoring.suggest import suggest
    from unifreeze._evidence import Record, Report, check_parity, check_step
    from unifreeze._evidence.alignment import align
    from unifreeze._handle import Handle, apply, freeze, frozen, load_trained, resolve, unpin
    from unifreeze._modules.taught_kinds import teach_kind
    from unifreeze._plan import FreezePlan
    from unifreeze._plan.selectors import Selector
    from unifreeze._ports.carrying import port_file, port_weights
    from unifreeze._ports.pairing import Pairing, pair
    from unifreeze._resolution import Resolution
    from unifreeze.errors import FrozenDriftError, UnifreezeError, UnknownNameError

__version__ = "0.1.0"

__all__ = [
    "FreezePlan",
    "FrozenDriftError",
    "Handle",
    "Pairing",
    "Record",
    "Report",
    "Resolution",
    "Selector",
    "UnifreezeError",
    "align",
    "apply",
    "capture",
    "check_parity",
    "check_step",
    "compare_plans",
    "freeze",
    "frozen",
    "load_trained",
    "pair",
    "port_file",
    "port_weights",
    "resolve",
    "suggest",
    "teach_kind",
    "translate",
    "unpin",
]

_HOMES = {
    "errors": ("FrozenDriftError", "UnifreezeError"),
    "_modules.taught_kinds": ("teach_kind",),
    "_plan": ("FreezePlan",),
    "_plan.selectors": ("Selector",),
    "_resolution": ("Resolution",),
    "_handle": ("Handle", "apply", "freeze", "frozen", "load_trained", "resolve", "unpin"),
    "_evidence": ("Record", "Report", "check_parity", "check_step"),
    "_evidence.alignment": ("align",),
    "_ports.pairing": ("Pairing", "pair"),
    "_ports.carrying": ("port_file", "port_weights"),
    "_authoring.capture": ("capture", "translate"),
    "_authoring.compare": ("compare_plans",),
    "_authoring.suggest": ("suggest",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise _unknown(name)


def _unknown(name: str) -> UnknownNameError:
    """Say what a name that is not there was likely meant to be."""
    from unifreeze.errors import UnknownNameError, nearest

    held = [known for known in __all__ if name.lower() in known.lower()]
    close = [known for known in held if known.lower().startswith(name.lower())] or held
    close = close or nearest(name, __all__)
    shortest = min(close, key=len, default="")
    hint = f"did you mean uf.{shortest}?" if close else f"there are: {', '.join(__all__)}"
    for owner, shown in (("Handle", "handle"), ("FreezePlan", "FreezePlan()")):
        if hasattr(__getattr__(owner), name):
            hint = f"it is a method: {shown}.{name}(…)"
    if name in ("unfreeze", "thaw"):
        hint = "handle.remove() puts back what was found; FreezePlan().train(…) makes it train"
    return UnknownNameError(f"unifreeze has nothing called {name!r}", hint=hint)


def __dir__() -> list[str]:
    """List the public names alone: `uf.` completes to what there is to use."""
    special = [name for name in globals() if name.startswith("__") and name.endswith("__")]
    return sorted([*special, *__all__])
