"""Drawing a network: what it computes first, then how each side writes it."""

from __future__ import annotations

from random import Random

from tests.support.pairs.drawn.description import MAIN, PADDLE, TORCH, Description, Part, Side, Step

VOCABULARY, LENGTH, CHANNELS, SIDE_LENGTH = 11, 5, 3, 7
ACTS = ("relu", "gelu", "tanh", "silu")
SYLLABLES = ("ba", "ke", "lo", "mi", "nu", "ra", "so", "ti", "ve", "zu", "fa", "do", "gi", "po")


def draw(seed: int) -> Description:
    """Draw a network; a seed always gives the same."""
    drawing = {"tokens": _Tokens, "vector": _Vector, "image": _Image}
    random = Random(seed)
    domain = random.choice(list(drawing))
    made = drawing[domain](random, Description(seed, domain))
    made.network()
    _write_sides(random, made.net)
    return made.net


class _Drawing:
    """What all domains draw alike."""

    def __init__(self, random, net):
        self.random, self.net = random, net
        self.width = random.choice((6, 8))
        self.fused_side = random.choice((None, TORCH, PADDLE))
        self.other_modes = ["second", "third"][: random.choice((1, 2))]

    def chance(self, share):
        return self.random.random() < share

    def part(self, kind, forms=("layer", "layer"), **sizes):
        name = f"p{len(self.net.parts)}"
        self.net.parts[name] = Part(name, kind, sizes, forms)
        return name

    def step(self, op, *of, part="", mode="", sides=(TORCH, PADDLE), to=""):
        to = to or f"r{len(self.net.steps)}"
        self.net.steps.append(Step(op, to, of, part, mode, sides))
        return to

    def apply(self, x, kind, forms=("layer", "layer"), mode="", to="", **sizes):
        part = self.part(kind, forms, **sizes)
        return self.step("part", x, part=part, mode=mode, to=to)

    def act(self, x):
        op = self.random.choice(ACTS)
        if self.chance(0.3):
            return self.apply(x, op)
        return self.step(op, x)

    def forms(self, *choices):
        """Choose a form for each side."""
        return self.random.choice(choices), self.random.choice(choices)

    def fused_forms(self, *fused):
        """Fuse on one side, perhaps; a network in which both fuse something has no such side."""
        forms = ["split", "split"]
        side = self.random.choice((TORCH, PADDLE)) if self.fused_side is None else self.fused_side
        if self.chance(0.8):
            forms[side] = self.random.choice(fused)
        return tuple(forms)

    def linear(self, x, to_width, *, plain=False):
        forms = ("layer", "layer")
        if not plain and self.chance(0.3):
            forms = self.forms("layer", "in x out", "out x in")
        bias = self.random.choice((0, 1, 1))
        made = self.apply(x, "linear", forms, i=self.width, o=to_width, bias=bias)
        self.width = to_width
        return made

    def maybe_norm(self, x):
        return self.norm(x) if self.chance(0.6) else x

    def gamma(self, x):
        self.multiply("gamma")
        return self.apply(x, "gamma", self.forms(*self.gammas), c=self.width)

    def scalar(self, x):
        self.multiply("scalar")
        return self.apply(x, "scalar", self.forms("[]", "[1]", "[1, 1]"))

    def multiply(self, kind):
        """Note that two factors of one product cannot be told apart."""
        if any(part.kind == kind for part in self.net.parts.values()):
            self.net.obstacles.add("twins")

    def dropout(self, x):
        return self.apply(x, "dropout", percent=self.random.choice((0, 10, 30)))

    def modal(self, x):
        """Something that another mode does otherwise."""
        sorts = (self.layer, self.layer, self.adapters, self.adapters, self.choices)
        return self.random.choice(sorts)(x)

    def adapters(self, x):
        """One layer a mode; only the first runs where pairing looks."""
        self.net.modes = [MAIN, *self.other_modes]
        to, first = f"r{len(self.net.steps)}", len(self.net.parts)
        for mode in self.net.modes:
            self.adapter(x, mode, to)
        if self.chance(0.5):
            self.net.lists.append([f"p{n}" for n in range(first, len(self.net.parts))])
        return to

    def choices(self, x):
        """One loose vector a mode, all of one module that runs."""
        self.net.modes = [MAIN, *self.other_modes]
        part = self.part("choice", c=self.width, modes=len(self.net.modes))
        self.net.obstacles.add("choices")
        return self.step("part", x, part=part)

    def twins(self, x):
        """Two layers that the network treats alike."""
        self.net.obstacles.add("twins")
        act, width = self.random.choice(ACTS), self.width
        one, other = (self.step(act, self.branch(x, width)) for _ in range(2))
        return self.step("add", one, other)

    def branches(self, x):
        """Two layers that differ in what follows them."""
        acts, width = self.random.sample(ACTS, 2), self.width
        one, other = (self.step(act, self.branch(x, width)) for act in acts)
        return self.step("add", one, other)

    def cut_off(self, x):
        """Let no gradient back from here, on one side or on both."""
        sides = self.random.choice(((TORCH, PADDLE), (TORCH,), (PADDLE,)))
        self.net.cut |= self.net.parts.keys()
        return self.step("detach", x, sides=sides)

    def blocks(self, x, weights, most):
        sorts = [name for name, times in weights.items() for _ in range(times)]
        for _ in range(self.random.randint(1, most)):
            x = getattr(self, self.random.choice(sorts))(x)
        return x

    def network(self):
        x = self.stem()
        if self.net.parts and self.chance(0.12):
            x = self.cut_off(x)
        x = self.blocks(x, self.sorts, 4)
        if self.chance(0.05):
            x = self.twins(x)
        x = self.pool(x)
        self.heads(x)
        if self.chance(0.05):
            self.part("linear", i=self.width, o=4, bias=1)  # no mode runs it

    def heads(self, x):
        width = self.width
        count = self.random.choice((1, 1, 2, 3))
        for number in range(count):
            self.width = width
            y = self.linear(x, self.random.choice((3, 3, 4)), plain=number == 0)
            if count > 1 and number == 1 and self.chance(0.2):
                y = self.step("detach", y)  # on both sides, so that this head gets no gradient
                part = self.net.parts[self.net.steps[-2].part]
                self.net.cut.add(part.name)
                if part.sizes["i"] == part.sizes["o"] and part.forms != ("layer", "layer"):
                    self.net.obstacles.add("square")  # nothing says how it is stored
            self.net.outputs[f"head{number}"] = y
        self.width = width
        if self.chance(0.15):
            self.net.outputs["hidden"] = x


