"""Plans on a whole, its parts and groups at the same time; models that compare equal."""

from __future__ import annotations

import pytest

import unifreeze as uf
from tests.support.plan_machine.machine import REFUSED, Machine
from tests.support.plan_machine.nets import Paddle, Torch
from tests.support.zoo import runnable

SIDES = {"torch": Torch, "paddle": Paddle}
STEPS, MACHINES = 25, 12


@pytest.fixture
def side(framework):
    return SIDES[framework]


def run(side, seed, steps):
    machine = Machine(side, seed)
    for _ in range(steps):
        machine.step()
    return machine


@pytest.mark.parametrize("seed", range(MACHINES))
def test_random_plans_do_what_the_reference_does(side, seed):
    """`python -m tests.support.plan_machine --operations 10000` runs as many as one likes."""
    machine = run(side, seed, STEPS)
    assert machine.done[REFUSED] < 0.75 * STEPS


def named(side, model):
    modules = side.modules(model).items()
    own = ((path, side.own(module)) for path, module in modules)
    return {f"{p}.{leaf.lstrip('_')}": t for p, found in own for leaf, t in found.items()}


def frozen(side, model):
    return {path for path, tensor in named(side, model).items() if not side.get(tensor)}


def test_a_plan_on_a_part_says_nothing_about_the_rest(side):
    whole = side.whole()
    outer = uf.freeze(whole, 'path:"low.act" | path:"top"')
    inner = uf.freeze(whole.low, 'path:"first"')
    first = {"low.first.weight", "low.first.bias"}
    assert frozen(side, whole) == {"low.act.weight", "top.weight", "top.bias"} | first
    outer.remove()
    assert frozen(side, whole) == first
    assert inner.verify().parameters == 2
    inner.remove()
    assert not frozen(side, whole)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_plans_over_the_same_parameters_may_be_removed_in_any_order(side, order):
    whole = side.whole()
    everything = frozenset(named(side, whole))
    handles = [
        uf.FreezePlan().freeze("all").apply(whole),
        uf.FreezePlan().train("all").apply(whole.low),
        uf.FreezePlan().freeze("all").apply({"part": whole.low, "other": side.part()}),
    ]
    low = {path for path in everything if path.startswith("low.")}
    says = [(everything, False), (low, True), (low, False)]
    left = [0, 1, 2]
    for number in order:
        handles[number].remove()
        left.remove(number)
        expected = set()
        for at in left:
            paths, trains = says[at]
            expected = expected - paths if trains else expected | paths
        assert frozen(side, whole) == expected


def test_the_same_models_under_other_names_are_the_same_target(side):
    whole = side.whole()
    first = uf.freeze({"a": whole}, 'path:"a.top"')
    second = uf.freeze(whole, 'path:"low.act"')
    assert frozen(side, whole) == {"low.act.weight"}
    with pytest.raises(uf.UnifreezeError, match="no longer in force"):
        first.verify()
    second.remove()
    assert not frozen(side, whole)


def test_what_a_later_plan_trains_is_held_to_its_new_values_when_that_plan_goes(side):
    whole = side.whole()
    outer = uf.FreezePlan().freeze("all").apply(whole)
    inner = uf.FreezePlan().train("all").apply(whole.low)
    for tensor in named(side, whole.low).values():
        side.nudge(tensor)
    side.forward(whole)
    outer.verify()
    inner.remove()
    outer.verify()
    assert frozen(side, whole) == set(named(side, whole))
    side.nudge(whole.low.first.weight)
    with pytest.raises(uf.FrozenDriftError, match=r"low\.first\.weight: moved"):
        outer.verify()


def test_the_statistics_of_a_norm_follow_the_flags_that_all_plans_give_it(side):
    whole = side.whole()
    norm = whole.low.norm
    scale = uf.freeze(whole, 'path:"low.norm.weight"')
    shift = uf.freeze(whole.low, 'path:"norm.bias"')
    then = side.statistics(norm)
    side.forward(whole)
    assert side.statistics(norm) == then
    scale.remove()
    side.forward(whole)
    assert side.statistics(norm) != then
    shift.verify()


def test_what_others_froze_between_two_plans_stays_frozen(side):
    whole = side.whole()
    uf.freeze(whole, 'path:"low.first"')
    for tensor in named(side, whole.high).values():
        side.put(tensor, False)
    handle = uf.freeze(whole, 'path:"low.act"')
    high = {f"high.{path}" for path in named(side, whole.high)}
    assert frozen(side, whole) == high | {"low.act.weight"}
    side.put(named(side, whole)["high.act.weight"], True)
    handle.reapply()
    assert not {path for path in frozen(side, whole) if path.startswith("high.act")}
    handle.remove()
    assert frozen(side, whole) == {path for path in high if not path.startswith("high.act")}


