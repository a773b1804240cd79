"""Models written by hand, as the trees a backend would find: no framework, nothing derived.

A model is a node: what a module holds itself, and its children by name. One `Weight` object held in
two places is one tensor with two names; one node in two places is one module met twice.

    tree(module("Net", blocks=stack(block, block), head=linear(8, 2)))
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unifreeze._structure import CONTAINER, State, Tensor, Trace, Tree, derive


class Weight:
    """One parameter tensor; which one it is goes by identity."""

    def __init__(
        self, *shape, trainable=True, fixed="", impossible=False, adapter=False, dtype="float32"
    ):
        self.shape, self.trainable, self.adapter = shape, trainable, adapter
        self.tensor = Tensor(shape, shape, dtype, fixed, impossible)


@dataclass(eq=False)
class Node:
    """One module: its class and kind, its own tensors by leaf, and its children by name."""

    type: str
    kind: str = ""
    own: dict[str, Weight] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)
    states: tuple[tuple[str, str, bool], ...] = ()
    """Leaf, role, and whether training moves it."""


def module(type_name, own=None, **children):
    """A module of no kind in particular."""
    return Node(type_name, "", own or {}, children)


def stack(*children, **named):
    """A list-like container: children by position, or by name."""
    return Node("Stack", CONTAINER, {}, {str(n): c for n, c in enumerate(children)} | named)


def linear(fan_in, fan_out, *, bias=True, weight=None):
    """A linear layer; pass `weight` to tie it."""
    own = {"weight": weight or Weight(fan_out, fan_in)}
    return Node("Linear", "linear", own | ({"bias": Weight(fan_out)} if bias else {}))


def conv(fan_in, fan_out, *, bias=False):
    """A convolution with a 3x3 kernel."""
    own = {"weight": Weight(fan_out, fan_in, 3, 3)}
    return Node("Conv2d", "conv", own | ({"bias": Weight(fan_out)} if bias else {}))


def norm(width, *, statistics=False, affine=True):
    """A normalisation layer, with running statistics or without."""
    own = {"weight": Weight(width), "bias": Weight(width)} if affine else {}
    states = (("running_mean", "mean", True), ("running_var", "var", True)) if statistics else ()
    return Node("BatchNorm2d" if statistics else "LayerNorm", "norm", own, {}, states)


def embedding(rows, width, *, weight=None):
    """A lookup table."""
    return Node("Embedding", "embedding", {"weight": weight or Weight(rows, width)})


def dropout():
    """A layer that draws random numbers."""
    return Node("Dropout", "dropout")


def act():
    """A layer that holds nothing."""
    return Node("ReLU", "")


def node_at(node, path):
    """The node at a path below another."""
    for name in path.split(".") if path else ():
        node = node.children[name]
    return node


def tree(root, *, framework="torch", members=False):
    """Write a model down as its backend would."""
    made = Tree(framework)
    seen: set[int] = set()

    def visit(node, path, parent):
        index = made.enter(path, node.type, node.kind, parent, repeat=id(node) in seen)
        seen.add(id(node))
        for leaf, weight in node.own.items():
            number = made.tensor(id(weight))
            if number is None:
                number = made.add_tensor(id(weight), weight.tensor, trainable=weight.trainable)
            made.add_name(_join(path, leaf), index, leaf, number, adapter=weight.adapter)
        for leaf, role, moves in node.states:
            made.states.append(State(_join(path, leaf), index, role, moves, (1,), "float32"))
        for name, child in node.children.items():
            visit(child, _join(path, name), index)
        made.leave(index)

    visit(root, "", -1)
    made.members = tuple(root.children) if members else ()
    return made


def spec(root, *, calls=None, shapes=None, framework="torch", members=False):
    """Describe a model; with `calls`, as if a forward pass had used its modules in that order."""
    trace = None if calls is None else Trace(tuple(calls), shapes or {})
    return derive(tree(root, framework=framework, members=members), trace)


def several(**models):
    """Several models that one plan takes in."""
    return spec(Node("Group", CONTAINER, {}, models), members=True)


def _join(path, leaf):
    return f"{path}.{leaf}" if path else leaf


# The models ---------------------------------------------------------------------------------


def bottleneck(fan_in, width):
    """A block of two convolutions, each followed by a norm."""
    return module(
        "Bottleneck",
        conv1=conv(fan_in, width),
        bn1=norm(width, statistics=True),
        conv2=conv(width, width),
        bn2=norm(width, statistics=True),
    )


def conv_net(stages=4, depth=2):
    """A residual network: stem, `stages` stages of `depth` blocks, one linear layer."""
    layers = {}
    for number in range(stages):
        width = 8 * (number + 1)
        first = bottleneck(8 * max(number, 1), width)
        if number:
            first.children["downsample"] = stack(
                conv(8 * number, width), norm(width, statistics=True)
            )
        layers[f"layer{number + 1}"] = stack(
            first, *(bottleneck(width, width) for _ in range(depth - 1))
        )
    return module(
        "ResNet",
        conv1=conv(3, 8),
        bn1=norm(8, statistics=True),
        relu=act(),
        **layers,
        fc=linear(8 * stages, 10),
    )


def attention(width=8, names=("query", "key", "value")):
    """Self-attention with three projections, and one out of it."""
    return module(
        "Attention",
        self=module("SelfAttention", **{name: linear(width, width) for name in names}),
        output=module("AttentionOutput", dense=linear(width, width), norm=norm(width)),
    )


def encoder_block(width=8, names=("query", "key", "value")):
    """One transformer block."""
    return module(
        "EncoderBlock",
        attention=attention(width, names),
        intermediate=module("Intermediate", dense=linear(width, 2 * width)),
        output=module("Output", dense=linear(2 * width, width), norm=norm(width)),
        dropout=dropout(),
    )


def embeddings(width=8, words=None, order=("word", "position", "token_type")):
    """Three tables and a norm."""
    tables = {f"{name}_embeddings": embedding(5, width) for name in order}
    tables["word_embeddings"] = embedding(11, width, weight=words)
    tables = {f"{name}_embeddings": tables[f"{name}_embeddings"] for name in order}
    return module("Embeddings", **tables, norm=norm(width), dropout=dropout())


def text_model(depth=4, width=8, order=("query", "key", "value"), tables=None):
    """A transformer encoder with a pooler and a head tied to its table of words."""
    words = Weight(11, width)
    return module(
        "ForMaskedWords",
        text=module(
            "TextModel",
            embeddings=embeddings(width, words, tables or ("word", "position", "token_type")),
            encoder=module(
                "Encoder", layer=stack(*(encoder_block(width, order) for _ in range(depth)))
            ),
            pooler=module("Pooler", dense=linear(width, width)),
        ),
        cls=module(
            "Predictions",
            transform=linear(width, width),
            norm=norm(width),
            decoder=linear(width, 11, weight=words),
        ),
    )


def seq_block(width=8, *, cross=False):
    """One block of an encoder or, with `cross`, a decoder."""
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    parts = {
        "self_attn": module("Attention", **{n: linear(width, width) for n in projections}),
        "self_attn_norm": norm(width),
    }
    if cross:
        parts["cross_attn"] = module("Attention", **{n: linear(width, width) for n in projections})
        parts["cross_attn_norm"] = norm(width)
    return module(
        "DecoderBlock" if cross else "EncoderBlock",
        **parts,
        fc1=linear(width, 2 * width),
        fc2=linear(2 * width, width),
        final_norm=norm(width),
    )


def encoder_decoder(depths=(3, 2), width=8):
    """Two stacks that share one table of words with the head."""
    words = Weight(11, width)

    def side(name, depth, **kind):
        return module(
            name,
            embed_tokens=embedding(11, width, weight=words),
            embed_positions=embedding(7, width),
            layers=stack(*(seq_block(width, **kind) for _ in range(depth))),
            layer_norm=norm(width),
        )

    return module(
        "Translator",
        model=module(
            "Seq2Seq",
            shared=embedding(11, width, weight=words),
            encoder=side("Encoder", depths[0]),
            decoder=side("Decoder", depths[1], cross=True),
        ),
        lm_head=linear(width, 11, bias=False, weight=words),
    )


def fused_block(width=8):
    """A block whose query, key and value are one tensor."""
    return module(
        "Block",
        norm1=norm(width),
        attn=module("Attention", qkv=linear(width, 3 * width), proj=linear(width, width)),
        norm2=norm(width),
        mlp=module("Mlp", fc1=linear(width, 2 * width), fc2=linear(2 * width, width)),
    )


def image_model(depth=3, width=8):
    """A transformer over patches: loose tensors on the root, fused projections, a head."""
    return module(
        "ImageModel",
        own={"cls_token": Weight(1, 1, width), "pos_embed": Weight(1, 5, width)},
        patch_embed=module("PatchEmbed", proj=conv(3, width, bias=True)),
        blocks=stack(*(fused_block(width) for _ in range(depth))),
        norm=norm(width),
        head=linear(width, 10),
    )


def two_towers(depths=(3, 2), width=8):
    """An image tower and a text tower under one roof, a projection for each."""
    return module(
        "TwoTowers",
        own={"logit_scale": Weight()},
        vision_model=module(
            "VisionTower",
            embed=module("Patches", patch_embedding=conv(3, width)),
            encoder=module("Encoder", layers=stack(*(seq_block(width) for _ in range(depths[0])))),
            post_norm=norm(width),
        ),
        text_model=module(
            "TextTower",
            embed=module(
                "Tokens", token_embedding=embedding(11, width), pos_embedding=embedding(7, width)
            ),
            encoder=module("Encoder", layers=stack(*(seq_block(width) for _ in range(depths[1])))),
            final_norm=norm(width),
        ),
        vision_projection=linear(width, 4, bias=False),
        text_projection=linear(width, 4, bias=False),
    )


def plain_conv_net():
    """Convolutions in a row, then linear layers: no blocks."""
    return module(
        "PlainConvNet",
        features=stack(conv(3, 8, bias=True), act(), conv(8, 8, bias=True), act()),
        classifier=stack(linear(8, 8), act(), dropout(), linear(8, 8), act(), linear(8, 10)),
    )


def perceptron(depth=3):
    """Linear layers in a row."""
    return stack(*(linear(4, 4) for _ in range(depth)))


def mixture(experts=3, depth=2, width=8):
    """Blocks with a router and experts."""

    def block():
        expert = [
            module("Expert", up=linear(width, 4), down=linear(4, width)) for _ in range(experts)
        ]
        return module(
            "MoeBlock",
            attn=module("Attention", q_proj=linear(width, width), o_proj=linear(width, width)),
            gate=linear(width, experts, bias=False),
            experts=stack(*expert),
            norm=norm(width),
        )

    return module(
        "Mixture",
        embed_tokens=embedding(11, width),
        layers=stack(*(block() for _ in range(depth))),
        norm=norm(width),
        lm_head=linear(width, 11, bias=False),
    )


def adapted(layer, rank=2):
    """Give a linear layer a pair of low-rank adapters, as its own tensors."""
    fan_out, fan_in = layer.own["weight"].shape
    layer.own["lora_A"] = Weight(rank, fan_in, adapter=True)
    layer.own["lora_B"] = Weight(fan_out, rank, adapter=True)
    return layer


MODELS = {
    "conv_net": conv_net,
    "text_model": text_model,
    "encoder_decoder": encoder_decoder,
    "image_model": image_model,
    "two_towers": two_towers,
    "plain_conv_net": plain_conv_net,
    "mixture": mixture,
}
