"""Paddle's rows of one process: what wraps, compiles, exports, quantises or adapts a model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.quantization.observers import AbsmaxObserver
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.matrix.cells import Cell, Row
from tests.support.matrix.columns import PLAN, Kit, Run, cells_of
from tests.support.matrix.paddle_kits import (
    PLAIN,
    RATE,
    adamw,
    make,
    optimized,
    step,
    wrapped,
)
from tests.support.paddle_ranks.nets import Net, batch

FAST = {
    "nothing",
    "`recompute` in its own forward, reentrant (the default)",
    "`to_static(full_graph=True)`",
    "`QAT`, that has seen batches",
    "`weight_norm` on a layer of each block",
    "`ModelAverage` beside the model; its `apply` for *verify*",
    "Momentum with decay",
    "AdamW",
    "`LookAhead`, attached itself",
}
"""The rows that the fast tests run, too."""

ALONE, COMPILERS, QUANTISERS = "wrappers", "compilers and exporters", "quantisers"
EXTRAS, OPTIMIZERS = "adapters, averages and layers", "optimizers"


def row(part: str, name: str, kit: Kit, **cells: Cell) -> Row:
    """Return a row of one process."""
    return Row(name, part, "Paddle", cells_of(kit, **cells), fast=name in FAST)


def never(part: str, name: str, why: str) -> Row:
    """Return a row that is not run here at all."""
    return Row(name, part, "Paddle", dict.fromkeys(cells_of(PLAIN), why), fast=False)


# What computes a model in another way ---------------------------------------------------------


class Recomputing(Net):
    """A net whose own forward recomputes its blocks, reentrantly, as is Paddle's default."""

    def forward(self, x: Any) -> Any:
        """Run all parts in order."""
        x = self.stem(x)
        for block in self.blocks:
            x = recompute(block, x)
        return self.head(x)


class RecomputingInHooks(Recomputing):
    """The same without reentrance."""

    def __init__(self) -> None:
        super().__init__()
        self.recomputes = True

    forward = Net.forward


def _half_step(run: Run, number: int, own: bool) -> None:
    scaler = paddle.amp.GradScaler(enable=False)
    with paddle.amp.auto_cast(enable=True, dtype="bfloat16", level="O1"):
        out = run.called(batch(number, 0))
    scaler.scale(out.astype("float32").square().mean()).backward()
    scaler.step(run.optimizer)
    scaler.update()
    run.optimizer.clear_grad(set_to_zero=False)


def _decorated(model: Any) -> Any:
    return paddle.amp.decorate(model, level="O2", dtype="bfloat16")


WRAPPERS = [
    row(ALONE, "nothing", PLAIN),
    row(ALONE, "`paddle.DataParallel` in one process", wrapped(paddle.DataParallel)),
    row(ALONE, "`auto_cast` O1 and `GradScaler`", replace(PLAIN, step=_half_step)),
    row(ALONE, "`amp.decorate` O2, which leaves a model as it is on a CPU", wrapped(_decorated)),
    row(
        ALONE,
        "`recompute` in its own forward, reentrant (the default)",
        replace(PLAIN, make=partial(make, Recomputing)),
    ),
    row(
        ALONE,
        "`recompute(use_reentrant=False)` in its own forward",
        replace(PLAIN, make=partial(make, RecomputingInHooks)),
    ),
]


# Compilers and exporters ------------------------------------------------------------------------


def _static(model: Any, **settings: Any) -> Any:
    return paddle.jit.to_static(model, **settings)


