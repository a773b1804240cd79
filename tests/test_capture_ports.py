"""A captured plan comes to the same on the other port of a network, or is refused there."""

from dataclasses import replace
from random import Random

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from tests.support import trees
from tests.support.pairs import PAIRS
from tests.support.pairs import freezings as zoo
from tests.support.trees import Node, Weight, conv, embedding, linear, module, norm, spec, stack
from unifreeze._authoring.capture import capture_spec, shortest_plan, translate_spec
from unifreeze._authoring.capture.plan_search import unfrozen
from unifreeze._resolution import resolve_spec
from unifreeze._structure.counted_layers import folded, groups_of, same_layers, unfolded
from unifreeze.errors import (
    CapturedPlanError,
    FusedTensorError,
    PlanError,
    PlanFileError,
    UnmatchedSelectorError,
)

# Random freezings of live networks ----------------------------------------------------------

EVERY = {pair.name: pair for pair in (*PAIRS.values(), *zoo.HOME_MADE)}
IN_CI = (
    "bert",
    "bert for tokens",
    "gpt2",
    "llama",
    "t5 for generation",
    "bart",
    "albert",
    "opt",
    "small text",
    "small image",
    "decoder fused as v q k, up gate",
)
"""Small ones, among them every sort that came out as something else before."""


@pytest.fixture(scope="module")
def ports():
    """Both ports of a network, built and paired once."""
    made = {}

    def build(name):
        if name not in made:
            made[name] = zoo.Ports.of(EVERY[name])
        return made[name]

    return build


@pytest.fixture(scope="module")
def outcomes(ports):
    """What became of ten random freezings of a network."""
    made = {}

    def run(name):
        if name not in made:
            random = Random(f"in ci {name}")
            made[name] = list(zoo.random_freezings(ports(name), random, 10, zoo.WAYS))
        return made[name]

    return run


@pytest.mark.parametrize("name", IN_CI)
def test_random_freezings_come_out_right_or_are_refused(name, outcomes):
    found = outcomes(name)
    other = [f"{what}: {o.reason}; {o.plan}" for what, o in found if o.verdict == zoo.OTHER]
    assert not other, "\n".join(other)
    assert all(outcome.reason for _, outcome in found if outcome.verdict == zoo.REFUSED)


def test_most_of_them_come_out_right(outcomes):
    verdicts = [outcome.verdict for name in IN_CI for _, outcome in outcomes(name)]
    assert verdicts.count(zoo.RIGHT) >= zoo.LEAST * len(verdicts)


SHUFFLED = [
    ("bert", ("plain", "batch")),
    ("t5 for generation", ("plain", "batch")),
    ("small image", ("batch",)),
    ("small text", ("batch",)),
]
"""Where all layers are of one size, only a run shows which is which."""


@pytest.mark.parametrize("shuffled", ["torch", "paddle"])
@pytest.mark.parametrize(("name", "ways"), SHUFFLED)
def test_layers_registered_in_any_order_are_never_taken_for_others(name, ways, shuffled):
    random = Random(f"{name} {shuffled}")
    for _ in range(3):
        built = zoo.Ports.of(EVERY[name])
        zoo.shuffle(built.models[shuffled == "paddle"], random)
        for what, outcome in zoo.random_freezings(built, random, 6, ways):
            assert outcome.verdict != zoo.OTHER, f"{what}: {outcome.reason}; {outcome.plan}"


@pytest.mark.parametrize("wrong", ["flags", "pairing"])
def test_the_judge_sees_what_is_other(wrong, ports):
    """One flag, or one pair, that is wrong is found by the comparison that the tests go by."""
    built = ports("small text")
    plan = uf.FreezePlan().freeze("blocks")
    zoo.freeze(built.models[1], set())
    handle = plan.apply(built.models[1])
    came = zoo.flags(built.models[1])
    handle.remove()
    wanted = {row.one: came[row.other] for row in built.pairing.pairs}
    assert zoo.compared(built.pairing, 0, wanted, came, "").verdict == zoo.RIGHT
    if wrong == "flags":
        came[built.pairing.pairs[0].other] ^= True
    else:
        wanted[next(name for name, trains in wanted.items() if trains)] = False
    assert zoo.compared(built.pairing, 0, wanted, came, "").verdict == zoo.OTHER


# GPT-2, fused in one port -------------------------------------------------------------------


