"""Where everything is in a network, derived from trees written by hand: no framework, no model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.support.random_models import models
from tests.support.trees import (
    Node,
    Weight,
    act,
    adapted,
    attention,
    bottleneck,
    conv,
    conv_net,
    embedding,
    encoder_block,
    encoder_decoder,
    fused_block,
    image_model,
    linear,
    mixture,
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
from unifreeze._structure import Zone


def blocks(made):
    """The native paths of each run's blocks."""
    return [[made.tree.paths[block] for block in run.blocks] for run in made.runs]


def name_of(made, path):
    """The canonical name of the parameter at a native path."""
    return made.canonical[made.tree.names.index(path)]


def zones(made):
    """The canonical first pieces, each once, with the native path of its first parameter."""
    found = {}
    for canonical, path in zip(made.canonical, made.tree.names, strict=True):
        found.setdefault(canonical.partition("/")[0], path)
    return found


def path_of(made):
    return dict(zip(made.canonical, made.tree.names, strict=True))


# Blocks -------------------------------------------------------------------------------------


def two_matrices():
    return module("Unit", a=linear(4, 4), b=linear(4, 4))


def one_matrix():
    return module("Unit", a=linear(4, 4), norm=norm(4))


def test_like_siblings_in_a_list_are_blocks():
    made = spec(module("Net", first=linear(4, 4), layers=stack(two_matrices(), two_matrices())))
    assert blocks(made) == [["layers.0", "layers.1"]]


def test_a_block_holds_at_least_two_matrices():
    made = spec(module("Net", layers=stack(one_matrix(), one_matrix(), one_matrix())))
    assert blocks(made) == []


def test_a_norm_and_a_bias_are_no_matrices():
    unit = [module("Unit", a=linear(4, 4), n=norm(4), m=norm(4)) for _ in range(2)]
    assert blocks(spec(module("Net", layers=stack(*unit)))) == []


def test_a_table_is_no_matrix_of_a_block():
    unit = [module("Unit", a=linear(4, 4), table=embedding(4, 4)) for _ in range(2)]
    assert blocks(spec(module("Net", layers=stack(*unit)))) == []


def test_one_tensor_under_two_names_is_one_matrix():
    def unit():
        weight = Weight(4, 4)
        return module("Unit", a=linear(4, 4, weight=weight), b=linear(4, 4, weight=weight))

    assert blocks(spec(module("Net", layers=stack(unit(), unit())))) == []


def test_a_matrix_owned_by_no_layer_counts_if_it_is_called_a_weight():
    def unit(leaf):
        return module("Unit", {leaf: Weight(4, 4)}, a=linear(4, 4))

    named = spec(module("Net", layers=stack(unit("in_weight"), unit("in_weight"))))
    other = spec(module("Net", layers=stack(unit("table"), unit("table"))))
    assert len(blocks(named)) == 1
    assert blocks(other) == []


def test_an_adapter_does_not_make_a_block():
    unit = [module("Unit", a=adapted(linear(4, 4)), norm=norm(4)) for _ in range(2)]
    assert blocks(spec(module("Net", layers=stack(*unit)))) == []


def test_cousins_in_two_lists_of_one_module_form_one_run():
    made = spec(conv_net(stages=3, depth=1))
    assert blocks(made) == [["layer1.0", "layer2.0", "layer3.0"]]


def test_a_candidate_unlike_all_others_in_its_list_is_no_block():
    odd = module("Odd", a=linear(4, 4), b=linear(4, 4))
    made = spec(module("Net", layers=stack(two_matrices(), odd, two_matrices())))
    assert blocks(made) == [["layers.0", "layers.2"]]


def test_two_classes_of_block_may_alternate():
    def other():
        return module("Other", a=linear(4, 4), b=linear(4, 4))

    made = spec(module("N", layers=stack(two_matrices(), other(), two_matrices(), other())))
    assert blocks(made) == [[f"layers.{n}" for n in range(4)]]


def test_of_nested_candidates_only_the_outermost_is_a_block():
    def outer():
        return module("Outer", inner=stack(two_matrices(), two_matrices()), a=attention())

    made = spec(module("Net", layers=stack(outer(), outer())))
    assert blocks(made) == [["layers.0", "layers.1"]]