class Adapted:
    """A language model of each library, and that library's adapters on it."""

    @staticmethod
    def torch():
        model = runnable("bert", "torch")
        from peft import LoraConfig, get_peft_model

        def adapt(model, **settings):
            return get_peft_model(model, LoraConfig(r=2, target_modules=["query"], **settings))

        return model, adapt

    @staticmethod
    def paddle():
        from paddlenlp.peft import LoRAConfig, LoRAModel

        def adapt(model, **settings):
            adapted = LoRAModel(model, LoRAConfig(r=2, target_modules=[".*q_proj"], **settings))
            adapted.mark_only_lora_as_trainable()
            return adapted

        return runnable("bert", "paddle"), adapt


def trains(side, model):
    """Names of what trains, adapters apart."""
    names = {path for path, tensor in named(side, model).items() if side.get(tensor)}
    return {name for name in names if "lora" not in name.lower()}


@pytest.mark.parametrize("again", ["another plan", "reapply", "remove"])
@pytest.mark.parametrize("what", ["blocks[:2]", "embeddings"])
def test_a_base_that_adapters_froze_stays_frozen(framework, side, what, again):
    """Most of it trained under the first plan; some of it that plan itself had frozen."""
    model, adapt = getattr(Adapted, framework)()
    first = uf.freeze(model, what)
    adapted = adapt(model)
    assert not trains(side, adapted)
    if again == "another plan":
        uf.freeze(adapted, "norm")
    else:
        getattr(first, again)()
    assert not trains(side, adapted)
    assert any("lora" in path.lower() for path in set(named(side, adapted)) - frozen(side, adapted))


def test_biases_that_adapters_left_trainable_are_as_before_the_plan():
    model, adapt = Adapted.torch()
    uf.freeze(model, "blocks[:2]")
    adapted = adapt(model, bias="all")
    uf.freeze(adapted, "norm")
    assert {name.rpartition(".")[2] for name in trains(Torch, adapted)} == {"bias"}
    assert any(".layer.0." in name for name in trains(Torch, adapted))


def equal(cls):
    """Make the models of a class compare equal, as those of a dataclass do."""
    return type(
        "Equal", (cls,), {"__eq__": lambda a, b: type(a) is type(b), "__hash__": lambda _: 1}
    )


def test_models_that_compare_equal_have_a_plan_each(side):
    cls = equal(side.part)
    student, teacher = cls(), cls()
    one = uf.FreezePlan().only('path:"last"').apply(student)
    two = uf.FreezePlan().freeze("all").apply(teacher)
    assert len(frozen(side, student)) == len(named(side, student)) - 1
    assert frozen(side, teacher) == set(named(side, teacher))
    side.nudge(teacher.first.weight)
    one.verify()
    with pytest.raises(uf.FrozenDriftError, match=r"first\.weight: moved"):
        two.verify()
    two.remove()
    assert not frozen(side, teacher)
    with uf.frozen(student), pytest.raises(uf.UnifreezeError, match="frozen for a while"):
        uf.freeze(student, "all")
    uf.FreezePlan().freeze("all").apply(teacher).remove()
    one.remove()
    assert not frozen(side, student)


def test_models_without_a_hash_have_plans_too(side):
    cls = equal(side.part)
    cls.__hash__ = None
    if side is Torch:
        with pytest.raises(TypeError, match="unhashable"):
            list(cls().parameters())  # PyTorch itself cannot list them
        return
    model = cls()
    uf.FreezePlan().only('path:"last"').apply(model).verify()


def test_a_plan_is_not_applied_to_a_whole_whose_part_is_frozen_for_a_while(side):
    whole = side.whole()
    with uf.frozen(whole.low), pytest.raises(uf.UnifreezeError, match="frozen for a while"):
        uf.freeze(whole, 'path:"top"')
    assert not frozen(side, whole)


def test_a_replaced_layer_is_let_go_and_no_norm_stays_held(side):
    whole = side.whole()
    plan = uf.FreezePlan().freeze('path:"low"')
    handle = plan.apply(whole)
    old, whole.low.norm = whole.low.norm, side.part().norm
    handle.reapply()
    handle.remove()
    handle = plan.apply(whole)
    then = side.statistics(whole.low.norm)
    side.forward(whole)
    assert side.statistics(whole.low.norm) == then
    handle.remove()
    side.forward(whole)
    assert side.statistics(whole.low.norm) != then
    whole.low.norm = old
    then = side.statistics(old)
    side.forward(whole)
    assert side.statistics(old) != then
