"""PyTorch: statistics, power iterations, code books and dropout of frozen layers hold still.

The rules R4, R9 and R11 are those of the opening table of the facts about PyTorch; its table 2.1 is
`MOVERS` here, its table 2.2 the tests on what a held layer survives.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.ao.quantization import FakeQuantize
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral_norm

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.torch_nets import Block, Stack, backward, bits, moved, rows, seeded
from unifreeze import FreezePlan
from unifreeze.errors import FrozenDriftError, UnsupportedPlanError


class Codebook(nn.Module):
    """A projection onto a table that follows what it sees, in place or as a new tensor."""

    def __init__(self, *, in_place, only_in_training=True):
        super().__init__()
        self.project = nn.Linear(6, 6)
        self.in_place, self.only_in_training = in_place, only_in_training
        self.register_buffer("table", torch.randn(4, 6))

    def forward(self, x):
        x = self.project(x)
        if self.training or not self.only_in_training:
            mean = x.detach().mean(0)
            if self.in_place:
                self.table.mul_(0.9).add_(mean, alpha=0.1)
            else:
                self.table = 0.9 * self.table + 0.1 * mean
        return x + self.table.mean(0)


def image(*size):
    return lambda: torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))


def tracking_instance_norm():
    return nn.InstanceNorm2d(3, affine=True, track_running_stats=True)


MOVERS = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6), rows),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), image(4, 4)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(3), image(2, 2, 2)),
    "BatchNorm momentum 0": (lambda: nn.BatchNorm1d(6, momentum=0.0), rows),
    "BatchNorm cumulative": (lambda: nn.BatchNorm1d(6, momentum=None), rows),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(6), rows),
    "LazyBatchNorm": (nn.LazyBatchNorm1d, rows),
    "InstanceNorm": (tracking_instance_norm, image(4, 4)),
    "spectral_norm": (lambda: old_spectral_norm(nn.Linear(6, 6)), rows),
    "parametrized spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(6, 6)), rows),
    "code book in place": (lambda: Codebook(in_place=True), rows),
    "code book reassigned": (lambda: Codebook(in_place=False), rows),
}  # fmt: skip


class Headed(nn.Module):
    """One layer under test and a head that trains."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.head = nn.LazyLinear(2)

    def forward(self, x):
        return self.head(self.layer(x).flatten(1))


@pytest.fixture(params=MOVERS)
def mover(request):
    make, batch = MOVERS[request.param]
    model = seeded(lambda: Headed(make()))
    if request.param != "LazyBatchNorm":
        model.eval()(batch())  # gives the head its shape
    return model.train(), batch()


def pass_twice(model, batch):
    """Two forward and backward passes as a loop does them, with `train()` before each."""
    for _ in range(2):
        model.train()
        model(batch).square().sum().backward()


# R4: who moves, and holds under a plan ---------------------------------------------------------


def test_flags_alone_would_not_hold_a_layers_state(mover):
    """R4: shows that the next test can fail."""
    model, batch = mover
    model.layer.requires_grad_(False) if not lazy(model) else None
    if lazy(model):
        model(batch)
    before = bits(model.layer)
    pass_twice(model, batch)
    assert any(name.split(".")[-1] in BUFFERS for name in moved(model.layer, before))


BUFFERS = {"num_batches_tracked", "running_mean", "weight_u", "_u", "table"}


def lazy(model):
    return any(
        isinstance(p, nn.UninitializedParameter | nn.UninitializedBuffer)
        for p in [*model.layer.parameters(), *model.layer.buffers()]
    )


def test_a_frozen_layers_state_holds_though_the_loop_calls_train(mover):
    """R4: every row of the table of who moves."""
    model, batch = mover
    handle = uf.freeze(model, "layer")
    if lazy(model):
        model.train()(batch)  # makes its tensors, which then hold
        assert model.layer.num_batches_tracked == 0
        handle.rebase()
    before = bits(model.layer)
    pass_twice(model, batch)
    assert not moved(model.layer, before)
    assert handle.verify().states > 0