def test_without_lists_like_siblings_are_blocks():
    made = spec(module("Net", stem=conv(3, 4), one=two_matrices(), two=two_matrices()))
    assert blocks(made) == [["one", "two"]]


def test_siblings_count_only_where_no_list_has_blocks():
    made = spec(
        module(
            "Net",
            layers=stack(two_matrices(), two_matrices()),
            left=module("Side", a=linear(4, 4), b=linear(4, 4)),
            right=module("Side", a=linear(4, 4), b=linear(4, 4)),
        )
    )
    assert blocks(made) == [["layers.0", "layers.1"]]


def test_a_lone_candidate_is_a_block_if_it_is_all_its_list_holds():
    made = spec(module("Net", embed=embedding(5, 8), groups=stack(encoder_block())))
    assert blocks(made) == [["groups.0"]]


def test_a_lone_candidate_outside_a_list_is_no_block():
    made = spec(module("Net", embed=embedding(5, 8), body=encoder_block()))
    assert blocks(made) == []


def test_a_container_is_never_a_block_itself():
    made = spec(
        module(
            "Net",
            parts=stack(stack(linear(4, 4), linear(4, 4)), stack(linear(4, 4), linear(4, 4))),
        )
    )
    assert blocks(made) == []


def stage(depth, *, resample=0):
    extra = {f"down{n}": conv(8, 8) for n in range(resample)}
    return module("Stage", blocks=stack(*(bottleneck(8, 8) for _ in range(depth))), **extra)


@pytest.mark.parametrize("resample", [0, 1])
def test_a_stage_that_only_holds_a_list_of_blocks_counts_as_a_container(resample):
    made = spec(module("Net", layers=stack(*(stage(2, resample=resample) for _ in range(2)))))
    assert blocks(made) == [
        ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0", "layers.1.blocks.1"]
    ]
    assert made.runs[0].stages == (0, 0, 1, 1)


def test_a_module_with_two_matrices_beside_its_list_is_a_block_and_no_stage():
    made = spec(module("Net", layers=stack(*(stage(2, resample=2) for _ in range(2)))))
    assert blocks(made) == [["layers.0", "layers.1"]]


def test_a_module_with_a_table_is_no_stage():
    def with_table():
        return module("Part", table=embedding(5, 8), blocks=stack(seq_block(), seq_block()))

    made = spec(module("Net", layers=stack(with_table(), with_table())))
    assert blocks(made) == [["layers.0", "layers.1"]]


def test_a_module_met_again_under_another_path_is_no_second_block():
    shared = two_matrices()
    made = spec(module("Net", layers=stack(shared, two_matrices(), shared)))
    assert blocks(made) == [["layers.0", "layers.1"]]
    alone = spec(module("Net", first=stack(shared), second=stack(shared)))
    assert blocks(alone) == [["first.0"]]


def test_a_like_block_may_hold_a_single_matrix():
    made = spec(module("Net", layers=stack(one_matrix(), two_matrices(), two_matrices())))
    assert blocks(made) == [["layers.0", "layers.1", "layers.2"]]


def test_experts_are_no_blocks():
    def router():
        expert = [module("Expert", up=linear(8, 4), down=linear(4, 8)) for _ in range(2)]
        return module("Moe", gate=linear(8, 2, bias=False), experts=stack(*expert))

    layers = spec(module("Net", embed=embedding(5, 8), layers=stack(router(), router())))
    assert blocks(layers) == [["layers.0", "layers.1"]]
    single = module("Block", attn=attention(), moe=router())
    assert blocks(spec(module("N", e=embedding(5, 8), layers=stack(single)))) == [["layers.0"]]


# Stages -------------------------------------------------------------------------------------


def test_stages_are_runs_of_blocks_with_one_parent():
    assert spec(conv_net(stages=3, depth=2)).runs[0].stages == (0, 0, 1, 1, 2, 2)


def test_traced_stages_are_runs_of_equal_resolution():
    made = module("Net", blocks=stack(*(bottleneck(8, 8) for _ in range(4))))
    calls = [f"blocks.{n}" for n in range(4)]
    maps = {"blocks.0": (1, 8, 8, 8), "blocks.1": (1, 8, 8, 8)}
    maps |= {"blocks.2": (1, 16, 4, 4), "blocks.3": (1, 16, 4, 4)}
    assert spec(made, calls=calls, shapes=maps).runs[0].stages == (0, 0, 1, 1)


