"""Rules that match or decide nothing, and plans that change nothing, are refused."""

from __future__ import annotations

from tests.support.plain_resolution import PLAN, frozen, refuse
from tests.support.trees import conv_net, linear, module, spec, text_model, two_towers
from unifreeze._resolution import resolve_spec
from unifreeze.errors import (
    PlanError,
    ResolveError,
    SelectorRangeError,
    SelectorScopeError,
    TrivialPlanError,
    UndecidedRuleError,
    UnmatchedSelectorError,
)


def test_a_rule_that_matches_nothing_is_an_error_with_number_text_context_and_hint():
    error = refuse(PLAN.freeze("stem").train("bakbone"), spec(conv_net()), UnmatchedSelectorError)
    assert str(error).splitlines() == [
        "rule 2 (train: \"bakbone\"): 'bakbone' matches none of 62 parameters",
        "  top-level names: conv1, bn1, relu, layer1, layer2, layer3, layer4, fc",
        '  hint: did you mean "backbone" (a word of the vocabulary, 60 parameters)?',
    ]


def test_an_empty_set_of_known_words_is_an_error_too():
    error = refuse(PLAN.freeze("stem & blocks"), spec(conv_net()), UnmatchedSelectorError)
    assert error.fact == 'rule 1 (freeze: "stem & blocks") matches none of 62 parameters'
    assert "top-level names: conv1" in error.context
    assert "optional: true" in error.hint


def test_an_optional_rule_may_match_nothing_and_says_so():
    made = spec(conv_net())
    for nothing in ("tables", "nosuch", "head | nosuch"):
        resolution = resolve_spec(PLAN.freeze("stem").train(nothing, optional=True), made)
        assert resolution.frozen_paths == resolve_spec(PLAN.freeze("stem"), made).frozen_paths
        assert resolution.effects[1].matched == 0
        notice = f'rule 2 (train: "{nothing}") is optional and matches nothing'
        assert notice in resolution.notices


def test_an_optional_rule_that_matches_is_a_rule_like_any_other():
    resolution = resolve_spec(PLAN.freeze("stem", optional=True), spec(conv_net()))
    assert resolution.effects[0].decided == 3
    assert resolution.notices == ()


def test_a_rule_that_decides_nothing_is_an_error_that_names_the_winners():
    made = spec(conv_net())
    error = refuse(PLAN.freeze("fc.bias").freeze("norm").only("head"), made, UndecidedRuleError)
    assert str(error).splitlines() == [
        "rule 1 (freeze: fc.bias) decides nothing",
        "  all it matches is decided by rule 3",
        "  hint: move it after those rules, or take it out",
    ]


def test_a_rule_that_still_decides_something_is_no_error():
    resolution = resolve_spec(PLAN.freeze("norm").train("bn1"), spec(conv_net()))
    assert resolution.effects[0].decided == resolution.effects[0].matched - 2


def test_an_optional_rule_may_decide_nothing():
    plan = PLAN.freeze("norm", optional=True).only("head")
    assert resolve_spec(plan, spec(conv_net())).effects[0].decided == 0


def test_a_plan_that_freezes_nothing_is_an_error_unless_it_says_so():
    made = spec(conv_net())
    for plan in (PLAN, PLAN.train("norm"), PLAN.only("all"), PLAN.only("backbone | head")):
        error = refuse(plan, made, TrivialPlanError)
        assert error.fact == "the plan freezes nothing"
        assert error.hint == "if that is meant, say it: train: all"
    assert resolve_spec(PLAN.train("all"), made).trainable.all()


def test_a_plan_that_trains_nothing_is_an_error_unless_it_says_so():
    made = spec(conv_net())
    for plan in (PLAN.freeze("backbone | head"), PLAN.freeze("**")):
        error = refuse(plan, made, TrivialPlanError)
        assert error.fact == "the plan leaves nothing trainable"
        assert error.hint == "if that is meant, say it: freeze: all"
    assert not resolve_spec(PLAN.freeze("all"), made).trainable.any()


def test_a_plan_that_changes_nothing_in_a_half_frozen_model_is_no_error():
    root = module("Net", a=linear(2, 2), b=linear(2, 2))
    root.children["a"].own["weight"].trainable = False
    assert resolve_spec(PLAN, spec(root)).frozen_paths == ("a.weight",)


def test_a_bound_past_the_end_names_the_rule_and_the_length():
    error = refuse(PLAN.freeze("blocks[:9]"), spec(conv_net()), SelectorRangeError)
    assert str(error).splitlines() == [
        'rule 1 (freeze: "blocks[:9]"): [:9] goes past the end: the model has 8 blocks',
        "  hint: positions run from 0 to 7, or from -8 to -1",
    ]


def test_an_index_among_several_runs_names_the_rule_and_the_runs():
    error = refuse(PLAN.freeze("blocks[0]"), spec(two_towers()), SelectorScopeError)
    assert (
        error.fact == 'rule 1 (freeze: "blocks[0]"): blocks[0] could be of any of 2 runs of blocks'
    )
    assert "3 blocks under vision_model.encoder" in error.context
    assert error.hint == "blocks[0] in vision_model or blocks[0] in text_model"
    assert frozen(PLAN.freeze("blocks[0] in vision_model"), spec(two_towers()))


def test_encoder_without_two_stacks_names_the_rule_and_the_runs():
    error = refuse(PLAN.freeze("encoder[:2]"), spec(text_model()), SelectorScopeError)
    assert error.fact.startswith('rule 1 (freeze: "encoder[:2]"): ')
    assert "4 blocks under text.encoder (blocks)" in error.context


def test_an_optional_rule_is_still_refused_for_a_bound_past_the_end():
    refuse(PLAN.freeze("blocks[:9]", optional=True), spec(conv_net()), SelectorRangeError)


def test_a_selector_of_norms_or_groups_names_its_place():
    made = spec(conv_net())
    base = PLAN.freeze("stem")
    stats = base.with_norm_stats([{"hold": "norm"}, {"update": "nosuch"}])
    assert refuse(stats, made, UnmatchedSelectorError).fact.startswith("norm_stats[1].update: ")
    group = base.with_group("norm", lr_scale=1).with_group("tables", lr_scale=2)
    assert refuse(group, made, UnmatchedSelectorError).fact.startswith("groups[1].match matches")


def test_a_selector_for_another_framework_names_the_rule():
    plan = PLAN.freeze({"paddle": "stem"})
    assert "has no selector for 'torch'" in str(refuse(plan, spec(conv_net()), PlanError))


def test_every_error_of_resolving_is_one_of_a_kind():
    made = spec(text_model())
    for plan in (
        PLAN.freeze("nosuch"),
        PLAN.freeze("blocks[9]"),
        PLAN.freeze("stem").train("head"),
    ):
        refuse(plan, made, ResolveError)
