"""Small networks of several towers, and mixtures of experts, written once for both frameworks.

Their names are those that such models carry; `rename` gives them others. Every network runs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

WIDTH, WORDS = 16, 40


def torch_parts():
    """What the networks are made of, in PyTorch."""
    import torch
    from torch import nn

    return SimpleNamespace(
        Base=nn.Module,
        List=nn.ModuleList,
        linear=nn.Linear,
        conv=nn.Conv2d,
        conv1d=nn.Conv1d,
        table=nn.Embedding,
        norm=nn.LayerNorm,
        tanh=torch.tanh,
        softmax=lambda x: torch.softmax(x, -1),
        join=lambda *xs: torch.cat(xs, 1),
        rows=lambda x: x.flatten(2).transpose(1, 2),
        swap=lambda x: x.transpose(1, 2),
        turned=lambda x: x.transpose(-1, -2),
        param=lambda *shape, trains=True: nn.Parameter(torch.zeros(shape), requires_grad=trains),
        buffer=lambda module, name, size: module.register_buffer(name, torch.zeros(size)),
        tensor=lambda x: torch.from_numpy(np.asarray(x)),
    )


def paddle_parts():
    """The same in Paddle."""
    import paddle
    from paddle import nn

    def param(*shape, trains=True):
        made = paddle.create_parameter(
            list(shape), "float32", default_initializer=nn.initializer.Constant(0.0)
        )
        made.stop_gradient = not trains
        return made

    def turned(x):
        axes = [*range(x.ndim)]
        return x.transpose([*axes[:-2], axes[-1], axes[-2]])

    return SimpleNamespace(
        Base=nn.Layer,
        List=nn.LayerList,
        linear=nn.Linear,
        conv=nn.Conv2D,
        conv1d=nn.Conv1D,
        table=nn.Embedding,
        norm=nn.LayerNorm,
        tanh=paddle.tanh,
        softmax=lambda x: nn.functional.softmax(x, -1),
        join=lambda *xs: paddle.concat(list(xs), 1),
        rows=lambda x: x.flatten(2).transpose([0, 2, 1]),
        swap=lambda x: x.transpose([0, 2, 1]),
        turned=turned,
        param=param,
        buffer=lambda module, name, size: module.register_buffer(name, paddle.zeros([size])),
        tensor=lambda x: paddle.to_tensor(np.asarray(x)),
    )


PARTS = {"torch": torch_parts, "paddle": paddle_parts}


def networks(framework: str, rename: Callable[[str], str] = str) -> SimpleNamespace:
    """Return functions that build the networks in a framework.

    Args:
        framework: `torch` or `paddle`.
        rename: Gives each module another name.
    """
    k = PARTS[framework]()

    class Net(k.Base):
        """A module with children under any names, and a function that runs it."""

        def __init__(self, run, /, **children):
            super().__init__()
            for name, child in children.items():
                setattr(self, rename(name), child)
            self.run = run

        def forward(self, *args):
            return self.run(lambda name: getattr(self, rename(name)), *args)

    # Parts of different sorts have different classes, as in any library.
    block_class, mixing, ffn_class = (type(n, (Net,), {}) for n in ("Block", "Mixing", "Ffn"))

    def attention(width):
        def run(get, x):
            weights = k.softmax(get("q_proj")(x) @ k.turned(get("k_proj")(x)))
            return get("o_proj")(weights @ get("v_proj")(x))

        return mixing(run, **{f"{name}_proj": k.linear(width, width) for name in "qkvo"})

    def block(width, ffn=None):
        def run(get, x):
            x = x + get("self_attn")(get("norm1")(x))
            return x + get("mlp")(x)

        parts = {"self_attn": attention(width), "norm1": k.norm(width)}
        return block_class(run, **parts, mlp=ffn or dense(width))

    def dense(width):
        def run(get, x):
            return get("down_proj")(k.tanh(get("up_proj")(x)))

        return ffn_class(
            run, up_proj=k.linear(width, 2 * width), down_proj=k.linear(2 * width, width)
        )

    def through(x, blocks):
        for each in blocks:
            x = each(x)
        return x

    def vision(width=12, **tail):
        def run(get, pixels):
            x = through(k.rows(get("patch_embed")(pixels)), get("layers"))
            x = get("post_norm")(x)
            return get("merger")(x) if tail else x

        layers = k.List([block(width) for _ in range(5)])
        patches = k.conv(3, width, 4, 4)
        return Net(run, patch_embed=patches, layers=layers, post_norm=k.norm(width), **tail)

    def audio(width=12):
        def run(get, sound):
            x = k.swap(get("conv2")(k.tanh(get("conv1")(sound))))
            return get("layer_norm")(through(x, get("layers")))

        layers = k.List([block(width) for _ in range(2)])
        convs = {"conv1": k.conv1d(8, width, 3), "conv2": k.conv1d(width, width, 3, 2)}
        return Net(run, **convs, layers=layers, layer_norm=k.norm(width))

    def text(depth=4, ffn=None):
        def run(get, ids, *before):
            x = k.join(*before, get("embed_tokens")(ids))
            return get("norm")(through(x, get("layers")))

        layers = k.List([block(WIDTH, ffn and ffn(n)) for n in range(depth)])
        return Net(run, embed_tokens=k.table(WORDS, WIDTH), layers=layers, norm=k.norm(WIDTH))

    def projector(width=12):
        def run(get, x):
            return get("linear_2")(k.tanh(get("linear_1")(x)))

        return Net(run, linear_1=k.linear(width, WIDTH), linear_2=k.linear(WIDTH, WIDTH))

    def seeing():
        def run(get, pixels, ids):
            seen = get("multi_modal_projector")(get("vision_tower")(pixels))
            return get("lm_head")(get("language_model")(ids, seen))

        return Net(
            run,
            vision_tower=vision(),
            multi_modal_projector=projector(),
            language_model=text(),
            lm_head=k.linear(WIDTH, WORDS),
        )

    def merging():
        def run(get, pixels, ids):
            return get("lm_head")(get("language_model")(ids, get("visual")(pixels)))

        visual = vision(merger=projector())
        head = k.linear(WIDTH, WORDS)
        return Net(run, visual=visual, language_model=text(), lm_head=head)

    def hearing():
        def run(get, sound, ids):
            heard = get("multi_modal_projector")(get("audio_tower")(sound))
            return get("lm_head")(get("language_model")(ids, heard))

        towers = {"audio_tower": audio(), "multi_modal_projector": projector()}
        return Net(run, **towers, language_model=text(), lm_head=k.linear(WIDTH, WORDS))

    def matching():
        def run(get, pixels, ids):
            seen = get("visual_projection")(get("vision_model")(pixels).mean(1))
            read = get("text_projection")(get("text_model")(ids).mean(1))
            return (seen * read).sum(1) * get("logit_scale").exp()

        made = Net(run, text_model=text(2), vision_model=vision())
        for name, width in (("visual_projection", 12), ("text_projection", WIDTH)):
            setattr(made, rename(name), k.linear(width, 8))
        setattr(made, rename("logit_scale"), k.param(1))
        return made

    def acting():
        def run(get, pixels, ids, action):
            seen = get("multi_modal_projector")(get("vision_tower")(pixels))
            read = get("language_model")(ids, seen)
            done = get("expert_layers")(k.join(read, get("action_in_proj")(action)))
            return get("action_out_proj")(done)

        def steps(get, x):
            return through(x, get("layers"))

        return Net(
            run,
            vision_tower=vision(),
            multi_modal_projector=projector(),
            language_model=text(2),
            expert_layers=Net(steps, layers=k.List([block(WIDTH) for _ in range(2)])),
            action_in_proj=k.linear(7, WIDTH),
            action_out_proj=k.linear(WIDTH, 7),
        )

    def painting():
        def run(get, pixels, ids):
            read = get("language_model")(ids, get("aligner")(get("vision_tower")(pixels)))
            drawn = read[:, :4].reshape([-1, WIDTH, 2, 2])
            return get("image_decoder")(drawn), get("lm_head")(read)

        def draw(get, x):
            return get("conv_out")(through(get("conv_in")(x), get("up")))

        def twice(get, x):
            return x + get("second")(k.tanh(get("first")(x)))

        def unit():
            convs = {n: k.conv(8, 8, 3, 1, 1) for n in ("first", "second")}
            return Net(twice, **convs)

        up = k.List([unit() for _ in range(2)])
        painter = Net(draw, conv_in=k.conv(WIDTH, 8, 1), up=up, conv_out=k.conv(8, 3, 1))
        towers = {"vision_tower": vision(), "aligner": projector()}
        towers |= {"language_model": text(2), "image_decoder": painter}
        return Net(run, **towers, lm_head=k.linear(WIDTH, WORDS))

    def mixture(bias="", shared=False, first_dense=False):
        """A mixture of experts; `bias` says how a balancing bias is kept, "" for none."""

        def run(get, x):
            chosen = k.softmax(get("gate")(x) + (get("moe_statics")() if bias == "alone" else 0))
            experts = zip(range(4), get("experts"), strict=True)
            out = sum(expert(x) * chosen[:, :, n : n + 1] for n, expert in experts)
            return out + get("shared_experts")(x) if shared else out

        def gate_with_bias():
            made = Net(lambda get, x: get("inner")(x) + made.e_score_correction_bias)
            setattr(made, rename("inner"), k.linear(WIDTH, 4))
            k.buffer(made, "e_score_correction_bias", 4)
            return made

        def statics():
            made = Net(lambda get: made.e_score_correction_bias)
            made.e_score_correction_bias = k.param(1, 4, trains=False)
            return made

        def ffn(number):
            if first_dense and not number:
                return dense(WIDTH)
            gate = gate_with_bias() if bias == "buffer" else k.linear(WIDTH, 4)
            parts = {"gate": gate, "experts": k.List([dense(WIDTH) for _ in range(4)])}
            parts |= {"moe_statics": statics()} if bias == "alone" else {}
            return Net(run, **parts, **({"shared_experts": dense(WIDTH)} if shared else {}))

        def whole(get, ids):
            return get("lm_head")(get("model")(ids))

        return Net(whole, model=text(3, ffn), lm_head=k.linear(WIDTH, WORDS))

    return SimpleNamespace(
        seeing=seeing,
        merging=merging,
        hearing=hearing,
        matching=matching,
        acting=acting,
        painting=painting,
        mixture=mixture,
    )


def with_lora(framework: str):
    """A network that sees, with adapters in both towers."""
    model = networks(framework).seeing()
    if framework == "torch":
        from examples.torchvision_on_cpu import import_torchvision

        import_torchvision()
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    from paddlenlp.peft import LoRAConfig, LoRAModel

    model.config = SimpleNamespace(tensor_parallel_degree=-1)
    return LoRAModel(model, LoRAConfig(r=2, target_modules=[".*q_proj", ".*v_proj"]))


def arrays_for(name: str) -> tuple[np.ndarray, ...]:
    """Return the arrays of a batch that a network runs on."""
    drawn = np.random.default_rng(0)
    pixels = drawn.standard_normal((2, 3, 8, 8)).astype(np.float32)
    sound = drawn.standard_normal((2, 8, 16)).astype(np.float32)
    action = drawn.standard_normal((2, 2, 7)).astype(np.float32)
    ids = drawn.integers(0, WORDS, (2, 5))
    others = {"hearing": (sound, ids), "acting": (pixels, ids, action), "mixture": (ids,)}
    return others.get(name, (pixels, ids))


def batch_for(name: str, framework: str) -> tuple:
    """Return a batch that a network runs on."""
    return tuple(map(PARTS[framework]().tensor, arrays_for(name)))


def _of(name: str, **more) -> Callable[[str], object]:
    return lambda framework: getattr(networks(framework), name)(**more)


NETWORKS = {
    "a network that sees": (_of("seeing"), "seeing"),
    "a network that sees, with lora": (with_lora, "seeing"),
    "a network that merges patches": (_of("merging"), "merging"),
    "a network that hears": (_of("hearing"), "hearing"),
    "a network that matches": (_of("matching"), "matching"),
    "a network that acts": (_of("acting"), "acting"),
    "a mixture of experts": (_of("mixture", shared=True, first_dense=True), "mixture"),
}
"""Networks by name: what builds each in a framework, and the name of its batch."""