def test_traced_stages_see_channels_last_maps_and_token_rows():
    made = module("Net", blocks=stack(bottleneck(8, 8), bottleneck(8, 8)))
    calls = ["blocks.0", "blocks.1"]

    def stages(first, second):
        shapes = dict(zip(calls, (first, second), strict=True))
        return spec(made, calls=calls, shapes=shapes).runs[0].stages

    assert stages((1, 8, 8, 32), (1, 8, 8, 64)) == (0, 0)
    assert stages((1, 8, 8, 32), (1, 4, 4, 64)) == (0, 1)
    assert stages((1, 64, 32), (1, 64, 48)) == (0, 0)
    assert stages((1, 64, 32), (1, 16, 32)) == (0, 1)


def test_where_blocks_stand_in_several_lists_the_lists_are_the_stages_traced_or_not():
    made = conv_net(stages=3, depth=1)
    blocks = [f"layer{n}.0" for n in (1, 2, 3)]
    same_maps = dict.fromkeys(blocks, (1, 8, 14, 14))
    traced = spec(made, calls=["conv1", *blocks, "fc"], shapes=same_maps)
    assert traced.runs[0].stages == (0, 1, 2) == spec(made).runs[0].stages


def test_without_the_shapes_of_all_blocks_stages_stay_as_registered():
    made = conv_net(stages=2, depth=1)
    traced = spec(made, calls=["layer1.0", "layer2.0"], shapes={"layer1.0": (1, 8, 8, 8)})
    assert traced.runs[0].stages == (0, 1)


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
    assert name_of(made, "text.pooler.dense.weight") == "head/linear.0/weight"
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


# Counting -----------------------------------------------------------------------------------


def test_layers_are_counted_by_kind_within_their_block():
    made = spec(conv_net(stages=2, depth=1))
    names = [n.split("/", 1)[1] for n in made.canonical if n.startswith("blocks.1/")]
    assert names == [
        f"{layer}/{role}"
        for number in range(3)
        for layer, roles in ((f"conv.{number}", ["weight"]), (f"norm.{number}", ["weight", "bias"]))
        for role in roles
    ]


def test_without_a_trace_layers_count_in_order_of_registration():
    made = spec(module("Net", second=conv(4, 4), first=conv(3, 4), fc=linear(4, 2)))
    assert made.order == "registration"
    assert name_of(made, "second.weight") == "net/conv.0/weight"


def test_with_a_trace_layers_count_in_order_of_execution():
    root = module("Net", second=conv(4, 4), first=conv(3, 4), fc=linear(4, 2))
    made = spec(root, calls=["first", "second", "fc"])
    assert made.order == "execution"
    assert name_of(made, "first.weight") == "net/conv.0/weight"
    assert name_of(made, "second.weight") == "net/conv.1/weight"


def test_with_a_trace_blocks_and_runs_stand_in_order_of_execution():
    made = spec(
        module("Net", layers=stack(seq_block(), seq_block(), seq_block())),
        calls=["layers.2", "layers.0", "layers.1"],
    )
    assert blocks(made) == [["layers.2", "layers.0", "layers.1"]]
    towers = spec(
        two_towers((2, 2)),
        calls=[f"{t}.encoder.layers.{n}" for t in ("text_model", "vision_model") for n in (0, 1)],
    )
    assert towers.placement.labels == ["text_model.blocks", "vision_model.blocks"]


def test_what_never_ran_stays_in_the_zone_it_is_registered_in():
    calls = ["text.embeddings", "text.encoder.layer.0", "text.encoder.layer.1", "cls.transform"]
    made = spec(text_model(depth=2), calls=calls)
    assert name_of(made, "text.pooler.dense.weight").startswith("head/")
    assert name_of(made, "text.embeddings.norm.weight").startswith("stem/")


