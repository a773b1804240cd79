"""PyTorch's rows of one process: what wraps, compiles, exports, quantises or copies a model."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.matrix.cells import Cell, NotRunHereError, Row
from tests.support.matrix.columns import PLAN, Kit, Run, cells_of
from tests.support.matrix.torch_kits import PLAIN, RATE, adamw, optimized, step, wrapped
from tests.support.torch_processes import Net, make, shard

FAST = {
    "nothing",
    "`checkpoint(use_reentrant=False)` in its own forward",
    "`checkpoint(use_reentrant=True)` in its own forward",
    "`checkpoint_wrapper(REENTRANT)` around blocks",
    "`torch.jit.trace`",
    "`weight_norm` on a layer of each block",
    "`AveragedModel` (EMA), copied back for *verify*",
    "AdamW, foreach",
    "LBFGS",
    "one that wraps another, which the handle has built",
    "one that wraps another, attached itself",
}
"""The rows that the fast tests run, too."""


def row(part: str, name: str, kit: Kit, **cells: Cell) -> Row:
    """Return a row of one process."""
    return Row(name, part, "PyTorch", cells_of(kit, **cells), fast=name in FAST)


def never(part: str, name: str, why: str) -> Row:
    """Return a row that is not run here at all."""
    return Row(name, part, "PyTorch", dict.fromkeys(cells_of(PLAIN), why), fast=False)


# What computes a model in another way ---------------------------------------------------------


class TypedBlock(nn.Module):
    """Two linear layers, with types that `torch.jit.script` can read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add to the input."""
        return x + self.second(torch.tanh(self.first(x)))


class Typed(nn.Module):
    """A small net that `torch.jit.script` can read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(TypedBlock() for _ in range(3))
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run all parts in order."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Recomputing(Net):
    """A net whose own forward recomputes its blocks."""

    reentrant = False

    def forward(self, x: Any) -> Any:
        """Run all parts in order, blocks under `checkpoint`."""
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


class Reentrant(Recomputing):
    """The same with reentrant recomputing."""

    reentrant = True


def _made(kind: type[nn.Module]) -> Any:
    torch.manual_seed(0)
    return kind()


def _recomputed(kind: CheckpointImpl) -> Any:
    """Build a net each of whose blocks is wrapped."""
    model = make()
    for number, block in enumerate(model.blocks):
        model.blocks[number] = checkpoint_wrapper(block, checkpoint_impl=kind)
    return model


def _regional(model: Any) -> Any:
    for block in model.blocks:
        block.compile(backend="aot_eager")
    return model


def _compiled_step(run: Run, number: int, own: bool) -> None:
    torch._dynamo.reset()  # after 8 plans a compiler gives up, and runs the function plainly
    step(run, number, own)


def _traced(model: Any) -> Any:
    return torch.jit.trace(model, shard(0, 0))


def _exported(model: Any) -> Any:
    return torch.export.export(model, (shard(0, 0),)).module()


def _half_step(run: Run, number: int, own: bool) -> None:
    run.optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run.called(shard(number, 0)).square().mean()
    scaler.scale(loss).backward()
    scaler.step(run.optimizer)
    scaler.update()


def _functional_step(run: Run, number: int, own: bool) -> None:
    run.optimizer.zero_grad()
    named = dict(run.model.named_parameters())
    torch.func.functional_call(run.model, named, (shard(number, 0),)).square().mean().backward()
    run.optimizer.step()


WRAPPERS = [
    row("wrappers", "nothing", PLAIN),
    row("wrappers", "`nn.DataParallel` without GPUs", wrapped(nn.DataParallel)),
    row("wrappers", "autocast and `GradScaler`", replace(PLAIN, step=_half_step)),
    row("wrappers", "`torch.func.functional_call`", replace(PLAIN, step=_functional_step)),
    row(
        "wrappers",
        "`checkpoint(use_reentrant=False)` in its own forward",
        replace(PLAIN, make=partial(_made, Recomputing)),
    ),
    row(
        "wrappers",
        "`checkpoint(use_reentrant=True)` in its own forward",
        replace(PLAIN, make=partial(_made, Reentrant)),
    ),
    row(
        "wrappers",
        "`checkpoint_wrapper(NO_REENTRANT)` around blocks",
        replace(PLAIN, make=partial(_recomputed, CheckpointImpl.NO_REENTRANT)),
    ),
    row(
        "wrappers",
        "`checkpoint_wrapper(REENTRANT)` around blocks",
        replace(PLAIN, make=partial(_recomputed, CheckpointImpl.REENTRANT)),
    ),
]


