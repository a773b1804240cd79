"""The words `embeddings` and `tables`, in every modality, and the old word for tables."""

from __future__ import annotations

import pytest

from tests.support.golden_structure import FORMS, specs
from tests.support.selector_names import modules, names
from tests.support.trees import (
    Weight,
    attention,
    conv,
    conv_net,
    embedding,
    linear,
    module,
    norm,
    plain_conv_net,
    spec,
    stack,
    text_model,
)
from unifreeze._plan import FreezePlan
from unifreeze._resolution import resolve_spec
from unifreeze.errors import UnmatchedSelectorError


def attending(width=8):
    return module("Block", attn=attention(width), up=linear(width, width), norm=norm(width))


def transformer(first, *, own=None, block=attending, after=None):
    """A transformer whose stem is `first`, with parameters of its own beside the blocks."""
    return module(
        "Net",
        own,
        **first,
        blocks=stack(block(), block()),
        norm=norm(8),
        **(after or {}),
        head=linear(8, 2),
    )


TOKENS = {"cls_token": (1, 1, 8), "reg_token": (1, 4, 8), "pos_embed": (1, 9, 8)}


def test_of_a_vision_transformer_they_are_patches_tokens_and_positions():
    own = {leaf: Weight(*shape) for leaf, shape in TOKENS.items()}
    made = spec(transformer({"patch_embed": module("P", proj=conv(3, 8), norm=norm(8))}, own=own))
    stem = {*TOKENS, "patch_embed.proj.weight", "patch_embed.norm.weight", "patch_embed.norm.bias"}
    assert names("embeddings", made) == stem
    assert names("tables", made) == set()


def test_tokens_are_embeddings_though_their_module_owns_other_parameters():
    own = {"class_embedding": Weight(8), "positional_embedding": Weight(9, 8), "proj": Weight(8, 4)}
    made = spec(transformer({"conv1": conv(3, 8), "ln_pre": norm(8)}, own=own))
    taken = names("embeddings", made)
    assert {"class_embedding", "positional_embedding", "conv1.weight", "ln_pre.bias"} <= taken
    assert "proj" not in taken


def test_of_a_model_of_sound_they_are_its_convolutions_and_positions():
    made = spec(
        transformer({"conv1": conv(8, 8), "conv2": conv(8, 8), "embed_positions": embedding(9, 8)})
    )
    assert modules("embeddings", made) == {"conv1", "conv2", "embed_positions"}
    assert modules("tables", made) == {"embed_positions"}


def test_of_a_network_that_mixes_patches_they_are_the_patch_embedding():
    def mixer():
        return module("Mixer", tokens=linear(4, 4), channels=linear(8, 8))

    made = spec(transformer({"patch_embed": conv(3, 8)}, block=mixer))
    assert modules("embeddings", made) == {"patch_embed"}


def residual():
    return module("Res", conv1=conv(8, 8), conv2=conv(8, 8))


def weighing():
    """A convolutional block that weighs its channels, which libraries call attention."""
    return module("Res", conv1=conv(8, 8), attention=module("Squeeze", a=conv(8, 2), b=conv(2, 8)))


@pytest.mark.parametrize("block", [residual, weighing])
@pytest.mark.parametrize("name", ["stem", "embedder", "patch_embed"])
def test_a_plain_convolutional_network_has_none_whatever_its_stem_is_called(block, name):
    made = spec(transformer({name: conv(3, 8)}, block=block))
    assert names("embeddings", made) == set()
    assert modules("stem", made) == {name}


def test_a_table_beside_a_convolutional_stem_is_taken_alone():
    made = spec(
        transformer({"conv_in": conv(3, 8), "class_table": embedding(5, 8)}, block=residual)
    )
    assert modules("embeddings", made) == {"class_table"}


def refused(text, made):
    with pytest.raises(UnmatchedSelectorError) as caught:
        resolve_spec(FreezePlan().freeze(text), made)
    return caught.value


def test_on_a_plain_convolutional_network_they_are_an_error_whose_hint_says_stem():
    assert "'stem'" in refused("embeddings", spec(conv_net())).hint
    assert "params[:2]" in refused("embeddings", spec(plain_conv_net())).hint


def test_where_a_part_of_a_rule_selects_nothing_a_notice_says_stem():
    resolution = resolve_spec(FreezePlan().freeze("embeddings | blocks[:2]"), spec(conv_net()))
    assert any("'stem'" in notice for notice in resolution.notices)


def test_the_old_word_for_tables_works_with_a_notice():
    old, new = (
        resolve_spec(FreezePlan().freeze(word), spec(text_model()))
        for word in ("embedding", "tables")
    )
    assert old.frozen_paths == new.frozen_paths
    said = "'embedding' is the old word for 'tables', and selects the same"
    assert said in old.notices
    assert said not in new.notices


CONVOLUTIONAL = (
    "resnet50",
    "vgg16",
    "mobilenet_v2",
    "densenet121",
    "convnext_tiny",
    "inception_v3",
)
CONVOLUTIONAL += ("convnext_tiny (transformers)", "efficientnet_v2_s", "shufflenet_v2_x1_0")
ATTENDING = (
    "swin_t",
    "vit_b_16",
    "vit (transformers)",
    "bert",
    "ernie",
    "t5",
    "bart",
    "clip",
    "gpt2",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ATTENDING)
def test_of_a_published_transformer_they_are_the_whole_stem(name, form):
    for made in specs(name, form).values():
        assert names("embeddings", made) == names("stem", made) != set()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_published_convolutional_network_has_none(name, form):
    for made in specs(name, form).values():
        assert names("embeddings", made) == set()