def freeze(model, *starts):
    names = zoo.flags(model)
    zoo.freeze(model, {name for name in names if name.startswith(starts)})


def frozen(model):
    return {name for name, trains in zoo.flags(model).items() if not trains}


def carried(found, model, **how):
    zoo.freeze(model, set())
    handle = found.plan.apply(model, **how)
    try:
        return frozen(model)
    finally:
        handle.remove()


def test_what_stands_behind_a_fused_projection_is_the_same_layer_in_both_ports(ports):
    one, other = ports("gpt2").models
    freeze(one, "h.0.attn.c_proj")
    theirs = {f"decoder.layers.0.self_attn.out_proj.{leaf}" for leaf in ("weight", "bias")}
    assert carried(uf.capture(one), other) == theirs
    freeze(other, "decoder.layers.0.self_attn.out_proj")
    mine = {f"h.0.attn.c_proj.{leaf}" for leaf in ("weight", "bias")}
    assert carried(uf.capture(other), one) == mine


def test_a_fused_projection_is_all_its_parts_in_the_other_port(ports):
    one, other = ports("gpt2").models
    freeze(one, "h.0.attn.c_attn.")
    parts = {f"decoder.layers.0.self_attn.{p}_proj.{x}" for p in "qkv" for x in ("weight", "bias")}
    assert carried(uf.capture(one), other) == parts
    zoo.freeze(other, parts)
    whole = {f"h.0.attn.c_attn.{leaf}" for leaf in ("weight", "bias")}
    assert carried(uf.capture(other), one) == whole
    freeze(other, "decoder.layers.0.self_attn.q_proj")
    with pytest.raises(FusedTensorError, match=r"would split h\.0\.attn\.c_attn"):
        uf.capture(other).plan.apply(one)


def test_translation_takes_the_projections_and_no_mlp(ports):
    one, other = (zoo.backend_for(m).describe(m) for m in ports("gpt2").models)
    plan = uf.FreezePlan().freeze("**.c_attn")
    made = translate_spec(plan, one, other).plan
    theirs = set(resolve_spec(made, unfrozen(other)).frozen_paths)
    assert theirs == {
        f"decoder.layers.{n}.self_attn.{p}_proj.{leaf}"
        for n in (0, 1) for p in "qkv" for leaf in ("weight", "bias")
    }  # fmt: skip
    assert set(resolve_spec(made, unfrozen(one)).frozen_paths) == {
        f"h.{n}.attn.c_attn.{leaf}" for n in (0, 1) for leaf in ("weight", "bias")
    }
    query = uf.FreezePlan().freeze("**.q_proj")
    with pytest.raises(FusedTensorError, match="holds in one tensor what the plan decides apart"):
        translate_spec(query, other, one)


# What is neutral ----------------------------------------------------------------------------


def words(plan):
    return "; ".join(map(str, plan.rules))


@pytest.mark.parametrize("tree", trees.MODELS)
def test_what_counts_parameters_or_stages_is_in_no_captured_plan(tree):
    made = spec(trees.MODELS[tree]())
    for edge in range(1, len(made)):
        wanted = np.ones(len(made), bool)
        wanted[made.canonical_order[:edge]] = False
        found = capture_spec(made, wanted, title="x", checked=True).plan
        assert "params[" not in words(found)
        assert "stages[" not in words(found)
        assert np.array_equal(resolve_spec(found, unfrozen(made)).trainable, wanted)


def test_they_are_in_a_plan_for_one_model_alone():
    made = spec(trees.conv_net())
    wanted = np.ones(len(made), bool)
    wanted[made.canonical_order[:10]] = False
    assert words(shortest_plan(made, wanted)) == "freeze: params[:10]"


# Order --------------------------------------------------------------------------------------


def block(*names, width=4):
    """A block of two norms of one size and two linear layers, registered in the order given."""
    made = {"norm1": norm(width), "norm2": norm(width)}
    made |= {"up": linear(width, 2 * width), "down": linear(2 * width, width)}
    return module("Block", **{name: made[name] for name in names})


def network(*names, depth=2):
    layers = (block(*names) for _ in range(depth))
    return module("Net", words=embedding(9, 4), layers=stack(*layers), head=linear(4, 2))


