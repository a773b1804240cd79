"""The settings of PyTorch's layers in neutral terms: those that ports of a network get wrong."""

from __future__ import annotations

from torch import nn, optim

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


def _batch_norm(module: nn.Module) -> LayerSettings:
    instance = isinstance(module, nn.modules.instancenorm._InstanceNorm)
    row = {
        "layer": "instance norm" if instance else "batch norm",
        "epsilon": module.eps,
        "affine": module.affine,
        "statistics": "running" if module.track_running_stats else "of the batch",
    }
    if module.track_running_stats:
        average = "cumulative" if module.momentum is None else module.momentum
        row |= {"statistics momentum": average, "running variance": "unbiased"}
    return row


def _norm(module: nn.Module) -> LayerSettings:
    affine = getattr(module, "elementwise_affine", getattr(module, "affine", True))
    epsilon = "of the dtype" if module.eps is None else module.eps
    return {"layer": "norm", "epsilon": epsilon, "affine": affine}


def _dropout(module: nn.Module) -> LayerSettings:
    return {"layer": "dropout", "dropout": module.p, "dropout mode": "upscale_in_train"}


def _embedding(module: nn.Module) -> LayerSettings:
    return {
        "layer": "embedding",
        "padding_idx": module.padding_idx,
        "padding row": "as stored",
        "max_norm": module.max_norm,
    }


def _average_pool(module: nn.Module) -> LayerSettings:
    return average_pool(module, counts_padding=module.count_include_pad)


def _conv(module: nn.Module) -> LayerSettings:
    way = "in x out" if module.transposed else "out x in"
    row = {"layer": "conv", **stored(module, "torch", way, _parametrizing(module))}
    return row | ({"padding_mode": module.padding_mode} if pads(module.padding) else {})


def _linear(module: nn.Module) -> LayerSettings:
    return {"layer": "linear", **stored(module, "torch", "out x in", _parametrizing(module))}


def _parametrizing(module: nn.Module) -> list[nn.Module]:
    """Return what computes a layer's weight from other tensors, such as a weight norm."""
    lists = getattr(module, "parametrizations", {})
    return list(lists["weight"]) if "weight" in lists else []


def _gelu(module: nn.Module) -> LayerSettings:
    variant = "gelu (tanh)" if module.approximate == "tanh" else "gelu"
    return {"layer": "activation", "activation": variant}


def _hard_sigmoid(module: nn.Module) -> LayerSettings:
    return {"layer": "activation", "activation": "hard sigmoid", "slope": 1 / 6}


LAYERS: SettingsTable = (
    (nn.modules.batchnorm._NormBase, _batch_norm),
    ((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), _norm),
    (nn.modules.dropout._DropoutNd, _dropout),
    (nn.Embedding, _embedding),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average_pool),
    (nn.modules.pooling._MaxPoolNd, max_pool),
    (nn.modules.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.MultiheadAttention, attention),
    ((nn.TransformerEncoderLayer, nn.TransformerDecoderLayer), transformer_layer("norm_first")),
    (nn.GELU, _gelu),
    (nn.Hardsigmoid, _hard_sigmoid),
    (nn.ReLU, clipped("relu", 0.0, None)),
    (nn.ReLU6, clipped("relu", 0.0, 6.0)),
    (nn.Hardtanh, clipped("hard tanh", "min_val", "max_val")),
    (nn.SiLU, activation("silu")),
    (nn.Tanh, activation("tanh")),
    (nn.LeakyReLU, activation("leaky relu", slope="negative_slope")),
    (nn.ELU, activation("elu", alpha="alpha")),
    (nn.Softplus, activation("softplus", beta="beta", threshold="threshold")),
)

OPTIMIZERS = {
    "SGD with momentum": optim.SGD,
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
    "Adamax": optim.Adamax,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "RMSprop": optim.RMSprop,
    "Adagrad": optim.Adagrad,
    "Adadelta": optim.Adadelta,
}
OPTIMIZER_SETTINGS = {
    "lr": "default learning rate",
    "momentum": "default momentum",
    "betas": "default beta1|default beta2",
    "alpha": "default smoothing",
    "rho": "default smoothing",
    "eps": "default epsilon",
    "weight_decay": "default weight decay",
}
OPTIMIZER_RULES = {
    "RMSprop": "epsilon beside the root",
    "Adamax": "epsilon added to the new gradient",
}
"""Formulas that differ from Paddle's, whatever the settings."""
