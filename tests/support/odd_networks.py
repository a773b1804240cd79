"""Small networks of odd shapes, as people write them, and what they mean by each word.

Each is built in both frameworks and never run: what a word selects without a batch is either what
its author means, or an error. `odd_networks.toml` says what that is.
"""

from __future__ import annotations

from types import SimpleNamespace

W, CLASSES = 8, 5


def torch_kit() -> SimpleNamespace:
    """What the networks are made of, in PyTorch."""
    import torch
    from torch import nn

    return _kit(
        nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Linear, nn.Conv2d,
        nn.Embedding, nn.LayerNorm, nn.BatchNorm2d, nn.ReLU,
        lambda *shape: nn.Parameter(torch.zeros(shape)),
    )  # fmt: skip


def paddle_kit() -> SimpleNamespace:
    """The same in Paddle."""
    import paddle
    from paddle import nn

    def param(*shape):
        return paddle.create_parameter(list(shape), "float32")

    return _kit(
        nn.Layer, nn.Sequential, nn.LayerList, nn.LayerDict, nn.Linear, nn.Conv2D,
        nn.Embedding, nn.LayerNorm, nn.BatchNorm2D, nn.ReLU, param,
    )  # fmt: skip


def _kit(base, row, list_, dict_, linear, conv, table, norm, bn, act, param) -> SimpleNamespace:
    classes: dict[str, type] = {}

    def make(type_name, /, *own, **children):
        """Build a module of a class, with parameters of its own and children in order."""
        if type_name not in classes:
            classes[type_name] = type(type_name, (base,), {})
        made = classes[type_name]()
        for leaf, shape in own:
            setattr(made, leaf, param(*shape))
        for name, child in children.items():
            setattr(made, name, child)
        return made

    k = SimpleNamespace(row=row, list=list_, dict=dict_, table=table, norm=norm, act=act)
    k.linear = lambda i=W, o=W: linear(i, o)
    k.conv = lambda i=W, o=W, size=3: conv(i, o, size)
    k.bn = lambda width=W: bn(width)
    k.make = make
    k.attention = lambda name="Attention", w=W: make(
        name, to_q=linear(w, w), to_k=linear(w, w), to_v=linear(w, w), to_out=linear(w, w)
    )
    k.ff = lambda w=W: make("FeedForward", up=linear(w, 2 * w), down=linear(2 * w, w))
    k.block = lambda w=W: make(
        "Block", norm1=norm(w), attn=k.attention(w=w), norm2=norm(w), mlp=k.ff(w)
    )
    k.res = lambda i=W, o=W: make(
        "Res", conv1=conv(i, o, 3), bn1=bn(o), conv2=conv(o, o, 3), bn2=bn(o)
    )
    k.patches = lambda w=W: conv(3, w, 4)
    return k


KITS = {"torch": torch_kit, "paddle": paddle_kit}


def head_first(k):
    return k.make(
        "Net",
        head=k.linear(W, CLASSES),
        stem=k.conv(3),
        body=k.list([k.res()] * 1 + [k.res(), k.res()]),
    )


def classifier_first_with_names_that_say_nothing(k):
    return k.make("Net", z1=k.linear(W, CLASSES), z2=k.conv(3), z3=k.list([k.res(), k.res()]))


def small_lists(k):
    layers = k.list([k.list([k.attention(), k.ff()]) for _ in range(4)])
    return k.make(
        "ViT", patch=k.patches(), layers=layers, norm=k.norm(W), head=k.linear(W, CLASSES)
    )


def small_lists_with_norms(k):
    layers = k.list([k.list([k.norm(W), k.attention(), k.norm(W), k.ff()]) for _ in range(3)])
    return k.make("ViT", patch=k.patches(), layers=layers, fc=k.linear(W, CLASSES))


def small_lists_with_rows(k):
    def mlp():
        return k.row(k.norm(W), k.linear(), k.act(), k.linear())

    layers = k.list([k.list([k.attention(), mlp()]) for _ in range(3)])
    return k.make("ViT", patch=k.patches(), layers=layers, fc=k.linear(W, CLASSES))


def wrapped_in_prenorm(k):
    def pre(inner):
        return k.make("PreNorm", norm=k.norm(W), fn=inner)

    layers = k.list([k.list([pre(k.attention()), pre(k.ff())]) for _ in range(3)])
    return k.make("T", layers=layers, to_logits=k.linear(W, CLASSES))