def calls(*names, depth=2):
    """What runs: the layers of each block in the order given."""
    inside = [f"layers.{n}.{name}" for n in range(depth) for name in names]
    return ["words", *inside, "head"]


RAN = ("norm1", "up", "norm2", "down")


def trained(made, *paths):
    taken = [p.path.startswith(paths) for p in made.parameters]
    return np.asarray(taken, bool)


def capture_of(root, paths, *, order=None):
    made = spec(root)
    traced = spec(root, calls=order) if order else None
    return capture_spec(made, trained(made, *paths), title="x", traced=traced, checked=True).plan


def decided(plan, root, order=None):
    made = spec(root, calls=order, framework="paddle")
    return {made.parameters[n].path for n in np.flatnonzero(resolve_spec(plan, made).trainable)}


LATER = ("layers.1.norm2.",)
WANTED = {f"layers.1.norm2.{leaf}" for leaf in ("weight", "bias")}


def test_a_plan_captured_with_a_batch_says_the_same_in_either_order_where_it_can():
    plan = capture_of(network(*RAN), LATER, order=calls(*RAN))
    assert plan.captured.order is None
    assert decided(plan, network(*RAN)) == WANTED
    assert decided(plan, network(*RAN), calls(*RAN)) == WANTED


def test_else_its_names_count_by_execution_and_it_wants_a_batch():
    crossed = network("norm2", "up", "norm1", "down")
    plan = capture_of(crossed, LATER, order=calls(*RAN))
    assert plan.captured.order == "execution"
    assert 'at:"blocks.1/norm.1"' in words(plan)
    assert decided(plan, network(*RAN), calls(*RAN)) == WANTED
    assert decided(plan, crossed, calls(*RAN)) == WANTED
    with pytest.raises(CapturedPlanError, match="captured with a batch"):
        decided(plan, network(*RAN))


def test_names_of_registration_are_not_read_as_if_they_were_of_execution():
    plan = capture_of(network(*RAN), LATER)
    assert plan.captured.order == "registration"
    assert decided(plan, network(*RAN), calls(*RAN)) == WANTED
    with pytest.raises(CapturedPlanError, match="captured without a batch"):
        decided(plan, network(*RAN), calls("norm2", "up", "norm1", "down"))


def test_layers_that_only_their_order_tells_apart_are_named():
    found = capture_spec(
        spec(network(*RAN)), trained(spec(network(*RAN)), *LATER), title="x", checked=True
    )
    assert found.notes[-1].startswith("blocks.1/norm.0, blocks.1/norm.1 are of one size and told")
    traced = spec(network(*RAN), calls=calls(*RAN))
    shown = capture_spec(
        spec(network(*RAN)), trained(traced, *LATER), title="x", traced=traced, checked=True
    )
    assert shown.notes == ()


def test_an_order_of_registration_that_is_nobodys_is_not_written_down():
    with pytest.raises(PlanError, match=r"layers\.1 registers norm2 before norm1") as caught:
        capture_of(network("norm2", "up", "norm1", "down"), LATER)
    assert "give a batch" in caught.value.hint
    plan = capture_of(network("norm2", "up", "norm1", "down"), ("head", "words"))
    assert plan.captured.order == "registration", "no name counts there"


def test_nor_read():
    plan = capture_of(network(*RAN), LATER)
    with pytest.raises(CapturedPlanError, match="registers norm2 before norm1"):
        decided(plan, network("norm2", "up", "norm1", "down"))


def test_every_layer_of_a_unit_is_a_witness_of_its_order():
    plan = capture_of(network(*RAN), LATER)
    with pytest.raises(CapturedPlanError, match=r"linear layers \[8x4, 4x8\], and \[4x8, 8x4\]"):
        decided(plan, network("norm1", "down", "norm2", "up"))


# What is compared ---------------------------------------------------------------------------


def fused(width=4):
    attn = module("Attn", mixed=linear(width, 3 * width), out=linear(width, width))
    return module("Block", attn=attn, fc=linear(width, 2 * width), norm=norm(width))


def apart(width=4):
    layers = {f"{word}_proj": linear(width, width) for word in "qkv"}
    attn = module("Attn", **layers, out=linear(width, width))
    return module("Block", attn=attn, fc=linear(width, 2 * width), norm=norm(width))


def around(*blocks, **more):
    return module("Net", words=embedding(9, 4), layers=stack(*blocks), **more)


