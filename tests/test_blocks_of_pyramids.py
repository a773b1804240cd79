"""Blocks of networks in steps: pyramids, cells, parallel lists, paths down and home-made layers."""

from __future__ import annotations

import pytest

from tests.support.structure_names import blocks, name_of
from tests.support.trees import (
    Weight,
    attention,
    bottleneck,
    conv,
    embedding,
    linear,
    module,
    norm,
    spec,
    stack,
)


def stages_of(made):
    return [[run.stages.count(n) for n in range(max(run.stages) + 1)] for run in made.runs]


def unit(width, name="Unit"):
    return module(name, a=linear(width, 2 * width), b=linear(2 * width, width))


def pyramid_stage(width, depth, *, resample=3, last="Unit", name="Stage"):
    """A stage of a list of blocks, after what resamples with several matrices."""
    units = [unit(width) for _ in range(depth - 1)] + [unit(width, last)]
    down = module("Down", **{f"conv{n}": conv(8, 8) for n in range(resample)})
    return module(name, downsample=down, blocks=stack(*units))


# Pyramids -----------------------------------------------------------------------------------


def test_what_resamples_in_a_pyramid_may_hold_several_matrices():
    made = spec(module("N", stages=stack(*(pyramid_stage(8 * n, n + 1) for n in (1, 2, 3)))))
    assert stages_of(made) == [[2, 3, 4]]
    assert made.tree.paths[made.runs[0].blocks[0]] == "stages.0.blocks.0"
    assert name_of(made, "stages.1.downsample.conv0.weight") == "transition.2/conv.0/weight"


def test_a_stage_of_a_pyramid_may_end_in_blocks_of_another_class():
    steps = [pyramid_stage(8, 2), pyramid_stage(16, 2), pyramid_stage(32, 3, last="Attending")]
    made = spec(module("N", stages=stack(*steps), fc=linear(32, 2)))
    assert stages_of(made) == [[2, 2, 3]]
    assert name_of(made, "stages.2.blocks.2.a.weight") == "blocks.6/linear.0/weight"


def test_the_first_stage_of_a_pyramid_may_be_of_another_class():
    steps = [pyramid_stage(8, 2, resample=0, name="First")]
    steps += [pyramid_stage(width, 2) for width in (16, 32)]
    assert stages_of(spec(module("N", stages=stack(*steps)))) == [[2, 2, 2]]


def test_stages_of_one_width_with_much_besides_are_blocks_themselves():
    made = spec(module("N", layers=stack(*(pyramid_stage(8, 2) for _ in range(3)))))
    assert blocks(made) == [["layers.0", "layers.1", "layers.2"]]


def test_a_list_inside_another_module_is_seen_through():
    def step(width):
        return module("Step", inner=module("Inner", blocks=stack(unit(width), unit(width))))

    made = spec(module("N", stages=stack(step(8), step(16), step(32))))
    assert stages_of(made) == [[2, 2, 2]]


def test_blocks_of_two_equal_parts_are_blocks_and_not_their_parts():
    def mixer():
        return module("Mixer", tokens=unit(4), channels=unit(8))

    made = spec(module("N", blocks=stack(mixer(), mixer(), mixer()), fc=linear(8, 2)))
    assert blocks(made) == [["blocks.0", "blocks.1", "blocks.2"]]


def test_steps_of_unlike_classes_in_one_tower_are_one_run():
    early = stack(*(module("Early", blocks=stack(unit(w), unit(w))) for w in (8, 16)))
    late = module(
        "Late",
        conv_layers=module(
            "A", blocks=stack(unit(32), unit(32)), scale=conv(3, 8), shift=conv(8, 8)
        ),
        attention_layers=module(
            "B", blocks=stack(unit(32, "C"), unit(32, "C")), mix=conv(8, 8), out=conv(8, 9)
        ),
    )
    made = spec(module("N", early_stages=early, last_stage=late, fc=linear(32, 2)))
    assert made.placement.labels == ["blocks"]
    assert stages_of(made) == [[2, 2, 4]]


def test_along_a_batch_a_joined_run_has_a_stage_for_each_resolution():
    def part(width):
        others = {f"conv{n}": conv(8, 8) for n in range(4)}
        return module("Part", **others, blocks=stack(unit(width), unit(width)))

    net = module("N", entry_flow=part(8), middle_flow=part(8))
    paths = [f"{flow}.blocks.{n}" for flow in ("entry_flow", "middle_flow") for n in (0, 1)]
    sizes = ((1, 8, 8, 8), (1, 8, 4, 4), (1, 8, 4, 4), (1, 8, 4, 4))
    made = spec(net, calls=paths, shapes=dict(zip(paths, sizes, strict=True)))
    assert stages_of(made) == [[1, 3]]
    assert stages_of(spec(net)) == [[2, 2]]


