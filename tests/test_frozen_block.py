"""`with uf.frozen(model, selector)`: what freezes and holds in the block, and what comes back."""

import numpy as np
import paddle
import pytest
import torch

import unifreeze as uf
from unifreeze.errors import PlanError, ResolveError, UnmatchedSelectorError


def flags(kit, model):
    return kit.backend.read(model)


def frozen(kit, model):
    return {path for path, flag in flags(kit, model).items() if not flag}


def held(kit, model):
    """Return the layers that hold still, by running the model in training mode."""
    before = values(kit, model)
    model.train()
    kit.backend.run(model, kit.plain.batch)
    after = values(kit, model)
    norms = ("blocks.0.norm", "blocks.1.norm")
    still = {
        norm
        for norm in norms
        if all(np.array_equal(before[n], after[n]) for n in before if n.startswith(norm))
    }
    for path, value in before.items():
        kit.backend.assign(model, path, value)
    return still


def values(kit, model):
    return {path: kit.backend.tensor(model, path) for path in kit.backend.objects(model)}


def guards(kit, model):
    return kit.backend.guards(model)


BACKBONE = {
    f"blocks.{n}.{layer}.{leaf}"
    for n in (0, 1)
    for layer in ("first", "norm", "second")
    for leaf in ("weight", "bias")
}
FIRST = {path for path in BACKBONE if path.startswith("blocks.0")}


def test_what_is_selected_freezes_with_its_norms_and_comes_back(kit):
    model = kit.plain.make()
    before = flags(kit, model)
    assert held(kit, model) == set()
    with uf.frozen(model, "blocks[0]"):
        assert frozen(kit, model) == FIRST
        assert held(kit, model) == {"blocks.0.norm"}
    assert flags(kit, model) == before
    assert held(kit, model) == set()
    assert not guards(kit, model)


@pytest.mark.parametrize("what", ["blocks[0]", uf.Selector("blocks[0]")])
def test_an_exception_puts_everything_back(kit, what):
    model = kit.plain.make()
    seen = []

    def fails():
        with uf.frozen(model, what):
            seen.append(frozen(kit, model))
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert seen == [FIRST]
    assert frozen(kit, model) == set()
    assert not guards(kit, model)


def test_what_was_frozen_by_hand_stays_frozen(kit):
    model = kit.plain.make()
    live = kit.backend.objects(model)
    kit.backend.set_flag(live["blocks.0.first.bias"], False)
    with uf.frozen(model, "blocks[0]"):
        assert frozen(kit, model) == FIRST
    assert frozen(kit, model) == {"blocks.0.first.bias"}


def test_blocks_in_blocks_end_right(kit):
    model = kit.plain.make()
    with uf.frozen(model, "blocks[0]"):
        with uf.frozen(model, "backbone | blocks[0]"):
            assert frozen(kit, model) == BACKBONE
            assert held(kit, model) == {"blocks.0.norm", "blocks.1.norm"}
            with uf.frozen(model), uf.frozen(model, "head"):
                assert frozen(kit, model) == set(flags(kit, model))
            assert frozen(kit, model) == BACKBONE
        assert frozen(kit, model) == FIRST
        assert held(kit, model) == {"blocks.0.norm"}
        with uf.frozen(model, "blocks[0]"):
            assert frozen(kit, model) == FIRST
        assert held(kit, model) == {"blocks.0.norm"}
    assert frozen(kit, model) == set()
    assert held(kit, model) == set()


def test_a_plan_in_force_is_as_it_was_after_the_block(kit):
    model = kit.plain.make()
    handle = uf.freeze(model, "blocks[0]")
    before = guards(kit, model)
    with uf.frozen(model, "head | blocks[1]"):
        assert frozen(kit, model) == set(flags(kit, model))
        assert held(kit, model) == {"blocks.0.norm", "blocks.1.norm"}
        handle.verify()
        with pytest.raises(PlanError, match="frozen for a while"):
            uf.freeze(model, "head")
    assert frozen(kit, model) == FIRST
    assert held(kit, model) == {"blocks.0.norm"}
    assert guards(kit, model) == before
    handle.verify()
    handle.remove()
    assert frozen(kit, model) == set()
    assert held(kit, model) == set()


