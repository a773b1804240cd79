"""ERNIE base for sequence classification in both frameworks, every size set on both sides."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

SIZES = {
    "vocab_size": 40000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 2048,
    "type_vocab_size": 4,
    "use_task_id": True,
    "task_type_vocab_size": 3,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}
"""The sizes of ernie-3.0-base; the two libraries' defaults differ in several of them."""


def torch_ernie(num_labels: int = 2, **sizes: Any) -> Any:
    """Build transformers' ErnieForSequenceClassification."""
    from examples.torchvision_on_cpu import import_torchvision

    with suppress(ModuleNotFoundError):
        import_torchvision()
    from transformers import ErnieConfig, ErnieForSequenceClassification

    config = ErnieConfig(**{**SIZES, **sizes}, num_labels=num_labels, attn_implementation="eager")
    return ErnieForSequenceClassification(config)


def paddle_ernie(num_labels: int = 2, **sizes: Any) -> Any:
    """Build PaddleNLP's ErnieForSequenceClassification."""
    from paddlenlp.transformers import ErnieConfig, ErnieForSequenceClassification

    config = ErnieConfig(**{**SIZES, **sizes}, num_labels=num_labels)
    return ErnieForSequenceClassification(config)
