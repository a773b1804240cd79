"""Which layers hold their statistics and other state, and where dropout is off."""

from __future__ import annotations

from tests.support.plain_resolution import PLAN, affineless_net
from tests.support.trees import (
    Node,
    Weight,
    conv_net,
    dropout,
    linear,
    module,
    norm,
    spec,
    stack,
    text_model,
)
from unifreeze._resolution import resolve_spec
from unifreeze._structure import State


def held(resolution):
    """Native paths of the layers whose statistics and other state hold still."""
    return {resolution.spec.tree.paths[number] for number in resolution.held}


def quiet(resolution):
    return {resolution.spec.tree.paths[number] for number in resolution.quiet}


def norms_of(made):
    return {
        path for path, kind in zip(made.tree.paths, made.tree.kinds, strict=True) if kind == "norm"
    }


def test_a_norm_whose_parameters_are_all_frozen_holds_by_default():
    made = spec(conv_net(stages=1, depth=2))
    assert held(resolve_spec(PLAN.only("head"), made)) == norms_of(made)
    assert held(resolve_spec(PLAN.freeze("stem"), made)) == {"bn1"}


def test_a_half_frozen_norm_updates():
    made = spec(conv_net(stages=1))
    assert held(resolve_spec(PLAN.freeze("norm & weight"), made)) == set()
    assert held(resolve_spec(PLAN.freeze("conv"), made)) == set()


def test_update_holds_no_norm_and_hold_all_every_one():
    made = spec(conv_net(stages=1))
    assert held(resolve_spec(PLAN.only("head").with_norm_stats("update"), made)) == set()
    assert held(resolve_spec(PLAN.freeze("fc").with_norm_stats("hold_all"), made)) == norms_of(made)


def test_norms_without_statistics_have_nothing_to_hold():
    made = spec(text_model())
    for policy in ("hold", "hold_all"):
        assert (
            held(resolve_spec(PLAN.freeze("backbone - tied").with_norm_stats(policy), made))
            == set()
        )


def test_rules_for_norms_apply_in_order_over_the_default():
    made = spec(conv_net(stages=2, depth=1))
    base = PLAN.freeze("stem | layer1")
    inside = {path for path in norms_of(made) if path.startswith("layer1")}
    assert held(resolve_spec(base, made)) == {"bn1", *inside}
    update = base.with_norm_stats([{"update": "stem"}])
    assert held(resolve_spec(update, made)) == inside
    both = base.with_norm_stats([{"hold": "norm"}, {"update": "layer1.0.bn2"}])
    assert held(resolve_spec(both, made)) == norms_of(made) - {"layer1.0.bn2"}
    other = base.with_norm_stats([{"update": "layer1.0.bn2"}, {"hold": "norm"}])
    assert held(resolve_spec(other, made)) == norms_of(made)


def test_a_norm_without_parameters_goes_with_its_block():
    made = affineless_net()
    assert held(resolve_spec(PLAN.freeze("blocks[0]"), made)) == {"blocks.0.bn"}
    assert held(resolve_spec(PLAN.freeze("blocks[0] - blocks.0.a.bias"), made)) == set()
    assert held(resolve_spec(PLAN.freeze("backbone"), made)) == {
        "stem.bn",
        "blocks.0.bn",
        "blocks.1.bn",
    }


def test_a_norm_without_parameters_deep_in_a_block_still_goes_with_the_whole_block():
    def block():
        inner = module("Inner", a=linear(8, 8), bn=norm(8, statistics=True, affine=False))
        return module("Block", inner=inner, b=linear(8, 8))

    made = spec(module("Net", blocks=stack(block(), block()), fc=linear(8, 2)))
    assert held(resolve_spec(PLAN.freeze("blocks.0.inner.a"), made)) == set()
    assert held(resolve_spec(PLAN.freeze("**.a"), made)) == set()
    assert held(resolve_spec(PLAN.freeze("blocks.0"), made)) == {"blocks.0.inner.bn"}


def test_a_norm_without_parameters_outside_blocks_goes_with_what_holds_it():
    made = affineless_net()
    assert held(resolve_spec(PLAN.freeze("stem"), made)) == {"stem.bn"}


def test_a_rule_for_norms_takes_one_without_parameters_by_its_block():
    made = affineless_net()
    plan = PLAN.freeze("fc").with_norm_stats([{"hold": "blocks[1]"}])
    assert held(resolve_spec(plan, made)) == {"blocks.1.bn"}


def with_state(*, moves=True, statistic=False):
    """A layer with a tensor that training moves though no optimizer sees it."""
    role = "mean" if statistic else "weight_u"
    layer = Node("Layer", "linear", {"weight": Weight(4, 4), "bias": Weight(4)})
    layer.states = ((role, role, moves),)
    return spec(module("Net", a=layer, b=linear(4, 4)))


def test_other_state_holds_when_its_whole_layer_is_frozen_whatever_norms_do():
    made = with_state()
    for policy in ("hold", "update", "hold_all"):
        plan = PLAN.with_norm_stats(policy)
        assert held(resolve_spec(plan.freeze("a"), made)) == {"a"}
        assert held(resolve_spec(plan.freeze("a.weight"), made)) == set()


def test_state_that_training_does_not_move_needs_no_holding():
    assert held(resolve_spec(PLAN.freeze("a"), with_state(moves=False))) == set()


def test_statistics_that_do_not_move_need_no_holding():
    for policy in ("hold", "hold_all"):
        made = with_state(moves=False, statistic=True)
        assert held(resolve_spec(PLAN.freeze("a").with_norm_stats(policy), made)) == set()


def test_dropout_is_live_by_default():
    assert quiet(resolve_spec(PLAN.freeze("blocks"), spec(text_model()))) == set()


def test_dropout_off_quiets_what_is_inside_fully_frozen_modules():
    made = spec(text_model(depth=2))
    found = quiet(resolve_spec(PLAN.freeze("blocks[0]").with_dropout("off"), made))
    assert "text.encoder.layer.0.dropout" in found
    assert "text.encoder.layer.1.dropout" not in found
    assert "text.embeddings.dropout" not in found


def test_dropout_off_leaves_a_half_frozen_block_live():
    made = spec(text_model(depth=2))
    plan = PLAN.freeze("blocks[0] - bias").with_dropout("off")
    assert "text.encoder.layer.0.dropout" not in quiet(resolve_spec(plan, made))


def test_dropout_off_leaves_norms_to_norm_stats():
    made = spec(conv_net(stages=1))
    plan = PLAN.only("head").with_dropout("off").with_norm_stats("update")
    assert not quiet(resolve_spec(plan, made)) & norms_of(made)


def test_a_layer_that_draws_but_holds_nothing_goes_with_what_it_is_in():
    root = module("Net", part=module("Part", fc=linear(4, 4), drop=dropout()), out=linear(4, 2))
    plan = PLAN.with_dropout("off")
    assert "part.drop" in quiet(resolve_spec(plan.freeze("part"), spec(root)))
    assert "part.drop" not in quiet(resolve_spec(plan.freeze("out"), spec(root)))


def test_state_belongs_to_no_rule_count_or_report():
    made = spec(conv_net(stages=1))
    assert made.states
    assert all(isinstance(state, State) for state in made.states)
    names = {state.path for state in made.states}
    total = resolve_spec(PLAN.only("head"), made)
    assert not names & {*total.frozen_paths, *total.trainable_paths}
    assert total.counts()[1] == sum(p.values for p in made.parameters)