def test_statistics_that_a_plan_lets_move_go_on_where_the_selector_does_not_reach(kit):
    model = kit.plain.make()
    handle = uf.FreezePlan().freeze("backbone").with_norm_stats("update").apply(model)
    with uf.frozen(model, "head"):
        assert held(kit, model) == set()
    with uf.frozen(model, "blocks[1]"):
        assert held(kit, model) == {"blocks.1.norm"}
    assert held(kit, model) == set()
    handle.verify()


def test_what_a_plan_holds_is_held_though_only_half_of_it_is_selected(kit):
    model = kit.plain.make()
    uf.FreezePlan().freeze("blocks.0.first").with_norm_stats("hold_all").apply(model)
    with uf.frozen(model, "blocks.1.norm.weight"):
        assert held(kit, model) == {"blocks.0.norm", "blocks.1.norm"}
    assert held(kit, model) == {"blocks.0.norm", "blocks.1.norm"}


def test_a_norm_whose_other_half_was_frozen_by_hand_is_held(kit):
    model = kit.plain.make()
    kit.backend.set_flag(kit.backend.objects(model)["blocks.0.norm.bias"], False)
    with uf.frozen(model, "blocks.0.norm.weight"):
        assert held(kit, model) == {"blocks.0.norm"}
    assert held(kit, model) == set()


def test_a_norm_without_parameters_is_held_by_what_freezes_around_it(kit):
    model = kit.plain.make()
    if kit.backend.name == "torch":
        model.blocks[0].norm = torch.nn.BatchNorm1d(6, affine=False)
    else:
        bare = paddle.nn.BatchNorm1D(6, weight_attr=False, bias_attr=False)
        model.blocks[0].norm = bare
    with uf.frozen(model, "blocks[0]"):
        assert held(kit, model) == {"blocks.0.norm"}
    assert held(kit, model) == set()


@pytest.mark.parametrize("what", [None, "head", "blocks[0]"])
def test_a_plan_does_not_end_in_the_block(what, kit):
    """What the plan froze would be put back by neither, or by both."""
    model = kit.plain.make()
    kit.backend.set_flag(kit.backend.objects(model)["head.weight"], False)
    handle = uf.FreezePlan().only("head | blocks[1]").apply(model)
    with uf.frozen(model, what), pytest.raises(PlanError, match="frozen for a while"):
        handle.remove()
    handle.verify()
    handle.remove()
    assert frozen(kit, model) == {"head.weight"}
    assert not guards(kit, model)


@pytest.mark.parametrize("what", [None, "all"])
def test_a_step_in_the_block_moves_nothing_by_gradients_that_were_left(what, kit):
    model, backend = kit.plain.make(), kit.backend
    live = backend.objects(model)
    sgd = torch.optim.SGD if backend.name == "torch" else paddle.optimizer.SGD
    named = (
        {"params": live.values()} if backend.name == "torch" else {"parameters": [*live.values()]}
    )
    rate = {"lr": 0.1} if backend.name == "torch" else {"learning_rate": 0.1}
    optimizer = sgd(**named, **rate)
    output = model(backend.from_input(kit.plain.batch.args[0], backend.anchor(model)))
    output.sum().backward()
    before = {path: digest.bits for path, digest in backend.fingerprint(model, live).items()}
    with uf.frozen(model, what):
        optimizer.step()
    after = {path: digest.bits for path, digest in backend.fingerprint(model, live).items()}
    assert [path for path in live if before[path] != after[path]] == []
    optimizer.step()
    after = {path: digest.bits for path, digest in backend.fingerprint(model, live).items()}
    assert before["head.weight"] != after["head.weight"], "gradients are back after the block"


