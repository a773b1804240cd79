"""timm: one model of every family, with timm's own word for its classifier and order of layers.

`get_classifier()` gives the classifier, what `forward_features` does not run may be in the head,
and `group_matcher()` numbers the layers. Models are built on PyTorch's meta device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from examples.torchvision_on_cpu import import_torchvision
from tests.support.zoos.judging import (
    Row,
    Unbuilt,
    difference,
    head_beside_blocks,
    ids_of,
    order_of_blocks,
    selected,
)
from unifreeze._protocol import load_backend

TASK = "one model of every family"


def rows(only: tuple[str, ...] = ()) -> Iterator[Row | Unbuilt]:
    """Judge the families, or only some."""
    import_torchvision()
    import timm

    for family in only or timm.list_modules():
        model = built(family)
        if isinstance(model, Unbuilt):
            yield model
        else:
            yield from judged(family, model)


def built(family: str) -> Any:
    """Build the first model of a family that has a classifier, or else the first that builds."""
    import timm

    plain, reason = None, "it has no models"
    for name in timm.list_models(module=family):
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
        except Exception as error:  # whatever a library's own code raises
            reason = f"{type(error).__name__}: {error}"
            continue
        if classifier(model):
            return model
        plain = model if plain is None else plain
    return Unbuilt(TASK, family, reason) if plain is None else plain


def classifier(model: Any) -> set[int]:
    """Return the identities of the parameters of timm's own classifier."""
    try:
        given = model.get_classifier()
    except (AttributeError, NotImplementedError):
        return set()
    layers = given if isinstance(given, tuple | list) else [given]
    return ids_of(p for layer in layers if layer is not None for p in layer.parameters())


def judged(family: str, model: Any) -> Iterator[Row]:
    """Judge the words on one model."""
    spec = load_backend("torch").describe(model)
    named = dict(model.named_parameters(remove_duplicate=False))
    least = {name for name, p in named.items() if id(p) in classifier(model)}
    features = run_by_features(model)
    head = selected("head", spec)
    fault = difference(head, least, set(named) - features if least else set())
    yield Row(TASK, family, "head", fault, "equal" if head == least else "")
    yield Row(TASK, family, "head beside blocks", head_beside_blocks(spec))
    outputs = {name for name in least if model.num_classes in named[name].shape}
    yield Row(TASK, family, "classifier", difference(selected("classifier", spec), outputs))
    yield Row(TASK, family, "order of blocks", order_of_blocks(spec, layers_of(model)))


def run_by_features(model: Any) -> set[str]:
    """Return the parameters of the modules that `forward_features` runs."""
    ran: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.add(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    size = model.default_cfg["input_size"]
    try:
        with torch.no_grad(), torch.device("meta"):
            model.eval().forward_features(torch.empty(1, *size))
    finally:
        for hook in hooks:
            hook.remove()
    return {n for n, _ in model.named_parameters() if n.rpartition(".")[0] in ran}


def layers_of(model: Any) -> dict[str, int]:
    """Return timm's number of the layer of every parameter."""
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):
        return {}
    numbers: dict[str, int] = group_parameters(model, model.group_matcher(), reverse=True)
    return numbers
