"""Stem, neck and head: where each parameter stands, with one run of blocks and with several."""

from __future__ import annotations

from tests.support.structure_names import name_of
from tests.support.trees import (
    Node,
    Weight,
    bottleneck,
    conv,
    conv_net,
    embedding,
    encoder_decoder,
    fused_block,
    image_model,
    linear,
    module,
    norm,
    perceptron,
    plain_conv_net,
    seq_block,
    spec,
    stack,
    text_model,
    two_towers,
)


def zones(made):
    """The canonical first pieces, each once, with the native path of its first parameter."""
    found = {}
    for canonical, path in zip(made.canonical, made.tree.names, strict=True):
        found.setdefault(canonical.partition("/")[0], path)
    return found


# Zones --------------------------------------------------------------------------------------


def test_before_the_first_block_is_stem_and_after_the_last_is_head():
    assert zones(spec(conv_net(stages=1, depth=2))) == {
        "stem": "conv1.weight",
        "blocks.0": "layer1.0.conv1.weight",
        "blocks.1": "layer1.1.conv1.weight",
        "head": "fc.weight",
    }


def test_norms_right_after_the_last_block_are_neck():
    assert zones(spec(image_model(depth=2))) == {
        "stem": "cls_token",
        "blocks.0": "blocks.0.norm1.weight",
        "blocks.1": "blocks.1.norm1.weight",
        "neck": "norm.weight",
        "head": "head.weight",
    }


def test_a_norm_within_the_head_stays_in_the_head():
    made = spec(text_model(depth=2))
    assert name_of(made, "cls.transform.weight") == "head/linear.0/weight"
    assert name_of(made, "cls.norm.weight") == "head/norm.0/weight"


def tail(**layers):
    blocks_ = stack(bottleneck(8, 8), bottleneck(8, 8))
    return spec(module("Net", stem=conv(3, 8), blocks=blocks_, **layers))


def test_up_to_the_last_convolution_is_neck_if_linears_follow():
    made = tail(conv=conv(8, 8), bn=norm(8), fc=linear(8, 4))
    assert name_of(made, "conv.weight") == "neck/conv.0/weight"
    assert name_of(made, "bn.weight") == "neck/norm.0/weight"
    assert name_of(made, "fc.weight") == "head/linear.0/weight"


def test_convolutions_with_no_linear_after_them_are_head():
    made = tail(mid=conv(8, 8), bn=norm(8), out=conv(8, 4))
    assert {name_of(made, f"{n}.weight").split("/")[0] for n in ("mid", "bn", "out")} == {"head"}


def test_norms_alone_after_the_last_block_are_all_neck():
    made = tail(bn=norm(8))
    assert name_of(made, "bn.weight") == "neck/norm.0/weight"


def test_what_lies_between_blocks_leads_into_the_next():
    made = spec(
        module(
            "Net",
            stem=conv(3, 8),
            stage1=stack(bottleneck(8, 8), bottleneck(8, 8)),
            down=conv(8, 8),
            stage2=stack(bottleneck(8, 8), bottleneck(8, 8)),
            fc=linear(8, 4),
        )
    )
    assert name_of(made, "down.weight") == "transition.2/conv.0/weight"


def test_a_list_that_begins_with_a_resampling_layer_begins_with_a_transition():
    made = spec(
        module(
            "Net",
            features=stack(
                conv(3, 8), bottleneck(8, 8), norm(8), conv(8, 8), bottleneck(8, 8), linear(8, 4)
            ),
        )
    )
    assert name_of(made, "features.0.weight") == "stem/conv.0/weight"
    assert name_of(made, "features.2.weight") == "transition.1/norm.0/weight"
    assert name_of(made, "features.3.weight") == "transition.1/conv.0/weight"
    assert name_of(made, "features.5.weight") == "head/linear.0/weight"


def test_without_blocks_the_head_is_the_trailing_linears():
    made = spec(plain_conv_net())
    heads = {p for p, c in zip(made.tree.names, made.canonical, strict=True) if "head" in c}
    assert {path.split(".")[0] for path in heads} == {"classifier"}
    assert name_of(made, "features.2.weight") == "net/conv.1/weight"


def test_without_blocks_trailing_linears_may_have_activations_between():
    made = spec(
        module(
            "Net",
            c=conv(3, 4),
            one=linear(4, 4),
            prelu=Node("PReLU", "activation", {"weight": Weight(1)}),
            two=linear(4, 2),
        )
    )
    assert name_of(made, "one.weight") == "head/linear.0/weight"
    assert name_of(made, "prelu.weight") == "head/activation.0/weight"


def test_without_blocks_a_norm_or_a_table_ends_the_trailing_linears():
    normed = spec(module("Net", one=linear(4, 4), bn=norm(4), two=linear(4, 2)))
    tabled = spec(module("Net", one=linear(4, 4), table=embedding(4, 4), two=linear(4, 2)))
    for made in (normed, tabled):
        assert name_of(made, "one.weight") == "net/linear.0/weight"
        assert name_of(made, "two.weight") == "head/linear.0/weight"


def test_of_a_plain_stack_of_linears_the_head_is_the_last():
    made = spec(perceptron(depth=3))
    assert made.canonical[::2] == [
        "net/linear.0/weight",
        "net/linear.1/weight",
        "head/linear.0/weight",
    ]


