"""Errors that people make when they port a network to Paddle, each as an edit of a correct port.

The list was written, and committed, before any check saw it. The networks are small; their weights
are drawn so that outputs have the size of a trained network's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F  # noqa: N812


class PortingError(NamedTuple):
    """One error.

    Attributes:
        network: "ResNet", "ERNIE" or "decoder".
        name: What is wrong.
        edit: Makes the error in a correct port.
    """

    network: str
    name: str
    edit: Callable[[Any], None]


def read(tensor: Any) -> Any:
    return np.asarray(tensor.numpy())


def write(tensor: Any, values: Any) -> None:
    tensor.set_value(paddle.to_tensor(np.ascontiguousarray(values, read(tensor).dtype)))


def swap(one: Any, other: Any) -> None:
    a, b = read(one), read(other)
    write(one, b)
    write(other, a)


def replace_forward(module: Any, forward: Callable[..., Any]) -> None:
    module.forward = forward


# ResNet -------------------------------------------------------------------------------------------


def norms(model: Any) -> list[Any]:
    return [m for m in model.sublayers() if isinstance(m, nn.BatchNorm2D)]


def set_all(of: Callable[[Any], list[Any]], **attributes: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        for module in of(model):
            for name, value in attributes.items():
                setattr(module, name, value)

    return edit


def cell_with(activation: Callable[[Any], Any], *, number: int = 1) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        cell = model.cells[number]
        replace_forward(
            cell, lambda x: activation(cell.main_bn(cell.main(x)) + cell.side_bn(cell.side(x)))
        )

    return edit


def kernel(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        weight = model.cells[0].main.weight
        write(weight, change(read(weight)))

    return edit


def pool_before_relu(model: Any) -> None:
    def forward(x: Any) -> Any:
        x = model.first(x)
        for cell in model.cells:
            x = cell(x)
        return model.out(x.amax([2, 3]))

    replace_forward(model, forward)


RESNET = (
    ("epsilon of the norms 1e-3, not 1e-5", set_all(norms, _epsilon=1e-3)),
    ("epsilon of the norms 1e-6, not 1e-5", set_all(norms, _epsilon=1e-6)),
    ("momentum of the norms by PyTorch's convention (0.1)", set_all(norms, _momentum=0.1)),
    (
        "one norm always uses running statistics",
        set_all(lambda m: [m.cells[1].main_bn], _use_global_stats=True),
    ),
    ("norm of one shortcut not copied", lambda m: write(m.cells[1].side_bn.weight, np.ones(4))),
    (
        "running variance of one norm not copied",
        lambda m: write(m.cells[0].main_bn._variance, np.ones(4)),
    ),
    (
        "running mean and variance exchanged",
        lambda m: swap(norms(m)[0]._mean, norms(m)[0]._variance),
    ),
    ("leaky ReLU in one block", cell_with(lambda x: F.leaky_relu(x, 0.01))),
    ("ReLU6 in one block", cell_with(F.relu6)),
    ("3x3 kernel with its channels transposed", kernel(lambda w: w.transpose(1, 0, 2, 3))),
    ("3x3 kernel mirrored", kernel(lambda w: w[:, :, ::-1, ::-1])),
    ("bias of the classifier not copied", lambda m: write(m.out.bias, np.zeros(5))),
    ("largest value pooled, not the mean", pool_before_relu),
    ("borders padded by reflection", lambda m: pad_by_reflection(m.cells[0].main)),
)


def pad_by_reflection(conv: Any) -> None:
    replace_forward(conv, lambda x: F.conv2d(F.pad(x, [1, 1, 1, 1], mode="reflect"), conv.weight))


# ERNIE --------------------------------------------------------------------------------------------


def layers(model: Any) -> list[Any]:
    return list(model.ernie.encoder.layers)


def layer_norms(model: Any) -> list[Any]:
    return [m for m in model.sublayers() if isinstance(m, nn.LayerNorm)]


def dropouts(model: Any) -> list[Any]:
    return [m for m in model.sublayers() if isinstance(m, nn.Dropout)]


def transpose(weight: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda model: write(weight(model), read(weight(model)).T)


def swap_queries_and_keys(model: Any) -> None:
    attention = layers(model)[0].self_attn
    swap(attention.q_proj.weight, attention.k_proj.weight)
    swap(attention.q_proj.bias, attention.k_proj.bias)


def unscaled(model: Any) -> None:
    for layer in layers(model):
        attention = layer.self_attn
        projection = attention.q_proj
        inner, scale = projection.forward, float(np.sqrt(attention.head_dim))
        replace_forward(projection, lambda x, inner=inner, scale=scale: inner(x) * scale)


def shift_positions(model: Any) -> None:
    table = model.ernie.embeddings.position_embeddings
    inner = table.forward
    replace_forward(table, lambda ids: inner(ids + 1))


def zero_padding_row(model: Any) -> None:
    """The first row is no padding in the first model."""
    table = model.ernie.embeddings.word_embeddings
    weight = read(table.weight)
    weight[7] = 0
    write(table.weight, weight)


def norm_first(model: Any) -> None:
    for layer in layers(model):
        layer.normalize_before = True


ERNIE = (
    ("epsilon of the norms 1e-5, not 1e-12", set_all(layer_norms, _epsilon=1e-5)),
    ("GELU by tanh", set_all(layers, activation=lambda x: F.gelu(x, approximate=True))),
    ("ReLU, not GELU, in one layer", set_all(lambda m: layers(m)[:1], activation=F.relu)),
    (
        "one square matrix not transposed",
        transpose(lambda m: layers(m)[0].self_attn.out_proj.weight),
    ),
    ("queries and keys of one layer exchanged", swap_queries_and_keys),
    ("scores not divided by the root of the head's size", unscaled),
    ("positions begin at 1", shift_positions),
    ("a row of the word table zeroed as padding", zero_padding_row),
    (
        "rows of sentence types exchanged",
        lambda m: write(
            m.ernie.embeddings.token_type_embeddings.weight,
            read(m.ernie.embeddings.token_type_embeddings.weight)[::-1],
        ),
    ),
    ("norms before the sublayers", norm_first),
    (
        "one norm not copied",
        lambda m: write(layers(m)[1].norm2.weight, np.ones(16)),
    ),
    ("dropout 0, not 0.1", set_all(dropouts, p=0.0)),
    ("dropout scales in inference", set_all(dropouts, mode="downscale_in_infer")),
    ("bias of the pooler not copied", lambda m: write(m.ernie.pooler.dense.bias, np.zeros(16))),
    (
        "ReLU, not tanh, in the pooler",
        lambda m: setattr(m.ernie.pooler, "activation", nn.ReLU()),
    ),
)


# A decoder ----------------------------------------------------------------------------------------


def decoders(model: Any) -> list[Any]:
    return list(model.llama.layers)


def rms_norms(model: Any) -> list[Any]:
    return [m for m in model.sublayers() if type(m).__name__ == "LlamaRMSNorm"]


def rope_base(base: float) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        for layer in decoders(model):
            rope = layer.self_attn.rotary_emb
            powers = paddle.arange(0, rope.dim, 2).astype("float32") / rope.dim
            rope.base, rope.inv_freq = base, 1.0 / (base**powers)
            rope._set_cos_sin_cache(rope.max_position_embeddings)

    return edit


def interleave(model: Any) -> None:
    """Order queries and keys for a rotation of neighbours, which this port does not do."""
    for layer in decoders(model):
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            weight = read(projection.weight)
            rows = weight.reshape(weight.shape[0], 2, 2, -1)
            write(projection.weight, rows.swapaxes(2, 3).reshape(weight.shape))


def layer_norm_not_rms(model: Any) -> None:
    norm = model.llama.norm

    def forward(x: Any) -> Any:
        return F.layer_norm(x, [16], norm.weight, None, norm.variance_epsilon)

    replace_forward(norm, forward)


def gelu_mlp(model: Any) -> None:
    for layer in decoders(model):
        mlp = layer.mlp
        replace_forward(
            mlp, lambda x, mlp=mlp: mlp.down_proj(F.gelu(mlp.gate_proj(x)) * mlp.up_proj(x))
        )


def tie_head(model: Any) -> None:
    """Use the table of words as the head's matrix, which the first model does not."""
    write(model.lm_head.weight, read(model.llama.embed_tokens.weight).T)


