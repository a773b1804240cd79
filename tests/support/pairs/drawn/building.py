"""Building a description in one framework, and where each of its tensors then is."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import numpy as np

from tests.support.pairs.drawn import paddle_side, torch_side
from tests.support.pairs.drawn.description import TORCH, Description, Part

FRAMEWORKS = (torch_side, paddle_side)
GAMMAS = {
    "c": lambda c: (c,),
    "1c": lambda c: (1, c),
    "c1": lambda c: (c, 1),
    "11c": lambda c: (1, 1, c),
    "c11": lambda c: (c, 1, 1),
    "1c11": lambda c: (1, c, 1, 1),
}
SCALARS = {"[]": (), "[1]": (1,), "[1, 1]": (1, 1)}


class Place(NamedTuple):
    """Where one tensor of the description is in one port.

    Attributes:
        path: Native path below the part's own.
        rows: Which rows of its output axis; None for all.
        axis: The axis those are of, as stored.
        turned: It is stored in x out, and described out x in.
        shape: As described.
    """

    path: str
    shape: tuple[int, ...]
    turned: bool = False
    rows: tuple[int, ...] | None = None
    axis: int = 0

    def read(self, array: Any) -> Any:
        """Lay the port's values out as the description has them."""
        if self.rows is not None:
            array = np.take(array, self.rows, axis=self.axis)
        return (array.T if self.turned else array).reshape(self.shape)

    def write(self, array: Any, values: Any) -> None:
        """Write values laid out as described into a copy of the port's tensor."""
        if self.turned:
            values = values.T
        if self.rows is None:
            array[...] = values.reshape(array.shape)
        elif self.axis:
            array[:, list(self.rows)] = values
        else:
            array[list(self.rows)] = values


def inner_names(net: Description, side: int, part: str) -> dict[str, str]:
    """Return what a part calls what it holds, on one side."""
    where = side if net.naming != "same" else "both"
    known = ("q", "k", "v", "o", "g", "u", "all", "weight", "bias", "value")
    words = ["kuma", "leto", "mosa", "nari", "pilu", "runo", "sake", "tovi", "vamo", "wilo"]
    Random(f"{net.seed}/{where}/{part}").shuffle(words)
    return dict(zip(known, words, strict=True))


def fused_rows(form: str, sizes: list[int], heads: int) -> list[tuple[int, ...]]:
    """Return where each part lies in what is fused."""
    order = list(range(len(sizes)))
    if form == "fused swapped":
        order = order[::-1]
    if form == "fused v first":
        order = [2, 0, 1]
    groups = heads if form == "fused by head" else 1
    rows: list[list[int]] = [[] for _ in sizes]
    place = 0
    for _ in range(groups):
        for number in order:
            share = sizes[number] // groups
            rows[number] += range(place, place + share)
            place += share
    return [tuple(found) for found in rows]