def test_a_projection_that_is_fused_under_another_name_is_told_by_its_size():
    one = around(apart(), apart(), head=linear(4, 2))
    made = spec(one)
    found = capture_spec(made, ~trained(made, "layers.0.attn.k_"), title="x", checked=True)
    layers = {"blocks.0": dict(groups_of(made)["blocks.0"])}
    plan = replace(
        uf.FreezePlan().freeze('at:"blocks.0/linear.1"'),
        captured=replace(found.plan.captured, layers=layers),
    )
    resolve_spec(plan, made)
    with pytest.raises(CapturedPlanError, match="count other layers here") as caught:
        decided(plan, around(fused(), fused(), head=linear(4, 2)))
    assert "q 4x4, k 4x4, v 4x4, 4x4, 8x4" in caught.value.context


def test_a_layer_that_stands_elsewhere_in_the_other_port_is_told_by_its_values():
    one = around(apart(), apart(), last=linear(4, 2))
    early = module("Net", last=linear(4, 2), **around(apart(), apart()).children)
    captured = capture_of(one, ("layers", "last")).captured
    plan = replace(uf.FreezePlan().freeze("stem"), captured=captured)
    resolve_spec(plan, spec(one))
    with pytest.raises(CapturedPlanError, match="freezes something else here") as caught:
        decided(plan, early)
    assert "linear: 0 of 250 values frozen, and 10 of 250" in caught.value.context


def test_norms_that_are_neck_in_one_port_and_stem_in_the_other_are_told_by_their_kind():
    late = around(apart(), apart(), last=norm(4), head=linear(4, 2), pooler=linear(4, 4))
    early = module("Net", words=embedding(9, 4), embed_norm=norm(4),
                   layers=stack(apart(), apart()), head=linear(4, 2))  # fmt: skip
    plan = capture_of(late, ("layers", "head", "last", "pooler"))
    with pytest.raises(CapturedPlanError) as caught:
        decided(plan, early)
    assert "norm: 0 of 24 values frozen, and 8 of 24 values frozen here" in caught.value.context


def test_another_head_is_no_other_network():
    one = around(apart(), apart(), head=linear(4, 2))
    plan = capture_of(one, ("head",))
    wide = around(apart(), apart(), head=linear(4, 7))
    assert decided(plan, wide) == {"head.weight", "head.bias"}
    pooled = around(apart(), apart(), pooler=linear(4, 4), head=linear(4, 2))
    assert {p.split(".")[0] for p in decided(plan, pooled)} == {"head", "pooler"}


def test_a_part_of_another_head_is():
    one = around(apart(), apart(), dense=linear(4, 4), out=linear(4, 2))
    plan = capture_of(one, ("out",))
    with pytest.raises(CapturedPlanError, match="freezes something else here"):
        decided(plan, around(apart(), apart(), out=linear(4, 7)))


def test_a_model_that_was_frozen_before_says_so():
    one = around(apart(), apart(), head=linear(4, 2))
    plan = capture_of(one, ("layers", "head"))
    made = spec(one)
    other = made.with_found(~trained(made, "layers.1"))
    with pytest.raises(CapturedPlanError) as caught:
        resolve_spec(plan, other)
    assert "12 parameters were found frozen here" in caught.value.hint


def test_a_plan_says_what_it_came_to_and_no_rule_depends_on_it():
    plan = capture_of(network(*RAN), LATER)
    bare = uf.FreezePlan(plan.rules)
    assert plan == bare
    assert plan.digest == bare.digest
    assert hash(plan) == hash(bare)
    assert plan.freeze("head").captured is None
    assert plan.with_norm_stats("update").captured == plan.captured, "it tells no norms apart"
    assert plan.with_dropout("off").captured == plan.captured
    assert bare.captured is None
    made = spec(network("norm1", "down", "norm2", "up"))
    resolve_spec(bare, made)
    with pytest.raises(CapturedPlanError):
        resolve_spec(plan, made)


