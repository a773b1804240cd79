"""Which modules are blocks, and how blocks form runs and stages."""

from __future__ import annotations

import pytest

from tests.support.structure_names import blocks
from tests.support.trees import (
    Weight,
    adapted,
    attention,
    bottleneck,
    conv,
    conv_net,
    embedding,
    encoder_block,
    encoder_decoder,
    linear,
    module,
    norm,
    seq_block,
    spec,
    stack,
)

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