def test_a_layer_whose_tensors_have_their_first_names_elsewhere_shifts_no_count():
    words = Weight(11, 8)
    made = spec(
        module(
            "Net",
            words=embedding(11, 8, weight=words),
            again=embedding(11, 8, weight=words),
            positions=embedding(5, 8),
            layers=stack(seq_block(), seq_block()),
        )
    )
    assert name_of(made, "positions.weight") == "stem/embedding.1/weight"
    assert name_of(made, "again.weight") == "stem/embedding.2/weight"


def test_a_layer_whose_tensor_ran_under_another_name_is_not_unreached():
    made = spec(encoder_decoder((2, 2)), calls=["model.shared", "model.encoder.layers.0"])
    unreached = {made.tree.paths[owner] for owner in made.placement.unreached}
    assert "model.encoder.embed_positions" in unreached
    assert not unreached & {"model.shared", "model.encoder.embed_tokens", "lm_head"}


def test_what_never_ran_is_counted_last_and_listed_as_unreached():
    root = module("Net", aux=conv(4, 4), one=conv(3, 4), two=conv(4, 4))
    made = spec(root, calls=["one", "two"])
    assert name_of(made, "aux.weight").endswith("conv.2/weight")
    aux = made.tree.paths.index("aux")
    assert made.placement.unreached == {aux}


def test_orders_that_disagree_among_equal_shapes_are_reported():
    alike = module("Net", b=conv(4, 4), a=conv(4, 4), fc=linear(4, 2))
    made = spec(alike, calls=["a", "b", "fc"])
    assert {made.tree.paths[owner] for owner in made.placement.ambiguous} == {"a", "b"}


def test_orders_that_disagree_between_different_shapes_are_not_ambiguous():
    different = module("Net", b=conv(4, 8), a=conv(3, 4), fc=linear(8, 2))
    assert spec(different, calls=["a", "b", "fc"]).placement.ambiguous == frozenset()


def test_orders_that_agree_are_not_ambiguous():
    root = module("Net", a=conv(4, 4), b=conv(4, 4), fc=linear(4, 2))
    assert spec(root, calls=["a", "b", "fc"]).placement.ambiguous == frozenset()


def test_query_key_and_value_stand_in_that_order_however_they_are_registered():
    usual, other = (
        spec(text_model(depth=2, order=order))
        for order in (("query", "key", "value"), ("value", "query", "key"))
    )
    for made in (usual, other):
        for number, word in enumerate(("query", "key", "value")):
            path = f"text.encoder.layer.0.attention.self.{word}.weight"
            assert name_of(made, path) == f"blocks.0/linear.{number}/weight"


def test_query_key_and_value_are_not_ambiguous_however_they_are_executed():
    base = "text.encoder.layer.{}.attention.self.{}"
    calls = [base.format(n, word) for n in range(2) for word in ("value", "key", "query")]
    made = spec(text_model(depth=2), calls=calls)
    assert made.placement.ambiguous == frozenset()
    assert name_of(made, "text.encoder.layer.1.attention.self.query.weight") == (
        "blocks.1/linear.0/weight"
    )


def test_two_attentions_of_one_block_are_each_put_in_order():
    made = spec(encoder_decoder((2, 2)))
    prefix = "model.decoder.layers.0"
    names = [
        name_of(made, f"{prefix}.{where}.{word}_proj.weight")
        for where in ("self_attn", "cross_attn")
        for word in "qkv"
    ]
    assert names == [f"decoder.0/linear.{n}/weight" for n in (0, 1, 2, 4, 5, 6)]


def test_tables_stand_as_words_positions_and_types_however_they_are_registered():
    for order in (("word", "position", "token_type"), ("position", "token_type", "word")):
        made = spec(text_model(depth=2, tables=order))
        for number, word in enumerate(("word", "position", "token_type")):
            path = f"text.embeddings.{word}_embeddings.weight"
            assert name_of(made, path) == f"stem/embedding.{number}/weight"


def test_words_under_different_parents_do_not_change_places():
    root = module(
        "Net",
        a=module("A", value=linear(4, 4)),
        b=module("B", query=linear(4, 4)),
        norm=norm(4),
        fc=linear(4, 2),
    )
    made = spec(root)
    assert name_of(made, "a.value.weight") == "net/linear.0/weight"
    assert name_of(made, "b.query.weight") == "net/linear.1/weight"