def small_dicts(k):
    layers = k.list([k.dict({"attn": k.attention(), "ff": k.ff()}) for _ in range(3)])
    return k.make("T", embed=k.table(20, W), layers=layers, head=k.linear(W, CLASSES))


def taking_turns(k):
    layers = k.list([part for _ in range(3) for part in (k.attention(), k.ff())])
    return k.make("T", embed=k.table(20, W), layers=layers, head=k.linear(W, CLASSES))


def with_cross_attention(k):
    layers = k.list(
        [k.list([k.attention(), k.attention("CrossAttention"), k.ff()]) for _ in range(3)]
    )
    return k.make("T", embed=k.table(20, W), layers=layers, head=k.linear(W, CLASSES))


def blocks_in_a_dict(k):
    body = k.dict({f"block{n}": k.block() for n in range(3)})
    return k.make("T", tok=k.table(20, W), body=body, ln=k.norm(W), out=k.linear(W, 20))


def blocks_as_attributes(k):
    return k.make("T", stem=k.conv(3), b1=k.res(), b2=k.res(), b3=k.res(), fc=k.linear(W, CLASSES))


def stages_of_stages(k):
    def stage(i, o):
        return k.row(k.res(i, o), k.res(o, o))

    return k.make(
        "Net",
        stem=k.conv(3),
        layers=k.list([stage(W, W), stage(W, 16), stage(16, 32)]),
        fc=k.linear(32, CLASSES),
    )


def wrapped_thrice(k):
    net = small_lists(k)
    for name in ("model", "module", "inner"):
        net = k.make("Wrapper", **{name: net})
    return net


def home_made(k):
    def layer(i, o):
        return k.make("MyLayer", ("matrix", (i, o)), ("b", (o,)))

    def block():
        return k.make("MyBlock", one=layer(W, W), two=layer(W, W))

    return k.make(
        "Net", first=layer(3, W), units=k.list([block(), block(), block()]), last=layer(W, CLASSES)
    )


def two_towers(k):
    def tower(stem):
        return k.make("Tower", embed=stem, blocks=k.list([k.block(), k.block()]), norm=k.norm(W))

    return k.make(
        "Clip",
        ("logit_scale", (1,)),
        image_tower=tower(k.patches()),
        text_tower=tower(k.table(20, W)),
        image_projection=k.linear(),
        text_projection=k.linear(),
    )


def tower_registered_last(k):
    lm = k.make(
        "Lm", embed_tokens=k.table(20, W), layers=k.list([k.block(), k.block()]), norm=k.norm(W)
    )
    vision = k.make(
        "Vit", patch_embed=k.patches(), blocks=k.list([k.block(), k.block()]), ln=k.norm(W)
    )
    return k.make(
        "Vlm",
        lm_head=k.linear(W, 20),
        language_model=lm,
        connector=k.row(k.linear(), k.act(), k.linear()),
        vision_tower=vision,
    )


def resampler_in_the_words(k):
    def lm():
        parts = {"embed_tokens": k.table(20, W), "layers": k.list([k.block(), k.block()])}
        return k.make("Lm", **parts, norm=k.norm(W), resampler_model=k.row(k.linear(), k.linear()))

    vision = k.make(
        "Vit", patch_embed=k.patches(), blocks=k.list([k.block(), k.block()]), ln=k.norm(W)
    )
    return k.make("Vlm", model=lm(), vision_model=vision, lm_head=k.linear(W, 20))


def mergers_before_the_blocks(k):
    def merger():
        return k.make("Merger", norm=k.norm(W), fc1=k.linear(), fc2=k.linear())

    visual = k.make(
        "Vit",
        patch_embed=k.patches(),
        merger=merger(),
        deepstack_merger_list=k.list([merger(), merger()]),
        blocks=k.list([k.block(), k.block()]),
    )
    lm = k.make(
        "Lm", embed_tokens=k.table(20, W), layers=k.list([k.block(), k.block()]), norm=k.norm(W)
    )
    return k.make("Vlm", visual=visual, language_model=lm, lm_head=k.linear(W, 20))


