"""From a plan and a description to a decision for every parameter, and the rule that made it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.random_models import TOTAL_EXPRESSIONS, models
from tests.support.trees import (
    Node,
    Weight,
    adapted,
    conv,
    conv_net,
    dropout,
    encoder_decoder,
    image_model,
    linear,
    module,
    node_at,
    norm,
    plain_conv_net,
    seq_block,
    several,
    spec,
    stack,
    text_model,
    tree,
    two_towers,
)
from unifreeze._plan import FreezePlan, Group
from unifreeze._plan.selectors import Selector, evaluate
from unifreeze._resolution import resolve_spec, rests_on_order
from unifreeze._structure import State, derive
from unifreeze.errors import (
    FixedParameterError,
    FusedTensorError,
    PlanError,
    ResolveError,
    SelectorRangeError,
    SelectorScopeError,
    TieConflictError,
    TrivialPlanError,
    UndecidedRuleError,
    UnmatchedSelectorError,
)

PLAN = FreezePlan()


def frozen(plan, made):
    return set(resolve_spec(plan, made).frozen_paths)


def held(resolution):
    """Native paths of the layers whose statistics and other state hold still."""
    return {resolution.spec.tree.paths[number] for number in resolution.held}


def quiet(resolution):
    return {resolution.spec.tree.paths[number] for number in resolution.quiet}


def value_of(resolution, array, path):
    spec_ = resolution.spec
    return array[spec_.tree.tensor_of[spec_.tree.names.index(path)]]


# Last match wins ----------------------------------------------------------------------------


def test_the_last_rule_that_matches_decides():
    made = spec(conv_net())
    plan = PLAN.freeze("all").train("head | norm").freeze("bn1")
    trainable = set(resolve_spec(plan, made).trainable_paths)
    assert "fc.weight" in trainable
    assert "layer1.0.bn1.weight" in trainable
    assert "bn1.weight" not in trainable
    assert "conv1.weight" not in trainable


def test_what_no_rule_matches_is_left_as_it_was_found():
    root = conv_net()
    root.children["fc"].own["bias"].trainable = False
    root.children["conv1"].own["weight"].trainable = False
    resolution = resolve_spec(PLAN.train("conv1"), made := spec(root))
    assert frozen(PLAN.freeze("bn1"), made) == {"bn1.weight", "bn1.bias", "fc.bias", "conv1.weight"}
    assert set(resolution.frozen_paths) == {"fc.bias"}
    assert resolution.reason(made.tree.names.index("fc.bias")) == "frozen: as found"


def test_only_freezes_all_and_then_trains():
    made = spec(text_model())
    only = resolve_spec(PLAN.only("head - tied"), made)
    both = resolve_spec(PLAN.freeze("all").train("head - tied"), made)
    assert np.array_equal(only.trainable, both.trainable)
    assert set(only.trainable_paths) == {
        n
        for n in made.tree.names
        if n.startswith(("text.pooler", "cls")) and "decoder.weight" not in n
    }


def test_a_later_only_overrules_everything_before_it():
    with pytest.raises(UndecidedRuleError, match="rule 1"):
        resolve_spec(PLAN.train("stem").only("head"), spec(conv_net()))


def test_the_deciding_rule_is_known_for_every_parameter():
    made = spec(conv_net(stages=1))
    resolution = resolve_spec(PLAN.freeze("backbone").train("norm").freeze("stem"), made)
    reasons = {p.path: resolution.reason(n) for n, p in enumerate(made.parameters)}
    assert reasons["fc.weight"] == "trainable: as found"
    assert reasons["conv1.weight"] == "frozen by rule 3 (freeze: stem)"
    assert reasons["bn1.weight"] == "frozen by rule 3 (freeze: stem)"
    assert reasons["layer1.0.bn1.bias"] == "trainable by rule 2 (train: norm)"
    assert reasons["layer1.0.conv1.weight"] == "frozen by rule 1 (freeze: backbone)"


def test_why_finds_parameters_by_either_name():
    resolution = resolve_spec(PLAN.freeze("stem"), spec(text_model(depth=2)))
    assert resolution.why("cls.decoder.weight") == resolution.why("stem/embedding.0/weight")
    (line,) = resolution.why("stem/norm.0/bias")
    assert line == "text.embeddings.norm.bias  stem/norm.0/bias  frozen by rule 1 (freeze: stem)"
    assert len(resolution.why("*.pooler.*")) == 2
    with pytest.raises(UnmatchedSelectorError, match=r"no parameter matches 'text\.pooler'"):
        resolution.why("text.pooler")


def test_each_rule_says_how_much_it_matched_and_decided():
    made = spec(module("Net", a=linear(3, 2), b=linear(2, 2)))
    effects = resolve_spec(PLAN.freeze("all").train("b").freeze("b.bias"), made).effects
    assert [tuple(effect) for effect in effects] == [
        ("freeze: all", 4, 2, 8),
        ("train: b", 2, 1, 4),
        ("freeze: b.bias", 1, 1, 2),
    ]


def test_a_resolution_prints_what_it_decided():
    made = spec(module("Net", a=linear(3, 2), b=linear(2, 2)))
    assert str(resolve_spec(PLAN.freeze("a"), made)).splitlines() == [
        "trainable params: 6 || all params: 14 || trainable%: 42.8571",
        "2 of 4 parameters trainable, 0 layers hold their statistics and other state",
        "  rule 1  freeze: a: matches 2, decides 2 (8 values)",
        "  left as found: 2",
    ]


def test_frozen_and_trainable_names_are_in_canonical_order():
    resolution = resolve_spec(PLAN.freeze("params[:4]"), spec(conv_net(stages=1)))
    assert resolution.frozen_names == (
        "stem/conv.0/weight",
        "stem/norm.0/weight",
        "stem/norm.0/bias",
        "blocks.0/conv.0/weight",
    )
    assert resolution.trainable_names[-2:] == ("head/linear.0/weight", "head/linear.0/bias")


def test_a_tied_parameter_is_decided_and_counted_once():
    made = spec(text_model(depth=2))
    resolution = resolve_spec(PLAN.freeze("stem"), made)
    assert resolution.frozen_paths.count("text.embeddings.word_embeddings.weight") == 1
    assert "cls.decoder.weight" not in resolution.trainable_paths
    assert resolution.counts()[1] == sum(p.values for p in made.parameters)


def test_resolving_twice_gives_the_same_value():
    made, plan = spec(conv_net()), PLAN.freeze("stem")
    assert resolve_spec(plan, made) is resolve_spec(PLAN.freeze("stem"), made)
    other = made.with_found(~made.found)
    assert resolve_spec(PLAN.train("stem"), other) is not resolve_spec(PLAN.freeze("stem"), made)


# Laws ---------------------------------------------------------------------------------------

verbs = st.sampled_from(["freeze", "train"])
rules = st.lists(st.tuples(verbs, TOTAL_EXPRESSIONS), min_size=1, max_size=4)


SAID = FreezePlan().freeze("all", optional=True).train("all", optional=True)
"""It says outright that all may end up frozen, or trained, so that no plan after it is trivial."""


def plan_of(rules, plan=SAID):
    """Optional rules, so that none is refused for matching or deciding nothing."""
    for verb, expression in rules:
        plan = getattr(plan, verb)(Selector(str(expression)), optional=True)
    return plan


def decided(plan, made):
    """The decisions, or None where the plan does not fit."""
    try:
        return resolve_spec(plan, made).trainable
    except (TieConflictError, FusedTensorError, TrivialPlanError):
        return None


def parameters(expression, made):
    return set(made.atoms.tensor[evaluate(expression, made)].tolist())


def without_constants(made):
    """Thaw what looks like a constant of the network: catch-alls leave those alone."""
    while made.constants.any():
        made = made.with_found(made.found | made.constants)
    return made


@settings(max_examples=80, deadline=None)
@given(models(), rules, st.randoms(use_true_random=False))
def test_rules_that_select_different_parameters_may_stand_in_any_order(root, rules, random):
    made = spec(root)
    apart, seen = [], set()
    for verb, expression in rules:
        mine = parameters(expression, made)
        if not mine & seen:
            apart.append((verb, expression))
            seen |= mine
    shuffled = random.sample(apart, len(apart))
    one, other = decided(plan_of(apart), made), decided(plan_of(shuffled), made)
    assert (one is None) == (other is None)
    assert one is None or np.array_equal(one, other)


@settings(max_examples=80, deadline=None)
@given(models(), rules, verbs, TOTAL_EXPRESSIONS)
def test_one_more_rule_changes_nothing_but_what_it_selects(root, rules, verb, expression):
    made = without_constants(spec(root))
    before = decided(plan_of(rules), made)
    after = decided(plan_of([*rules, (verb, expression)]), made)
    assume(before is not None and after is not None)
    inside = np.isin(np.arange(len(made)), list(parameters(expression, made)))
    assert np.array_equal(before[~inside], after[~inside])
    assert (after[inside] == (verb == "train")).all()


@settings(max_examples=80, deadline=None)
@given(models(), rules)
def test_a_rule_said_twice_in_a_row_says_nothing_new(root, rules):
    made = spec(root)
    doubled = [rule for rule in rules for _ in range(2)]
    one, other = decided(plan_of(rules), made), decided(plan_of(doubled), made)
    assert (one is None) == (other is None)
    assert one is None or np.array_equal(one, other)


@settings(max_examples=80, deadline=None)
@given(models(), TOTAL_EXPRESSIONS)
def test_only_is_freeze_all_then_train(root, expression):
    made, what = without_constants(spec(root)), Selector(str(expression))
    one = decided(PLAN.only(what, optional=True), made)
    other = decided(PLAN.freeze("all", optional=True).train(what, optional=True), made)
    if one is None:
        # Nothing or everything trained: the other plan says so outright.
        assert other is None or not other.any() or what == Selector("all")
    else:
        assert np.array_equal(one, other)
        tied = [p for n, p in enumerate(made.parameters) if one[n]]
        assert {p.path for p in tied} == {
            made.parameters[n].path for n in parameters(expression, made)
        }


@settings(max_examples=80, deadline=None)
@given(models(), rules)
def test_the_deciding_rule_is_the_last_that_selects_a_parameter(root, rules):
    made = without_constants(spec(root))
    plan = plan_of(rules, FreezePlan())
    assume(decided(plan, made) is not None)
    resolution = resolve_spec(plan, made)
    selected = [parameters(expression, made) for _, expression in rules]
    for number in range(len(made)):
        last = max((n for n, chosen in enumerate(selected) if number in chosen), default=-1)
        assert resolution.rule[number] == last
        expected = made.found[number] if last < 0 else rules[last][0] == "train"
        assert resolution.trainable[number] == expected


# Strictness ---------------------------------------------------------------------------------


def refuse(plan, made, error):
    with pytest.raises(error) as caught:
        resolve_spec(plan, made)
    return caught.value


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
    for nothing in ("embedding", "nosuch", "head | nosuch"):
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
    group = base.with_group("norm", lr_scale=1).with_group("embedding", lr_scale=2)
    assert refuse(group, made, UnmatchedSelectorError).fact.startswith("groups[1].match matches")


def test_a_selector_for_another_framework_names_the_rule():
    plan = PLAN.freeze({"paddle": "stem"})
    assert "has no selector for 'torch'" in str(refuse(plan, spec(conv_net()), PlanError))


# Ties and fused tensors ---------------------------------------------------------------------


def test_two_decisions_for_one_tensor_are_an_error_that_names_both_rules():
    error = refuse(PLAN.freeze("stem").train("head"), spec(text_model()), TieConflictError)
    table, decoder = "text.embeddings.word_embeddings.weight", "cls.decoder.weight"
    assert error.fact == f"{table} and {decoder} are one tensor with two decisions"
    assert error.context.splitlines() == [
        f"{table} is frozen by rule 1 (freeze: stem)",
        f"{decoder} is trainable by rule 2 (train: head)",
    ]
    assert error.hint == 'end the plan with a rule on "tied": freeze: tied, or train: tied'


@pytest.mark.parametrize("verb", ["freeze", "train"])
def test_a_last_rule_on_tied_cures_the_conflict(verb):
    made = spec(text_model())
    plan = getattr(PLAN.only("head"), verb)("tied")
    paths = resolve_spec(plan, made).trainable_paths
    assert ("text.embeddings.word_embeddings.weight" in paths) == (verb == "train")
    assert "cls.transform.weight" in paths


def test_a_rule_on_one_name_decides_for_all_if_no_rule_says_otherwise():
    made = spec(text_model())
    assert "text.embeddings.word_embeddings.weight" in frozen(PLAN.freeze("cls.decoder"), made)


def test_two_equal_decisions_for_one_tensor_are_no_conflict():
    plan = PLAN.freeze("stem").freeze("cls.decoder")
    resolution = resolve_spec(plan, made := spec(text_model()))
    number = made.tree.tensor_of[made.tree.names.index("cls.decoder.weight")]
    assert not resolution.trainable[number]
    assert resolution.rule[number] == 1, "the later of the two"


def test_three_names_of_one_tensor_are_all_listed():
    made = spec(encoder_decoder())
    error = refuse(PLAN.freeze("model.shared").train("lm_head"), made, TieConflictError)
    assert len(error.context.splitlines()) == 2
    plan = PLAN.freeze("model.shared").freeze("model.encoder.embed_tokens").train("lm_head")
    assert len(refuse(plan, made, TieConflictError).context.splitlines()) == 3


def test_a_rule_that_splits_a_fused_tensor_is_refused_with_its_number():
    made = spec(image_model())
    error = refuse(PLAN.freeze("stem").freeze("query"), made, FusedTensorError)
    assert error.fact == "rule 2 (freeze: query) would split blocks.0.attn.qkv.weight"
    assert "frozen or trained whole" in error.context
    assert "query | key | value" in error.hint


def test_all_parts_of_a_fused_tensor_together_are_the_whole():
    made = spec(image_model())
    whole = frozen(PLAN.freeze("query | key | value"), made)
    assert whole == {n for n in made.tree.names if ".qkv." in n}
    apart = PLAN.freeze("query").freeze("key").freeze("value")
    assert frozen(apart, made) == whole
    assert [effect.decided for effect in resolve_spec(apart, made).effects] == [6, 6, 6]
    assert frozen(PLAN.freeze("attention"), made) > whole


def test_a_part_that_ends_as_the_others_do_splits_nothing():
    made = spec(image_model())
    assert frozen(PLAN.freeze("blocks").freeze("query"), made) == frozen(
        PLAN.freeze("blocks"), made
    )
    refuse(PLAN.freeze("blocks").train("value"), made, FusedTensorError)


def test_a_tensor_fused_of_key_and_value_alone_has_two_parts():
    def block():
        attn = module("Attention", q=linear(8, 8), kv=linear(8, 16), proj=linear(8, 8))
        return module("Block", attn=attn, mlp=linear(8, 8))

    made = spec(module("Net", stem=conv(3, 8), blocks=stack(block(), block())))
    assert {n.split(".")[3] for n in frozen(PLAN.freeze("query"), made)} == {"q"}
    refuse(PLAN.freeze("value"), made, FusedTensorError)
    assert {n.split(".")[3] for n in frozen(PLAN.freeze("key | value"), made)} == {"kv"}


def test_tensors_that_share_memory_must_be_decided_alike():
    base = tree(module("Net", a=linear(2, 2), b=linear(2, 2), c=linear(2, 2)))
    base.shared = [(0, 2)]
    made = derive(base)
    error = refuse(PLAN.freeze("a"), made, TieConflictError)
    assert error.fact == "a.weight and b.weight share memory and get different decisions"
    assert error.context == "a.weight frozen, b.weight trainable"
    assert frozen(PLAN.freeze("a | b"), made)


# Fixed parameters ---------------------------------------------------------------------------


def fixed_model():
    """A model with a table that is never trained, and a tensor that cannot be."""
    table = Weight(5, 4, trainable=False, fixed="a fixed position table")
    codes = Weight(4, trainable=False, fixed="a uint8 tensor has no gradient", impossible=True)
    return spec(
        module(
            "Net",
            table=Node("Sinusoidal", "embedding", {"weight": table}),
            packed=Node("Packed", "", {"codes": codes, "scale": Weight(4)}),
            body=linear(4, 4),
            out=linear(4, 2),
        )
    )


def test_catch_alls_leave_fixed_parameters_alone_with_a_notice():
    resolution = resolve_spec(PLAN.train("all"), fixed_model())
    assert resolution.frozen_paths == ("table.weight", "packed.codes")
    assert resolution.notices == (
        'rule 1 (train: "all") leaves table.weight as found (a fixed position table)',
        'rule 1 (train: "all") leaves packed.codes as found (a uint8 tensor has no gradient)',
    )


def test_a_fixed_parameter_says_why_it_is_frozen():
    resolution = resolve_spec(PLAN.only("packed | out"), fixed_model())
    assert resolution.reason(0) == "frozen: a fixed position table"
    assert resolution.reason(1) == "frozen: a uint8 tensor has no gradient"


def test_a_fixed_parameter_named_in_full_is_trained_if_it_can_be():
    resolution = resolve_spec(PLAN.freeze("body").train("table.weight"), fixed_model())
    assert "table.weight" in resolution.trainable_paths
    assert resolution.notices == ()


def test_an_impossible_parameter_named_in_full_is_an_error():
    plan = PLAN.freeze("body").train("packed.codes | out")
    error = refuse(plan, fixed_model(), FixedParameterError)
    assert error.fact == (
        'rule 2 (train: "packed.codes | out") would train packed.codes: '
        "a uint8 tensor has no gradient"
    )
    assert error.hint == "leave it out of the rule"


def test_a_rule_that_would_train_only_fixed_parameters_says_why_it_does_not():
    error = refuse(PLAN.freeze("body").train("table"), fixed_model(), FixedParameterError)
    assert error.fact == "rule 2 (train: table) would train only what is never trained"
    assert error.context == "table.weight: a fixed position table"
    assert "name parameters in full" in error.hint


def test_fixed_parameters_do_not_make_a_plan_less_trivial():
    made = fixed_model()
    refuse(PLAN.train("body"), made, TrivialPlanError)
    refuse(PLAN.train("backbone | head"), made, TrivialPlanError)


def test_a_model_of_fixed_parameters_alone_can_be_frozen():
    weight = Weight(4, trainable=False, fixed="quantised", impossible=True)
    made = spec(module("Net", a=Node("Packed", "", {"codes": weight})))
    assert frozen(PLAN.freeze("all"), made) == {"a.codes"}


def test_fixed_parameters_may_be_frozen_by_name():
    resolution = resolve_spec(PLAN.freeze("table | body"), fixed_model())
    assert resolution.effects[0].decided == 3
    assert resolution.notices == ()


# Statistics and dropout ---------------------------------------------------------------------


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


def affineless_block():
    return module(
        "Block",
        a=linear(8, 8),
        bn=norm(8, statistics=True, affine=False),
        b=linear(8, 8),
    )


def affineless_net():
    return spec(
        module(
            "Net",
            stem=module("Stem", conv=conv(3, 8), bn=norm(8, statistics=True, affine=False)),
            blocks=stack(affineless_block(), affineless_block()),
            fc=linear(8, 2),
        )
    )


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


# Groups -------------------------------------------------------------------------------------


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


# Notices ------------------------------------------------------------------------------------


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


def test_every_error_of_resolving_is_one_of_a_kind():
    made = spec(text_model())
    for plan in (
        PLAN.freeze("nosuch"),
        PLAN.freeze("blocks[9]"),
        PLAN.freeze("stem").train("head"),
    ):
        refuse(plan, made, ResolveError)


def test_state_belongs_to_no_rule_count_or_report():
    made = spec(conv_net(stages=1))
    assert made.states
    assert all(isinstance(state, State) for state in made.states)
    names = {state.path for state in made.states}
    total = resolve_spec(PLAN.only("head"), made)
    assert not names & {*total.frozen_paths, *total.trainable_paths}
    assert total.counts()[1] == sum(p.values for p in made.parameters)


def test_a_pattern_that_begins_with_a_star_is_told_when_it_stays_at_the_top():
    made = spec(image_model())
    (notice,) = notices(PLAN.freeze("*.bias"), made)
    wide = notice.partition("at any depth: ")[2].partition(" (")[0]
    assert wide == "**.bias"
    assert notice.startswith("'*.bias' selects ")
    assert resolve_spec(PLAN.freeze(wide), made).trainable.sum() < len(made)
    assert notices(PLAN.freeze(wide), made) == ()
    assert notices(PLAN.freeze("*").train("head"), made) == ()
