"""transformers: every class of ten tasks, with the library's word for its parts.

What a class registers outside `base_model` is its head, or what `get_output_embeddings()` gives;
tensors with an axis as long as the number of labels are its classifier; `get_input_embeddings()` is
among its embeddings; the configuration says how many layers it has. Models are built small, on
PyTorch's meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import unifreeze as uf
from tests.support.families import settings
from tests.support.zoos.judging import (
    Row,
    Unbuilt,
    difference,
    head_beside_blocks,
    ids_of,
    number_of_layers,
    selected,
)
from unifreeze._protocol import load_backend
from unifreeze.errors import UnifreezeError

LABELS = 37
"""A number of classes that no other axis of these models has."""

MAPPINGS = {
    "sequence classification": "SEQUENCE_CLASSIFICATION",
    "token classification": "TOKEN_CLASSIFICATION",
    "image classification": "IMAGE_CLASSIFICATION",
    "audio classification": "AUDIO_CLASSIFICATION",
    "object detection": "OBJECT_DETECTION",
    "semantic segmentation": "SEMANTIC_SEGMENTATION",
    "instance segmentation": "INSTANCE_SEGMENTATION",
    "universal segmentation": "UNIVERSAL_SEGMENTATION",
    "causal language model": "CAUSAL_LM",
    "image and text to text": "IMAGE_TEXT_TO_TEXT",
}
"""For each task, the middle of the name of its mapping."""


def rows(only: tuple[str, ...] = ()) -> Iterator[Row | Unbuilt]:
    """Judge the classes of all tasks, or only some classes."""
    from examples.torchvision_on_cpu import import_torchvision

    import_torchvision()
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for task, middle in MAPPINGS.items():
        mapping = getattr(modeling_auto, f"MODEL_FOR_{middle}_MAPPING_NAMES")
        for family, classes in mapping.items():
            for name in [classes] if isinstance(classes, str) else classes:
                if only and name not in only:
                    continue
                cls = getattr(transformers, name)
                model = built(cls, lambda c=cls, f=family: c.config_class or CONFIG_MAPPING[f])
                if isinstance(model, str):
                    yield Unbuilt(task, name, model)
                else:
                    yield from judged(task, name, model)


def built(cls: Any, config_class: Callable[[], Any]) -> Any:
    """Build a model small, in the first way that works; or say why none does."""
    import torch

    try:
        tries, more = list(settings(config_class())), asked_for(config_class()())
    except Exception as error:  # whatever a library's own code raises
        return f"{type(error).__name__}: {error}"
    reason = ""
    for given, values in tries:
        try:
            config = config_class()(**{**given, **more})
            with nullcontext() if values else torch.device("meta"):
                return cls(config)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    return reason


def asked_for(plain: Any) -> dict[str, Any]:
    """Return settings without which a configuration builds nothing here, and the labels."""
    more: dict[str, Any] = {"num_labels": LABELS}
    if getattr(plain, "use_pretrained_backbone", False):
        more["use_pretrained_backbone"] = False
    if getattr(plain, "head_dim", 0) is None:
        more["head_dim"] = plain.hidden_size // plain.num_attention_heads
    return more


def judged(task: str, name: str, model: Any) -> Iterator[Row | Unbuilt]:
    """Judge the words on one model."""
    spec = load_backend("torch").describe(model)
    named = dict(model.named_parameters(remove_duplicate=False))
    head, base = selected("head", spec), base_of(model)
    outside = {n for n in named if not in_any(n, base) and n.partition(".")[0] != "neck"}
    if base and any(named[n].numel() > 1 for n in outside):
        within = ids_of(p for n, p in named.items() if n not in outside)
        least = {n for n in outside if id(named[n]) not in within and named[n].numel() > 1}
        yield Row(
            task, name, "head", difference(head, least, outside | shared(outside, head, named))
        )
    elif "text" in task or "language" in task:
        outputs = modules_of(model, model.get_output_embeddings())
        least = {n for n in named if in_any(n, outputs)}
        yield Row(task, name, "head", difference(head, least))
    else:
        yield Unbuilt(task, name, "nothing is registered outside base_model, so nothing says head")
    yield Row(task, name, "head beside blocks", head_beside_blocks(spec))
    if "language" not in task and "text" not in task:
        classes = {n for n, p in named.items() if {LABELS, LABELS + 1} & {*p.shape}}
        if "classification" not in task:
            # Detectors have such layers inside, too, for drafts and for noise.
            classes &= outside
            classes |= shared(classes, head, named)
            classes = {n for n in classes if not n.startswith("auxiliary")}
        if classes:
            fault = difference(selected("classifier", spec), classes)
            yield Row(task, name, "classifier", fault)
    if "detection" in task or "segmentation" in task:
        yield Row(task, name, "only: head resolves", refusal(model))
    yield from judged_inside(task, name, model, spec)


def refusal(model: Any) -> str:
    """Say why a plan for the head alone is refused; "" if it is not."""
    try:
        uf.resolve(uf.FreezePlan().only("head"), model)
    except UnifreezeError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def base_of(model: Any) -> set[str]:
    """Return the paths of the base model: `base_model`, or the only child that is a model."""
    from transformers import PreTrainedModel

    inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    if model.base_model is not model:
        return modules_of(model, model.base_model)
    return modules_of(model, inner[0]) if len(inner) == 1 else set()


def modules_of(model: Any, module: Any) -> set[str]:
    """Return the paths under which a module is registered."""
    every = model.named_modules(remove_duplicate=False)
    return {path for path, found in every if found is module}


def in_any(name: str, paths: set[str]) -> bool:
    """Return whether a parameter is under one of some modules."""
    return any(name.startswith(f"{path}.") for path in paths)


def shared(outside: set[str], head: set[str], named: dict[str, Any]) -> set[str]:
    """Return the other names of tensors outside that only the head has: shared predictions."""
    ids = ids_of(named[name] for name in outside)
    names = {name for name, tensor in named.items() if id(tensor) in ids}
    return names if names <= head else set()


def judged_inside(task: str, name: str, model: Any, spec: Any) -> Iterator[Row]:
    """Judge embeddings and blocks."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        table = None
    if table is not None:
        ids = ids_of([*table.parameters()] if hasattr(table, "parameters") else [table])
        least = {n for n, p in model.named_parameters() if id(p) in ids}
        fault = difference(selected("embeddings", spec) & least, least)
        yield Row(task, name, "embeddings", fault)
    layers = number_of_layers(model.config.get_text_config())
    if layers is not None:
        counts = [len(run.blocks) for run in spec.runs]
        fault = "" if layers in counts else f"{layers} layers, runs of blocks: {counts}"
        yield Row(task, name, "number of blocks", fault)
