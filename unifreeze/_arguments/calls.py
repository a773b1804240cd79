"""What to write instead of a call that has too many arguments, or an unknown one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from unifreeze._arguments.cures import AT_EPOCH
from unifreeze._arguments.fitting import fits
from unifreeze.errors import nearest

_OTHER_NAMES = {
    "learning_rate": ("lr", "lr_scale"),
    "lr": ("lr_scale",),
    "rate": ("lr", "lr_scale"),
    "scale": ("lr_scale",),
    "wd": ("weight_decay",),
    "decay": ("weight_decay", "layer_decay"),
    "selector": ("what", "match"),
    "file": ("path",),
    "filename": ("path",),
    "dir": ("folder",),
    "n": ("examples",),
    "samples": ("examples",),
}
"""What users call a parameter, and how unifreeze calls it."""
_PLACES = {"epoch": "at", "step": "at", "epochs": "after", "steps": "after"}
"""Units of time, and the parameter of a phase that takes each."""
_NEEDS_RULES = ("apply", "resolve", "expand", "save", "to_yaml", "document")
"""Methods that make no sense on a plan without rules."""
_SHOWN = 3


def other_name(name: str, value: Any, known: Collection[str]) -> str:
    """Return what to write instead of a keyword that a function does not have."""
    if name in _PLACES and _PLACES[name] in known:
        count = value if isinstance(value, int) else 3
        return f'{_PLACES[name]}={{"{name}": {count}}}'
    meant = next((own_name for own_name in _OTHER_NAMES.get(name, ()) if own_name in known), "")
    if meant == "lr_scale" and name != "scale":
        return "lr_scale=0.1, a factor on the rate that handle.optimizer(cls, lr=…) is given"
    if meant:
        return f"did you mean {meant}=…?"
    close = nearest(name, known, limit=1)
    return f"did you mean {close[0]}=…?" if close else ""


def named(function: str, values: Sequence[Any], wanted: Mapping[str, Any]) -> str:
    """Return what to write instead of positional values that can only be given by name.

    Args:
        function: The function's own name.
        values: The values that are too many.
        wanted: The types of the keyword-only parameters, in order.
    """
    if function == "optimizer":
        return "leave the parameters out, they are the plan's: handle.optimizer(AdamW, lr=1e-3)"
    if not values:
        return ""
    value = values[0]
    if function == "phase":
        return AT_EPOCH
    names = [name for name, kind in wanted.items() if fits(value, kind)]
    alike = [name for name in names if wanted[name] == wanted[names[0]]][:_SHOWN]
    if not alike or (wanted[alike[0]] is Any and len(values) > 1):
        return ""
    given = value if isinstance(value, int | float) else "…"
    written = [f"{name}={given}" for name in alike]
    return "by name: " + " or ".join(filter(None, [", ".join(written[:-1]), written[-1]]))


def owner_form(owner: str, method: str) -> str:
    """Write an object on which a method can be called."""
    if owner != "FreezePlan":
        return "handle" if owner == "Handle" else owner.lower()
    return 'FreezePlan().only("head")' if method in _NEEDS_RULES else "FreezePlan()"
