"""PEFT's wrappers around PyTorch's layers: which copy of a layer runs now, and which do not.

PEFT's classes are known by name, along a module's bases, so the library need not be installed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

SAVED = "peft.utils.other.ModulesToSaveWrapper"
"""Holds a layer as it was, and a copy of it for each adapter."""
TOKENS = "peft.utils.other.TrainableTokensWrapper"
"""Holds an adapter that writes over some rows of a table."""
TUNED_NORM = "peft.tuners.ln_tuning.layer.LNTuningLayer"
"""Holds a layer as it was, and a copy of it for each adapter."""
LAYER = "peft.tuners.tuners_utils.BaseTunerLayer"
"""Holds a layer and what adapts it, by the name of the adapter."""

WRAPPED = {
    "peft.peft_model.PeftModel": "base_model",
    "peft.tuners.tuners_utils.BaseTuner": "model",
    LAYER: "base_layer",
    SAVED: "original_module",
    TOKENS: "token_adapter",
}
"""For each wrapper, the attribute with what it wraps, unless `running_copy` says otherwise."""
ADAPTING = (LAYER, "peft.peft_model.PeftModel")
"""Wrappers that add parameters that adapt what they wrap."""

_COPIES = {SAVED: "modules_to_save", TUNED_NORM: "ln_tuning_layers"}
"""For wrappers with copies of a layer, where the copies are; that of the active adapter runs."""
_CHOOSING = (SAVED, LAYER)


def running_copy(wrapper: nn.Module, bases: Sequence[str]) -> str:
    """Return the path of the copy that runs in a layer's place; "" if the layer itself does."""
    where = next((_COPIES[name] for name in bases if name in _COPIES), "")
    if not where:
        return ""
    active = running_adapters(wrapper)
    copies = getattr(wrapper, where)
    return f"{where}.{active[0]}" if active and active[0] in copies else ""


def running_adapters(wrapper: nn.Module) -> tuple[str, ...]:
    """Return the adapters of a wrapper that take part in its forward pass now."""
    if wrapper.disable_adapters or getattr(wrapper, "merged", False):
        return ()
    return tuple(wrapper.active_adapters)


def chooses(bases: Sequence[str]) -> bool:
    """Return whether only some parts of a wrapper run: those of its active adapter."""
    return any(name in _CHOOSING for name in bases)


def is_idle(wrapper: nn.Module, path: str, bases: Sequence[str]) -> bool:
    """Return whether a parameter belongs to a copy or an adapter that does not run now."""
    if any(name in _COPIES for name in bases):
        return True
    where, _, rest = path.partition(".")
    if not rest or where not in getattr(wrapper, "adapter_layer_names", ()):
        return False
    return rest.partition(".")[0] not in running_adapters(wrapper)