def test_a_loose_tensor_that_spans_the_blocks_is_unplaced_without_a_trace():
    made = spec(two_towers())
    assert name_of(made, "logit_scale") == "unplaced/param.0/logit_scale"


def test_a_loose_tensor_named_for_the_input_is_stem_until_a_trace_says_otherwise():
    made = spec(image_model(depth=2))
    assert name_of(made, "cls_token") == "stem/param.0/cls_token"
    assert name_of(made, "pos_embed") == "stem/param.0/pos_embed"


def test_tables_and_norms_named_for_the_input_are_stem_though_registered_after_the_blocks():
    made = spec(
        module(
            "Net",
            layers=stack(seq_block(), seq_block()),
            token_table=embedding(5, 8),
            norm_embeddings=norm(8),
            embed_out=linear(8, 8),
            last_norm=norm(8),
        )
    )
    assert name_of(made, "token_table.weight") == "stem/embedding.0/weight"
    assert name_of(made, "norm_embeddings.weight") == "stem/norm.0/weight"
    assert name_of(made, "embed_out.weight") == "head/linear.0/weight"
    assert name_of(made, "last_norm.weight") == "head/norm.0/weight"


def test_a_loose_tensor_has_the_zone_of_its_first_use():
    calls = ["patch_embed", "patch_embed.proj", "cls_token", "blocks.0", "blocks.1", "norm"]
    made = spec(image_model(depth=2), calls=[*calls, "head"])
    assert name_of(made, "cls_token") == "stem/param.0/cls_token"
    late = spec(
        image_model(depth=2), calls=["patch_embed.proj", "blocks.0", "cls_token", "blocks.1"]
    )
    assert name_of(late, "cls_token") == "transition.1/param.0/cls_token"


def test_a_loose_tensor_beside_the_blocks_is_placed_by_its_registration():
    made = spec(
        module(
            "Net",
            tokens=module("Tokens", {"cls_token": Weight(1, 4)}, table=embedding(4, 4)),
            layers=stack(seq_block(), seq_block()),
        )
    )
    assert name_of(made, "tokens.cls_token") == "stem/param.0/cls_token"


# Several runs -------------------------------------------------------------------------------


def test_two_stacks_called_encoder_and_decoder_go_by_those_words():
    made = spec(encoder_decoder((3, 2)))
    assert made.placement.labels == ["encoder", "decoder"]
    assert name_of(made, "model.decoder.layers.1.fc1.weight") == "decoder.1/linear.8/weight"


def test_the_norm_that_ends_the_encoder_is_neck_and_not_head():
    made = spec(encoder_decoder())
    assert name_of(made, "model.encoder.layer_norm.weight") == "neck/norm.0/weight"
    assert name_of(made, "model.decoder.layer_norm.weight") == "neck/norm.1/weight"


def test_tables_of_the_decoder_are_stem_though_they_come_after_the_encoder():
    made = spec(encoder_decoder())
    assert name_of(made, "model.decoder.embed_positions.weight").startswith("stem/")


def test_several_towers_have_each_run_under_the_module_that_holds_it():
    made = spec(two_towers((3, 2)))
    assert made.placement.labels == ["vision_model.blocks", "text_model.blocks"]
    assert name_of(made, "text_model.encoder.layers.1.fc2.weight") == (
        "text_model.blocks.1/linear.5/weight"
    )
    assert name_of(made, "vision_model.post_norm.weight") == "vision_model.neck/norm.0/weight"
    assert name_of(made, "text_model.embed.pos_embedding.weight") == (
        "text_model.stem/embedding.1/weight"
    )


def test_what_follows_all_towers_is_the_head_of_the_whole():
    made = spec(two_towers())
    assert name_of(made, "vision_projection.weight") == "head/linear.0/weight"
    assert name_of(made, "text_projection.weight") == "head/linear.1/weight"


def test_a_transition_in_one_of_two_stacks_says_in_which():
    def side():
        part = stack(seq_block(), seq_block(), linear(8, 8), seq_block())
        return module("Side", embed=embedding(5, 8), layers=part)

    made = spec(module("Net", encoder=side(), decoder=side(), head=linear(8, 2)))
    assert name_of(made, "encoder.layers.2.weight") == "encoder_transition.2/linear.0/weight"
    assert name_of(made, "decoder.layers.2.weight") == "decoder_transition.2/linear.0/weight"


def nested_runs():
    """Blocks held by the root itself, and a submodule after them with blocks of its own."""
    return module(
        "Net",
        embed=conv(3, 8),
        blocks=stack(fused_block(), fused_block()),
        norm=norm(8),
        decoder=module(
            "Decoder",
            embed=linear(8, 8),
            blocks=stack(fused_block(), fused_block()),
            norm=norm(8),
            predict=linear(8, 4),
        ),
    )


def test_a_run_held_by_the_root_needs_no_prefix():
    made = spec(nested_runs())
    assert made.placement.labels == ["blocks", "decoder.blocks"]
    assert name_of(made, "embed.weight") == "stem/conv.0/weight"
    assert name_of(made, "norm.weight") == "neck/norm.0/weight"


def test_of_nested_towers_the_innermost_places_a_layer():
    made = spec(nested_runs())
    assert name_of(made, "decoder.embed.weight") == "decoder.stem/linear.0/weight"
    assert name_of(made, "decoder.norm.weight") == "decoder.neck/norm.0/weight"
    assert name_of(made, "decoder.predict.weight") == "decoder.head/linear.0/weight"