def test_experts_are_counted_within_their_block():
    made = spec(mixture(experts=3))
    path = "layers.1.experts.2.down.weight"
    assert name_of(made, path) == "blocks.1/expert.2/linear.1/weight"
    assert name_of(made, "layers.1.gate.weight") == "blocks.1/linear.2/weight"


def test_experts_are_counted_by_registration_whichever_ran_first():
    layers = [f"layers.0.experts.{n}.{part}" for n in (2, 0) for part in ("up", "down")]
    made = spec(mixture(experts=3), calls=["embed_tokens", "layers.0", *layers, "layers.1"])
    for expert in range(3):
        path = f"layers.0.experts.{expert}.down.weight"
        assert name_of(made, path) == f"blocks.0/expert.{expert}/linear.1/weight"
    assert made.placement.ambiguous == frozenset()


def test_an_adapter_goes_by_the_name_of_the_layer_it_adapts():
    root = text_model(depth=2)
    adapted(node_at(root, "text.encoder.layer.0.attention.self.value"))
    made = spec(root)
    path = "text.encoder.layer.0.attention.self.value"
    assert name_of(made, f"{path}.lora_A") == "blocks.0/linear.2/lora_A"
    number = made.tree.tensor_of[made.tree.names.index(f"{path}.lora_A")]
    assert made.parameters[number].kind == "adapter"


def test_adapters_do_not_shift_any_other_name():
    plain, root = spec(text_model(depth=2)), text_model(depth=2)
    for block in node_at(root, "text.encoder.layer").children.values():
        for projection in node_at(block, "attention.self").children.values():
            adapted(projection)
    made = spec(root)
    kept = {c for c, a in zip(made.canonical, made.tree.adapters, strict=True) if not a}
    assert kept == set(plain.canonical)
    assert len(made.canonical) > len(plain.canonical)


def test_a_tied_parameter_has_one_canonical_name_and_aliases():
    made = spec(text_model(depth=2))
    tied = next(p for p in made.parameters if p.aliases)
    assert tied.name == "stem/embedding.0/weight"
    assert tied.path == "text.embeddings.word_embeddings.weight"
    assert tied.aliases == ("cls.decoder.weight",)
    assert len(made.parameters) == len(made.tree.names) - 1


def test_statistics_are_never_parameters_and_have_names_of_their_own():
    made = spec(conv_net(stages=1, depth=1))
    assert not any("running" in parameter.path for parameter in made.parameters)
    names = [made.state_name(state) for state in made.states]
    assert names[:2] == ["stem/norm.0/mean", "stem/norm.0/var"]
    assert len(set(names)) == len(names)


def test_a_norm_without_parameters_is_counted_all_the_same():
    root = module(
        "Net", a=norm(4, statistics=True, affine=False), b=norm(4, statistics=True), c=conv(3, 4)
    )
    assert name_of(spec(root), "b.weight").endswith("norm.1/weight")


# Kinds and roles ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "shape", "kind"),
    [
        ("RMSNorm", (8,), "norm"),
        ("LayerNormalization", (8,), "norm"),
        ("RowParallelLinear", (8, 8), "linear"),
        ("FusedDense", (8, 8), "linear"),
        ("VocabParallelEmbedding", (11, 8), "embedding"),
        ("ScaledConv2d", (8, 8, 3, 3), "conv"),
        ("RMSNorm", (8, 8), "param"),
        ("Gate", (8, 8), "param"),
    ],
)
def test_the_kind_of_an_unknown_leaf_layer_is_guessed_from_its_class(class_name, shape, kind):
    made = spec(module("Net", layer=Node(class_name, "", {"weight": Weight(*shape)})))
    assert made.parameters[0].kind == kind


def test_no_kind_is_guessed_for_a_module_with_children():
    made = spec(module("Net", layer=module("AdaptiveNorm", {"scale": Weight(4)}, a=act())))
    assert made.parameters[0].kind == "param"


