"""Networks that people fine-tune, built the same in both frameworks.

`structure(name, framework)` builds one at full size without values, on PyTorch's meta device or
under Paddle's LazyGuard. `runnable(name, framework)` builds one that `ZOO[name].batch()` runs
through: a language model a few units wide, a vision network as it is. Values never matter, so none
are drawn at random where that takes time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from examples.torchvision_on_cpu import import_torchvision
from unifreeze._protocol import Batch

FRAMEWORKS = ("torch", "paddle")


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        build: How each framework that has it builds it, from sizes.
        batch: Inputs for it at these sizes:
        sizes: its small sizes.
        full: Whether its full size is within reason.
        runs: The frameworks whose implementation runs in the versions pinned here.
        on_meta: PyTorch runs it without values.
    """

    build: dict[str, Callable[..., Any]]
    batch: Callable[[], Batch]
    sizes: dict[str, Any] = field(default_factory=dict)
    full: bool = True
    runs: tuple[str, ...] = FRAMEWORKS
    on_meta: bool = False


def structure(name: str, framework: str) -> Any:
    """Build a network at full size, without values."""
    with _without_values(framework):
        return ZOO[name].build[framework]()


def runnable(name: str, framework: str, **more: Any) -> Any:
    """Build a network that runs: small where it can be."""
    network = ZOO[name]
    bare = framework == "torch" and network.on_meta
    with _without_values(framework) if bare else _with_plain_values(framework):
        return network.build[framework](**{**network.sizes, **more})


def _without_values(framework: str) -> AbstractContextManager[Any]:
    if framework == "torch":
        import torch

        return torch.device("meta")
    return _paddle_values(lazy=True)


@contextmanager
def _with_plain_values(framework: str) -> Iterator[None]:
    if framework == "torch":
        yield
        return
    from paddle.nn import initializer

    initializer.set_global_initializer(initializer.Constant(0.0), initializer.Constant(0.0))
    try:
        with _paddle_values(lazy=False):
            yield
    finally:
        initializer.set_global_initializer(None)


@contextmanager
def _paddle_values(*, lazy: bool) -> Iterator[None]:
    """Keep PaddleNLP from drawing values, and with `lazy` Paddle from having any."""
    from contextlib import nullcontext

    import paddle
    from paddlenlp.transformers.model_utils import no_init_weights

    with no_init_weights(), paddle.LazyGuard() if lazy else nullcontext():
        yield


# Vision --------------------------------------------------------------------------------------


def _torchvision(function: str, **sizes: Any) -> Any:
    return getattr(import_torchvision().models, function)(**sizes)


def _paddle_vision(function: str, **sizes: Any) -> Any:
    import paddle.vision.models

    return getattr(paddle.vision.models, function)(**sizes)


def images(size: int = 64) -> Batch:
    """Two square images."""
    return Batch((_random().standard_normal((2, 3, size, size)).astype(np.float32),))


def _vision(
    function: str, *, in_paddle: bool = True, batch: Callable[[], Batch] = images
) -> Network:
    build = {"torch": partial(_torchvision, function)}
    if in_paddle:
        build["paddle"] = partial(_paddle_vision, function)
    return Network(build, batch, on_meta=True)


# Language models -----------------------------------------------------------------------------


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


def text() -> Batch:
    """Two sentences of six words, the last of them 7, which closes a sentence."""
    return Batch(kwargs={"input_ids": _words()})


def two_texts() -> Batch:
    """Sentences for an encoder and for a decoder."""
    return Batch(kwargs={"input_ids": _words(), "decoder_input_ids": _words()})


def pixels() -> Batch:
    """Two images for a model of the transformers family."""
    return Batch(kwargs={"pixel_values": images(32).args[0]})


def text_and_pixels() -> Batch:
    """Two sentences and two images."""
    return Batch(kwargs={**text().kwargs, **pixels().kwargs})


def _words() -> Any:
    ids = _random().integers(8, 90, (2, 6))
    ids[:, -1] = 7
    return ids


def _hugging_face(model: str, config: str, **sizes: Any) -> Any:
    import_torchvision()
    import transformers

    made = getattr(transformers, config)(**sizes)
    made._attn_implementation = "eager"
    return getattr(transformers, model)(made)


def _paddlenlp(model: str, config: str, **sizes: Any) -> Any:
    import paddlenlp.transformers

    made = getattr(paddlenlp.transformers, config)(**sizes)
    return getattr(paddlenlp.transformers, model)(made)


def _language(
    model: str,
    config: str,
    batch: Callable[[], Batch],
    sizes: dict[str, Any],
    *,
    same: dict[str, Any] | None = None,
    **more: Any,
) -> Network:
    """Build a network whose class, config and sizes are called alike in both libraries.

    `same` sets at full size what the two libraries' defaults differ in.
    """
    build = {
        "torch": partial(_hugging_face, model, config, **(same or {})),
        "paddle": partial(_paddlenlp, model, config, **(same or {})),
    }
    return Network(build, batch, sizes, **more)