DECODER = (
    ("base of the rotation 1000, not 10000", rope_base(1000.0)),
    ("base of the rotation 500000, not 10000", rope_base(500000.0)),
    ("queries and keys ordered for another rotation", interleave),
    ("epsilon of the norms 1e-5, not 1e-6", set_all(rms_norms, variance_epsilon=1e-5)),
    ("LayerNorm, not RMSNorm, at the end", layer_norm_not_rms),
    ("GELU, not SiLU", gelu_mlp),
    (
        "gate and up projections exchanged",
        lambda m: swap(decoders(m)[0].mlp.gate_proj.weight, decoders(m)[0].mlp.up_proj.weight),
    ),
    (
        "queries and keys exchanged",
        lambda m: swap(
            decoders(m)[0].self_attn.q_proj.weight, decoders(m)[0].self_attn.k_proj.weight
        ),
    ),
    (
        "one square matrix not transposed",
        transpose(lambda m: decoders(m)[1].self_attn.o_proj.weight),
    ),
    ("head tied to the table of words", tie_head),
    ("last norm not copied", lambda m: write(m.llama.norm.weight, np.ones(16))),
)

ERRORS = tuple(
    PortingError(network, name, edit)
    for network, rows in (("ResNet", RESNET), ("ERNIE", ERNIE), ("decoder", DECODER))
    for name, edit in rows
)
"""All of them, in the order of the table."""
