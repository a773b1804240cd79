"""Names of the parameters and layers that a selector selects."""

from __future__ import annotations

from unifreeze._plan.selectors import evaluate, parse


def names(text, made):
    """The native names an expression selects."""
    expression = parse(text) if isinstance(text, str) else text
    chosen = made.atoms.name[evaluate(expression, made)]
    return {made.tree.names[name] for name in chosen}


def modules(text, made):
    """The native paths of the layers whose tensors an expression selects."""
    return {name.rpartition(".")[0] for name in names(text, made)}