ENCODER = {
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
T5 = {"vocab_size": 99, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
BART = {
    "vocab_size": 99,
    "d_model": 16,
    "max_position_embeddings": 32,
    "eos_token_id": 7,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
}
BART_BASE = {
    "d_model": 768,
    **{f"{side}_layers": 6 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 3072 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 12 for side in ("encoder", "decoder")},
}
BERT_BASE = {"vocab_size": 30522, "type_vocab_size": 2}
ERNIE_BASE = {
    "vocab_size": 40000,
    "max_position_embeddings": 2048,
    "type_vocab_size": 4,
    "use_task_id": True,
}
ALBERT_BASE = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30000,
}
GPT = {
    "vocab_size": 50257,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 1024,
}
DECODER = {**ENCODER, "num_key_value_heads": 1}
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


def _torch_gpt(model: str, **sizes: Any) -> Any:
    sizes = {**GPT, **sizes}
    names = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "intermediate_size": "n_inner",
    }
    given = {names.get(name, name): size for name, size in sizes.items()}
    return _hugging_face(model, "GPT2Config", **given, pad_token_id=0)


def _paddle_gpt(model: str, **sizes: Any) -> Any:
    return _paddlenlp(model, "GPTConfig", **{**GPT, **sizes})


def _clip(build: Callable[..., Any], library: str, **sizes: Any) -> Any:
    """Build CLIP; its two towers are configured one by one."""
    if library == "transformers":
        import_torchvision()
    made = import_module(library)
    text_sizes = {name: size for name, size in sizes.items() if name in ENCODER}
    vision_sizes = {name: size for name, size in sizes.items() if name in TOWER}
    if sizes:
        vision_sizes["num_hidden_layers"] = TOWER["num_hidden_layers"]
    config = made.CLIPConfig.from_text_vision_configs(
        made.CLIPTextConfig(**text_sizes), made.CLIPVisionConfig(**vision_sizes)
    )
    return build(made)(config)


def _with_lora(framework: str, **sizes: Any) -> Any:
    """Wrap a BERT whose query and value projections are adapted."""
    model = ZOO["bert"].build[framework](**sizes)
    if framework == "torch":
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value"]))
    from paddlenlp.peft import LoRAConfig, LoRAModel

    return LoRAModel(model, LoRAConfig(r=2, target_modules=[".*q_proj", ".*v_proj"]))


def _data_parallel(framework: str, **sizes: Any) -> Any:
    model = ZOO["resnet50"].build[framework](**sizes)
    if framework == "torch":
        import torch

        return torch.nn.DataParallel(model)
    import paddle

    return paddle.DataParallel(model)


