"""Each word of the vocabulary: which parameters it selects, and which it does not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.selector_names import modules, names
from tests.support.tower_nets import networks
from tests.support.trees import (
    MODELS,
    Node,
    Weight,
    adapted,
    conv,
    conv_net,
    embedding,
    encoder_decoder,
    image_model,
    linear,
    module,
    node_at,
    norm,
    perceptron,
    plain_conv_net,
    seq_block,
    several,
    spec,
    stack,
    text_model,
    two_towers,
)
from unifreeze._plan.selectors import WORDS, evaluate, parse
from unifreeze._protocol import load_backend
from unifreeze.errors import SelectorRangeError, SelectorScopeError, UnmatchedSelectorError


def last_names(text, made):
    """The last piece of the paths of the layers an expression selects from."""
    return {path.rpartition(".")[2] for path in modules(text, made)}


@pytest.fixture(scope="module")
def text():
    return spec(text_model(depth=3))


@pytest.fixture(scope="module")
def images():
    return spec(conv_net(stages=3, depth=2))


@pytest.fixture(scope="module")
def vision():
    return spec(image_model(depth=2))


@pytest.fixture(scope="module")
def pair():
    return spec(encoder_decoder((3, 2)))


def test_all_selects_every_parameter_under_every_name():
    for build in MODELS.values():
        made = spec(build())
        assert names("all", made) == set(made.tree.names)


def test_tied_selects_parameters_with_several_names_and_no_others(text, images):
    both = {"text.embeddings.word_embeddings.weight", "cls.decoder.weight"}
    assert names("tied", text) == both
    assert names("tied", images) == set()


def test_stem_is_what_comes_before_the_first_block(images, text):
    assert modules("stem", images) == {"conv1", "bn1"}
    assert {path.split(".")[1] for path in modules("stem", text)} == {"embeddings"}


def test_head_is_what_comes_after_the_last_block_and_its_norm(vision, text, images):
    assert modules("head", images) == {"fc"}
    assert modules("head", vision) == {"head"}
    assert modules("head", text) == {"cls.transform", "cls.norm", "cls.decoder"}


def test_without_blocks_the_head_is_the_trailing_linears():
    made = spec(plain_conv_net())
    assert modules("head", made) == {"classifier.0", "classifier.3", "classifier.5"}
    assert modules("head", spec(perceptron(3))) == {"2"}


def test_neck_is_the_norm_between_the_last_block_and_the_head(vision, images):
    assert modules("neck", vision) == {"norm"}
    assert names("neck", images) == set()


def test_backbone_is_all_but_the_head(vision):
    assert names("backbone", vision) == names("all", vision) - names("head", vision)
    assert names("head", vision)


def test_embeddings_is_the_whole_stem_of_a_text_model(text, pair):
    tables = {f"{name}_embeddings" for name in ("word", "position", "token_type")}
    assert last_names("embeddings", text) == {*tables, "norm"}
    assert names("embeddings", text) == names("stem", text)
    assert "model.decoder.embed_positions.weight" in names("embeddings", pair)
    assert "model.encoder.layer_norm.weight" not in names("embeddings", pair)


def test_embeddings_is_no_part_of_a_plain_convolutional_network(images):
    assert names("embeddings", images) == set()


def test_embeddings_takes_the_stem_of_every_tower_that_attends():
    text = {"text_model.embed.token_embedding", "text_model.embed.pos_embedding"}
    patches = {"vision_model.embed.patch_embedding"}
    assert modules("embeddings", spec(two_towers())) == text | patches


def test_tables_are_lookup_tables_alone_and_the_old_word_selects_the_same(text, images):
    for word in ("tables", "embedding"):
        assert names(word, text) == {
            f"text.embeddings.{name}_embeddings.weight"
            for name in ("word", "position", "token_type")
        }
        assert names(word, images) == set()


def test_pooler_is_what_is_called_so_with_all_under_it(text, images):
    assert names("pooler", text) == {"text.pooler.dense.weight", "text.pooler.dense.bias"}
    assert names("pooler", images) == set()


def test_classifier_is_the_last_linear_of_the_head(text, images):
    assert modules("classifier", images) == {"fc"}
    assert modules("classifier", text) == {"cls.decoder"}
    assert modules("classifier", spec(plain_conv_net())) == {"classifier.5"}


def test_classifier_is_the_last_convolution_of_a_head_without_linears():
    made = spec(
        module(
            "Net",
            backbone=conv_net(stages=2).children["layer1"],
            out=stack(conv(8, 8), norm(8), conv(8, 3)),
        )
    )
    assert modules("classifier", made) == {"out.2"}


def test_a_linear_that_never_ran_is_no_classifier():
    blocks = stack(seq_block(), seq_block())
    root = module("Net", blocks=blocks, one=linear(8, 3), other=linear(8, 3))
    assert modules("classifier", spec(root)) == {"one", "other"}
    assert modules("classifier", spec(root, calls=["blocks.0", "blocks.1", "one"])) == {"one"}


def test_an_auxiliary_head_is_no_classifier_beside_another():
    blocks = stack(seq_block(), seq_block())
    root = module("Net", blocks=blocks, fc=linear(8, 3), aux_head=linear(8, 3))
    assert modules("classifier", spec(root)) == {"fc"}
    assert modules("head", spec(root)) == {"fc", "aux_head"}


def test_classifier_is_one_layer_per_model_of_several():
    made = several(a=conv_net(stages=1), b=plain_conv_net())
    assert modules("classifier", made) == {"a.fc", "b.classifier.5"}


def with_adapters():
    root = text_model(depth=2)
    for number in range(2):
        adapted(node_at(root, f"text.encoder.layer.{number}.attention.self.query"))
    adapted(node_at(root, "cls.decoder"))
    return spec(root)


def test_adapter_is_adapters_and_nothing_else():
    made = with_adapters()
    assert {name.rpartition(".")[2] for name in names("adapter", made)} == {"lora_A", "lora_B"}
    assert len(names("adapter", made)) == 6


@pytest.mark.parametrize("word", ["linear", "query", "attention", "classifier", "pooler"])
def test_no_other_word_for_a_layer_takes_its_adapters(word):
    made = with_adapters()
    assert names(word, made)
    assert not names(word, made) & names("adapter", made)


def test_adapters_are_where_the_layers_they_adapt_are():
    made = with_adapters()
    assert names("adapter & blocks[0]", made) == {
        f"text.encoder.layer.0.attention.self.query.lora_{x}" for x in "AB"
    }
    assert names("adapter & head", made) == {"cls.decoder.lora_A", "cls.decoder.lora_B"}


def test_norm_conv_and_linear_go_by_the_kind_of_layer(vision, images):
    assert modules("conv", vision) == {"patch_embed.proj"}
    assert last_names("norm", vision) == {"norm", "norm1", "norm2"}
    assert modules("linear", images) == {"fc"}
    kinds = [names(kind, vision) for kind in ("conv", "norm", "linear", "embedding")]
    assert sum(map(len, kinds)) == len(set.union(*kinds)), "kinds do not overlap"
    assert set.union(*kinds) == names("all - cls_token - pos_embed", vision)


def test_attention_is_projections_and_tables_without_norms(text, images):
    inside = {path.removeprefix("text.encoder.layer.0.") for path in modules("attention", text)}
    assert {path for path in inside if not path.startswith("text.")} == {
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    }
    assert names("attention", images) == set()


@pytest.mark.parametrize("class_name", ["SelfAttention", "FlashAttention2", "CrossAttn"])
def test_a_class_named_as_an_attention_is_one_whatever_it_is_called(class_name):
    block = module("Block", mixer=module(class_name, o=linear(8, 8)), up=linear(8, 8))
    made = spec(module("Net", embed=embedding(5, 8), layers=stack(block, block)))
    assert names("attention & weight", made) == {f"layers.{n}.mixer.o.weight" for n in (0, 1)}


@pytest.mark.parametrize("class_name", ["AttentionNet", "AttentionBlock", "NoAttentionAtAll"])
def test_a_class_that_only_speaks_of_attention_does_not_make_all_in_it_attention(class_name):
    made = spec(module(class_name, layers=stack(seq_block(), seq_block()), head=linear(8, 2)))
    assert last_names("attention", made) == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert last_names("mlp", made) == {"fc1", "fc2"}


def test_attention_takes_loose_tables_under_it():
    block = seq_block()
    block.children["self_attn"].own["relative_table"] = Weight(3, 3)
    made = spec(module("Net", embed=embedding(5, 8), layers=stack(block, seq_block())))
    assert "layers.0.self_attn.relative_table" in names("attention", made)


def test_mlp_is_the_linear_layers_beside_attention(text, vision, pair):
    inside = {p.removeprefix("text.encoder.layer.0.") for p in modules("mlp", text)}
    inside = {p for p in inside if not p.startswith("text.")}
    assert inside == {"intermediate.dense", "output.dense"}
    assert modules("mlp & blocks[0]", vision) == {"blocks.0.mlp.fc1", "blocks.0.mlp.fc2"}
    assert last_names("mlp", pair) == {"fc1", "fc2"}


def test_mlp_is_nothing_outside_blocks_or_where_none_attends(text, images):
    assert not names("mlp & (head | stem)", text)
    assert names("mlp", images) == set()


def test_mlp_is_nothing_in_a_block_that_does_not_attend():
    def block():
        return module("Mixer", one=linear(8, 8), two=linear(8, 8))

    made = spec(module("Net", layers=stack(block(), block()), more=stack(seq_block(), seq_block())))
    assert len(names("blocks", made)) == 2 * 4 + 2 * 16
    assert {path.split(".")[0] for path in modules("mlp", made)} == {"more"}


def test_ffn_is_another_word_for_mlp(text):
    assert names("ffn", text) == names("mlp", text)


@pytest.mark.parametrize("word", ["query", "key", "value"])
def test_query_key_and_value_are_those_projections_alone(word, text, pair):
    assert names(word, text) == {
        f"text.encoder.layer.{n}.attention.self.{word}.{leaf}"
        for n in range(3)
        for leaf in ("weight", "bias")
    }
    assert last_names(word, pair) == {f"{word[0]}_proj"}


@pytest.mark.parametrize(
    "spelling", ["q", "query", "q_proj", "q_lin", "to_q", "wq", "w_q", "query_layer", "query_proj"]
)
def test_query_is_known_by_its_usual_spellings(spelling):
    made = spec(
        module("Net", attn=module("Attention", **{spelling: linear(4, 4), "o": linear(4, 4)}))
    )
    assert modules("query", made) == {f"attn.{spelling}"}


@pytest.mark.parametrize("other", ["queue", "quality", "q_norm", "keys", "v2", "kqv", "queries"])
def test_words_that_only_look_like_projections_are_none(other):
    made = spec(module("Net", attn=module("Attention", **{other: linear(4, 4)})))
    assert names("query | key | value", made) == set()


def test_a_head_called_value_is_no_projection_of_attention():
    model = text_model()
    model.children["value"] = linear(8, 1)
    critic = spec(model)
    assert names("value", critic) == names("value & blocks", critic)
    assert names("head", critic) >= {"value.weight", "value.bias"}


def test_a_fused_projection_is_query_and_key_and_value_at_once(vision):
    fused = {"blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"}
    for word in ("query", "key", "value"):
        assert names(f"{word} & blocks[0]", vision) == fused
    assert len(vision.atoms) == len(vision.tree.names) + 2 * 4


def test_parts_of_a_fused_projection_are_told_apart(vision):
    atoms = {w: evaluate(parse(w), vision) for w in ("query", "key", "value")}
    assert not (atoms["query"] & atoms["key"]).any()
    assert (atoms["query"] | atoms["key"] | atoms["value"]).sum() == 3 * 4


def test_parts_of_a_fused_projection_stay_apart_inside_a_submodule(vision):
    inside = evaluate(parse("query in blocks"), vision)
    assert np.array_equal(inside, evaluate(parse("query"), vision))


def test_a_fused_layer_can_be_named_as_the_place_itself(vision):
    assert names("all in blocks.0.attn.qkv", vision) == names("blocks.0.attn.qkv", vision)
    assert evaluate(parse("bias in blocks.0.attn.qkv"), vision).sum() == 3, "all parts of it"


def test_word_and_position_embeddings_are_those_tables_alone(text, images):
    assert names("word_embeddings", text) == {"text.embeddings.word_embeddings.weight"}
    assert names("position_embeddings", text) == {"text.embeddings.position_embeddings.weight"}
    assert names("word_embeddings | position_embeddings", images) == set()


def test_position_embeddings_may_be_a_loose_tensor(vision):
    assert names("position_embeddings", vision) == {"pos_embed"}


def test_weight_and_bias_go_by_the_part_and_take_norms_too(images):
    assert {n.rpartition(".")[2] for n in names("weight", images)} == {"weight"}
    assert {n.rpartition(".")[2] for n in names("bias", images)} == {"bias"}
    assert "bn1.weight" in names("weight", images)
    assert names("weight | bias", images) == names("all", images)


def test_weight_and_bias_know_other_spellings():
    leaves = ("in_proj_weight", "in_proj_bias", "weight_ih_l0", "bias_hh_l0", "table")
    own = {leaf: Weight(4) for leaf in leaves}
    named = {leaf: Weight(4) for leaf in ("scale", "shift", "gamma", "beta")}
    made = spec(module("Net", a=Node("A", "linear", own), n=Node("N", "norm", named)))
    assert names("weight", made) == {"a.in_proj_weight", "a.weight_ih_l0", "n.scale", "n.gamma"}
    assert names("bias", made) == {"a.in_proj_bias", "a.bias_hh_l0", "n.shift", "n.beta"}


def test_weight_and_bias_see_into_names_of_several_pieces():
    leaves = ("modules_to_save.bias", "modules_to_save.weight", "parametrizations.bias.original0")
    leaves += ("parametrizations.weight.original1", "rel_bias.weight", "lora_A")
    made = spec(module("Net", a=Node("A", "linear", {leaf: Weight(4) for leaf in leaves})))
    assert names("bias", made) == {f"a.{leaves[0]}", f"a.{leaves[2]}"}
    assert names("weight", made) == {f"a.{leaves[n]}" for n in (1, 3, 4)}


def test_blocks_are_the_repeated_units_and_nothing_around_them(images, text):
    first_names = {path.split(".")[0] for path in modules("blocks", images)}
    assert first_names == {"layer1", "layer2", "layer3"}
    assert names("blocks", text) == {
        name for name in names("all", text) if name.startswith("text.encoder.layer.")
    }


def test_blocks_are_counted_from_the_input(images):
    assert {".".join(p.split(".")[:2]) for p in modules("blocks[0]", images)} == {"layer1.0"}
    assert {".".join(p.split(".")[:2]) for p in modules("blocks[-1]", images)} == {"layer3.1"}
    assert {".".join(p.split(".")[:2]) for p in modules("blocks[1:3]", images)} == {
        "layer1.1",
        "layer2.0",
    }


def test_layers_with_and_without_an_index_are_blocks(text):
    assert names("layers", text) == names("blocks", text)
    assert names("layers[1]", text) == names("blocks[1]", text)


def test_stages_are_runs_of_blocks(images):
    assert {p.split(".")[0] for p in modules("stages[-1]", images)} == {"layer3"}
    assert {p.split(".")[0] for p in modules("stages[:2]", images)} == {"layer1", "layer2"}
    with pytest.raises(SelectorRangeError, match="the model has 3 stages"):
        names("stages[3]", images)


def test_a_transition_goes_with_the_block_it_leads_into():
    made = spec(
        module(
            "Net",
            one=conv_net(stages=2).children["layer1"],
            down=conv(8, 8),
            two=conv_net(stages=2).children["layer2"],
            fc=linear(16, 2),
        )
    )
    assert "down.weight" in names("blocks[2]", made)
    assert "down.weight" not in names("blocks[1]", made)
    assert "down.weight" in names("stages[1]", made)
    assert "down.weight" in names("blocks", made)


def test_encoder_and_decoder_are_the_blocks_of_the_two_stacks(pair):
    assert names("encoder", pair) == {
        name for name in names("all", pair) if name.startswith("model.encoder.layers.")
    }
    assert {p.split(".")[3] for p in modules("decoder[-1]", pair)} == {"1"}
    assert names("encoder | decoder", pair) == names("blocks", pair)


def test_encoder_means_nothing_without_two_stacks(text):
    with pytest.raises(SelectorScopeError, match="no two stacks") as caught:
        names("encoder", text)
    assert caught.value.hint == "blocks for its blocks, text.encoder for a module called so"


@pytest.mark.parametrize("word", ["blocks", "layers", "stages", "encoder", "blocks[0]"])
def test_block_words_mean_nothing_without_blocks(word):
    with pytest.raises(SelectorScopeError, match="no repeated units"):
        names(word, spec(plain_conv_net()))


def test_an_index_among_several_runs_is_an_error_that_lists_them(pair):
    with pytest.raises(SelectorScopeError) as caught:
        names("blocks[0]", pair)
    assert "any of 2 runs" in caught.value.fact
    assert "3 blocks under model.encoder (encoder)" in caught.value.context
    assert caught.value.hint == "encoder[0] or decoder[0]"
    with pytest.raises(SelectorScopeError) as caught:
        names("blocks[-1]", spec(two_towers()))
    assert caught.value.hint == "blocks[-1] in vision_model or blocks[-1] in text_model"


def test_the_run_of_the_root_itself_is_not_hinted_at_with_an_empty_name():
    inner = module("Decoder", blocks=stack(seq_block(), seq_block()))
    made = spec(module("Net", blocks=stack(seq_block(), seq_block()), decoder=inner))
    with pytest.raises(SelectorScopeError) as caught:
        names("blocks[0]", made)
    assert (
        caught.value.hint == 'blocks[0] in decoder, or at:"blocks.…" for those of the model itself'
    )
    assert modules('at:"blocks.0"', made) == {
        p for p in modules("all", made) if p.startswith("blocks.0.")
    }


def test_children_are_the_direct_children_by_position(images):
    assert modules("children[0]", images) == {"conv1"}
    assert modules("children[-1]", images) == {"fc"}
    assert modules("children[:2]", images) == {"conv1", "bn1"}
    assert names("children[2]", images) == set(), "an activation holds nothing"
    with pytest.raises(SelectorRangeError, match="the model has 7 direct children"):
        names("children[7]", images)


def test_params_are_counted_in_canonical_order(vision):
    order = [vision.parameters[n].path for n in vision.canonical_order]
    assert names("params[:3]", vision) == set(order[:3])
    assert names("params[-1]", vision) == {order[-1]}
    assert names("params[:50%]", vision) == set(order[: len(order) // 2])


def test_params_count_a_tied_parameter_once_under_all_its_names(text):
    both = names("tied", text)
    assert names("params[0]", text) == both
    count = len(text)
    assert names(f"params[:{count}]", text) == names("all", text)
    with pytest.raises(SelectorRangeError, match=f"the model has {count} parameters"):
        names(f"params[:{count + 1}]", text)


def test_params_do_not_count_statistics(images):
    assert len(images) == len(images.tree.names)
    with pytest.raises(SelectorRangeError):
        names(f"params[:{len(images) + len(images.states)}]", images)


def test_every_word_has_been_tried_on_every_model():
    tried = {word: set() for word in WORDS}
    nets = networks("torch")
    built = [nets.acting(), nets.painting(), nets.hearing(), nets.matching()]
    described = [load_backend("torch").describe(net) for net in (*built, nets.mixture(shared=True))]
    for made in (*(spec(build()) for build in MODELS.values()), *described):
        for word in WORDS:
            try:
                found = names(f"{word}[0]" if word in ("children", "params") else word, made)
            except (SelectorScopeError, UnmatchedSelectorError):
                continue
            tried[word].add(bool(found))
    for word in ("adapter", "lora"):
        tried[word] |= {bool(names(word, with_adapters()))}
    assert all(True in seen for seen in tried.values()), "each selects something somewhere"