class Program:
    """One port of a network: makes its layers and runs its steps."""

    def __init__(self, net: Description, side: int) -> None:
        self.net, self.side = net, side
        self.f = FRAMEWORKS[side]
        self.places: dict[str, Place] = {}

    def build(self) -> Any:
        """Build the model."""
        self.f.seed(self.net.seed)
        model = self.f.Net()
        model.__dict__["program"] = self
        for name in self.net.sides[self.side].order:
            path = self.net.sides[self.side].paths[name]
            self._hang(model, path, self._make(self.net.parts[name]))
        return model

    def _hang(self, model: Any, path: str, layer: Any) -> None:
        *groups, leaf = path.split(".")
        for group in groups:
            if not hasattr(model, group):
                self.f.add_module(model, group, self.f.Holder())
            model = getattr(model, group)
        self.f.add_module(model, leaf, layer)

    def _make(self, part: Part) -> Any:
        make = getattr(self, "_make_" + part.kind.replace(" ", "_"), None)
        if make is None:
            return self.f.act(part.kind)
        return make(part, part.forms[self.side], dict(part.sizes))

    def _add(
        self, part: Part, logical: str, path: str, shape: tuple[int, ...], **more: Any
    ) -> None:
        own = self.net.sides[self.side].paths[part.name]
        self.places[f"{part.name}.{logical}"] = Place(f"{own}.{path}", shape, **more)

    def _hold(self, part: Part, loose: dict[str, Any], layers: dict[str, Any]) -> Any:
        """Return a holder of parameters and layers, under names of this side's own."""
        holder = self.f.Holder()
        names = inner_names(self.net, self.side, part.name)
        holder.__dict__["names"] = {known: names[known] for known in (*loose, *layers)}
        for known, tensor in loose.items():
            self.f.add_parameter(holder, holder.names[known], tensor)
        for known, layer in layers.items():
            self.f.add_module(holder, holder.names[known], layer)
        return holder

    def _add_linear(self, part: Part, logical: str, path: str, i: int, o: int, bias: int) -> None:
        turned = self.side != TORCH
        self._add(part, f"{logical}weight", f"{path}weight", (o, i), turned=turned)
        if bias:
            self._add(part, f"{logical}bias", f"{path}bias", (o,))

    def _make_linear(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        i, o, bias = sizes["i"], sizes["o"], sizes["bias"]
        if form == "layer":
            self._add_linear(part, "", "", i, o, bias)
            return self.f.linear(i, o, bias)
        turned = form == "in x out"
        loose = {"weight": self.f.parameter((i, o) if turned else (o, i))}
        if bias:
            loose["bias"] = self.f.parameter((o,))
        holder = self._hold(part, loose, {})
        self._add(part, "weight", holder.names["weight"], (o, i), turned=turned)
        if bias:
            self._add(part, "bias", holder.names["bias"], (o,))
        return holder

    def _make_pointwise(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        i, o, bias = sizes["i"], sizes["o"], sizes["bias"]
        if form == "linear":
            self._add_linear(part, "", "", i, o, bias)
            return self.f.linear(i, o, bias)
        self._add(part, "weight", "weight", (o, i))
        if bias:
            self._add(part, "bias", "bias", (o,))
        return self.f.conv(i, o, 1, bias)

    def _make_conv(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        i, o, k, groups = sizes["i"], sizes["o"], sizes["k"], sizes.get("groups", 1)
        self._add(part, "weight", "weight", (o, i // groups, k, k))
        if sizes["bias"]:
            self._add(part, "bias", "bias", (o,))
        return self.f.conv(**sizes)

    def _make_table(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        self._add(part, "weight", "weight", (sizes["n"], sizes["c"]))
        return self.f.table(**sizes)

    def _make_positions(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        if form == "table":
            return self._make_table(part, form, sizes)
        shape = (sizes["n"], sizes["c"])
        stored = shape if form == "flat" else (1, *shape)
        return self._loose(part, "weight", shape, stored)

    def _make_gamma(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        return self._loose(part, "value", (sizes["c"],), GAMMAS[form](sizes["c"]))

    def _make_scalar(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        return self._loose(part, "value", (), SCALARS[form])

    def _loose(self, part: Part, logical: str, shape: Any, stored: Any) -> Any:
        holder = self._hold(part, {logical: self.f.parameter(stored)}, {})
        self._add(part, logical, holder.names[logical], shape)
        return holder

    def _make_choice(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        known = list("qkv")[: sizes["modes"]]
        loose = {name: self.f.parameter((sizes["c"],)) for name in known}
        holder = self._hold(part, loose, {})
        for name in known:
            self._add(part, name, holder.names[name], (sizes["c"],))
        return holder

    def _make_dropout(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        return self.f.dropout(sizes["percent"] / 100)

    def _add_norm(self, part: Part, sizes: dict[str, int]) -> None:
        if sizes["affine"]:
            for leaf in ("weight", "bias"):
                self._add(part, leaf, leaf, (sizes["c"],))

    def _make_layer_norm(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        self._add_norm(part, sizes)
        return self.f.layer_norm(**sizes)

    def _make_group_norm(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        self._add_norm(part, sizes)
        return self.f.group_norm(**sizes)

    def _make_batch_norm(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        self._add_norm(part, sizes)
        leaves = ("running_mean", "running_var") if self.side == TORCH else ("_mean", "_variance")
        for leaf, logical in zip(leaves, ("mean", "var"), strict=True):
            self._add(part, logical, leaf, (sizes["c"],))
        return self.f.batch_norm(**sizes, domain=self.net.domain)

    def _make_attention(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        c, bias = sizes["c"], sizes["bias"]
        names = ("q", "k", "v", "o")
        return self._maybe_fused(part, form, c, [c] * 3, sizes["heads"], bias, names)

    def _make_gated(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        inner = [sizes["o"]] * 2
        return self._maybe_fused(part, form, sizes["i"], inner, 1, sizes["bias"], ("g", "u"))

    def _maybe_fused(
        self, part: Part, form: str, i: int, outs: list[int], heads: int, bias: int, names: Any
    ) -> Any:
        """Make layers side by side, apart or in one; any name left over is a layer after them."""
        last = {n: self.f.linear(i, i, 1) for n in names[len(outs) :]}
        apart = dict(zip(names, outs, strict=False))
        layers = {n: self.f.linear(i, o, bias) for n, o in apart.items()}
        if form != "split":
            layers = {"all": self.f.linear(i, sum(outs), bias)}
        holder = self._hold(part, {}, layers | last)
        holder.__dict__["rows"] = rows = fused_rows(form, outs, heads) if form != "split" else None
        for number, (name, o) in enumerate(apart.items()):
            if rows is None:
                self._add_linear(part, f"{name}.", f"{holder.names[name]}.", i, o, bias)
                continue
            path, turned = f"{holder.names['all']}.", self.side != TORCH
            more = {"rows": rows[number], "axis": int(turned)}
            weight = (o, i), f"{path}weight"
            self._add(part, f"{name}.weight", weight[1], weight[0], turned=turned, **more)
            if bias:
                self._add(part, f"{name}.bias", f"{path}bias", (o,), rows=rows[number])
        for name in last:
            self._add_linear(part, f"{name}.", f"{holder.names[name]}.", i, i, 1)
        return holder

    def _make_library_attention(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        c, m = sizes["c"], sizes.get("m")
        for number, (name, width) in enumerate(zip("qkv", (c, m or c, m or c), strict=True)):
            rows = tuple(range(number * c, number * c + c))
            if self.side != TORCH:
                self._add_linear(part, f"{name}.", f"{name}_proj.", width, c, 1)
                continue
            self._add(part, f"{name}.bias", "in_proj_bias", (c,), rows=rows)
            if m:
                self._add(part, f"{name}.weight", f"{name}_proj_weight", (c, width))
            else:
                self._add(part, f"{name}.weight", "in_proj_weight", (c, width), rows=rows)
        self._add_linear(part, "o.", "out_proj.", c, c, 1)
        return self.f.attention(**sizes)

    _make_crossed_attention = _make_library_attention

    def _make_spectral_linear(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        return self._spectral(part, form, self.f.linear(sizes["i"], sizes["o"]), sizes)

    def _make_spectral_conv(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        return self._spectral(part, form, self.f.conv(**sizes), sizes)

    def _spectral(self, part: Part, form: str, layer: Any, sizes: dict[str, int]) -> Any:
        k, i, o = sizes.get("k", 1), sizes["i"], sizes["o"]
        names = {"weight": "weight_orig", "u": "weight_u", "v": "weight_v"}
        if form == "new":
            at = "parametrizations.weight"
            names = {"weight": f"{at}.original", "u": f"{at}.0._u", "v": f"{at}.0._v"}
        shape, turned = (o, i, k, k), False
        if k == 1:
            shape, turned = (o, i), self.side != TORCH
        self._add(part, "weight", names["weight"], shape, turned=turned)
        self._add(part, "u", names["u"], (o,))
        self._add(part, "v", names["v"], (i * k * k,))
        self._add(part, "bias", "bias", (o,))
        return self.f.spectral(layer, form)

    def _make_weight_norm_linear(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        return self._weighted(part, form, self.f.linear(sizes["i"], sizes["o"]), sizes)

    def _make_weight_norm_conv(self, part: Part, form: str, sizes: dict[str, int]) -> Any:
        return self._weighted(part, form, self.f.conv(**sizes), sizes)

    def _weighted(self, part: Part, form: str, layer: Any, sizes: dict[str, int]) -> Any:
        k, i, o = sizes.get("k", 1), sizes["i"], sizes["o"]
        at = "parametrizations.weight.original"
        g, v = (f"{at}0", f"{at}1") if form == "new" else ("weight_g", "weight_v")
        shape = (o, i) if k == 1 else (o, i, k, k)
        self._add(part, "g", g, (o,))
        self._add(part, "v", v, shape, turned=k == 1 and self.side != TORCH)
        self._add(part, "bias", "bias", (o,))
        return self.f.weighted(layer, form)

    def run(self, model: Any, x: Any, mode: str) -> Any:
        """Run the program."""
        side, found = self.net.sides[self.side], {"x": x}
        self.mode = mode
        for step in self.net.steps:
            if step.mode in ("", mode):
                inputs = [found[register] for register in step.of]
                taken = self.side in step.sides
                found[step.to] = self._take(model, step, inputs) if taken else inputs[0]
        results = {name: found[self.net.outputs[name]] for name in side.output_order}
        if side.container == "dict":
            return results
        return (
            tuple(results.values()) if side.container == "tuple" else next(iter(results.values()))
        )

    def _take(self, model: Any, step: Any, inputs: list[Any]) -> Any:
        f, x = self.f, inputs[0]
        if step.op == "part":
            return self._apply(model, self.net.parts[step.part], inputs)
        if step.op == "tied":
            return x @ f.permute(self._layer(model, step.part).weight, (1, 0))
        return {
            "add": lambda: x + inputs[1],
            "detach": lambda: x.detach(),
            "mean1": lambda: f.cat_free_mean(x, (1,)),
            "mean23": lambda: f.cat_free_mean(x, (2, 3)),
            "first": lambda: x[:, 0],
            "same": lambda: x,
            **{name: lambda name=name: f.FUNCTIONS[name](x) for name in f.FUNCTIONS},
        }[step.op]()

    def _layer(self, model: Any, part: str) -> Any:
        for name in self.net.sides[self.side].paths[part].split("."):
            model = getattr(model, name)
        return model

    def _apply(self, model: Any, part: Part, inputs: list[Any]) -> Any:
        layer, form, x = self._layer(model, part.name), part.forms[self.side], inputs[0]
        special = {
            "gamma": lambda: x * self._shape(self._own(layer, "value"), part.sizes["c"]),
            "scalar": lambda: x * self._own(layer, "value"),
            "choice": lambda: x * self._shape(self._own(layer, self._chosen()), part.sizes["c"]),
            "positions": lambda: x + self._positions(layer, form, part.sizes["n"]),
            "attention": lambda: self._attention(layer, x, part.sizes["heads"]),
            "gated": lambda: self._gated(layer, x),
            "library attention": lambda: self.f.attend(layer, x, x),
            "crossed attention": lambda: self.f.attend(layer, x, inputs[-1]),
        }
        if part.kind in special:
            return special[part.kind]()
        if part.kind == "pointwise" and form == "linear":
            return self.f.permute(layer(self.f.permute(x, (0, 2, 3, 1))), (0, 3, 1, 2))
        if part.kind == "linear" and form != "layer":
            weight = self._own(layer, "weight")
            y = x @ (weight if form == "in x out" else self.f.permute(weight, (1, 0)))
            return y + self._own(layer, "bias") if "bias" in layer.names else y
        return layer(x)

    def _own(self, layer: Any, known: str) -> Any:
        return getattr(layer, layer.names[known])

    def _chosen(self) -> str:
        return "qkv"[self.net.modes.index(self.mode)]

    def _shape(self, value: Any, c: int) -> Any:
        return value.reshape((1, c, 1, 1) if self.net.domain == "image" else (c,))

    def _positions(self, layer: Any, form: str, n: int) -> Any:
        return layer(self.f.arange(n)) if form == "table" else self._own(layer, "weight")

    def _gated(self, layer: Any, x: Any) -> Any:
        if layer.rows is None:
            gate, up = self._own(layer, "g")(x), self._own(layer, "u")(x)
        else:
            gate, up = self.f.split(self._own(layer, "all")(x), layer.rows)
        return self.f.FUNCTIONS["silu"](gate) * up

    def _attention(self, layer: Any, x: Any, heads: int) -> Any:
        if layer.rows is None:
            parts = [self._own(layer, name)(x) for name in "qkv"]
        else:
            parts = self.f.split(self._own(layer, "all")(x), layer.rows)
        b, t, c = x.shape
        q, k, v = (
            self.f.permute(p.reshape((b, t, heads, c // heads)), (0, 2, 1, 3)) for p in parts
        )
        scores = self.f.softmax(q @ self.f.permute(k, (0, 1, 3, 2)) / (c // heads) ** 0.5)
        mixed = self.f.permute(scores @ v, (0, 2, 1, 3)).reshape((b, t, c))
        return self._own(layer, "o")(mixed)