class Around(nn.Layer):
    """A layer around a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        """Return what the model does."""
        return self.model(x)


def _around(model: Any) -> Any:
    return paddle.jit.to_static(Around(model), full_graph=True)


def _saved() -> Any:
    """Return a program that was saved and loaded again, as a layer."""
    model = make()
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        spec = paddle.static.InputSpec([None, 8], "float32")
        paddle.jit.save(model, str(Path(folder) / "net"), input_spec=[spec])
        loaded = paddle.jit.load(str(Path(folder) / "net"))
    loaded.train()
    return loaded


def _whole_program(_folder: Path) -> None:
    """Apply a plan to a program of a static graph."""
    PLAN.apply(paddle.static.Program())


STATIC = row(COMPILERS, "a program of a static graph", PLAIN)
COMPILED = [
    row(COMPILERS, "`to_static` (the default)", wrapped(_static)),
    row(COMPILERS, "`to_static(full_graph=True)`", wrapped(partial(_static, full_graph=True))),
    row(
        COMPILERS,
        "`to_static(full_graph=True)` of a layer around the model",
        wrapped(_around, target=lambda called, model: model),
    ),
    row(
        COMPILERS, "`jit.save`, then `jit.load` (a `TranslatedLayer`)", replace(PLAIN, make=_saved)
    ),
    replace(STATIC, cells=dict.fromkeys(STATIC.cells, _whole_program)),
]


# Quantisers ---------------------------------------------------------------------------------------


def _config() -> Any:
    quanter = FakeQuanterWithAbsMaxObserver(moving_rate=0.9)
    return paddle.quantization.QuantConfig(activation=quanter, weight=quanter)


def _aware(*, batches: int) -> Any:
    model = make()
    model.train()
    quantised = paddle.quantization.QAT(_config()).quantize(model, inplace=True)
    for number in range(batches):
        quantised(batch(number, 0))
    return quantised


def _observing() -> Any:
    model = make()
    model.eval()
    observer = AbsmaxObserver(quant_bits=8)
    config = paddle.quantization.QuantConfig(activation=observer, weight=observer)
    observed = paddle.quantization.PTQ(config).quantize(model, inplace=True)
    observed(batch(0, 0))
    return observed


QUANTISED = [
    row(
        QUANTISERS, "`QAT`, that has seen batches", replace(PLAIN, make=partial(_aware, batches=2))
    ),
    row(QUANTISERS, "`QAT`, that has seen none", replace(PLAIN, make=partial(_aware, batches=0))),
    row(QUANTISERS, "`PTQ`, observing", replace(PLAIN, make=_observing)),
]


# Adapters, averages and layers --------------------------------------------------------------------


def _adapted() -> Any:
    import_torchvision()
    import paddlenlp.transformers as library
    from paddlenlp import peft

    paddle.seed(0)
    config = library.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = library.BertForSequenceClassification(config)
    lora = peft.LoRAConfig(target_modules=[".*q_proj.*", ".*v_proj.*"], r=2)
    adapted = peft.LoRAModel(model, lora)
    for name, tensor in adapted.named_parameters():
        if "lora_B" in name:  # zeros pass no gradient
            tensor.set_value(paddle.full_like(tensor, 0.1))
    return adapted


def _words_step(run: Run, number: int, own: bool) -> None:
    ids = (paddle.arange(12).reshape([3, 4]) * (number + 3)) % 29 + 1
    run.called(ids, token_type_ids=ids % 2).square().mean().backward()
    run.optimizer.step()
    run.optimizer.clear_grad(set_to_zero=False)


def _normed(norm: Callable[[Any], Any]) -> Any:
    model = make()
    for block in model.blocks:
        norm(block.first)
    return model


def _lazy() -> Any:
    """Return a model that got its values after it was built, before any plan."""
    with paddle.LazyGuard():
        model = make()
    paddle.seed(0)
    for parameter in model.parameters():
        parameter.initialize()
    return model


def _divided() -> Any:
    model = make()
    mesh = dist.ProcessMesh([0], dim_names=["x"])
    for layer in model.sublayers():
        for name, tensor in list(layer._parameters.items()):
            layer._parameters[name] = dist.shard_tensor(tensor, mesh, [dist.Replicate()])
    return model


class _Averaging:
    """An optimizer with a `ModelAverage` beside it."""

    def __init__(self, optimizer: Any, model: Any) -> None:
        self._optimizer = optimizer
        self._average = paddle.incubate.ModelAverage(
            0.15, parameters=model.parameters(), min_average_window=2, max_average_window=4
        )

    def step(self) -> None:
        """Take a step, and take it into the average."""
        self._optimizer.step()
        self._average.step()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)


def _averaging(handle: uf.Handle, model: Any) -> Any:
    return _Averaging(adamw(handle, model), model)


def _applied(_folder: Path) -> None:
    """Put the average in place of the values for a while; verify sees it, and not after."""
    run = replace(PLAIN, optimizer=_averaging).began(PLAN)
    step(run, 0, False)
    run.handle.verify()
    with run.optimizer._average.apply(need_restore=True):
        try:
            run.handle.verify()
        except uf.errors.FrozenDriftError:
            pass
        else:
            raise AssertionError("a frozen parameter that the average has replaced was not seen")
    run.handle.verify()


EXTRA = [
    row(EXTRAS, "PaddleNLP's `LoRAModel`", replace(PLAIN, make=_adapted, step=_words_step)),
    row(
        EXTRAS,
        "`weight_norm` on a layer of each block",
        replace(PLAIN, make=partial(_normed, nn.utils.weight_norm)),
    ),
    row(
        EXTRAS,
        "`spectral_norm` on a layer of each block",
        replace(PLAIN, make=partial(_normed, nn.utils.spectral_norm)),
    ),
    row(EXTRAS, "`LazyGuard`, then initialised", replace(PLAIN, make=_lazy)),
    row(EXTRAS, "`shard_tensor` (auto-parallel)", replace(PLAIN, make=_divided)),
    row(
        EXTRAS,
        "`ModelAverage` beside the model; its `apply` for *verify*",
        replace(PLAIN, optimizer=_averaging),
        verify=_applied,
    ),
]


# Optimizers ---------------------------------------------------------------------------------------


def _looking_ahead(handle: uf.Handle, model: Any) -> Any:
    """Let a handle build the optimizer inside."""
    return paddle.incubate.LookAhead(adamw(handle, model), alpha=0.5, k=2)


def _looking_ahead_attached(handle: uf.Handle, model: Any) -> Any:
    """Attach the wrapper itself."""
    inner = paddle.optimizer.AdamW(RATE, parameters=model.parameters())
    optimizer = paddle.incubate.LookAhead(inner, alpha=0.5, k=2)
    if handle.phase is None:
        handle.check_optimizer(optimizer)
    else:
        handle.attach(optimizer)
    return optimizer


def _fused(cls: type, handle: uf.Handle, model: Any) -> Any:
    """Build it elsewhere: fused optimizers take a list of parameters."""
    optimizer = cls(RATE, parameters=model.parameters(), use_multi_tensor=True)
    if handle.phase is None:
        handle.check_optimizer(optimizer)
    else:
        handle.attach(optimizer)
    return optimizer


DECAY = {"weight_decay": 0.1}
STATIC_ALONE = "it is of static graphs alone"
OPTIMIZED = [
    row(OPTIMIZERS, name, optimized(cls, **settings))
    for name, cls, settings in [
        ("SGD", paddle.optimizer.SGD, {}),
        ("SGD with decay", paddle.optimizer.SGD, DECAY),
        ("Momentum with decay", paddle.optimizer.Momentum, {"momentum": 0.9, **DECAY}),
        ("Adam", paddle.optimizer.Adam, DECAY),
        ("AdamW", paddle.optimizer.AdamW, DECAY),
        ("Adagrad", paddle.optimizer.Adagrad, DECAY),
        ("Adadelta", paddle.optimizer.Adadelta, DECAY),
        ("Adamax", paddle.optimizer.Adamax, DECAY),
        ("ASGD", paddle.optimizer.ASGD, DECAY),
        ("Lamb", paddle.optimizer.Lamb, DECAY),
        ("NAdam", paddle.optimizer.NAdam, DECAY),
        ("RAdam", paddle.optimizer.RAdam, DECAY),
        ("RMSProp", paddle.optimizer.RMSProp, DECAY),
        ("LBFGS", paddle.optimizer.LBFGS, {}),
    ]
] + [
    row(OPTIMIZERS, "Rprop", replace(optimized(paddle.optimizer.Rprop), rests=True)),
    row(
        OPTIMIZERS,
        "Adam, `use_multi_tensor` (fused)",
        replace(PLAIN, optimizer=partial(_fused, paddle.optimizer.Adam)),
    ),
    row(
        OPTIMIZERS,
        "Momentum, `use_multi_tensor` (fused)",
        replace(PLAIN, optimizer=partial(_fused, paddle.optimizer.Momentum)),
    ),
    row(
        OPTIMIZERS,
        "`LookAhead` around one that the handle has built",
        replace(PLAIN, optimizer=_looking_ahead),
    ),
    row(
        OPTIMIZERS,
        "`LookAhead`, attached itself",
        replace(PLAIN, optimizer=_looking_ahead_attached),
    ),
    never(OPTIMIZERS, "Muon", "this release of Paddle has none"),
    never(OPTIMIZERS, "`GradientMergeOptimizer`", STATIC_ALONE),
    never(OPTIMIZERS, "`LocalSGDOptimizer`, `AdaptiveLocalSGDOptimizer`", STATIC_ALONE),
    never(OPTIMIZERS, "`DistributedFusedLamb`, `LarsMomentum`", STATIC_ALONE),
]

ROWS = [*WRAPPERS, *COMPILED, *QUANTISED, *EXTRA, *OPTIMIZED]
