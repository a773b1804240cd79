"""What a resolution tells beside its decisions: notices, and what rests on the order of layers."""

from __future__ import annotations

import pytest

from tests.support.plain_resolution import PLAN, affineless_net, frozen
from tests.support.trees import (
    adapted,
    conv_net,
    encoder_decoder,
    image_model,
    linear,
    module,
    node_at,
    seq_block,
    several,
    spec,
    stack,
    text_model,
)
from unifreeze._plan import FreezePlan
from unifreeze._resolution import resolve_spec, rests_on_order


def notices(plan, made):
    return resolve_spec(plan, made).notices


COUNTS = ["blocks[0]", "params[:3]", "stages[0]", "head | blocks[:1]", 'at:"blocks.0"', "stem"]


@pytest.mark.parametrize("what", COUNTS)
def test_words_that_count_layers_rest_on_their_order(what):
    assert rests_on_order([PLAN.freeze("all"), PLAN.freeze(what)], spec(conv_net()))
    assert not rests_on_order([PLAN.freeze(what).with_order("as_described")], spec(conv_net()))


@pytest.mark.parametrize("what", ["norm", "children[0]", "layer1[0]", "size(> 50)", 're:".*bn.*"'])
def test_paths_and_kinds_do_not_rest_on_the_order(what):
    assert not rests_on_order([PLAN.freeze(what)], spec(conv_net()))
    assert notices(PLAN.freeze(what), spec(conv_net())) == ()


def test_groups_and_rules_for_norms_can_rest_on_the_order_too():
    made, base = spec(conv_net()), PLAN.freeze("norm")
    assert rests_on_order([base.with_group("blocks[0]", lr_scale=2)], made)
    assert rests_on_order([base.with_group("all", layer_decay=0.5)], made)
    assert rests_on_order([base.with_norm_stats([{"hold": "blocks[0]"}])], made)
    assert rests_on_order([base], affineless_net())


def test_positions_counted_by_execution_rest_on_nothing():
    made = spec(conv_net(stages=1), calls=["conv1", "bn1", "layer1.0", "layer1.1", "fc"])
    assert not rests_on_order([PLAN.freeze("blocks[0]")], made)


def test_a_dry_run_of_a_plan_with_phases_says_that_they_are_left_out():
    plan = FreezePlan.from_yaml("{unifreeze: 1, rules: [{only: head}], phases: [{name: top}]}")
    assert notices(plan, spec(conv_net())) == (
        "this is of the plan's own rules; its phases add theirs",
    )


def test_a_word_that_hides_a_path_says_so_once():
    made = spec(image_model())
    assert notices(PLAN.freeze("norm & stem | norm"), made) == (
        "'norm' is read as the word, not as the path 'norm', which holds other parameters: "
        'path:"norm"',
    )
    assert frozen(PLAN.freeze('path:"norm"'), made) == {"norm.weight", "norm.bias"}
    assert notices(PLAN.freeze('path:"norm"'), made) == ()


def test_a_word_that_means_what_the_path_of_its_name_does_says_nothing():
    assert notices(PLAN.freeze("head"), spec(image_model())) == ()
    assert notices(PLAN.freeze("blocks"), spec(image_model())) == ()


def test_a_word_inside_a_submodule_is_compared_with_the_path_there():
    made = several(a=image_model(), b=image_model())
    (notice,) = notices(PLAN.freeze("norm in a"), made)
    assert notice.startswith("'norm' is read as the word")
    assert notices(PLAN.freeze("head in a"), made) == ()


def test_a_word_with_a_meaning_in_a_submodule_alone_is_no_error():
    image = module("Image", layers=stack(seq_block(), seq_block()))
    language = encoder_decoder((2, 2)).children["model"]
    made = spec(module("Net", encoder=image, language=language, head=linear(8, 2)))
    paths = frozen(PLAN.freeze("encoder in language"), made)
    assert {path.rpartition("layers")[0] for path in paths} == {"language.encoder."}


def test_adapters_need_no_word_of_their_own_to_be_trained_alone():
    root = text_model(depth=2)
    for number in range(2):
        adapted(node_at(root, f"text.encoder.layer.{number}.attention.self.query"))
    paths = resolve_spec(PLAN.only("adapter"), spec(root)).trainable_paths
    assert {path.rpartition(".")[2] for path in paths} == {"lora_A", "lora_B"}


def test_a_pattern_that_begins_with_a_star_is_told_when_it_stays_at_the_top():
    made = spec(image_model())
    (notice,) = notices(PLAN.freeze("*.bias"), made)
    wide = notice.partition("at any depth: ")[2].partition(" (")[0]
    assert wide == "**.bias"
    assert notice.startswith("'*.bias' selects ")
    assert resolve_spec(PLAN.freeze(wide), made).trainable.sum() < len(made)
    assert notices(PLAN.freeze(wide), made) == ()
    assert notices(PLAN.freeze("*").train("head"), made) == ()
