"""Define what an author of a backend hands to the contract: three small models with batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._protocol import Backend, Batch


@checked_methods
@dataclass(frozen=True)
class Example:
    """A function that makes a model, and a batch for it.

    Attributes:
        make: Builds a new model at every call, with all parameters trainable.
        batch: Inputs that the model runs on.
    """

    make: Callable[[], Any]
    batch: Batch


@checked_methods
@dataclass(frozen=True)
class Kit:
    """The models that a backend's author provides.

    Attributes:
        backend: The backend.
        plain: Two equal blocks, each of two linear layers and one norm with running statistics,
            in a list-like container, then one linear head; each layer with weight and bias.
        tied: A model in which one tensor has two names.
        loose: A model whose root owns a parameter itself.
    """

    backend: Backend
    plain: Example
    tied: Example
    loose: Example


def fingerprints(kit: Kit, model: Any) -> dict[str, str]:
    """Return the digest of every tensor's bits, by native path."""
    prints = kit.backend.fingerprint(model, kit.backend.objects(model))
    return {path: digest.bits for path, digest in prints.items()}


def blocks(kit: Kit, model: Any) -> list[str]:
    """Return the native paths of a model's blocks."""
    spec = kit.backend.describe(model)
    return [spec.tree.paths[block] for block in spec.runs[0].blocks]