class _Vector(_Drawing):
    gammas = ("c", "1c", "c1")
    sorts = {  # noqa: RUF012
        "layer": 4,
        "maybe_norm": 2,
        "gamma": 1,
        "scalar": 1,
        "spectral": 1,
        "weighted": 1,
        "branches": 1,
        "modal": 1,
        "dropout": 1,
        "gated": 1,
    }

    def stem(self):
        self.width = self.random.choice((5, 7))
        return self.linear("x", self.random.choice((6, 8)), plain=True)

    def layer(self, x):
        return self.act(self.linear(x, self.random.choice((6, 8, self.width))))

    def norm(self, x):
        kind = self.random.choice(("layer norm", "layer norm", "batch norm"))
        return self.apply(x, kind, c=self.width, affine=int(self.chance(0.7)))

    def spectral(self, x):
        forms = self.random.choice(("old", "new")), "layer"
        return self.act(self.apply(x, "spectral linear", forms, i=self.width, o=self.width))

    def weighted(self, x):
        forms = self.random.choice(("old", "new")), "layer"
        return self.act(self.apply(x, "weight norm linear", forms, i=self.width, o=self.width))

    def gated(self, x):
        forms = self.fused_forms("fused", "fused swapped")
        inner = self.random.choice((5, 10))
        y = self.apply(x, "gated", forms, i=self.width, o=inner, bias=self.random.choice((0, 1)))
        return self.step("add", x, self.apply(y, "linear", i=inner, o=self.width, bias=1))

    def branch(self, x, width):
        return self.apply(x, "linear", i=self.width, o=width, bias=1)

    def adapter(self, x, mode, to):
        self.apply(x, "linear", mode=mode, to=to, i=self.width, o=self.width, bias=1)

    def pool(self, x):
        return x