def test_a_held_layers_output_is_that_of_inference(mover):
    """R4: it is what it computes that holds, not only what it stores."""
    model, batch = mover
    uf.freeze(model, "layer")
    held = model.train()(batch)
    assert torch.equal(held, model.eval()(batch))


def test_a_batch_of_nan_does_not_poison_a_held_norm():
    """R4: momentum 0 does not protect from it, since 0 * nan is nan."""
    model = seeded(Headed, nn.BatchNorm1d(6, momentum=0.0))
    model.eval()(rows())
    uf.freeze(model, "layer")
    before = bits(model)
    model.train()(torch.full((4, 6), torch.nan))
    assert not moved(model, before)


def test_reading_the_weight_of_a_held_spectral_norm_gives_it_twice_alike():
    """R4: without a plan, every read in training mode is an iteration."""
    model = seeded(Headed, parametrizations.spectral_norm(nn.Linear(6, 6)))
    model.eval()(rows())
    model.train()
    before = bits(model)
    assert torch.is_tensor(model.layer.weight)
    assert moved(model, before)
    uf.freeze(model, "layer")
    model.train()
    before = bits(model)
    assert torch.equal(model.layer.weight, model.layer.weight)
    assert not moved(model, before)


def test_recomputation_does_not_count_batches_in_a_held_norm():
    """R4: a checkpointed norm runs twice per step."""
    model = seeded(Stack)
    uf.freeze(model, "blocks")
    x = rows().requires_grad_()
    model.train()
    out = torch.utils.checkpoint.checkpoint(model.blocks[0], x, use_reentrant=False)
    out.sum().backward()
    assert model.blocks[0].norm.num_batches_tracked == 0


def test_a_norm_class_that_never_updates_is_not_counted_as_held():
    frozen_norm = import_torchvision().ops.FrozenBatchNorm2d(3)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), frozen_norm, nn.Flatten(), nn.Linear(48, 2))
    handle = uf.freeze(model, 'path:"0"')
    model.train()(image(4, 4)())
    assert handle.verify().states == 0
    assert "train" not in vars(frozen_norm)


def test_a_norm_without_statistics_has_nothing_to_hold():
    model = seeded(Headed, nn.BatchNorm1d(6, track_running_stats=False))
    model.eval()(rows())
    handle = uf.freeze(model, "layer")
    assert handle.resolution.held == ()
    assert model.train().layer.training


# R11: what moves in any mode is refused where it can be seen, and caught where not --------------


@pytest.mark.parametrize(
    "table",
    [lambda: nn.Embedding(9, 6, max_norm=0.1), lambda: nn.EmbeddingBag(9, 6, max_norm=0.1)],
    ids=["Embedding", "EmbeddingBag"],
)
def test_a_frozen_table_with_a_largest_norm_is_refused(table):
    """R11: its forward rewrites the weight, in any mode."""
    model = seeded(lambda: nn.ModuleDict({"table": table(), "head": nn.Linear(6, 2)}))
    before = bits(model)
    with pytest.raises(UnsupportedPlanError, match="set max_norm = None"):
        uf.freeze(model, "embedding")
    assert all(p.requires_grad for p in model.parameters())
    model.table.max_norm = None
    handle = uf.freeze(model, "embedding")
    model.table(torch.arange(4)[:, None])
    assert not moved(model, before)
    handle.verify()


def test_a_dry_run_with_a_batch_does_not_shorten_rows():
    """R11: a traced forward pass is a look-up too."""
    model = seeded(nn.Sequential, nn.Embedding(9, 6, max_norm=0.1), nn.Linear(6, 2))
    before = bits(model)
    FreezePlan().freeze("linear").resolve(model, batch=torch.arange(4).numpy())
    assert not moved(model, before)
    assert model[0].max_norm == 0.1


def test_a_table_with_a_largest_norm_may_train():
    model = nn.ModuleDict({"t": nn.Embedding(9, 6, max_norm=1.0), "h": nn.Linear(6, 2)})
    uf.freeze(model, "linear")
    assert model.t.weight.requires_grad


