"""A small model, and which of its units train under a suggested plan."""

from importlib import import_module

from unifreeze._protocol import backend_for
from unifreeze._resolution import resolve_phases


def stack(framework, **settings):
    return import_module(f"tests.support.kits.{framework}_nets").Stack(**settings)


def trainable(plan, model, phase=-1):
    """The units that train in a phase, or under a plan without any."""
    if plan.phases:
        resolved = resolve_phases(plan, backend_for(model).describe(model))[phase]
    else:
        resolved = plan.resolve(model)
    return list(dict.fromkeys(name.partition("/")[0] for name in resolved.trainable_names))