def tied(k):
    net = k.make("Lm", wte=k.table(20, W), h=k.list([k.block(), k.block()]), ln_f=k.norm(W))
    head = k.make("Head", dense=k.linear())
    head.weight = net.wte.weight
    net.lm_head = head
    return net


def mixture(k, router="gate", experts="experts", shared="shared_experts"):
    def moe():
        parts = {
            router: k.linear(W, 4),
            experts: k.list([k.ff() for _ in range(4)]),
            shared: k.ff(),
        }
        return k.make("Moe", **parts)

    def block():
        return k.make("Block", norm1=k.norm(W), attn=k.attention(), norm2=k.norm(W), mlp=moe())

    layers = k.list([block(), block()])
    return k.make(
        "Lm", embed_tokens=k.table(20, W), layers=layers, norm=k.norm(W), lm_head=k.linear(W, 20)
    )


def mixture_with_odd_names(k):
    return mixture(k, router="switch", experts="local_experts", shared="shared_expert")


def mixture_in_tensors(k):
    def block():
        experts = k.make("GroupedExperts", ("w1", (4, W, 16)), ("w2", (4, 16, W)))
        moe = k.make("Moe", router=k.linear(W, 4), experts=experts)
        return k.make("Block", norm1=k.norm(W), attn=k.attention(), moe=moe)

    return k.make(
        "Lm",
        tok_embeddings=k.table(20, W),
        layers=k.list([block(), block()]),
        output=k.linear(W, 20),
    )


def detector(k):
    backbone = k.make("Backbone", stem=k.conv(3), layers=k.list([k.res(), k.res()]))
    fpn = k.make("Fpn", lateral=k.list([k.conv(size=1), k.conv(size=1)]))
    rpn = k.make("RpnHead", conv=k.conv(), cls_logits=k.conv(W, 3, 1), bbox_pred=k.conv(W, 12, 1))
    box = k.make(
        "BoxHead",
        fc6=k.linear(),
        fc7=k.linear(),
        cls_score=k.linear(W, CLASSES),
        bbox_pred=k.linear(W, 20),
    )
    return k.make("Detector", backbone=backbone, neck=fpn, rpn_head=rpn, roi_heads=box)


def head_named_before_backbone(k):
    backbone = k.make("Backbone", stem=k.conv(3), layers=k.list([k.res(), k.res()]))
    return k.make(
        "Detector",
        bbox_head=k.make("H", cls=k.conv(W, CLASSES), reg=k.conv(W, 4)),
        backbone=backbone,
    )


def u_net(k):
    def double(i, o):
        return k.make("DoubleConv", a=k.conv(i, o), b=k.conv(o, o))

    downs = k.list([double(3, 8), double(8, 16)])
    ups = k.list([double(32, 16), double(16, 8)])
    return k.make("UNet", downs=downs, mid=double(16, 32), ups=ups, final=k.conv(8, CLASSES, 1))


def nested_model(k):
    inner = small_lists(k)
    return k.make("Probe", encoder=inner, probe_norm=k.norm(CLASSES), probe=k.linear(CLASSES, 3))


def several_heads(k):
    body = k.make("Body", stem=k.conv(3), layers=k.list([k.res(), k.res()]))
    heads = k.dict({"age": k.linear(W, 3), "sex": k.linear(W, 2)})
    return k.make("Net", body=body, heads=heads)


def heads_in_rows(k):
    body = k.make("Body", stem=k.conv(3), layers=k.list([k.res(), k.res()]))
    head = k.row(k.linear(W, 16), k.act(), k.linear(16, CLASSES))
    return k.make("Net", body=body, head=head)


def mlp_alone(k):
    return k.row(k.linear(3, W), k.act(), k.linear(), k.act(), k.linear(W, CLASSES))


def cnn_alone(k):
    features = k.row(k.conv(3, W), k.act(), k.conv(W, 16))
    return k.make(
        "Vgg", features=features, classifier=k.row(k.linear(16, W), k.act(), k.linear(W, CLASSES))
    )


def mixer(k):
    def block():
        return k.make("Mixer", norm1=k.norm(W), tokens=k.ff(), norm2=k.norm(W), channels=k.ff())

    return k.make(
        "Net",
        patch_embed=k.patches(),
        blocks=k.list([block(), block()]),
        norm=k.norm(W),
        head=k.linear(W, CLASSES),
    )


