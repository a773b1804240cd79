"""Random seeded edits of layer settings in a correct port.

A seed draws a network, one of the settings that its layers have, a layer, and another value.
Nothing is left out: an edit may change nothing (the padding mode of a convolution without padding,
the dropout mode of a rate of 0), and `effect.py` judges that without unifreeze. Only an edit that
the network no longer runs with is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F  # noqa: N812

from tests.support.alignment.errors_list import replace_forward

NETWORKS = ("ResNet", "ERNIE", "decoder")
SEEDS = tuple(range(20))
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "ReLU": F.relu,
    "tanh": F.tanh,
    "SiLU": F.silu,
    "GELU by tanh": lambda x: F.gelu(x, approximate=True),
    "leaky ReLU": F.leaky_relu,
    "ELU": F.elu,
    "ReLU6": F.relu6,
}


class Setting(NamedTuple):
    """A setting that some layers have.

    Attributes:
        name: What the table calls it.
        of: Returns whether a layer has it.
        change: Draws another value, sets it, and says what was done.
    """

    name: str
    of: Callable[[Any], bool]
    change: Callable[[Any, np.random.Generator], str]


def _has(attribute: str) -> Callable[[Any], bool]:
    return lambda layer: isinstance(vars(layer).get(attribute), int | float)


def _attribute(attribute: str, *values: Any) -> Callable[[Any, np.random.Generator], str]:
    def change(layer: Any, draw: np.random.Generator) -> str:
        before = getattr(layer, attribute)
        left = [value for value in values if value != before]
        value = left[draw.integers(len(left))]
        setattr(layer, attribute, value)
        return f"{before} → {value}"

    return change


def _factor(attribute: str) -> Callable[[Any, np.random.Generator], str]:
    def change(layer: Any, draw: np.random.Generator) -> str:
        before = getattr(layer, attribute)
        value = float(before * 10.0 ** draw.choice([-3, -2, -1, 1, 2, 3, 5]))
        setattr(layer, attribute, value)
        return f"{before:.0e} → {value:.0e}"

    return change


def _padding_mode(layer: Any, draw: np.random.Generator) -> str:
    mode = str(draw.choice(["reflect", "replicate", "circular"]))
    layer._padding_mode = mode
    layer._reversed_padding_repeated_twice = [n for n in layer._updated_padding for _ in range(2)]
    if sum(layer._updated_padding):
        width = [n for n in layer._updated_padding for _ in range(2)]
        replace_forward(
            layer, lambda x: F.conv2d(F.pad(x, width, mode=mode), layer.weight, layer.bias)
        )
    return f"zeros → {mode} (padding {layer._updated_padding})"


def _dilation(layer: Any, draw: np.random.Generator) -> str:
    rate = int(draw.integers(2, 4))
    layer._dilation = [rate, rate]
    layer._updated_padding = [n * rate for n in layer._updated_padding]
    return f"1 → {rate} (kernel {layer._kernel_size})"


def _stride(layer: Any, draw: np.random.Generator) -> str:
    layer._stride = [2, 2]
    return "1 → 2"


def _without(attribute: str) -> Callable[[Any, np.random.Generator], str]:
    def change(layer: Any, draw: np.random.Generator) -> str:
        setattr(layer, attribute, None)
        return f"no {attribute}"

    return change


def _activation(layer: Any, draw: np.random.Generator) -> str:
    name = str(draw.choice([*ACTIVATIONS]))
    function = ACTIVATIONS[name]
    before = layer.activation

    class Function(nn.Layer):
        def forward(self, x: Any) -> Any:
            return function(x)

    layer.activation = Function() if isinstance(before, nn.Layer) else function
    return f"another activation: {name}"


def _heads(layer: Any, draw: np.random.Generator) -> str:
    before, width = layer.num_heads, layer.num_heads * layer.head_dim
    layer.num_heads = int(draw.choice([n for n in (1, 4, 8) if n != before]))
    layer.head_dim = width // layer.num_heads
    return f"{before} → {layer.num_heads}"


def _scale(layer: Any, draw: np.random.Generator) -> str:
    scale = float(draw.choice([0.5, 0.9, 1.1, 2.0, 4.0]))
    inner = layer.q_proj.forward
    replace_forward(layer.q_proj, lambda x: inner(x) * scale)
    return f"1 → {scale}"


def _padding_row(layer: Any, draw: np.random.Generator) -> str:
    before = layer._padding_idx
    row = int(draw.integers(layer._num_embeddings))
    layer._padding_idx = -1 if row == before else row
    return f"{before} → {layer._padding_idx}"


def _rope(layer: Any, draw: np.random.Generator) -> str:
    base = float(draw.choice([1000.0, 9000.0, 50000.0, 1000000.0]))
    before = layer.base
    powers = paddle.arange(0, layer.dim, 2).astype("float32") / layer.dim
    layer.base, layer.inv_freq = base, 1.0 / (base**powers)
    layer._set_cos_sin_cache(layer.max_position_embeddings)
    return f"{before:.0f} → {base:.0f}"


def _is(*names: str) -> Callable[[Any], bool]:
    return lambda layer: type(layer).__name__ in names


def _has_tensor(attribute: str) -> Callable[[Any], bool]:
    return lambda layer: (
        getattr(layer, attribute, None) is not None
        and hasattr(getattr(layer, attribute), "stop_gradient")
    )


def _is_norm(layer: Any) -> bool:
    return "Norm" in type(layer).__name__


RATES = 0.0, 0.1, 0.2, 0.5
SETTINGS = (
    Setting("epsilon", _has("_epsilon"), _factor("_epsilon")),
    Setting("epsilon", _has("variance_epsilon"), _factor("variance_epsilon")),
    Setting("momentum", _has("_momentum"), _attribute("_momentum", 0.1, 0.5, 0.9, 0.99, 0.999)),
    Setting("running statistics always", _has("_momentum"), _attribute("_use_global_stats", True)),
    Setting("padding mode", _is("Conv2D"), _padding_mode),
    Setting("dilation", _is("Conv2D"), _dilation),
    Setting("stride", _is("Conv2D"), _stride),
    Setting(
        "bias", lambda m: _is("Linear", "Conv2D")(m) and _has_tensor("bias")(m), _without("bias")
    ),
    Setting("norm's scale", lambda m: _is_norm(m) and _has_tensor("weight")(m), _without("weight")),
    Setting("norm's shift", lambda m: _is_norm(m) and _has_tensor("bias")(m), _without("bias")),
    Setting("activation", lambda m: callable(getattr(m, "activation", None)), _activation),
    Setting("dropout rate", _is("Dropout"), _attribute("p", *RATES)),
    Setting("attention dropout rate", _has("need_weights"), _attribute("dropout", *RATES)),
    Setting("dropout mode", _is("Dropout"), _attribute("mode", "downscale_in_infer")),
    Setting("heads", _has("num_heads"), _heads),
    Setting("scale of scores", lambda m: hasattr(m, "q_proj"), _scale),
    Setting("order of norms", _has("normalize_before"), _attribute("normalize_before", True)),
    Setting("padding row", _is("Embedding"), _padding_row),
    Setting("gradients by frequency", _is("Embedding"), _attribute("_scale_grad_by_freq", True)),
    Setting("base of the rotation", _has("base"), _rope),
    Setting("label smoothing", _has("label_smoothing"), _attribute("label_smoothing", 0.1)),
    Setting("ignored label", _has("ignore_index"), _attribute("ignore_index", 0)),
)
"""Settings by what a layer has; no network is known by name."""


def candidates(model: Any) -> dict[str, list[tuple[str, Any, Setting]]]:
    """Return the layers of a model that have each setting."""
    found: dict[str, list[tuple[str, Any, Setting]]] = {}
    for path, layer in model.named_sublayers():
        for setting in SETTINGS:
            if setting.of(layer):
                found.setdefault(setting.name, []).append((path, layer, setting))
    return found


class Drawn(NamedTuple):
    """An edit that a seed draws.

    Attributes:
        seed: The seed.
        attempt: How many edits before it the network did not run with.
        network: The network.
    """

    seed: int
    attempt: int
    network: str

    def edit(self, model: Any) -> str:
        """Make the edit in a port; return what was done."""
        random = np.random.default_rng([self.seed, self.attempt, 1])
        known = candidates(model)
        setting = [*known][random.integers(len(known))]
        path, layer, chosen = known[setting][random.integers(len(known[setting]))]
        return f"{setting} of `{path}`: {chosen.change(layer, random)}"


def draw(seed: int, attempt: int = 0) -> Drawn:
    """Return the edit of a seed; it is drawn in full when it is made."""
    chosen = np.random.default_rng([seed, attempt])
    return Drawn(seed, attempt, NETWORKS[chosen.integers(len(NETWORKS))])