class _Tokens(_Vector):
    gammas = ("c", "1c", "11c")
    sorts = {  # noqa: RUF012
        "layer": 2,
        "maybe_norm": 2,
        "attention": 3,
        "library_attention": 1,
        "crossed": 1,
        "gated": 2,
        "gamma": 1,
        "scalar": 1,
        "modal": 1,
        "dropout": 1,
        "branches": 1,
    }

    def stem(self):
        x = self.apply("x", "table", n=VOCABULARY, c=self.width)
        self.words = self.net.steps[-1].part
        if self.chance(0.6):
            forms = self.forms("table", "flat", "wide")
            x = self.apply(x, "positions", forms, n=LENGTH, c=self.width)
        return self.norm(x) if self.chance(0.7) else x

    def norm(self, x):
        return self.apply(x, "layer norm", c=self.width, affine=int(self.chance(0.8)))

    def attention(self, x):
        forms = self.fused_forms("fused", "fused by head", "fused v first")
        y = self.apply(
            x, "attention", forms, c=self.width, heads=2, bias=self.random.choice((0, 1))
        )
        return self.maybe_norm(self.step("add", x, y))

    def library_attention(self, x):
        return self.step("add", x, self.apply(x, "library attention", c=self.width, heads=2))

    def crossed(self, x):
        """Attention to something of another width: one bias is fused in PyTorch, no matrix."""
        memory = self.apply(x, "linear", i=self.width, o=5, bias=1)
        part = self.part("crossed attention", c=self.width, heads=2, m=5)
        return self.step("add", x, self.step("part", x, memory, part=part))

    def pool(self, x):
        return self.step(self.random.choice(("mean1", "first", "same")), x)

    def heads(self, x):
        super().heads(x)
        table = self.net.parts[self.words]
        fits = self.width == table.sizes["c"] and self.words not in self.net.cut
        if fits and self.chance(0.25):
            self.net.tied = self.words
            self.net.outputs["words"] = self.step("tied", x, part=self.words)


class _Image(_Drawing):
    gammas = ("c", "c11", "1c11")
    sorts = {  # noqa: RUF012
        "layer": 3,
        "residual": 2,
        "gamma": 1,
        "scalar": 1,
        "pointwise": 1,
        "depthwise": 1,
        "weighted": 1,
        "spectral": 1,
        "modal": 1,
        "branches": 1,
        "loose_norms": 1,
        "dropout": 1,
    }

    def stem(self):
        self.width, inner = CHANNELS, self.random.choice((4, 6))
        return self.maybe_norm(self.plain_conv("x", inner))

    def plain_conv(self, x, to_width, k=3, **more):
        bias = self.random.choice((0, 1))
        made = self.apply(x, "conv", i=self.width, o=to_width, k=k, bias=bias, **more)
        self.width = to_width
        return made

    def norm(self, x):
        kind = self.random.choice(("batch norm", "batch norm", "group norm"))
        # Without a weight, Paddle 3.3's group norm passes a wrong gradient on.
        affine = int(kind == "group norm" or self.chance(0.75))
        return self.apply(x, kind, c=self.width, affine=affine)

    def layer(self, x):
        return self.act(self.maybe_norm(self.plain_conv(x, self.random.choice((4, 6)))))

    def pointwise(self, x):
        forms = self.forms("layer", "layer", "linear")
        bias = self.random.choice((0, 1))
        return self.act(self.apply(x, "pointwise", forms, i=self.width, o=self.width, bias=bias))

    def depthwise(self, x):
        return self.act(self.plain_conv(x, self.width, groups=self.width))

    def weighted(self, x):
        forms = self.random.choice(("old", "new")), "layer"
        return self.act(self.apply(x, "weight norm conv", forms, i=self.width, o=self.width, k=3))

    def spectral(self, x):
        forms = self.random.choice(("old", "new")), "layer"
        return self.act(self.apply(x, "spectral conv", forms, i=self.width, o=self.width, k=3))

    def residual(self, x):
        """A main branch and a short one, whose norms' biases add up."""
        width, there = self.width, self.random.choice((4, 6))
        main = self.norm(self.plain_conv(x, there))
        self.width = width
        short = self.norm(self.plain_conv(x, there, k=1))
        return self.act(self.step("add", main, short))

    def loose_norms(self, x):
        """Two batch norms without weights, which no gradient tells apart."""
        for _ in range(2):
            x = self.apply(self.act(x), "batch norm", c=self.width, affine=0)
        return x

    def branch(self, x, width):
        return self.apply(x, "conv", i=self.width, o=width, k=3, bias=1)

    def adapter(self, x, mode, to):
        self.apply(x, "conv", mode=mode, to=to, i=self.width, o=self.width, k=1, bias=1)

    def pool(self, x):
        return self.step("mean23", x)


