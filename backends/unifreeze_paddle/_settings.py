"""The settings of Paddle's layers in neutral terms: those that ports of a network get wrong."""

from __future__ import annotations

import inspect

from paddle import nn, optimizer
from paddle.nn import functional
from paddle.nn.layer.norm import _InstanceNormBase

from unifreeze.backend import (
    LayerSettings,
    SettingsTable,
    activation,
    attention,
    average_pool,
    clipped,
    max_pool,
    pads,
    stored,
    transformer_layer,
)
from unifreeze_paddle._layers import BATCH_NORMS


def _batch_norm(layer: nn.Layer) -> LayerSettings:
    """Read a batch norm; its momentum is the share of the old statistics, here of the new ones."""
    return {
        "layer": "batch norm",
        "epsilon": layer._epsilon,
        "affine": layer._parameters.get("weight") is not None,
        "statistics": "running",
        "statistics momentum": round(1 - layer._momentum, 12),
        "running variance": "biased",
    }


def _instance_norm(layer: nn.Layer) -> LayerSettings:
    return {
        "layer": "instance norm",
        "epsilon": layer._epsilon,
        "affine": layer._parameters.get("scale") is not None,
        "statistics": "of the batch",
    }


def _norm(layer: nn.Layer) -> LayerSettings:
    affine = layer._parameters.get("weight") is not None
    return {"layer": "norm", "epsilon": layer._epsilon, "affine": affine}


def _dropout(layer: nn.Layer) -> LayerSettings:
    mode = getattr(layer, "mode", "upscale_in_train")
    return {"layer": "dropout", "dropout": layer.p, "dropout mode": mode}


def _embedding(layer: nn.Layer) -> LayerSettings:
    index = layer._padding_idx
    index = None if index is None or index < 0 else index
    return {
        "layer": "embedding",
        "padding_idx": index,
        "padding row": "as stored" if index is None else "zeros",
        "max_norm": getattr(layer, "_max_norm", None),
    }


def _average_pool(layer: nn.Layer) -> LayerSettings:
    return average_pool(layer, counts_padding=not layer.exclusive)


def _conv(layer: nn.Layer) -> LayerSettings:
    way = "in x out" if isinstance(layer, _TRANSPOSED) else "out x in"
    row = {"layer": "conv", **stored(layer, "paddle", way)}
    return row | ({"padding_mode": layer._padding_mode} if pads(layer._padding) else {})


_TRANSPOSED = (nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose)


def _linear(layer: nn.Layer) -> LayerSettings:
    return {"layer": "linear", **stored(layer, "paddle", "in x out")}


def _gelu(layer: nn.Layer) -> LayerSettings:
    tanh = layer._approximate is True or layer._approximate == "tanh"
    return {"layer": "activation", "activation": "gelu (tanh)" if tanh else "gelu"}


def _hard_sigmoid(layer: nn.Layer) -> LayerSettings:
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
    ((nn.MaxPool1D, nn.MaxPool2D, nn.MaxPool3D), max_pool),
    (nn.layer.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.MultiHeadAttention, attention),
    (
        (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
        transformer_layer("normalize_before"),
    ),
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
