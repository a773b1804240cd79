"""Which tensor is which in the two small networks of `small`, and a batch for each."""

import numpy as np

IDS = np.random.default_rng(0).integers(0, 11, (3, 6))
PIXELS = np.random.default_rng(1).standard_normal((3, 3, 7, 7)).astype("float32")

BLOCK = {
    "att.q": "attention.query",
    "att.k": "attention.key",
    "att.v": "attention.value",
    "att.o": "attention.dense",
    "att_norm": "norm1",
    "out_norm": "norm2",
    "up": "linear1",
    "down": "linear2",
}
TEXT = {
    "tokens.weight": "word.weight",
    "places.weight": "position.weight",
    **{
        f"layers.{n}.{one}.{leaf}": f"stack.{n}.{other}.{leaf}"
        for n in (0, 1)
        for one, other in BLOCK.items()
        for leaf in ("weight", "bias")
    },
    "answer.weight": "head.weight",
    "answer.bias": "head.bias",
}
UNIT = {
    "short.weight": "side.weight",
    "conv.weight": "main.weight",
    **{
        f"{one}.{leaf}": f"{other}.{name}"
        for one, other in (("short_norm", "side_bn"), ("norm", "main_bn"))
        for leaf, name in (
            ("weight", "weight"),
            ("bias", "bias"),
            ("running_mean", "_mean"),
            ("running_var", "_variance"),
        )
    },
}
IMAGE = {
    "stem.weight": "first.weight",
    "stem.bias": "first.bias",
    **{f"units.{n}.{one}": f"cells.{n}.{other}" for n in (0, 1) for one, other in UNIT.items()},
    "fc.weight": "out.weight",
    "fc.bias": "out.bias",
}