@pytest.mark.parametrize(
    ("kind", "leaf", "role"),
    [
        ("norm", "scale", "weight"),
        ("norm", "gamma", "weight"),
        ("norm", "shift", "bias"),
        ("norm", "beta", "bias"),
        ("activation", "_weight", "weight"),
        ("linear", "in_proj_bias", "in_proj_bias"),
        ("rnn", "weight_ih_l0", "weight_ih_l0"),
        ("", "gamma", "gamma"),
    ],
)
def test_the_role_is_weight_or_bias_where_the_leaf_says_so(kind, leaf, role):
    made = spec(module("Net", layer=Node("Layer", kind, {leaf: Weight(4)})))
    assert made.canonical[0].rpartition("/")[2] == role


# The order of parameters --------------------------------------------------------------------


def test_canonical_order_runs_from_the_input_to_the_head():
    made = spec(text_model(depth=2))
    ordered = [made.parameters[n].name.split("/")[0] for n in made.canonical_order]
    assert list(dict.fromkeys(ordered)) == ["stem", "blocks.0", "blocks.1", "head"]


def test_canonical_order_lists_each_parameter_once():
    for root in (text_model(), conv_net(), image_model(), two_towers(), mixture()):
        made = spec(root)
        assert sorted(made.canonical_order) == list(range(len(made)))


def test_a_transition_stands_before_the_block_it_leads_into():
    made = spec(
        module(
            "Net",
            stage1=stack(bottleneck(8, 8)),
            down=conv(8, 8),
            stage2=stack(bottleneck(8, 8)),
            fc=linear(8, 4),
        )
    )
    zones_met = [made.parameters[n].name.split("/")[0] for n in made.canonical_order]
    assert list(dict.fromkeys(zones_met)) == ["blocks.0", "transition.1", "blocks.1", "head"]


def test_in_a_convolutional_block_convolutions_and_norms_alternate():
    made = spec(conv_net(stages=1, depth=2))
    ordered = [made.parameters[n].path for n in made.canonical_order]
    inside = [path for path in ordered if path.startswith("layer1.0")]
    assert inside == [
        "layer1.0.conv1.weight",
        "layer1.0.bn1.weight",
        "layer1.0.bn1.bias",
        "layer1.0.conv2.weight",
        "layer1.0.bn2.weight",
        "layer1.0.bn2.bias",
    ]


def test_canonical_order_does_not_depend_on_the_order_of_projections():
    usual, other = (
        spec(text_model(depth=2, order=order))
        for order in (("query", "key", "value"), ("key", "value", "query"))
    )
    assert [usual.parameters[n].name for n in usual.canonical_order] == [
        other.parameters[n].name for n in other.canonical_order
    ]


# Parts of a model ---------------------------------------------------------------------------


def test_members_of_several_models_are_placed_each_as_if_alone():
    made = several(student=text_model(depth=2), teacher=text_model(depth=3))
    alone = spec(text_model(depth=3))
    names = {n.removeprefix("teacher.") for n in made.canonical if n.startswith("teacher.")}
    assert names == set(alone.canonical)
    assert made.placement.labels == ["student.blocks", "teacher.blocks"]


def test_members_without_blocks_have_a_net_and_a_head_of_their_own():
    made = several(a=plain_conv_net(), b=conv_net(stages=1))
    assert name_of(made, "a.features.0.weight") == "a.net/conv.0/weight"
    assert name_of(made, "a.classifier.5.weight") == "a.head/linear.2/weight"
    assert name_of(made, "b.conv1.weight") == "b.stem/conv.0/weight"


def test_a_submodule_reads_as_if_it_were_the_whole():
    made = spec(two_towers((3, 2)))
    tower, names = made.within(made.module("text_model"))
    assert tower.placement.labels == ["blocks"]
    alone = spec(two_towers((3, 2)).children["text_model"])
    assert tower.canonical == alone.canonical
    assert [made.tree.names[n].removeprefix("text_model.") for n in names] == tower.tree.names


def test_a_submodule_keeps_the_order_of_execution_of_the_whole():
    root = module("Net", side=conv(3, 4), body=module("Body", b=conv(4, 4), a=conv(4, 4)))
    made = spec(root, calls=["side", "body", "body.a", "body.b"])
    body, _ = made.within(made.module("body"))
    assert body.order == "execution"
    assert name_of(body, "a.weight").endswith("conv.0/weight")