def pyramid_with_down_samplers(k):
    def stage(i, o):
        down = k.make("Down", norm=k.norm(i), reduction=k.linear(i, o))
        return k.make("Stage", downsample=down, blocks=k.list([k.block(o), k.block(o)]))

    return k.make(
        "Net",
        patch_embed=k.patches(),
        stages=k.list([stage(8, 16), stage(16, 32), stage(32, 64)]),
        norm=k.norm(64),
        head=k.linear(64, CLASSES),
    )


def encoder_and_decoder(k):
    def stack():
        return k.make("Stack", layers=k.list([k.block(), k.block()]), norm=k.norm(W))

    return k.make(
        "T5", shared=k.table(20, W), encoder=stack(), decoder=stack(), lm_head=k.linear(W, 20)
    )


def embeddings_last(k):
    parts = {"word_emb": k.table(20, W), "pos_emb": k.table(9, W), "norms": k.list([k.norm(W)])}
    layers = k.list([k.block(), k.block()])
    encoder = k.make("Enc", layers=layers)
    return k.make(
        "Bert", encoder=encoder, embeddings=k.make("Emb", **parts), classifier=k.linear(W, CLASSES)
    )


def siamese(k):
    def tower():
        return k.make("Tower", stem=k.conv(3), layers=k.list([k.res(), k.res()]))

    return k.make("Net", left=tower(), right=tower(), fuse=k.linear(16, W), score=k.linear(W, 1))


def actor_critic(k):
    body = k.make("Body", embed=k.linear(3, W), layers=k.list([k.ff(), k.ff()]))
    return k.make("Agent", body=body, policy=k.linear(W, 4), value=k.linear(W, 1))


def detector_of_two_stages(k):
    backbone = k.make(
        "Backbone",
        body=k.make("Body", conv1=k.conv(3), layer1=k.row(k.res(), k.res())),
        fpn=k.make("Fpn", inner=k.list([k.conv(size=1)]), layer=k.list([k.conv()])),
    )
    rpn = k.make(
        "Rpn",
        head=k.make(
            "RpnHead", conv=k.conv(), cls_logits=k.conv(W, 3, 1), bbox_pred=k.conv(W, 12, 1)
        ),
    )
    box = k.make(
        "Heads",
        box_head=k.make("Two", fc6=k.linear(), fc7=k.linear()),
        box_predictor=k.make("P", cls_score=k.linear(W, CLASSES), bbox_pred=k.linear(W, 20)),
    )
    return k.make("Detector", backbone=backbone, rpn=rpn, roi_heads=box)


def levels_of_a_u_net(k):
    def level(i, o):
        return k.list([k.res(i, i), k.res(i, i), k.attention(w=i), k.conv(i, o)])

    downs, ups = k.list([level(8, 16), level(16, 32)]), k.list([level(32, 16), level(16, 8)])
    return k.make(
        "Unet",
        init_conv=k.conv(3),
        time_mlp=k.row(k.linear(), k.linear()),
        downs=downs,
        mid=k.res(32, 32),
        ups=ups,
        final_conv=k.conv(8, 3, 1),
    )


def detr(k):
    def stack():
        return k.make("Stack", layers=k.list([k.block(), k.block()]))

    backbone = k.make(
        "Resnet", conv1=k.conv(3), layer1=k.row(k.res(), k.res()), layer2=k.row(k.res(), k.res())
    )
    boxes = k.make("Mlp", layers=k.list([k.linear(), k.linear(W, 4)]))
    return k.make(
        "Detr",
        transformer=k.make("T", encoder=stack(), decoder=stack()),
        class_embed=k.linear(W, CLASSES),
        bbox_embed=boxes,
        query_embed=k.table(7, W),
        input_proj=k.conv(size=1),
        backbone=backbone,
    )


def speech(k):
    subsample = k.make("Sub", conv1=k.conv(1), conv2=k.conv())
    layers = k.list(
        [
            k.make(
                "Conformer",
                ff1=k.ff(),
                self_attn=k.attention(),
                conv=k.make("C", a=k.conv(), b=k.conv()),
                ff2=k.ff(),
                norm=k.norm(W),
            )
            for _ in range(3)
        ]
    )
    return k.make(
        "Asr",
        encoder=k.make("Enc", embed=subsample, encoders=layers, after_norm=k.norm(W)),
        ctc=k.make("Ctc", ctc_lo=k.linear(W, 20)),
    )