def test_a_largest_norm_set_after_the_plan_is_caught():
    """R11"""
    model = seeded(lambda: nn.ModuleDict({"t": nn.Embedding(9, 6), "h": nn.Linear(6, 2)}))
    handle = uf.freeze(model, "t")
    model.t.max_norm = 0.1
    model.t(torch.arange(4))
    with pytest.raises(FrozenDriftError, match=r"t\.weight: moved"):
        handle.verify()


def quantised():
    """A frozen part whose fake quantiser learns its range in any mode."""
    body = nn.Sequential(nn.Linear(6, 6), FakeQuantize())
    return seeded(lambda: nn.Sequential(body, nn.Linear(6, 2)))


def test_a_frozen_quantiser_that_still_observes_is_refused():
    """R11"""
    model = quantised()
    with pytest.raises(UnsupportedPlanError, match="disable_observer"):
        uf.freeze(model, 'path:"0"')
    model(rows())
    model[0][1].disable_observer()
    before = bits(model)
    handle = uf.freeze(model, 'path:"0"')
    model.train()(100 * rows())
    assert not moved(model, before)
    assert handle.verify().states > 0


def test_an_observer_switched_on_after_the_plan_is_caught():
    """R11"""
    model = quantised()
    model(rows())  # a range that has seen nothing is refused
    model[0][1].disable_observer()
    handle = uf.freeze(model, 'path:"0"')
    model[0][1].enable_observer()
    model.eval()(100 * rows())
    with pytest.raises(FrozenDriftError, match=r"0\.1\.scale: moved"):
        handle.verify()


def test_a_code_book_that_moves_in_any_mode_is_caught():
    """R11"""
    model = seeded(Headed, Codebook(in_place=True, only_in_training=False))
    model.eval()(rows())
    handle = uf.freeze(model, "layer")
    model.eval()(rows())
    with pytest.raises(FrozenDriftError, match=r"layer\.table: moved"):
        handle.verify()


def test_a_buffer_that_the_optimizers_hook_moves_is_caught():
    """R11: some routers balance their load so, outside any forward pass."""
    model = seeded(Headed, Codebook(in_place=True))
    model.eval()(rows())
    handle = uf.freeze(model, "layer")
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: print(model.layer.table.add_(0.01)))
    pass_twice(model, rows())
    handle.verify()
    optimizer.step()
    with pytest.raises(FrozenDriftError, match=r"layer\.table: moved"):
        handle.verify()


def test_a_mode_assigned_past_train_is_caught():
    """R11"""
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    model.blocks[1].norm.training = True
    model(rows())
    with pytest.raises(FrozenDriftError) as caught:
        handle.verify()
    assert {d.path.rpartition(".")[0] for d in caught.value.drifts} == {"blocks.1.norm"}


