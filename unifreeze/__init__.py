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
    from unifreeze.advising import suggest
    from unifreeze.capturing import capture, translate
    from unifreeze.comparing import compare_plans
    from unifreeze.errors import FrozenDriftError, UnifreezeError, UnknownNameError
    from unifreeze.handle import Handle, apply, freeze, frozen, load_trained, resolve, unpin
    from unifreeze.pairing import Pairing, pair
    from unifreeze.parity import Record, Report, check_parity
    from unifreeze.plan import FreezePlan
    from unifreeze.porting import port_file, port_weights
    from unifreeze.resolution import Resolution
    from unifreeze.select import Selector
    from unifreeze.stepping import check_step

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
    "translate",
    "unpin",
]

_HOME = {
    "FreezePlan": "plan",
    "FrozenDriftError": "errors",
    "Handle": "handle",
    "Pairing": "pairing",
    "Record": "parity",
    "Report": "parity",
    "Resolution": "resolution",
    "Selector": "select",
    "UnifreezeError": "errors",
    "apply": "handle",
    "capture": "capturing",
    "check_parity": "parity",
    "check_step": "stepping",
    "compare_plans": "comparing",
    "freeze": "handle",
    "frozen": "handle",
    "load_trained": "handle",
    "pair": "pairing",
    "port_file": "porting",
    "port_weights": "porting",
    "resolve": "handle",
    "suggest": "advising",
    "translate": "capturing",
    "unpin": "handle",
}


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