def _write_sides(random: Random, net: Description) -> None:
    net.naming = random.choice(("same", "same", "random", "random", "permuted"))
    paths = _paths(random, net)
    for side, known in zip(net.sides, paths, strict=True):
        side.paths = known
        side.order = list(net.parts)
        if random.random() < 0.7:
            random.shuffle(side.order)
    _write_outputs(random, net)
    if net.naming == "same":
        net.obstacles -= {"twins", "choices"}
        # A number in a list says what it is of only where others of that list ran.
        net.obstacles |= {"idle"} if net.lists else set()
    elif net.idle:
        net.obstacles.add("idle")
    if random.random() < 0.2:
        net.inputs = ("ids", "tokens") if net.domain == "tokens" else ("x", "data")


def _paths(random: Random, net: Description) -> tuple[dict[str, str], dict[str, str]]:
    one = _drawn_paths(random, net)
    if net.naming == "same":
        return one, dict(one)
    if net.naming == "random":
        return one, _drawn_paths(random, net)
    other = _permuted(random, net, one) if not net.lists else dict(one)
    for parts in net.lists:  # the same lists, in another order
        names = [other[part] for part in parts]
        random.shuffle(names)
        other |= dict(zip(parts, names, strict=True))
    return one, other


def _permuted(random: Random, net: Description, one: dict[str, str]) -> dict[str, str]:
    """Give the parts each other's names, so that one which runs has another's."""
    names, other = list(one.values()), dict(one)
    running = [part for part in net.parts if part not in net.idle]
    while len(running) > 1 and all(other[part] == one[part] for part in running):
        random.shuffle(names)
        other = dict(zip(one, names, strict=True))
    return other


def _drawn_paths(random: Random, net: Description) -> dict[str, str]:
    words = {"".join(random.choices(SYLLABLES, k=3)) for _ in range(3 * len(net.parts) + 20)}
    names = random.sample(sorted(words), len(net.parts) + 4)
    groups = ["", *names[:2], f"{names[2]}.{names[3]}"]
    made = {}
    for part, name in zip(net.parts, names[4:], strict=True):
        group = random.choice(groups)
        made[part] = f"{group}.{name}" if group else name
    for number, parts in enumerate(net.lists):
        order = list(range(len(parts)))
        random.shuffle(order)
        for part, place in zip(parts, order, strict=True):
            made[part] = f"{names[0]}{number}.{place}"
    return made


def _write_outputs(random: Random, net: Description) -> None:
    names = list(net.outputs)
    random.shuffle(names)
    single = len(names) == 1
    kinds = [random.choice(("bare", "tuple", "dict") if single else ("tuple", "dict"))] * 2
    if random.random() < (0.5 if single else 0.15):
        kinds[PADDLE] = random.choice(("tuple", "dict"))
    for side, kind in zip(net.sides, kinds, strict=True):
        side.container, side.output_order = kind, list(names)
        if kind == "dict":
            random.shuffle(side.output_order)
    if len(set(kinds)) > 1 and _alike(net):
        net.obstacles.add("outputs")


def _alike(net: Description) -> bool:
    """Tell whether two outputs are of one shape, so that they could be swapped."""
    by_register = {step.to: step for step in net.steps}
    shapes = []
    for register in net.outputs.values():
        step = by_register[register]
        step = by_register[step.of[0]] if step.op == "detach" else step
        sizes = net.parts[step.part].sizes if step.part and step.op == "part" else {}
        shapes.append(sizes.get("o"))
    known = [shape for shape in shapes if shape is not None]
    return len(set(known)) < len(known)


__all__ = ["MAIN", "Side", "draw"]
