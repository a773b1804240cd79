"""Models of several towers from two libraries, small, and the modules that each word stands for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from examples.torchvision_on_cpu import import_torchvision

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
READER = {**TEXT, "max_position_embeddings": 20}
READER.pop("num_key_value_heads")
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
BRIDGE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "encoder_hidden_size": 24,
    "vocab_size": 100,
}
SPEECH = {
    "d_model": 16,
    "vocab_size": 100,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
HEARER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 8,
}
OPT = {
    "model_type": "opt",
    "vocab_size": 100,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 64,
    "max_position_embeddings": 64,
}
MERGED = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
WAVES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embedding_groups": 2,
    "conv_dim": [16] * 7,
}
"""Sizes are a few units, so that building takes no time; the parts are those of real models."""


@dataclass(frozen=True)
class Model:
    """A model of a library, and what words mean in it.

    Attributes:
        library: `transformers` or `paddlenlp.transformers`.
        name: Its class.
        build: Builds it, given the library.
        parts: For each word, the paths of modules and parameters that it stands for; `-path` is
            taken out again.
    """

    library: str
    name: str
    build: Callable[[Any], Any]
    parts: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        return f"{self.name} of {self.library.partition('.')[0]}"

    def built(self) -> Any:
        """Build the model without values, or without drawing them."""
        with _without_values(self.library):
            return self.build(importlib.import_module(self.library))

    def names(self, model: Any, word: str) -> set[str]:
        """Return the first names of the parameters that a word stands for."""
        first = {id(tensor): name for name, tensor in model.named_parameters()}
        whole = {"remove_duplicate": False} if self.library == "transformers" else {}
        listed = [(name, first[id(t)]) for name, t in model.named_parameters(**whole)]
        if not whole:
            named = model.state_dict().items()
            listed += [(name, first[id(tensor)]) for name, tensor in named if id(tensor) in first]
        chosen: set[str] = set()
        for path in self.parts[word]:
            bare = path.removeprefix("-")
            under = {one for name, one in listed if name == bare or name.startswith(f"{bare}.")}
            assert under, f"{path} is not in {self}"
            chosen = chosen - under if path.startswith("-") else chosen | under
        return chosen


@contextmanager
def _without_values(library: str) -> Iterator[None]:
    if library == "transformers":
        import torch

        import_torchvision()
        with torch.device("meta"):
            yield
        return
    from paddlenlp.transformers.model_utils import no_init_weights

    with no_init_weights():
        yield


def _hf(name: str, config: str, parts: Mapping[str, tuple[str, ...]], **sizes: Any) -> Model:
    def build(library: Any) -> Any:
        return getattr(library, name)(getattr(library, config)(**deepcopy(sizes)))

    return Model("transformers", name, build, parts)


def _nlp(name: str, config: str, parts: Mapping[str, tuple[str, ...]], **sizes: Any) -> Model:
    def build(library: Any) -> Any:
        return getattr(library, name)(getattr(library, config)(**deepcopy(sizes)))

    return Model("paddlenlp.transformers", name, build, parts)


LLAVA = {
    "vision": ("model.vision_tower",),
    "projector": ("model.multi_modal_projector",),
    "text": ("model.language_model", "lm_head"),
}
MERGING = {
    "vision": ("model.visual", "-model.visual.merger"),
    "projector": ("model.visual.merger",),
    "text": ("model.language_model", "lm_head"),
}
BLIP2 = {
    "vision": ("vision_model",),
    "projector": ("qformer", "query_tokens", "language_projection"),
    "text": ("language_model",),
}
CLIP = {
    "vision": ("vision_model",),
    "text": ("text_model",),
    "projector": ("visual_projection", "text_projection"),
    "scalars": ("logit_scale",),
}
LISTENER = {"audio": ("model.encoder",)}

MODELS = (
    _hf(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        LLAVA,
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", **TEXT},
    ),
    _hf(
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        LLAVA,
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
        text_config={"model_type": "gemma", "head_dim": 16, **TEXT},
        projection_dim=32,
    ),
    _hf(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        MERGING,
        vision_config={**MERGED, "patch_size": 14},
        text_config={**TEXT, "rope_scaling": ROPE},
    ),
    _hf(
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLConfig",
        MERGING,
        vision_config={"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2},
        text_config={**TEXT, "rope_scaling": ROPE},
    ),
    _hf(
        "Qwen2_5OmniThinkerForConditionalGeneration",
        "Qwen2_5OmniThinkerConfig",
        {
            "audio": ("audio_tower", "-audio_tower.proj"),
            "vision": ("visual", "-visual.merger"),
            "projector": ("audio_tower.proj", "visual.merger"),
            "text": ("model", "lm_head"),
        },
        audio_config={**HEARER, "output_dim": 32},
        vision_config={"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2},
        text_config={**TEXT, "rope_scaling": ROPE},
    ),
    _hf(
        "Qwen2AudioForConditionalGeneration",
        "Qwen2AudioConfig",
        {
            "audio": ("audio_tower",),
            "projector": ("multi_modal_projector",),
            "text": ("language_model",),
        },
        audio_config=HEARER,
        text_config={"model_type": "qwen2", **TEXT},
    ),
    _hf(
        "Blip2ForConditionalGeneration",
        "Blip2Config",
        BLIP2,
        vision_config=VISION,
        qformer_config=BRIDGE,
        text_config=OPT,
    ),
    _hf(
        "Blip2ForConditionalGeneration",
        "Blip2Config",
        BLIP2,
        vision_config=VISION,
        qformer_config=BRIDGE,
        text_config={"model_type": "t5", "vocab_size": 100, "d_model": 32, "d_ff": 64, "d_kv": 8}
        | {"num_layers": 2, "num_heads": 2},
    ),
    _hf(
        "InstructBlipForConditionalGeneration",
        "InstructBlipConfig",
        BLIP2,
        vision_config=VISION,
        qformer_config=BRIDGE,
        text_config=OPT,
    ),
    _hf("CLIPModel", "CLIPConfig", CLIP, text_config=READER, vision_config=VISION),
    _hf(
        "SiglipModel",
        "SiglipConfig",
        {
            "vision": ("vision_model",),
            "text": ("text_model",),
            "scalars": ("logit_scale", "logit_bias"),
        },
        text_config=READER,
        vision_config={**VISION, "hidden_size": 32},
    ),
    _hf(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {**LISTENER, "text": ("model.decoder", "proj_out")},
        **SPEECH,
        num_mel_bins=8,
        pad_token_id=0,
    ),
    _hf(
        "Speech2TextForConditionalGeneration",
        "Speech2TextConfig",
        {**LISTENER, "text": ("model.decoder", "lm_head")},
        **SPEECH,
        input_feat_per_channel=8,
        conv_channels=16,
    ),
    _hf(
        "SpeechEncoderDecoderModel",
        "SpeechEncoderDecoderConfig",
        {
            "audio": ("encoder",),
            "projector": ("enc_to_dec_proj",),
            "text": ("decoder",),
        },
        encoder={"model_type": "wav2vec2", **WAVES},
        decoder={"model_type": "bert", **READER, "is_decoder": True, "add_cross_attention": True},
    ),
    _hf("ViTForImageClassification", "ViTConfig", {"vision": ("vit",)}, **VISION),
    _hf(
        "BertForSequenceClassification",
        "BertConfig",
        {"text": ("bert",)},
        **READER,
    ),
    _hf("LlamaForCausalLM", "LlamaConfig", {"text": ("model", "lm_head")}, **TEXT),
    _nlp(
        "Blip2ForConditionalGeneration",
        "Blip2Config",
        BLIP2,
        vision_config=VISION,
        qformer_config=BRIDGE,
        text_config=OPT,
    ),
    _nlp(
        "MiniGPT4ForConditionalGeneration",
        "MiniGPT4Config",
        BLIP2,
        vision_config=VISION,
        qformer_config=BRIDGE,
        text_config={"model_type": "llama", **TEXT},
    ),
    _nlp(
        "CLIPModel",
        "CLIPConfig",
        {**CLIP, "projector": ("vision_projection", "text_projection")},
        text_config=READER,
        vision_config=VISION,
    ),
    _nlp(
        "ErnieViLModel",
        "ErnieViLConfig",
        {"vision": ("vision_model",), "text": ("text_model",), "scalars": ("temperature",)},
        text_config={"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2}
        | {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 20},
        vision_config=VISION,
    ),
    _nlp(
        "SpeechT5ForSpeechToText",
        "SpeechT5Config",
        {
            "audio": ("speecht5.encoder",),
            "text": ("speecht5.decoder", "text_decoder_postnet"),
        },
        vocab_size=100,
        hidden_size=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        conv_dim=[16] * 7,
        num_conv_pos_embedding_groups=2,
    ),
    _nlp(
        "BertForSequenceClassification",
        "BertConfig",
        {"text": ("bert",)},
        **READER,
        pad_token_id=0,
    ),
)