def hybrid(k):
    def mamba():
        return k.make(
            "MambaBlock",
            norm=k.norm(W),
            mixer=k.make("Ssm", in_proj=k.linear(), out_proj=k.linear()),
        )

    layers = k.list([mamba(), k.block(), mamba(), k.block()])
    return k.make(
        "Lm", embeddings=k.table(20, W), layers=layers, norm_f=k.norm(W), lm_head=k.linear(W, 20)
    )


def one_block_many_times(k):
    block = k.block()
    return k.make(
        "Lm", embed=k.table(20, W), layers=k.list([block, block, block]), head=k.linear(W, 20)
    )


def recurrent_words(k):
    return k.make(
        "Lm",
        embedding=k.table(20, W),
        mix=k.make("Cell", a=k.linear(), b=k.linear()),
        fc=k.linear(W, 20),
    )


def graph(k):
    def conv():
        return k.make("GCNConv", ("bias", (W,)), lin=k.linear())

    convs = k.list([k.make("Layer", conv=conv(), mlp=k.ff()) for _ in range(3)])
    return k.make("Gnn", atom_encoder=k.table(9, W), convs=convs, lin=k.linear(W, CLASSES))


def hears_sees_and_reads(k):
    def tower(stem, **more):
        return k.make(
            "Tower", **stem, layers=k.list([k.block(), k.block()]), norm=k.norm(W), **more
        )

    thinker = k.make(
        "Thinker",
        audio_tower=tower({"conv1": k.conv(1)}, proj=k.linear()),
        visual=tower({"patch_embed": k.patches()}, merger=k.row(k.linear(), k.linear())),
        model=tower({"embed_tokens": k.table(20, W)}),
        lm_head=k.linear(W, 20),
    )
    return k.make("Omni", thinker=thinker)


def latents(k):
    own = ("latents", (4, W))
    return k.make(
        "Perceiver",
        own,
        cross_attend=k.make("Cross", attn=k.attention(), ff=k.ff()),
        layers=k.list([k.block(), k.block()]),
        to_logits=k.row(k.norm(W), k.linear(W, CLASSES)),
    )


def two_lists(k):
    return k.make(
        "Seq2seq",
        embed=k.table(20, W),
        encoder_layers=k.list([k.block(), k.block()]),
        decoder_layers=k.list([k.block(), k.block()]),
        out=k.linear(W, 20),
    )


def stages_in_a_dict(k):
    stages = k.dict(
        {f"layer{n}": k.row(k.res(8 * n, 8 * n), k.res(8 * n, 8 * (n + 1))) for n in (1, 2, 3)}
    )
    return k.make("Net", stem=k.conv(3), stages=stages, fc=k.linear(32, CLASSES))


def heads_before_the_body(k):
    heads = k.list([k.make("Task", fc1=k.linear(), fc2=k.linear(W, n)) for n in (2, 3)])
    return k.make(
        "Net", heads=heads, body=k.make("Body", stem=k.conv(3), layers=k.list([k.res(), k.res()]))
    )


def linear_layers_in_a_list(k):
    return k.make(
        "Mlp",
        inp=k.linear(3, W),
        hidden=k.list([k.linear() for _ in range(3)]),
        out=k.linear(W, CLASSES),
    )


def norms_before_the_head(k):
    return k.make(
        "Vit",
        ("cls_token", (1, 1, W)),
        ("pos_embed", (1, 9, W)),
        patch_embed=k.make("P", proj=k.patches()),
        norm_pre=k.norm(W),
        blocks=k.row(k.block(), k.block()),
        norm=k.norm(W),
        fc_norm=k.norm(W),
        head=k.linear(W, CLASSES),
    )


def captioner(k):
    cnn = k.make(
        "Cnn", conv1=k.conv(3), layer1=k.row(k.res(), k.res()), layer2=k.row(k.res(), k.res())
    )
    words = k.make(
        "Decoder", embed=k.table(20, W), layers=k.list([k.block(), k.block()]), fc=k.linear(W, 20)
    )
    return k.make("Caption", encoder=cnn, bridge=k.linear(), decoder=words)