# Compilers and exporters ------------------------------------------------------------------------

TYPED = replace(PLAIN, make=partial(_made, Typed))
COMPILERS = [
    row(
        "compilers and exporters",
        "`torch.compile` around the model",
        wrapped(partial(torch.compile, backend="aot_eager"), step=_compiled_step),
    ),
    row(
        "compilers and exporters",
        "`module.compile()` for each block",
        wrapped(_regional, step=_compiled_step),
    ),
    row("compilers and exporters", "`torch.jit.trace`", wrapped(_traced)),
    row("compilers and exporters", "`torch.jit.script`", replace(TYPED, wrap=torch.jit.script)),
    row("compilers and exporters", "`torch.export`", wrapped(_exported)),
]


# Quantisers ---------------------------------------------------------------------------------------


def _dynamic(folder: Path) -> None:
    """Quantise after a plan: packed layers hold no parameters, the rest stays under the plan."""
    model = make()
    handle = PLAN.apply(model)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    handle.verify()
    assert quantised(shard(0, 0)).shape == (4, 2)
    handle.remove()
    assert all(parameter.requires_grad for parameter in model.parameters())


def _aware(*, observes: bool) -> Any:
    model = make().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    model = torch.ao.quantization.prepare_qat(model)
    model(shard(0, 0))
    if not observes:
        model.apply(torch.ao.quantization.disable_observer)
    return model


QUANTISERS = [
    Row(
        "`quantize_dynamic`",
        "quantisers",
        "PyTorch",
        {
            **dict.fromkeys(cells_of(PLAIN), "what it makes cannot train"),
            "plan before": _dynamic,
        },
    ),
    row("quantisers", "`prepare_qat`", replace(PLAIN, make=partial(_aware, observes=True))),
    row(
        "quantisers",
        "`prepare_qat`, then `disable_observer`",
        replace(PLAIN, make=partial(_aware, observes=False)),
    ),
    never("quantisers", "torchao", "it is not installed"),
    never("quantisers", "bitsandbytes", "it is not installed"),
]


# Adapters, averages and parametrisations ----------------------------------------------------------


def _adapted() -> Any:
    import_torchvision()
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False)
    return inject_adapter_in_model(config, Net())


def _normed() -> Any:
    model = make()
    for block in model.blocks:
        parametrizations.weight_norm(block.first)
    return model