def test_it_stands_in_the_file_and_comes_back():
    plan = capture_of(network(*RAN), LATER)
    read = uf.FreezePlan.from_yaml(plan.to_yaml())
    assert read == plan
    assert read.captured == plan.captured
    assert '\n    blocks.1: {norm: ["4", "4"], linear: ["8x4", "4x8"]}' in plan.to_yaml()


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("{frozen: {}}", "captured.framework: is missing"),
        ("{framework: torch, frozen: {stem: {a: [1]}}}", "captured.frozen.stem.a: should be two"),
        ("{framework: torch, frozen: {stem: {a: [2, 1]}}}", "the second at least as large"),
        ("{framework: torch, frozen: {}, order: any}", "captured.order: "),
        ("{framework: torch, frozen: {}, layers: {a: {b: [x]}}}", "should be sizes as in 16x16"),
        ("{framework: torch, frozen: {}, frosen: {}}", "did you mean 'frozen'"),
    ],
)
def test_mistakes_in_it_are_reported_each_at_its_place(text, mistake):
    with pytest.raises(PlanFileError) as caught:
        uf.FreezePlan.from_yaml(f"unifreeze: 1\nrules: [{{freeze: head}}]\ncaptured: {text}")
    assert mistake in str(caught.value)


def test_statistics_told_apart_by_selector_are_compared_too():
    def convolutional(*order):
        def unit():
            layers = {"conv": conv(4, 4), "bn1": norm(4, statistics=True)}
            layers |= {"conv2": conv(4, 4), "bn2": norm(4, statistics=True)}
            return module("Unit", **{name: layers[name] for name in order})

        return module("Net", first=conv(3, 4), units=stack(unit(), unit()), fc=linear(4, 2))

    plain = convolutional("conv", "bn1", "conv2", "bn2")
    made = spec(plain)
    moving = {"": True} | {
        f"units.{n}.{name}": name == "bn1" for n in (0, 1) for name in ("bn1", "bn2")
    }
    found = capture_spec(made, trained(made, "fc"), title="x", training=moving, checked=True).plan
    assert found.captured.held == {"blocks": (2, 4)}
    assert found.captured.layers.keys() == {"blocks.0..1"}
    resolve_spec(found, made)
    with pytest.raises(CapturedPlanError):
        resolve_spec(found, spec(convolutional("conv", "bn2", "conv2", "bn1")))


# Pairings -----------------------------------------------------------------------------------


def test_a_pairing_decides_and_the_plan_has_names_of_both(ports):
    built = ports("decoder fused as v q k, up gate")
    one, other = built.models
    freeze(one, "blocks.0.mlp.down")
    with pytest.raises((CapturedPlanError, UnmatchedSelectorError)):
        carried(uf.capture(one), other)
    found = uf.capture(one, pairing=built.pairing)
    theirs = {f"stack.0.narrow.{leaf}" for leaf in ("weight", "bias")}
    assert carried(found, other) == theirs
    assert uf.FreezePlan.from_yaml(found.text) == found.plan
    freeze(other, "stack.0.narrow")
    back = uf.capture(other, pairing=built.pairing)
    assert carried(back, one) == {f"blocks.0.mlp.down.{leaf}" for leaf in ("weight", "bias")}


def test_no_children_are_counted_of_a_model_that_only_its_pairing_tells_of():
    def stacked(nn):
        widths = [nn.Linear(4, 4) for _ in range(5)]
        return nn.Sequential(*(layer for width in widths for layer in (width, nn.Tanh())))

    one, other = stacked(torch.nn), stacked(paddle.nn)
    pairing = uf.pair(one, other, batch=np.random.default_rng(0).random((3, 4), "float32"))
    for number in range(1, 5):
        mine = {f"{2 * n}.{leaf}" for n in range(number) for leaf in ("weight", "bias")}
        for source, target in ((one, other), (other, one)):
            zoo.freeze(source, mine)
            assert carried(uf.capture(source, pairing=pairing), target) == mine


def test_a_pairing_says_which_tensor_holds_what_is_decided_apart(ports):
    built = ports("decoder fused as v q k, up gate")
    freeze(built.models[0], "blocks.1.att.q")
    with pytest.raises(FusedTensorError, match=r"stack\.1\.mixed\.\w+ of the other port") as caught:
        uf.capture(built.models[0], pairing=built.pairing)
    assert "blocks.1.att.q." in caught.value.context


def test_a_pairing_of_another_model_is_refused(ports):
    freeze(ports("bert").models[0], "embeddings")
    with pytest.raises(PlanError, match=r"the pairing is not of this model \(torch\)"):
        uf.capture(ports("bert").models[0], pairing=ports("gpt2").pairing)


