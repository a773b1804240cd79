"""PaddleNLP: every class of models, with the library's word for its parts.

What a class registers outside its base model is its head; tensors with an axis as long as the
number of labels are its classifier; `get_input_embeddings()` is among its embeddings; the
configuration says how many layers it has. Models are built small.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from tests.support.families import PaddleNLP, _classes, settings
from tests.support.zoos.judging import (
    Row,
    Unbuilt,
    difference,
    head_beside_blocks,
    number_of_layers,
    selected,
)
from unifreeze._protocol import load_backend

LABELS = 37
"""A number of classes that no other axis of these models has."""


def rows(only: tuple[str, ...] = ()) -> Iterator[Row | Unbuilt]:
    """Judge the classes, or only some."""
    from paddlenlp.transformers import PretrainedModel

    for family in PaddleNLP().families():
        try:
            module = import_module(f"paddlenlp.transformers.{family}.modeling")
        except ImportError as error:
            yield Unbuilt("other", family, f"{type(error).__name__}: {error}")
            continue
        for cls in dict.fromkeys(_classes(module, PretrainedModel, None)):
            name = cls.__name__
            if only and name not in only:
                continue
            model = built(cls)
            if isinstance(model, str):
                yield Unbuilt(task_of(name), name, model)
            else:
                yield from judged(task_of(name), name, model)


def task_of(name: str) -> str:
    """Return what a class is for, by the end of its name."""
    for end, task in (
        ("ForSequenceClassification", "sequence classification"),
        ("ForTokenClassification", "token classification"),
        ("ForMaskedLM", "masked language model"),
        ("ForCausalLM", "causal language model"),
    ):
        if name.endswith(end):
            return task
    return "other"


def built(cls: Any) -> Any:
    """Build a model small, in the first way that works; or say why none does."""
    import paddle
    from paddlenlp.transformers.model_utils import no_init_weights

    try:
        tries = list(settings(cls.config_class))
    except Exception as error:  # a model without a configuration
        return f"{type(error).__name__}: {error}"
    reason = ""
    for given, values in tries:
        try:
            with no_init_weights():
                config = cls.config_class(**{**given, "num_labels": LABELS})
                if values:
                    return cls(config)
                with paddle.LazyGuard():
                    return cls(config)
        except Exception as error:  # whatever a library's own code raises
            reason = f"{type(error).__name__}: {error}"
    return reason


def judged(task: str, name: str, model: Any) -> Iterator[Row | Unbuilt]:
    """Judge the words on one model."""
    spec = load_backend("paddle").describe(model)
    parameters = set(spec.tree.names)
    prefix = getattr(model, "base_model_prefix", "")
    base = getattr(model, prefix, model) if prefix else model
    outside = outside_of(prefix, spec) if base is not model else set()
    if outside:
        tensors = dict(zip(spec.tree.names, spec.tree.tensor_of, strict=True))
        within = {tensors[name] for name in parameters - outside}
        least = {name for name in outside if tensors[name] not in within}
        yield Row(task, name, "head", difference(selected("head", spec), least, outside))
    yield Row(task, name, "head beside blocks", head_beside_blocks(spec))
    tree = spec.tree
    outputs = {
        n
        for n, t in zip(tree.names, tree.tensor_of, strict=True)
        if LABELS in tree.tensors[t].shape
    }
    if "classification" in task and outputs:
        yield Row(task, name, "classifier", difference(selected("classifier", spec), outputs))
    yield from judged_inside(task, name, model, spec)


def outside_of(prefix: str, spec: Any) -> set[str]:
    """Return the names of what is registered outside the base model, and is not called neck."""
    return {n for n in spec.tree.names if n.partition(".")[0] not in (prefix, "neck")}


def judged_inside(task: str, name: str, model: Any, spec: Any) -> Iterator[Row]:
    """Judge embeddings and blocks."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        table = None
    if hasattr(table, "parameters"):
        ids = {id(p) for p in table.parameters()}
        tensors = dict(zip(spec.tree.names, spec.tree.tensor_of, strict=True))
        # A table that is tied to a head has several names, and the library gives the first of them.
        got = {tensors[name] for name in selected("embeddings", spec)}
        least = {n for n, p in model.named_parameters() if id(p) in ids}
        fault = difference({n for n in least if tensors[n] in got}, least)
        yield Row(task, name, "embeddings", fault)
    inner = getattr(model.config, "text_config", None)
    layers = number_of_layers(inner or model.config)
    # A part of a model of several towers can have the configuration of the whole.
    if layers is not None and (inner is None or len(spec.runs) > 1):
        counts = [len(run.blocks) for run in spec.runs]
        fault = "" if layers in counts else f"{layers} layers, runs of blocks: {counts}"
        yield Row(task, name, "number of blocks", fault)