def test_gradients_are_laid_aside_and_come_back(kit):
    model, backend = kit.plain.make(), kit.backend
    live = backend.objects(model)
    for path in ("head.weight", "blocks.0.first.weight"):
        gradient = backend.from_array(np.ones(tuple(live[path].shape), "float32"), live[path])
        backend.set_gradient(live[path], gradient)
    with uf.frozen(model, "head"):
        assert backend.get_gradient(live["head.weight"]) is None
        assert backend.get_gradient(live["blocks.0.first.weight"]) is not None
        backend.run(model, kit.plain.batch).sum().backward()
        assert backend.get_gradient(live["head.weight"]) is None
    back = backend.to_array(backend.get_gradient(live["head.weight"]))
    assert np.array_equal(back, np.ones_like(back))
    flowed = backend.to_array(backend.get_gradient(live["blocks.0.first.weight"]))
    assert not np.array_equal(flowed, np.ones_like(flowed)), "gradient flows through what is frozen"


def test_what_an_optimizer_steps_in_the_block_leaves_the_frozen_alone(kit):
    model = kit.plain.make()
    before = values(kit, model)
    parameters = kit.backend.objects(model)
    if kit.backend.name == "torch":
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    else:
        optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters(), weight_decay=0.5)
    kit.backend.run(model, kit.plain.batch).sum().backward()  # before the block
    before = values(kit, model)
    with uf.frozen(model, "blocks[0]"):
        optimizer.step()
    after = values(kit, model)
    moved = {path for path in parameters if not np.array_equal(before[path], after[path])}
    assert moved
    assert not moved & FIRST


def test_several_models_and_wrong_selectors(kit):
    one, other = kit.plain.make(), kit.plain.make()
    with uf.frozen({"a": one, "b": other}, "head in b"):
        assert frozen(kit, one) == set()
        assert frozen(kit, other) == {"head.weight", "head.bias"}
    assert frozen(kit, other) == set()
    with pytest.raises(UnmatchedSelectorError), uf.frozen(one, "nothing_here"):
        pass
    assert frozen(kit, one) == set()
    uf.freeze(one, "head")  # no block is still open


@pytest.mark.parametrize(
    ("what", "fact"),
    [
        ("zzz", "'zzz' matches none of"),
        ("head & stem & norm", 'the selector "head & stem & norm" matches none of'),
        ("blocks[40]", "[40] goes past the end"),
    ],
)
def test_a_selector_that_matches_nothing_is_not_called_a_rule(kit, what, fact):
    with pytest.raises(ResolveError) as caught, uf.frozen(kit.plain.make(), what):
        pass
    assert caught.value.fact.startswith(fact)
    assert "rule" not in str(caught.value)
    assert "optional" not in str(caught.value)


def test_a_block_is_for_one_time_and_a_decorator_for_every_call(kit):
    model = kit.plain.make()
    block = uf.frozen(model)
    with block:
        pass
    with pytest.raises(PlanError, match="used already") as caught, block:
        pass
    assert "with frozen(model)" in caught.value.hint

    @uf.frozen(model, "head")
    def count():
        return len(frozen(kit, model))

    assert count() == count() == 2
    assert frozen(kit, model) == set()


def test_a_phase_is_not_begun_inside_a_block(kit):
    model = kit.plain.make()
    plan = uf.FreezePlan().phase("a", rules={"only": "head"})
    handle = plan.phase("b", at={"epoch": 1}, add={"train": "blocks[-1]"}).apply(model)
    handle.optimizer(*{"torch": [torch.optim.SGD], "paddle": [paddle.optimizer.SGD]}[
        kit.backend.name
    ], lr=0.1)  # fmt: skip
    handle.step(epoch=0)
    with uf.frozen(model), pytest.raises(PlanError) as caught:
        handle.step(epoch=1)
    assert "after the block" in caught.value.hint
    assert handle.step(epoch=1)
