"""From a plan and a description to a decision for every parameter, and the rule that made it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.plain_resolution import PLAN, frozen, refuse
from tests.support.random_models import TOTAL_EXPRESSIONS, models
from tests.support.trees import (
    Node,
    Weight,
    conv,
    conv_net,
    encoder_decoder,
    image_model,
    linear,
    module,
    spec,
    stack,
    text_model,
    tree,
)
from unifreeze._plan import FreezePlan
from unifreeze._plan.selectors import Selector, evaluate
from unifreeze._resolution import resolve_spec
from unifreeze._structure import derive
from unifreeze.errors import (
    FixedParameterError,
    FusedTensorError,
    TieConflictError,
    TrivialPlanError,
    UndecidedRuleError,
    UnmatchedSelectorError,
)

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
        n for n in made.tree.names if n.startswith("cls") and "decoder.weight" not in n
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