def test_a_scripted_norm_is_refused_and_a_scripted_layer_is_not():
    """R4: a ScriptModule forgets a `train` of its own; its flags are kept."""
    plain = seeded(nn.Sequential, nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    scripted = torch.jit.script(plain)
    with pytest.raises(UnsupportedPlanError, match="ScriptModule"):
        uf.freeze(scripted, 'path:"1"')
    assert all(p.requires_grad for p in scripted.parameters())
    handle = uf.freeze(scripted, 'path:"0"')
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
    scripted(rows()).sum().backward()
    optimizer.step()
    assert handle.verify().parameters == 2
    handle.remove()
    assert all(p.requires_grad for p in scripted.parameters())


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


# norm_stats: which norms hold ------------------------------------------------------------------


def moved_statistics(plan, model):
    """Which layers' statistics one training pass moves under a plan."""
    handle = uf.apply(plan, model)
    before = bits(model)
    model.train()
    backward(model)
    handle.verify()
    return {n.removesuffix(".running_mean") for n in moved(model, before) if "running_mean" in n}


def test_a_half_frozen_norm_updates():
    plan = FreezePlan().freeze("norm & weight")
    assert moved_statistics(plan, seeded(Stack)) == {"blocks.0.norm", "blocks.1.norm"}


def test_a_norm_whose_own_parameters_are_frozen_holds_though_its_block_trains():
    plan = FreezePlan().freeze("norm & blocks[0]")
    assert moved_statistics(plan, seeded(Stack)) == {"blocks.1.norm"}


def test_a_norm_without_scale_and_shift_follows_its_block():
    model = seeded(Stack, affine=False)
    assert moved_statistics(FreezePlan().freeze("blocks[0]"), model) == {"blocks.1.norm"}
    half = FreezePlan().freeze("blocks[0] & weight")
    assert moved_statistics(half, model) == {"blocks.0.norm", "blocks.1.norm"}


def test_update_lets_frozen_norms_update():
    plan = FreezePlan().freeze("blocks").with_norm_stats("update")
    assert moved_statistics(plan, seeded(Stack)) == {"blocks.0.norm", "blocks.1.norm"}


def test_hold_all_holds_statistics_though_scale_and_shift_train():
    model = seeded(Stack)
    plan = FreezePlan().freeze("stem").with_norm_stats("hold_all")
    assert moved_statistics(plan, model) == set()
    assert model.blocks[0].norm.weight.grad is not None


def test_rules_by_selector_hold_some_and_update_others():
    rules = [{"hold": "norm & blocks[1]"}, {"update": "norm & blocks[0]"}]
    frozen = FreezePlan().freeze("blocks").with_norm_stats(rules)
    assert moved_statistics(frozen, seeded(Stack)) == {"blocks.0.norm"}
    trained = FreezePlan().freeze("stem").with_norm_stats(rules)
    assert moved_statistics(trained, seeded(Stack)) == {"blocks.0.norm"}


def test_a_later_plan_lets_go_of_what_an_earlier_one_held():
    model = seeded(Stack)
    uf.freeze(model, "blocks")
    assert moved_statistics(FreezePlan().freeze("blocks[0]"), model) == {"blocks.1.norm"}


# R4: dropout is a choice of its own ------------------------------------------------------------


def differs(function, *args):
    torch.manual_seed(1)
    first = function(*args)
    torch.manual_seed(2)
    return not torch.equal(first, function(*args))


@pytest.mark.parametrize("policy", ["live", "off"])
def test_dropout_inside_frozen_blocks_is_live_or_off_as_the_plan_says(policy):
    model = seeded(Stack, dropout=0.5)
    uf.apply(FreezePlan().freeze("blocks[0]").with_dropout(policy), model)
    model.train()
    x = rows()
    assert differs(model.blocks[0], x) == (policy == "live")
    assert differs(model.blocks[1], x)


class Functional(nn.Module):
    """Drops out by function, as the container's own mode says."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        return nn.functional.dropout(self.linear(x), 0.5, self.training)


@pytest.mark.parametrize(
    "make",
    [
        Functional,
        lambda: nn.LSTM(6, 6, num_layers=2, dropout=0.5),
        lambda: nn.TransformerEncoderLayer(6, 2, 12, dropout=0.5),
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)),
    ],
    ids=["F.dropout", "LSTM", "attention", "container"],
)
def test_dropout_off_reaches_every_kind_of_layer_in_a_frozen_block(make):
    model = seeded(lambda: nn.ModuleDict({"body": make(), "head": nn.Linear(6, 2)}))
    uf.apply(FreezePlan().freeze("body").with_dropout("off"), model)
    model.train()
    run = model.body if not isinstance(model.body, nn.LSTM) else lambda x: model.body(x)[0]
    assert not differs(run, rows())
    uf.apply(FreezePlan().freeze("body"), model)
    assert differs(run, rows())


def test_dropout_off_leaves_alone_what_stands_beside_frozen_blocks():
    """R4: a layer without parameters goes with the nearest module that has some."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 2), nn.Dropout(0.5))
    uf.apply(FreezePlan().freeze('path:"0"').with_dropout("off"), model)
    model.train()
    assert model[1].training
    assert model[3].training
    assert not model[0].training


def test_a_recurrent_layer_without_dropout_stays_in_training_mode():
    """R4: cuDNN passes no gradient through one in inference mode, and there is nothing to gain."""
    model = nn.ModuleDict({"stem": nn.Linear(6, 6), "rnn": nn.GRU(6, 6), "head": nn.Linear(6, 2)})
    uf.apply(FreezePlan().freeze("rnn").with_dropout("off"), model)
    assert model.train().rnn.training


def test_a_recurrent_layer_whose_dropout_is_off_stays_in_training_mode():
    """R4: its dropout alone goes, so that gradient still passes it on a GPU."""
    model = nn.ModuleDict({"rnn": nn.LSTM(6, 6, num_layers=2, dropout=0.5)})
    model["head"] = nn.Linear(6, 2)
    handle = uf.apply(FreezePlan().freeze("rnn").with_dropout("off"), model)
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.train().rnn.training
        assert copied.rnn.dropout == 0
    handle.remove()
    assert model.rnn.dropout == 0.5


# remove: everything as it was found ------------------------------------------------------------


def modes(model):
    return [module.training for module in model.modules()]


def own_attributes(model):
    return [set(vars(module)) for module in model.modules()]


def hooks(model):
    return [
        (name, len(value))
        for module in model.modules()
        for name, value in vars(module).items()
        if "hooks" in name and value is not None
    ]


BETWEEN = {
    "nothing": lambda model: None,
    "train": lambda model: model.train(),
    "eval": lambda model: model.eval(),
    "train, then eval": lambda model: model.train().eval(),
    "eval, then train": lambda model: model.eval().train(),
    "eval of one block": lambda model: model.blocks[0].eval(),
}


@pytest.mark.parametrize("dropout", ["live", "off"])
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("found", ["train", "eval"])
def test_removal_leaves_the_modes_that_the_loop_would_have_left(found, between, dropout):
    """A loop that called `eval()` meanwhile finds the model in inference mode, as without plan."""
    model, plain = seeded(Stack, dropout=0.5), seeded(Stack, dropout=0.5)
    for each in (model, plain):
        getattr(each, found)()
        each.blocks[1].norm.eval()
    handle = uf.apply(FreezePlan().freeze("blocks").with_dropout(dropout), model)
    for each in (model, plain):
        BETWEEN[between](each)
    handle.remove()
    assert modes(model) == modes(plain)


def test_removal_puts_back_flags_attributes_and_hooks():
    model = seeded(Stack)
    model.stem.weight.requires_grad_(False)
    model.blocks[0].register_forward_hook(lambda *_: None)
    flags = [p.requires_grad for p in model.parameters()]
    attributes, found = own_attributes(model), hooks(model)
    handle = uf.apply(FreezePlan().only("stem").with_dropout("off"), model)
    second = uf.apply(FreezePlan().freeze("blocks"), model)
    with pytest.raises(uf.UnifreezeError, match="no longer in force"):
        handle.remove()
    second.remove()
    assert [p.requires_grad for p in model.parameters()] == flags
    assert own_attributes(model) == attributes
    assert hooks(model) == found


def test_removal_keeps_what_was_trained():
    model = seeded(Stack)
    handle = uf.freeze(model, "blocks")
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)
    backward(model)
    optimizer.step()
    trained = bits(model)
    handle.remove()
    assert bits(model) == trained


def test_a_norm_that_its_user_holds_by_hand_is_held_by_hand_again_after_removal():
    """The well-known `norm.train = lambda mode: norm` survives a plan."""
    model = seeded(Stack)
    norm = model.blocks[0].norm.eval()
    norm.train = by_hand = lambda mode=True: norm
    handle = uf.freeze(model, "blocks")
    model.train()
    assert not norm.training
    handle.remove()
    assert vars(norm)["train"] is by_hand
    assert not model.train().blocks[0].norm.training


def test_a_class_with_a_train_of_its_own_keeps_it_under_a_plan():
    class Careful(Block):
        def train(self, mode=True):
            super().train(mode)
            self.calls = getattr(self, "calls", 0) + 1
            return self

    model = seeded(Stack)
    model.blocks = nn.ModuleList([Careful(), Careful()])
    uf.apply(FreezePlan().freeze("blocks[0]").with_dropout("off"), model)
    assert model.train() is model
    assert model.blocks[0].calls == 1
    assert not model.blocks[0].training
