"""PyTorch: what a held layer survives: copies, loads, scripts, conversions, compilers.

The rules R1, R4, R9 and R11 are those of the opening table of the facts about PyTorch; its
table 2.2 is the tests here.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import unifreeze as uf
from tests.support.kits.torch_nets import Stack, backward, bits, moved, rows, seeded
from unifreeze import FreezePlan
from unifreeze.errors import FrozenDriftError

# R4: what a held layer survives ----------------------------------------------------------------


def held_stack():
    model = seeded(Stack)
    uf.freeze(model, "blocks")
    return model


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def trained_part(model):
    model.blocks[0].train()
    model.blocks[1].norm.train()
    return model


SURVIVED = {
    "model.train": lambda model: model.train(),
    "submodule.train": trained_part,
    "eval and train": lambda model: model.eval().train(),
    "deepcopy": copy.deepcopy,
    "pickle": pickled,
    "torch.save": saved,
    "copy of a pickled copy": lambda model: copy.deepcopy(pickled(model)),
    "double": lambda model: model.double().float(),
    "apply": lambda model: model.apply(lambda module: module.train()),
    "inside another model": lambda model: nn.Sequential(model).train()[0],
}


@pytest.mark.parametrize("way", SURVIVED)
def test_a_held_norm_stays_held_through(way):
    """R4"""
    model = SURVIVED[way](held_stack())
    before = bits(model)
    model.train()
    for seed in range(2):
        backward(model, seed)
    assert not {name for name in moved(model, before) if "norm" in name}
    assert all(block.training for block in model.blocks)
    assert not any(block.norm.training for block in model.blocks)


def test_copies_of_a_held_model_do_not_share_their_modes():
    """R4: the copy's `train` is the copy's own."""
    model = held_stack()
    other = copy.deepcopy(model)
    other.eval()
    assert model.training
    assert model.blocks[0].training
    uf.apply(FreezePlan().train("all"), other)
    other.train()
    assert other.blocks[0].norm.training
    assert not model.blocks[0].norm.training


def test_holding_changes_no_name_class_key_or_text():
    """R4: no module is swapped, no wrapper or hook is left on a layer."""
    model, plain = seeded(Stack, affine=False), seeded(Stack, affine=False)
    uf.apply(FreezePlan().freeze("blocks").with_dropout("off"), model)
    model(rows())  # the first whole pass shows in which order layers run
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [(n, type(m)) for n, m in model.named_modules()] == [
        (n, type(m)) for n, m in plain.named_modules()
    ]
    assert repr(model) == repr(plain)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


def test_a_plan_replaces_no_tensor_object():
    """R1: an optimizer that holds the old one would train nothing."""
    model = seeded(Stack, dropout=0.5)

    def tensors():
        return [*model.parameters(), *model.buffers()]

    before = tensors()
    handle = uf.apply(FreezePlan().freeze("blocks").with_dropout("off"), model)
    optimizer = handle.optimizer(torch.optim.AdamW, lr=0.1)
    backward(model.train())
    optimizer.step()
    assert all(a is b for a, b in zip(tensors(), before, strict=True))
    handle.remove()
    assert all(a is b for a, b in zip(tensors(), before, strict=True))


@pytest.mark.parametrize("how", ["export", "fx"])
def test_a_held_norm_is_captured_in_inference_mode(how):
    """R4: the one beside it is captured as it trains."""
    model = seeded(Stack)
    uf.freeze(model, "blocks[0]")
    model.train()
    if how == "export":
        program = torch.export.export(model, (rows(),)).run_decompositions()
        written = set(program.graph_signature.buffers_to_mutate.values())
    else:
        graph = torch.fx.symbolic_trace(model)
        before = bits(graph)
        graph.train()
        graph(rows())
        written = moved(graph, before)
    assert {name.rpartition(".")[0] for name in written} == {"blocks.1.norm"}


def test_a_held_layer_stays_held_when_a_parametrization_comes_and_goes():
    """R4: both change the class of the layer."""
    model = seeded(Stack)
    uf.apply(FreezePlan().freeze("blocks").with_dropout("off"), model)
    layer = model.blocks[0].first
    parametrizations.weight_norm(layer)
    model.train()
    assert not layer.training
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    model.train()
    assert type(layer) is nn.Linear
    assert not layer.training


def test_a_norm_of_a_model_scripted_after_the_plan_is_caught():
    """R4, R11: the script's norm has no `train` of its own, and the model's memory."""
    model = seeded(nn.Sequential, nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    handle = uf.freeze(model, 'path:"1"')
    scripted = torch.jit.script(model)
    handle.verify()
    scripted.train()(rows())
    with pytest.raises(FrozenDriftError, match=r"1\.running_mean: moved"):
        handle.verify()


def test_a_state_dict_from_a_held_model_fits_one_without_a_plan():
    """R4"""
    model = held_stack()
    plain = Stack()
    plain.load_state_dict(model.state_dict())
    assert bits(plain) == bits(model)


def test_a_norm_converted_after_the_plan_is_held_again_by_reapply():
    """R4: a converter puts new modules in their place, and what they then do is caught."""
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.train()(rows())
    with pytest.raises(FrozenDriftError, match=r"blocks\.0\.norm\.running_mean: moved"):
        handle.verify()
    handle.reapply()
    handle.rebase()
    before = bits(model)
    model.train()(rows())
    assert not moved(model, before)
    handle.verify()


# R9: compiled models ---------------------------------------------------------------------------


@pytest.fixture
def compiling():
    torch._dynamo.reset()
    yield lambda model: torch.compile(model, backend="aot_eager")
    torch._dynamo.reset()


@pytest.mark.parametrize("first", ["compiled", "plan"])
def test_a_compiled_model_holds_whichever_came_first(first, compiling):
    """R9: holding uses no hook, which a model compiled before would ignore."""
    model = seeded(Stack)
    compiled = compiling(model)
    if first == "compiled":
        backward(compiled)  # compiles with nothing frozen
        assert model.blocks[0].norm.num_batches_tracked == 1
    handle = uf.freeze(compiled, "blocks")
    before = bits(model)
    for seed in range(3):
        compiled.train()
        backward(compiled, seed)
        compiled.eval()
        compiled(rows())
    assert not moved(model, before)
    assert handle.check_gradients() == ()
    handle.verify()
    handle.remove()
    compiled.train()
    backward(compiled)
    assert {"blocks.0.norm.running_mean", "blocks.1.norm.running_var"} <= moved(model, before)


def test_a_compiled_model_follows_each_change_of_plan(compiling):
    """R9: one recompilation per plan, and the gradients are those of the model run plainly."""
    model, plain = seeded(Stack), seeded(Stack)
    compiled = compiling(model)
    plans = [
        FreezePlan().only("head"),
        FreezePlan().only("head | blocks[-1:]"),
        FreezePlan().train("all"),
        FreezePlan().only("head"),
    ]
    for plan in plans:
        for each, run in ((model, compiled), (plain, plain)):
            uf.apply(plan, each)
            each.train()
            each.zero_grad()
            backward(run)
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                torch.testing.assert_close(one.grad, other.grad)
        assert moved(model, bits(plain)) == set()


def test_more_plans_than_a_compiled_model_has_room_for_are_still_right(compiling):
    """R9: past the limit PyTorch runs the model plainly, which is slow and not wrong."""
    model, plain = seeded(Stack), seeded(Stack)
    compiled = compiling(model)
    with torch._dynamo.config.patch(recompile_limit=2):
        for count in (2, 4, 6, 8):
            for each, run in ((model, compiled), (plain, plain)):
                uf.apply(FreezePlan().freeze(f"params[:{count}]"), each)
                each.zero_grad()
                backward(run.eval())
            frozen = [p.grad is None for p in model.parameters()]
            assert frozen == [p.grad is None for p in plain.parameters()]
            assert frozen.count(True) == count