ZOO: dict[str, Network] = {
    "resnet50": _vision("resnet50"),
    "vgg16": _vision("vgg16"),
    "mobilenet_v2": _vision("mobilenet_v2"),
    "mobilenet_v3_large": _vision("mobilenet_v3_large"),
    "densenet121": _vision("densenet121"),
    "squeezenet1_0": _vision("squeezenet1_0"),
    "shufflenet_v2_x1_0": _vision("shufflenet_v2_x1_0"),
    "swin_t": _vision("swin_t", in_paddle=False),
    "convnext_tiny": _vision("convnext_tiny", in_paddle=False),
    "efficientnet_v2_s": _vision("efficientnet_v2_s", in_paddle=False),
    "vit_b_16": _vision("vit_b_16", in_paddle=False, batch=partial(images, 224)),
    "inception_v3": _vision("inception_v3", in_paddle=False, batch=partial(images, 96)),
    "vit (transformers)": Network(
        {"torch": partial(_hugging_face, "ViTForImageClassification", "ViTConfig")}, pixels, TOWER
    ),
    "swin_t (transformers)": Network(
        {"torch": partial(_hugging_face, "SwinForImageClassification", "SwinConfig")},
        pixels,
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 4,
        },
    ),
    "convnext_tiny (transformers)": Network(
        {"torch": partial(_hugging_face, "ConvNextForImageClassification", "ConvNextConfig")},
        pixels,
        {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 3, 1]},
    ),
    "bert": _language("BertForSequenceClassification", "BertConfig", text, ENCODER, same=BERT_BASE),
    "bert for masked words": _language(
        "BertForMaskedLM", "BertConfig", text, ENCODER, same=BERT_BASE
    ),
    "ernie": _language(
        "ErnieForSequenceClassification", "ErnieConfig", text, ENCODER, same=ERNIE_BASE
    ),
    "roberta": _language(
        "RobertaForSequenceClassification",
        "RobertaConfig",
        text,
        {**ENCODER, "pad_token_id": 1},
        same={"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1},
    ),
    "albert": _language(
        "AlbertForSequenceClassification",
        "AlbertConfig",
        text,
        {**ENCODER, "embedding_size": 8},
        same=ALBERT_BASE,
    ),
    "t5": _language("T5ForConditionalGeneration", "T5Config", two_texts, T5),
    "t5 with a head of its own": _language(
        "T5ForConditionalGeneration",
        "T5Config",
        two_texts,
        T5,
        same={"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bart": _language(
        "BartForSequenceClassification",
        "BartConfig",
        text,
        BART,
        same={**BART_BASE, "num_labels": 3},
    ),
    "bart for generation": _language(
        "BartForConditionalGeneration", "BartConfig", two_texts, BART, same=BART_BASE
    ),
    "gpt2": Network(
        {
            "torch": partial(_torch_gpt, "GPT2LMHeadModel"),
            "paddle": partial(_paddle_gpt, "GPTForCausalLM"),
        },
        text,
        ENCODER,
    ),
    "gpt2 for classification": Network(
        {
            "torch": partial(_torch_gpt, "GPT2ForSequenceClassification"),
            "paddle": partial(_paddle_gpt, "GPTForSequenceClassification", fuse_attention_qkv=True),
        },
        text,
        ENCODER,
    ),
    "llama": _language("LlamaForCausalLM", "LlamaConfig", text, DECODER, full=False),
    "mixtral": _language(
        "MixtralForCausalLM",
        "MixtralConfig",
        text,
        {**DECODER, "num_local_experts": 4},
        full=False,
        runs=("torch",),
    ),
    "clip": Network(
        {
            "torch": partial(_clip, lambda made: made.CLIPModel, "transformers"),
            "paddle": partial(_clip, lambda made: made.CLIPModel, "paddlenlp.transformers"),
        },
        text_and_pixels,
        {**ENCODER, **TOWER, "num_hidden_layers": 2},
    ),
    "clip (vision)": _language("CLIPVisionModel", "CLIPVisionConfig", pixels, TOWER),
    "bert with lora": Network(
        {framework: partial(_with_lora, framework) for framework in FRAMEWORKS}, text, ENCODER
    ),
    "resnet50 in data parallel": Network(
        {framework: partial(_data_parallel, framework) for framework in FRAMEWORKS},
        images,
    ),
}


# Which tensor is which -----------------------------------------------------------------------

BERT_LIKE = [
    (r"LayerNorm", "layer_norm"),
    (r"encoder\.layer\.", "encoder.layers."),
    (r"attention\.self\.(q|k|v)\w+", r"self_attn.\1_proj"),
    (r"attention\.output\.dense", "self_attn.out_proj"),
    (r"attention\.output\.layer_norm", "norm1"),
    (r"intermediate\.dense", "linear1"),
    (r"(layers\.\d+)\.output\.dense", r"\1.linear2"),
    (r"(layers\.\d+)\.output\.layer_norm", r"\1.norm2"),
]
SAME_TENSOR: dict[str, list[tuple[str, Any]]] = {
    "resnet50": [],
    "vgg16": [],
    "mobilenet_v2": [],
    "densenet121": [
        (r"features\.conv0", "conv1_func._conv"),
        (r"features\.norm0", "conv1_func._batch_norm"),
        (
            r"features\.denseblock(\d)\.denselayer(\d+)\.(norm|conv)(\d)",
            lambda m: f"db_conv_{int(m[1]) + 1}.conv{int(m[1]) + 1}_{m[2]}.bn_ac_func{m[4]}.{m[3]}",
        ),
        (
            r"features\.transition(\d)",
            lambda m: f"tr_conv{int(m[1]) + 1}_blk.conv_ac_func",
        ),
        (r"(func\d?)\.norm", r"\1._batch_norm"),
        (r"(func\d?)\.conv", r"\1._conv"),
        (r"features\.norm5", "batch_norm"),
        (r"classifier", "out"),
    ],
    "bert": BERT_LIKE,
    "ernie": BERT_LIKE,
    "roberta": BERT_LIKE,
    "albert": [(r"^albert\.", "transformer."), (r"LayerNorm", "layer_norm")],
    "t5": [(r"^", "t5.")],
    "bart": [
        (r"^model\.", "bart."),
        (r"(encoder|decoder)\.layers", r"\1.\1.layers"),
        (r"(encoder|decoder)\.(embed_positions|layernorm)", r"\1.\1_\2"),
        (r"encoder_attn_layer_norm", "norm2"),
        (r"encoder_attn", "cross_attn"),
        (r"self_attn_layer_norm", "norm1"),
        (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
        (r"(decoder\.layers\.\d+)\.final_layer_norm", r"\1.norm3"),
        (r"\.fc(\d)", r".linear\1"),
        (r"classification_head", "classifier"),
    ],
}
"""How a native name in PyTorch becomes the name of the same tensor in Paddle.

Each of these was checked once on random weights: outputs and every gradient agreed under it.
"""


def in_paddle(name: str, path: str) -> str:
    """Return what Paddle calls the tensor that PyTorch calls `path`."""
    for pattern, replacement in SAME_TENSOR[name]:
        path = re.sub(pattern, replacement, path)
    return path
