"""Language models that transformers and PaddleFormers both have, each made in its own environment.

PaddleFormers hides PyTorch from transformers in its process and needs other releases of both, so
that these pairs are found by sketches made in two environments; `ci/formers.sh` runs them.
"""

from __future__ import annotations

from typing import Any

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
ON_CPU = {"fuse_rms_norm": False, "_attn_implementation": "eager"}
"""PaddleFormers' defaults take kernels that only its GPU build has."""


def torch_model(model: str, **changes: Any) -> Any:
    """Build the small model of a class of transformers."""
    from examples.torchvision_on_cpu import import_torchvision

    import_torchvision()
    import transformers

    config_class = getattr(transformers, model).config_class
    return getattr(transformers, model)(config_class(**SIZES | changes)).eval()


def paddle_model(model: str, **changes: Any) -> Any:
    """Build the small model of a class of PaddleFormers."""
    from paddleformers import transformers

    config_class = getattr(transformers, model).config_class
    model = getattr(transformers, model)(config_class(**SIZES | ON_CPU | changes))
    model.eval()
    return model