def whole(width, *, table):
    """A tower that begins with what the model reads."""
    first = embedding(9, width) if table else conv(3, width)
    return module(
        "Whole",
        first=first,
        mix=linear(4, 4),
        out=linear(4, 5),
        blocks=stack(unit(width), unit(width)),
    )


@pytest.mark.parametrize("names", [("net_0", "net_1"), ("text_layers", "image_layers")])
@pytest.mark.parametrize("tables", [(True, False), (False, False), (True, True)])
def test_two_towers_stay_two(names, tables):
    sides = {
        n: whole(8 * k, table=t) for k, (n, t) in enumerate(zip(names, tables, strict=True), 1)
    }
    made = spec(module("N", **sides, head=linear(8, 2)))
    assert [len(run.blocks) for run in made.runs] == [2, 2]


def test_lists_called_encoder_and_decoder_are_two_runs():
    down = stack(bottleneck(3, 8), bottleneck(8, 16))
    up = stack(bottleneck(16, 8), bottleneck(8, 8))
    made = spec(module("N", encoder=down, middle=conv(16, 16), decoder=up, head=conv(8, 2)))
    assert made.placement.labels == ["encoder", "decoder"]
    assert [len(run.blocks) for run in made.runs] == [2, 2]


# Cells --------------------------------------------------------------------------------------


def cell(name="Cell"):
    pairs = {f"pair_{n}": stack(unit(8, "Sep"), unit(8, "Sep")) for n in range(3)}
    return module(name, squeeze=conv(8, 8), mix=conv(8, 9), **pairs)


def test_cells_are_blocks_and_not_the_lists_in_them():
    cells = {"cell_0": cell("First"), "cell_1": cell(), "reduction_cell_0": cell("Down")}
    cells["cell_2"] = cell()
    made = spec(module("N", conv0=conv(3, 8), **cells, fc=linear(8, 2)))
    assert blocks(made) == [list(cells)]


def test_cells_that_each_begin_with_the_input_are_towers():
    towers = {
        f"net_{n}": module(
            "Net", first=conv(3, 8), a=stack(unit(8), unit(8)), b=stack(unit(8), unit(8))
        )
        for n in range(3)
    }
    assert len(spec(module("N", **towers)).runs) == 3


# Stems --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stem", "conv_stem", "patch_embed"])
def test_like_units_in_a_stem_are_no_blocks_beside_blocks(name):
    first = module("First", parts=stack(unit(8, "Conv"), unit(8, "Conv")))
    made = spec(module("N", **{name: first}, blocks=stack(unit(8), unit(8)), fc=linear(8, 2)))
    assert blocks(made) == [["blocks.0", "blocks.1"]]
    assert name_of(made, f"{name}.parts.0.a.weight").startswith("stem/")


# Parallel lists -----------------------------------------------------------------------------


def in_parallel(depth=3, *, norms=True, attends=True):
    mix = attention if attends else (lambda: unit(8, "Mix"))
    lists = {
        "mixing": stack(*(mix() for _ in range(depth))),
        "norms1": stack(*(norm(8) for _ in range(depth))),
        "ffns": stack(*(unit(8, "Ffn") for _ in range(depth))),
        "norms2": stack(*(norm(8) for _ in range(depth))),
    }
    if not norms:
        lists = {name: row for name, row in lists.items() if "norm" not in name}
    return module("N", embed=embedding(9, 8), **lists, head=linear(8, 9))


@pytest.mark.parametrize(("norms", "attends"), [(True, True), (False, True), (True, False)])
def test_the_parts_with_one_index_in_parallel_lists_are_one_block(norms, attends):
    made = spec(in_parallel(norms=norms, attends=attends))
    assert blocks(made) == [[f"mixing.{n}" for n in range(3)]]
    zones = {
        n.split(".")[1]: made.canonical[k].split("/")[0]
        for k, n in enumerate(made.tree.names)
        if n[0] not in "eh"
    }
    assert zones == {str(n): f"blocks.{n}" for n in range(3)}
    units = {c.split("/")[0] for c in made.canonical}
    assert units == {"stem", "head", *(f"blocks.{n}" for n in range(3))}


def test_along_a_batch_parallel_lists_are_one_run_in_order_of_execution():
    lists = ("mixing", "norms1", "ffns", "norms2")
    calls = ["embed", *(f"{row}.{n}" for n in (2, 0, 1) for row in lists), "head"]
    made = spec(in_parallel(), calls=calls)
    assert blocks(made) == [["mixing.2", "mixing.0", "mixing.1"]]
    assert name_of(made, "norms2.2.weight") == "blocks.0/norm.1/weight"
    assert name_of(made, "ffns.1.a.weight").startswith("blocks.2/")


def test_equally_long_lists_of_whole_blocks_follow_each_other():
    def whole_block(name):
        return module(name, attn=attention(), ffn=unit(8))

    net = module(
        "N",
        a=stack(whole_block("A"), whole_block("A")),
        b=stack(whole_block("B"), whole_block("B")),
    )
    assert blocks(spec(net)) == [["a.0", "a.1", "b.0", "b.1"]]