def test_translation_by_a_pairing_needs_no_names(ports):
    built = ports("decoder fused as q k v, gate up")
    one, other = (zoo.backend_for(model).describe(model) for model in built.models)
    plan = uf.FreezePlan().freeze("blocks.0.mlp.down")
    with pytest.raises(PlanError, match="canonical names do not tell which layer is which"):
        translate_spec(plan, one, other)
    made = translate_spec(plan, one, other, pairing=built.pairing).plan
    theirs = set(resolve_spec(made, unfrozen(other)).frozen_paths)
    assert theirs == {f"stack.0.narrow.{leaf}" for leaf in ("weight", "bias")}
    native = translate_spec(plan, one, other, pairing=built.pairing, native=True).plan
    assert set(resolve_spec(native, unfrozen(other)).frozen_paths) == theirs
    simple = translate_spec(
        uf.FreezePlan().freeze("blocks"), one, other, pairing=built.pairing
    ).plan
    assert words(simple) == "freeze: blocks"


def test_translation_goes_by_names_in_units_decided_alike(ports):
    built = ports("decoder fused as q k v, gate up")
    one, other = (zoo.backend_for(model).describe(model) for model in built.models)
    made = translate_spec(uf.FreezePlan().freeze("blocks.0"), one, other).plan
    assert set(resolve_spec(made, unfrozen(other)).frozen_paths) == {
        p.path for p in other.parameters if p.path.startswith("stack.0.")
    }


# Layers as texts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["4x4", "8x4"], ["4x4", "8x4"], True),
        (["4x4", "8x4"], ["8x4", "4x4"], False),
        (["8x4", "4x8"], ["4x8", "8x4"], False),
        (["~8x4", "4x8"], ["4x8", "8x4"], True),
        (["q k v 12x4/3", "4x4"], ["q 4x4", "k 4x4", "v 4x4", "4x4"], True),
        (["q k v 12x4/3", "4x4"], ["4x4", "4x4", "4x4", "4x4"], True),
        (["q k v 16x4/3", "4x4"], ["q 4x4", "k 4x4", "v 4x4", "4x4"], False),
        (["q 4x4", "k 4x4"], ["k 4x4", "q 4x4"], False),
        (["q 4x4", "k v 8x4/2"], ["q k v 12x4/3"], True),
        (["20x4/2", "4x10"], ["10x4", "10x4", "4x10"], True),
        (["20x4", "4x10"], ["10x4", "10x4", "4x10"], False),
        (["4"], ["4", "4"], False),
        (["4"], ["x"], False),
    ],
)
def test_two_ports_count_the_same_layers_or_not(one, other, same):
    assert same_layers(one, other) == same
    assert same_layers(other, one) == same


@pytest.mark.parametrize(
    ("units", "written"),
    [
        ({"a.0": 1, "a.1": 1, "a.2": 1, "head": 1}, {"a.0..2": 1, "head": 1}),
        ({"a.0": 1, "a.1": 2, "a.2": 2, "b.3": 2}, {"a.0": 1, "a.1..2": 2, "b.3": 2}),
        ({"a.0": 1, "a.2": 1, "a.1": 1}, {"a.0": 1, "a.2": 1, "a.1": 1}),
        ({"a.9": 1, "a.10": 1, "a.11": 1}, {"a.9..11": 1}),
        ({"a.0/e.0": 1, "a.0/e.1": 1, "a.1/e.2": 1}, {"a.0/e.0..1": 1, "a.1/e.2": 1}),
        ({}, {}),
    ],
)
def test_units_in_a_row_that_hold_the_same_are_written_once(units, written):
    sides = [
        {unit: {"linear": ("4x4",) * count} for unit, count in found.items()}
        for found in (units, written)
    ]
    assert folded(sides[0]) == sides[1]
    assert unfolded(sides[1]) == sides[0]


def test_a_tensor_that_no_layer_owns_is_known_by_its_values():
    root = module("Net", own={"token": Weight(1, 1, 4)}, layers=stack(apart(), apart()),
                  odd=Node("Gate", "", {"matrix": Weight(4, 6)}))  # fmt: skip
    rows = groups_of(spec(root))
    assert rows["blocks.0"]["linear"] == ["q 4x4", "k 4x4", "v 4x4", "4x4", "8x4"]
    assert any("param" in kinds for kinds in rows.values())