def test_a_submodule_that_never_ran_counts_by_registration_and_says_so():
    root = module("Net", side=conv(3, 4), body=module("Body", b=conv(4, 4), a=conv(4, 4)))
    made = spec(root, calls=["side"])
    body, _ = made.within(made.module("body"))
    assert body.order == "registration"
    assert name_of(body, "b.weight").endswith("conv.0/weight")


def test_a_submodule_knows_which_of_its_parameters_are_tied_within_it():
    made = spec(text_model(depth=2))
    text, _ = made.within(made.module("text"))
    assert not any(parameter.aliases for parameter in text.parameters)
    assert len(made.tree.subtree(0)[2]) == len(made)


def test_flags_as_found_travel_with_a_submodule():
    frozen = Node("Linear", "linear", {"weight": Weight(2, 2, trainable=False)})
    made = spec(module("Net", a=linear(4, 4), b=module("B", c=frozen)))
    part, _ = made.within(made.module("b"))
    assert part.found.tolist() == [False]
    assert made.found.tolist() == [True, True, False]


# What holds for every model -----------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(models())
def test_canonical_names_are_unique_whenever_native_names_are(root):
    made = spec(root)
    assert len(set(made.tree.names)) == len(made.tree.names)
    assert len(set(made.canonical)) == len(made.canonical)


@settings(max_examples=100, deadline=None)
@given(models())
def test_every_owner_has_a_place_and_every_parameter_one_position(root):
    made = spec(root)
    assert all(owner in made.placement.unit_of for owner in made.tree.owners)
    assert sorted(made.canonical_order) == list(range(len(made)))
    for run in made.runs:
        assert len(run.blocks) == len(run.stages)
        for one, other in zip(sorted(run.blocks), sorted(run.blocks)[1:], strict=False):
            assert made.tree.ends[one] <= other, "blocks do not overlap"


@settings(max_examples=100, deadline=None)
@given(models())
def test_a_zone_holds_no_more_than_its_parameters(root):
    made = spec(root)
    blocks_ = {made.tree.paths[b] for run in made.runs for b in run.blocks}
    for canonical, path, owner in zip(
        made.canonical, made.tree.names, made.tree.owners, strict=True
    ):
        inside = any(path == b or path.startswith(f"{b}.") for b in blocks_)
        zone = made.placement.units[made.placement.unit_of[owner]].zone
        assert inside == (zone is Zone.BLOCK), canonical


def test_a_stack_of_depth_one_beside_a_deeper_one_is_a_run_of_its_own():
    made = spec(encoder_decoder((2, 1)))
    assert made.placement.labels == ["encoder", "decoder"]
    assert [len(run.blocks) for run in made.runs] == [2, 1]


def test_a_stage_of_one_block_beside_stages_of_several_is_a_stage():
    def stage(depth):
        return module("Stage", **{f"block{n}": bottleneck(8, 8) for n in range(depth)})

    trunk = stack(block1=stage(1), block2=stage(3), block3=stage(2))
    made = spec(module("Net", stem=conv(3, 8), trunk=trunk, fc=linear(8, 2)))
    assert [len(run.blocks) for run in made.runs] == [6]
    assert made.runs[0].stages == (0, 1, 1, 1, 2, 2)


def test_auxiliary_heads_are_no_blocks():
    def head():
        return module("Aux", conv=conv(8, 8), fc=linear(8, 2))

    blocks_ = {f"inception{n}": bottleneck(8, 8) for n in range(3)}
    made = spec(module("Net", **blocks_, aux1=head(), aux2=head(), fc=linear(8, 2)))
    assert [len(run.blocks) for run in made.runs] == [3]
    assert {n.partition("/")[0] for n in made.canonical} == {
        "blocks.0", "blocks.1", "blocks.2", "head"
    }  # fmt: skip


def test_towers_of_one_class_side_by_side_are_runs_of_their_own():
    def tower(depth):
        return module("Tower", layers=stack(*(bottleneck(8, 8) for _ in range(depth))))

    made = spec(module("Net", vision=tower(3), text=tower(2), head=linear(8, 2)))
    assert made.placement.labels == ["vision.blocks", "text.blocks"]
    stages = spec(module("Net", stage1=tower(3), stage2=tower(2), head=linear(8, 2)))
    assert [len(run.blocks) for run in stages.runs] == [5]
