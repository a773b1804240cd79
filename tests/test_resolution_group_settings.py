"""The optimizer's settings for each parameter: rates, weight decay, and decay by layer."""

from __future__ import annotations

import numpy as np

from tests.support.plain_resolution import PLAN, refuse
from tests.support.trees import (
    conv,
    conv_net,
    encoder_decoder,
    image_model,
    linear,
    module,
    plain_conv_net,
    several,
    spec,
    text_model,
    two_towers,
)
from unifreeze._plan import FreezePlan, Group
from unifreeze._plan.selectors import Selector
from unifreeze._resolution import resolve_spec
from unifreeze.errors import SelectorScopeError


def value_of(resolution, array, path):
    spec_ = resolution.spec
    return array[spec_.tree.tensor_of[spec_.tree.names.index(path)]]


def test_without_groups_the_optimizer_s_own_settings_hold():
    resolution = resolve_spec(PLAN.freeze("stem"), spec(conv_net()))
    assert (resolution.lr_scale == 1).all()
    assert np.isnan(resolution.weight_decay).all()


def test_each_setting_by_itself_the_last_match_wins():
    plan = (
        PLAN.freeze("stem")
        .with_group("all", lr_scale=0.5, weight_decay=0.1)
        .with_group("head", lr_scale=2)
        .with_group("bias | norm", weight_decay=0)
    )
    resolution = resolve_spec(plan, spec(conv_net()))
    found = {
        path: (
            value_of(resolution, resolution.lr_scale, path),
            value_of(resolution, resolution.weight_decay, path),
        )
        for path in ("conv1.weight", "bn1.weight", "fc.weight", "fc.bias")
    }
    assert found == {
        "conv1.weight": (0.5, 0.1),
        "bn1.weight": (0.5, 0.0),
        "fc.weight": (2.0, 0.1),
        "fc.bias": (2.0, 0.0),
    }


def test_a_group_that_sets_one_thing_leaves_the_others():
    plan = PLAN.freeze("stem").with_group("head", weight_decay=0.3)
    resolution = resolve_spec(plan, spec(conv_net()))
    assert value_of(resolution, resolution.weight_decay, "fc.weight") == 0.3
    assert np.isnan(value_of(resolution, resolution.weight_decay, "conv1.weight"))
    assert (resolution.lr_scale == 1).all()


def depths(plan, made):
    """How many times the decay applies to each parameter."""
    scales = resolve_spec(plan, made).lr_scale
    return {
        p.path: round(np.log(s) / np.log(0.5)) for p, s in zip(made.parameters, scales, strict=True)
    }


DECAY = PLAN.train("all").with_group("all", layer_decay=0.5)


def test_layer_decay_counts_blocks_from_the_head():
    found = depths(DECAY, spec(image_model(depth=3)))
    assert found["head.weight"] == 0
    assert found["norm.weight"] == 0, "what follows the last block counts as the head does"
    assert [found[f"blocks.{n}.norm1.weight"] for n in (2, 1, 0)] == [1, 2, 3]
    assert found["patch_embed.proj.weight"] == found["cls_token"] == 4


def test_layer_decay_takes_a_transition_with_the_block_it_leads_into():
    net = conv_net(stages=2, depth=2)
    one, two = net.children["layer1"], net.children["layer2"]
    root = module("Net", one=one, down=conv(8, 8), two=two, fc=linear(16, 2))
    found = depths(DECAY, spec(root))
    assert found["down.weight"] == found["two.0.conv1.weight"] == 2
    assert found["one.1.conv1.weight"] == 3


def test_layer_decay_puts_an_encoder_below_its_decoder():
    found = depths(DECAY, spec(encoder_decoder((3, 2))))
    assert found["model.decoder.layers.1.fc1.weight"] == 1
    assert found["model.decoder.layers.0.fc1.weight"] == 2
    assert found["model.encoder.layers.2.fc1.weight"] == 3
    assert found["model.encoder.layers.0.fc1.weight"] == 5
    assert found["model.decoder.layer_norm.weight"] == 0
    assert found["model.encoder.layer_norm.weight"] == 2, "the decoder's blocks come after it"


def test_layer_decay_does_not_depend_on_which_stack_is_registered_first():
    root = encoder_decoder((3, 2))
    parts = root.children["model"].children
    parts["encoder"] = parts.pop("encoder")
    assert depths(DECAY, spec(root)) == depths(DECAY, spec(encoder_decoder((3, 2))))


def test_layer_decay_counts_a_tied_parameter_where_its_canonical_name_is():
    found = depths(DECAY, spec(encoder_decoder((3, 2))))
    assert found["model.shared.weight"] == 6
    text = depths(DECAY, spec(text_model(depth=2)))
    assert text["text.embeddings.word_embeddings.weight"] == 3


def test_layer_decay_counts_each_tower_and_each_of_several_models_by_itself():
    found = depths(DECAY, spec(two_towers((3, 2))))
    assert found["vision_model.encoder.layers.0.fc1.weight"] == 3
    assert found["text_model.encoder.layers.0.fc1.weight"] == 2
    assert found["text_model.embed.token_embedding.weight"] == 3
    pair = depths(DECAY, several(a=encoder_decoder((3, 2)), b=text_model(depth=2)))
    alone = depths(DECAY, spec(encoder_decoder((3, 2))))
    assert {p.removeprefix("a."): d for p, d in pair.items() if p.startswith("a.")} == alone
    assert pair["b.text.encoder.layer.0.attention.self.query.weight"] == 2


def test_layer_decay_multiplies_the_scale_and_holds_where_it_matches():
    plan = PLAN.train("all").with_group("blocks", layer_decay=0.5).with_group("all", lr_scale=3)
    resolution = resolve_spec(plan, spec(image_model(depth=2)))
    assert value_of(resolution, resolution.lr_scale, "blocks.0.norm1.weight") == 3 * 0.25
    assert value_of(resolution, resolution.lr_scale, "patch_embed.proj.weight") == 3


def test_layer_decay_without_blocks_is_an_error():
    error = refuse(DECAY, spec(plain_conv_net()), SelectorScopeError)
    assert error.fact == "layer_decay needs repeated units, and this model has none"
    refuse(DECAY, several(a=text_model(), b=plain_conv_net()), SelectorScopeError)
    only_a = PLAN.train("all").with_group('path:"a"', layer_decay=0.5)
    resolve_spec(only_a, several(a=text_model(), b=plain_conv_net()))


def test_a_layer_decay_of_one_needs_no_blocks():
    plan = PLAN.train("all").with_group("all", layer_decay=1)
    assert (resolve_spec(plan, spec(plain_conv_net())).lr_scale == 1).all()


def test_a_group_given_as_a_value_is_the_same_as_in_a_file():
    plan = FreezePlan(groups=(Group(Selector("all"), weight_decay=0.1),)).freeze("stem")
    assert (resolve_spec(plan, spec(conv_net())).weight_decay == 0.1).all()
