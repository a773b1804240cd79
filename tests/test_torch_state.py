"""PyTorch: statistics, power iterations and code books of frozen layers hold still, or are caught.

The rules R4 and R11 are those of the opening table of the facts about PyTorch; its table 2.1 is
`MOVERS` here.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.ao.quantization import FakeQuantize
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral_norm

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.kits.torch_nets import Stack, bits, moved, rows, seeded
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
        uf.freeze(model, "tables")
    assert all(p.requires_grad for p in model.parameters())
    model.table.max_norm = None
    handle = uf.freeze(model, "tables")
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
    first, *moved = caught.value.drifts
    assert (first.path, first.kind) == ("blocks.1.norm", "released")
    assert {drift.path.rpartition(".")[0] for drift in moved} == {"blocks.1.norm"}


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
