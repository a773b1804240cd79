"""The settings of Paddle's layers in neutral terms: those that ports of a network get wrong."""

from __future__ import annotations

import inspect
from typing import Any

from paddle import nn, optimizer
from paddle.nn import functional
from paddle.nn.layer.norm import _InstanceNormBase

from unifreeze.backend import LayerSettings, SettingsTable, activation, clipped, computes_otherwise
from unifreeze_paddle._layers import BATCH_NORMS


def _batch_norm(layer: Any) -> LayerSettings:
    """Read a batch norm; its momentum is the share of the old statistics, here of the new ones."""
    return {
        "layer": "batch norm",
        "epsilon": layer._epsilon,
        "affine": layer._parameters.get("weight") is not None,
        "statistics": "running",
        "statistics momentum": round(1 - layer._momentum, 12),
        "running variance": "biased",
    }


def _instance_norm(layer: Any) -> LayerSettings:
    return {
        "layer": "instance norm",
        "epsilon": layer._epsilon,
        "affine": layer._parameters.get("scale") is not None,
        "statistics": "of the batch",
    }


def _norm(layer: Any) -> LayerSettings:
    affine = layer._parameters.get("weight") is not None
    return {"layer": "norm", "epsilon": layer._epsilon, "affine": affine}


def _dropout(layer: Any) -> LayerSettings:
    mode = getattr(layer, "mode", "upscale_in_train")
    return {"layer": "dropout", "dropout": layer.p, "dropout mode": mode}


def _embedding(layer: Any) -> LayerSettings:
    index = layer._padding_idx
    index = None if index is None or index < 0 else index
    return {
        "layer": "embedding",
        "padding_idx": index,
        "padding row": "as stored" if index is None else "zeros",
        "max_norm": getattr(layer, "_max_norm", None),
    }


def _average_pool(layer: Any) -> LayerSettings:
    found = {"layer": "average pool", "ceil_mode": layer.ceil_mode}
    if _any(layer.padding):
        found["padded cells"] = "left out" if layer.exclusive else "counted"
    return found


def _max_pool(layer: Any) -> LayerSettings:
    return {"layer": "max pool", "ceil_mode": layer.ceil_mode}


def _conv(layer: Any) -> LayerSettings:
    transposed = isinstance(layer, _TRANSPOSED)
    found = {"layer": "conv", **_stored(layer, "in x out" if transposed else "out x in")}
    return found | ({"padding_mode": layer._padding_mode} if _any(layer._padding) else {})


_TRANSPOSED = (nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose)


def _stored(layer: Any, way: str) -> LayerSettings:
    """Say which way round a layer stores its kernel, unless a class of its own computes with it."""
    return {} if computes_otherwise(layer, "paddle") else {"stored": way, **_normed(layer)}


def _normed(layer: Any) -> LayerSettings:
    """Say along which axis the lengths of a weight are held apart, if they are."""
    hooks = [hook for hook in layer._forward_pre_hooks.values() if hasattr(hook, "dim")]
    axes = [hook.dim for hook in hooks if type(hook).__name__ == "WeightNorm"]
    return {"normed": str(axes[0])} if axes else {}


def _any(padding: Any) -> bool:
    if isinstance(padding, tuple | list):
        return any(map(_any, padding))
    return padding != "VALID" if isinstance(padding, str) else bool(padding)


def _linear(layer: Any) -> LayerSettings:
    return {"layer": "linear", **_stored(layer, "in x out")}


def _attention(layer: Any) -> LayerSettings:
    return {"layer": "attention", "attention dropout": layer.dropout}


def _encoder_layer(layer: Any) -> LayerSettings:
    activation = getattr(layer.activation, "__name__", type(layer.activation).__name__.lower())
    order = "before" if layer.normalize_before else "after"
    return {"layer": "transformer layer", "activation": activation, "norms": order}


def _gelu(layer: Any) -> LayerSettings:
    tanh = layer._approximate is True or layer._approximate == "tanh"
    return {"layer": "activation", "activation": "gelu (tanh)" if tanh else "gelu"}


def _hard_sigmoid(layer: Any) -> LayerSettings:
    """Read a hard sigmoid; the layer has its slope from the function's default."""
    slope = inspect.signature(functional.hardsigmoid).parameters["slope"].default
    return {"layer": "activation", "activation": "hard sigmoid", "slope": slope}


LAYERS: SettingsTable = (
    (BATCH_NORMS, _batch_norm),
    (_InstanceNormBase, _instance_norm),
    ((nn.LayerNorm, nn.GroupNorm), _norm),
    ((nn.Dropout, nn.Dropout2D, nn.Dropout3D, nn.AlphaDropout), _dropout),
    (nn.Embedding, _embedding),
    ((nn.AvgPool1D, nn.AvgPool2D, nn.AvgPool3D), _average_pool),
    ((nn.MaxPool1D, nn.MaxPool2D, nn.MaxPool3D), _max_pool),
    (nn.layer.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.MultiHeadAttention, _attention),
    ((nn.TransformerEncoderLayer, nn.TransformerDecoderLayer), _encoder_layer),
    (nn.GELU, _gelu),
    (nn.Hardsigmoid, _hard_sigmoid),
    (nn.ReLU, clipped("relu", 0.0, None)),
    (nn.ReLU6, clipped("relu", 0.0, 6.0)),
    (nn.Hardtanh, clipped("hard tanh", "_min", "_max")),
    ((nn.Silu, nn.Swish), activation("silu")),
    (nn.Tanh, activation("tanh")),
    (nn.LeakyReLU, activation("leaky relu", slope="_negative_slope")),
    (nn.ELU, activation("elu", alpha="_alpha")),
    (nn.Softplus, activation("softplus", beta="_beta", threshold="_threshold")),
)

OPTIMIZERS = {
    "SGD with momentum": optimizer.Momentum,
    "Adam": optimizer.Adam,
    "AdamW": optimizer.AdamW,
    "Adamax": optimizer.Adamax,
    "NAdam": optimizer.NAdam,
    "RAdam": optimizer.RAdam,
    "RMSprop": optimizer.RMSProp,
    "Adagrad": optimizer.Adagrad,
    "Adadelta": optimizer.Adadelta,
}
OPTIMIZER_SETTINGS = {
    "learning_rate": "default learning rate",
    "momentum": "default momentum",
    "beta1": "default beta1",
    "beta2": "default beta2",
    "rho": "default smoothing",
    "epsilon": "default epsilon",
    "weight_decay": "default weight decay",
}
OPTIMIZER_RULES = {
    "RMSprop": "epsilon under the root",
    "Adamax": "epsilon added to the largest gradient so far",
}
"""Formulas that differ from PyTorch's, whatever the settings."""
