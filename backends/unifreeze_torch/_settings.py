"""The settings of PyTorch's layers in neutral terms: those that ports of a network get wrong."""

from __future__ import annotations

from typing import Any

from torch import nn, optim

from unifreeze.backend import LayerSettings, SettingsTable, activation, clipped, computes_otherwise


def _batch_norm(module: Any) -> LayerSettings:
    instance = isinstance(module, nn.modules.instancenorm._InstanceNorm)
    found = {
        "layer": "instance norm" if instance else "batch norm",
        "epsilon": module.eps,
        "affine": module.affine,
        "statistics": "running" if module.track_running_stats else "of the batch",
    }
    if module.track_running_stats:
        average = "cumulative" if module.momentum is None else module.momentum
        found |= {"statistics momentum": average, "running variance": "unbiased"}
    return found


def _norm(module: Any) -> LayerSettings:
    affine = getattr(module, "elementwise_affine", getattr(module, "affine", True))
    epsilon = "of the dtype" if module.eps is None else module.eps
    return {"layer": "norm", "epsilon": epsilon, "affine": affine}


def _dropout(module: Any) -> LayerSettings:
    return {"layer": "dropout", "dropout": module.p, "dropout mode": "upscale_in_train"}


def _embedding(module: Any) -> LayerSettings:
    return {
        "layer": "embedding",
        "padding_idx": module.padding_idx,
        "padding row": "as stored",
        "max_norm": module.max_norm,
    }


def _average_pool(module: Any) -> LayerSettings:
    found = {"layer": "average pool", "ceil_mode": module.ceil_mode}
    if _any(module.padding):
        found["padded cells"] = "counted" if module.count_include_pad else "left out"
    return found


def _max_pool(module: Any) -> LayerSettings:
    return {"layer": "max pool", "ceil_mode": module.ceil_mode}


def _conv(module: Any) -> LayerSettings:
    found = {"layer": "conv", **_stored(module, "in x out" if module.transposed else "out x in")}
    return found | ({"padding_mode": module.padding_mode} if _any(module.padding) else {})


def _stored(module: Any, way: str) -> LayerSettings:
    """Say which way round a layer stores its kernel, unless a class of its own computes with it."""
    return {} if computes_otherwise(module, "torch") else {"stored": way, **_normed(module)}


def _normed(module: Any) -> LayerSettings:
    """Say along which axis the lengths of a weight are held apart, if they are."""
    parametrizations = getattr(module, "parametrizations", {})
    held = list(parametrizations["weight"]) if "weight" in parametrizations else []
    held += [hook for hook in module._forward_pre_hooks.values() if hasattr(hook, "dim")]
    axes = [part.dim for part in held if type(part).__name__ in ("_WeightNorm", "WeightNorm")]
    return {"normed": str(axes[0])} if axes else {}


def _any(padding: Any) -> bool:
    return any(padding) if isinstance(padding, tuple | list) else bool(padding)


def _linear(module: Any) -> LayerSettings:
    return {"layer": "linear", **_stored(module, "out x in")}


def _attention(module: Any) -> LayerSettings:
    return {"layer": "attention", "attention dropout": module.dropout}


def _encoder_layer(module: Any) -> LayerSettings:
    activation = getattr(module.activation, "__name__", type(module.activation).__name__.lower())
    order = "before" if module.norm_first else "after"
    return {"layer": "transformer layer", "activation": activation, "norms": order}


def _gelu(module: Any) -> LayerSettings:
    variant = "gelu (tanh)" if module.approximate == "tanh" else "gelu"
    return {"layer": "activation", "activation": variant}


def _hard_sigmoid(module: Any) -> LayerSettings:
    return {"layer": "activation", "activation": "hard sigmoid", "slope": 1 / 6}


LAYERS: SettingsTable = (
    (nn.modules.batchnorm._NormBase, _batch_norm),
    ((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), _norm),
    (nn.modules.dropout._DropoutNd, _dropout),
    (nn.Embedding, _embedding),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average_pool),
    (nn.modules.pooling._MaxPoolNd, _max_pool),
    (nn.modules.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.MultiheadAttention, _attention),
    ((nn.TransformerEncoderLayer, nn.TransformerDecoderLayer), _encoder_layer),
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