class _Averaged(AveragedModel):
    """An average that is called like the model it follows."""

    def __init__(self, model: Any, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.followed = [model]

    def forward(self, *inputs: Any) -> Any:
        return self.followed[0](*inputs)


def _averaged_step(run: Run, number: int, own: bool) -> None:
    step(run, number, own)
    run.called.update_parameters(run.model)


def _averaged(multi: bool) -> Kit:
    settings = {"multi_avg_fn": get_ema_multi_avg_fn(0.9)} if multi else {}
    return wrapped(
        partial(_Averaged, **settings), step=_averaged_step, target=lambda _called, model: model
    )


def _copied_back(folder: Path) -> None:
    """Copy an average back into the model: a copy from before the plan, which verify names."""
    kit = _averaged(multi=True)
    run = kit.began(PLAN)
    kit.check_step(run, 0)
    run.handle.verify()
    twin = copy.deepcopy(run.model)
    kit.spoil(twin, run.handle.resolution.frozen_paths[0])
    with torch.no_grad():
        for parameter, other in zip(run.model.parameters(), twin.parameters(), strict=True):
            parameter.copy_(other)
    try:
        run.handle.verify()
    except uf.errors.FrozenDriftError:
        return
    raise AssertionError("an average that was copied back was not seen")


EXTRAS = [
    row("adapters and averages", "PEFT's LoRA in the blocks", replace(PLAIN, make=_adapted)),
    row(
        "adapters and averages",
        "`weight_norm` on a layer of each block",
        replace(PLAIN, make=_normed),
    ),
    row("adapters and averages", "`AveragedModel` (SWA) beside the model", _averaged(multi=False)),
    row(
        "adapters and averages",
        "`AveragedModel` (EMA), copied back for *verify*",
        _averaged(multi=True),
        verify=_copied_back,
    ),
]


# Optimizers ---------------------------------------------------------------------------------------


class LookAhead(torch.optim.Optimizer):
    """An optimizer that wraps another, as they are written: every second step it goes half back."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.count = optimizer, 0
        self.param_groups = optimizer.param_groups
        self.slow = [[p.detach().clone() for p in g["params"]] for g in self.param_groups]

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """Take a step of the optimizer inside; go half back at every second."""
        loss = self.optimizer.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for group, slow in zip(self.param_groups, self.slow, strict=True):
                for fast, kept in zip(group["params"], slow, strict=True):
                    if fast.grad is not None:
                        kept.lerp_(fast.detach(), 0.5)
                        fast.data.copy_(kept)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop gradients."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> Any:  # type: ignore[override]
        """Return the state of both."""
        return {"inner": self.optimizer.state_dict(), "slow": self.slow, "count": self.count}

    def load_state_dict(self, state: Any) -> None:
        """Load the state of both."""
        self.optimizer.load_state_dict(state["inner"])
        self.slow, self.count = state["slow"], state["count"]


def _looking_ahead(handle: uf.Handle, model: Any) -> Any:
    """Let a handle build the optimizer inside."""
    return LookAhead(adamw(handle, model))


def _looking_ahead_attached(handle: uf.Handle, model: Any) -> Any:
    """Attach the wrapper itself."""
    groups = [{"params": [p]} for p in model.parameters()]
    optimizer = LookAhead(torch.optim.AdamW(groups, lr=RATE))
    if handle.phase is not None:
        handle.attach(optimizer)
    else:
        handle.check_optimizer(optimizer)
    return optimizer


def _muon(handle: uf.Handle, _model: Any) -> Any:
    return handle.optimizer(torch.optim.Muon, lr=RATE)


def _sparse(handle: uf.Handle, _model: Any) -> Any:
    raise NotRunHereError("the model has no sparse gradients")


DECAY = {"weight_decay": 0.1}
OPTIMIZERS = [
    row("optimizers", name, optimized(cls, **settings))
    for name, cls, settings in [
        ("SGD", torch.optim.SGD, {}),
        ("SGD with momentum and decay", torch.optim.SGD, {"momentum": 0.9, **DECAY}),
        ("Adam", torch.optim.Adam, DECAY),
        ("AdamW", torch.optim.AdamW, DECAY),
        ("AdamW, fused", torch.optim.AdamW, {"fused": True, **DECAY}),
        ("AdamW, foreach", torch.optim.AdamW, {"foreach": True, **DECAY}),
        ("AdamW, amsgrad", torch.optim.AdamW, {"amsgrad": True, **DECAY}),
        ("Adagrad", torch.optim.Adagrad, DECAY),
        ("Adadelta", torch.optim.Adadelta, DECAY),
        ("Adamax", torch.optim.Adamax, DECAY),
        ("Adafactor", torch.optim.Adafactor, DECAY),
        ("NAdam", torch.optim.NAdam, DECAY),
        ("RAdam", torch.optim.RAdam, DECAY),
        ("RMSprop", torch.optim.RMSprop, {"momentum": 0.9, **DECAY}),
        ("ASGD", torch.optim.ASGD, DECAY),
        ("LBFGS", torch.optim.LBFGS, {}),
    ]
] + [
    row("optimizers", "Rprop", replace(optimized(torch.optim.Rprop), rests=True)),
    row("optimizers", "Muon, which takes matrices alone", replace(PLAIN, optimizer=_muon)),
    row("optimizers", "SparseAdam", replace(PLAIN, optimizer=_sparse)),
    row(
        "optimizers",
        "one that wraps another, which the handle has built",
        replace(PLAIN, optimizer=_looking_ahead),
    ),
    row(
        "optimizers",
        "one that wraps another, attached itself",
        replace(PLAIN, optimizer=_looking_ahead_attached),
    ),
]

ROWS = [*WRAPPERS, *COMPILERS, *QUANTISERS, *EXTRAS, *OPTIMIZERS]