# One convolution ----------------------------------------------------------------------------


def residual(fan_in=8, fan_out=8, name="Residual"):
    return module(name, conv=conv(fan_in, fan_out), bn=norm(fan_out, statistics=True))


@pytest.mark.parametrize("name", ["down", "downs", "down_path", "encoder_path"])
def test_the_path_down_of_a_network_of_single_convolutions_is_blocks(name):
    down = stack(residual(3, 8), residual(8, 16), residual(16, 32))
    up = stack(bottleneck(32, 16), bottleneck(16, 8))
    made = spec(module("N", **{name: down}, ups=up, head=conv(8, 2)))
    assert blocks(made) == [[f"{name}.0", f"{name}.1", f"{name}.2", "ups.0", "ups.1"]]


def test_a_path_down_is_known_by_its_mirrored_widths_whatever_its_name():
    down = stack(residual(8, 16), residual(16, 32), residual(32, 64))
    up = stack(bottleneck(64, 32), bottleneck(32, 16), bottleneck(16, 8))
    made = spec(module("N", first=conv(3, 8), qxz=down, wvt=up, head=conv(8, 2)))
    assert [len(run.blocks) for run in made.runs] == [6]
    stem = stack(residual(3, 6), residual(6, 12))
    made = spec(module("N", start=stem, layers=stack(bottleneck(12, 8), bottleneck(8, 8))))
    assert blocks(made) == [["layers.0", "layers.1"]]


def test_residual_units_of_one_convolution_are_blocks():
    made = spec(
        module(
            "N", first=conv(3, 8), layers=stack(*(residual() for _ in range(4))), fc=linear(8, 2)
        )
    )
    assert blocks(made) == [[f"layers.{n}" for n in range(4)]]


@pytest.mark.parametrize(
    "units",
    [(residual(3, 8), residual(8, 16)), (residual(), residual(name="Other")), (residual(),)],
)
def test_other_lists_of_single_convolutions_are_none(units):
    made = spec(module("N", features=stack(*units), fc=linear(8, 2)))
    assert blocks(made) == []


def test_single_convolutions_of_a_head_are_no_blocks():
    head = module("Head", tower=stack(residual(), residual()), out=conv(8, 4))
    made = spec(module("N", layers=stack(bottleneck(3, 8), bottleneck(8, 8)), head=head))
    assert blocks(made) == [["layers.0", "layers.1"]]


def test_single_convolutions_of_a_neck_are_no_blocks_beside_siblings():
    def units():
        return stack(residual(8, 16), residual(16, 16))

    body = module("Body", one=bottleneck(3, 8), two=bottleneck(8, 8))
    neck = module("Pyramid", inner=units(), layer=units())
    made = spec(module("N", body=body, fpn=neck, head=conv(16, 2)))
    assert blocks(made) == [["body.one", "body.two"]]


# Home-made layers ---------------------------------------------------------------------------


def home_made(leaf="matrix", shape=(8, 8)):
    return module("MLPLayer", {leaf: Weight(*shape), "bias": Weight(8)})


@pytest.mark.parametrize("leaf", ["matrix", "w", "kernel", "theta", "weight"])
def test_a_parameter_of_two_axes_is_a_matrix_whatever_its_class_and_name(leaf):
    units = [module("Layer", a=home_made(leaf), b=home_made(leaf)) for _ in range(3)]
    made = spec(module("N", inp=linear(3, 8), layers=stack(*units), out=linear(8, 1)))
    assert blocks(made) == [["layers.0", "layers.1", "layers.2"]]
    assert name_of(made, "out.weight") == "head/linear.0/weight"


@pytest.mark.parametrize(
    ("leaf", "shape"),
    [("scale", (8, 1, 1)), ("token", (1, 4, 8)), ("pos_embed", (4, 8)), ("bias_table", (9, 2))],
)
def test_scales_tokens_tables_and_biases_are_no_matrices(leaf, shape):
    units = [module("Layer", {leaf: Weight(*shape)}, a=linear(8, 8)) for _ in range(3)]
    assert blocks(spec(module("N", layers=stack(*units), out=linear(8, 1)))) == []


@pytest.mark.parametrize("leaf", ["weight_g", "parametrizations.weight.original0"])
def test_the_lengths_of_a_weight_normalised_matrix_are_no_second_matrix(leaf):
    def layer():
        made = conv(8, 8)
        made.own = {
            leaf: Weight(8, 1, 1),
            leaf.replace("_g", "_v").replace("0", "1"): Weight(8, 8, 3),
        }
        return made

    units = [module("Conv", conv=layer(), act=norm(8)) for _ in range(3)]
    assert blocks(spec(module("N", features=stack(conv(3, 8), *units), out=linear(8, 1)))) == []
