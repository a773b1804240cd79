"""In every trainer the loop runs under a cache, and leaves the bits that it leaves without one."""

import contextlib
import importlib
from pathlib import Path

import pytest

import unifreeze as uf
from unifreeze.errors import CacheError, UnifreezeError

PLAN = uf.FreezePlan.from_yaml(
    """
unifreeze: 1
dropout: off
phases:
  - {name: top, rules: [{only: "head | blocks[-1]"}], lr: 0.02}
  - {name: head, at: {epoch: 2}, rules: [{only: head}]}
  - {name: all, at: {epoch: 5}, add: [{train: all}], lr: 0.01}
  - {name: end, at: {epoch: 6}, stop: true}
"""
)
TRAINERS = {
    "lightning": ("torch", "lightning"),
    "transformers": ("torch", "transformers"),
    "model_fit": ("paddle", "model_fit"),
    "paddlenlp": ("paddle", "paddlenlp"),
}


def runs_of(name):
    return importlib.import_module(f"tests.support.{TRAINERS[name][0]}_trainer_runs")


def callback_of(name):
    runs_of(name)  # imports torchvision as it has to be
    module = importlib.import_module(f"unifreeze_{TRAINERS[name][0]}.trainers.{TRAINERS[name][1]}")
    return module.FreezeCallback


@pytest.fixture(params=TRAINERS)
def trainer(request):
    return request.param


def run(trainer, folder, callback, **more):
    return runs_of(trainer).RUNS[trainer](folder, PLAN, callback=callback, **more)


def forwards(trace):
    """Modules of the model that have a forward function of their own."""
    backend, model = trace._in_force.backend, trace.model
    return [m for m in backend.walk(model).modules if "forward" in vars(m)]


def test_the_run_with_a_cache_leaves_the_same_bits(trainer, tmp_path):
    plain = run(trainer, tmp_path / "a", callback_of(trainer)(PLAN))
    callback = callback_of(trainer)(PLAN, cache=tmp_path / "rows")
    cached = run(trainer, tmp_path / "b", callback)
    assert cached.after == plain.after
    assert cached.phases == plain.phases
    counts = callback.cached_run.counts
    assert counts.hits > counts.misses > 0
    assert counts.extended > 0  # the second phase freezes more
    assert list((tmp_path / "rows").rglob("*.safetensors"))
    assert not forwards(callback.handle)


def test_a_second_run_finds_the_rows_of_the_first(trainer, tmp_path):
    for name in "ab":
        callback = callback_of(trainer)(PLAN, cache=str(tmp_path / "rows"))
        run(trainer, tmp_path / name, callback)
    assert callback.cached_run.counts.misses < callback.cached_run.counts.hits / 4


def test_settings_of_the_cache_reach_it(trainer, tmp_path):
    prefix = "bfloat16" if TRAINERS[trainer][0] == "torch" else "inference"
    settings = {"folder": tmp_path / "rows", "prefix": prefix}
    callback = callback_of(trainer)(PLAN, cache=settings)
    run(trainer, tmp_path / "a", callback)
    assert callback.cached_run.counts.hits > 0
    assert f"prefix: {prefix}, " in str(callback.cached_run)


@pytest.mark.parametrize("whole", [False, True])
def test_lightning_modules_that_call_their_parts_are_cached(whole, tmp_path):
    import torch

    runs = runs_of("lightning")
    plan = uf.FreezePlan.from_yaml(
        'unifreeze: 1\norder: as_described\nrules: [{only: "head | blocks[-1]"}]'
    )
    results = []
    for cache in (None, {}):
        module = runs.lightning_module()

        def step(batch, self=module):
            if whole:
                logits = self.net(batch["inputs"])
            else:
                hidden = self.net.blocks[0](self.net.stem(batch["inputs"]))
                logits = self.net.head(self.net.blocks[1](hidden))
            return torch.nn.functional.cross_entropy(logits, batch["labels"])

        module.training_step, module.validation_step = step, None
        callback = callback_of("lightning")(plan, cache=cache)
        trace = runs.lightning(
            tmp_path / str(cache),
            plan,
            module=module,
            callback=callback,
            epochs=3,
            limit_val_batches=0,
        )
        results.append(trace.after)
    assert results[0] == results[1]
    assert callback.cached_run.counts.hits > callback.cached_run.counts.misses


def test_a_loop_with_accelerate_runs_inside_a_block(tmp_path):
    import torch
    from accelerate import Accelerator

    runs = runs_of("transformers")
    plan, results = uf.FreezePlan().only("head | blocks[-1]"), []
    for cached in (False, True):
        accelerator, model = Accelerator(cpu=True), runs.task()
        handle = plan.apply(model)
        optimizer = handle.optimizer(torch.optim.AdamW, lr=0.02)
        loader = torch.utils.data.DataLoader(runs.samples(), batch_size=4)
        wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        block = handle.cached(tmp_path) if cached else contextlib.nullcontext()
        with block as run:
            for _ in range(3):
                wrapped.train()
                for batch in loader:
                    accelerator.backward(wrapped(**batch)["loss"])
                    optimizer.step()
                    optimizer.zero_grad()
        results.append(runs.bits(model))
    assert results[0] == results[1]
    assert run.counts.hits == 2 * run.counts.misses


class StopError(Exception):
    pass


def failing(trainer):
    """A callback that fails in the second epoch, between steps."""
    seen = []

    def fail(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 2:
            raise StopError

    if trainer == "lightning":
        import lightning.pytorch as pl

        return type("Fails", (pl.Callback,), {"on_train_epoch_start": fail})()
    if trainer == "transformers":
        from transformers import TrainerCallback

        return type("Fails", (TrainerCallback,), {"on_epoch_begin": fail})()
    if trainer == "paddlenlp":
        from paddlenlp.trainer import TrainerCallback

        return type("Fails", (TrainerCallback,), {"on_epoch_begin": fail})()
    import paddle

    return type("Fails", (paddle.callbacks.Callback,), {"on_train_batch_begin": fail})()


def test_an_error_in_the_loop_ends_the_block_and_rows_are_written(trainer, tmp_path):
    callback = callback_of(trainer)(PLAN, cache={"folder": tmp_path / "rows"})
    with pytest.raises(StopError):
        run(trainer, tmp_path / "a", callback, others=[failing(trainer)])
    assert not forwards(callback.handle)
    assert list((tmp_path / "rows").rglob("*.safetensors"))


def test_the_block_ends_when_the_model_runs_after_a_loop_that_failed_unseen(tmp_path):
    import paddle

    class Fails(paddle.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise StopError

    callback = callback_of("model_fit")(PLAN, cache=tmp_path / "rows")
    with pytest.raises(StopError):
        run("model_fit", tmp_path / "a", callback, others=[Fails()])
    assert forwards(callback.handle)
    callback.handle.model(paddle.ones([2, 6]))
    assert not forwards(callback.handle)
    assert list((tmp_path / "rows").rglob("*.safetensors"))


def test_a_model_that_cannot_be_cached_is_refused_with_the_cure(trainer, tmp_path):
    plan = uf.FreezePlan().only("stem | head")
    callback = callback_of(trainer)(plan, cache=tmp_path / "rows")
    with pytest.raises(CacheError, match="freeze the modules that run first"):
        runs_of(trainer).RUNS[trainer](tmp_path, plan, callback=callback)
    assert not forwards(callback.handle)


@pytest.mark.parametrize("cache", [{1: "rows"}, {"fold": "rows"}, {"budget": "much"}, 3])
def test_settings_that_the_cache_does_not_have_are_refused(trainer, cache, tmp_path):
    with pytest.raises((UnifreezeError, TypeError)):
        run(trainer, tmp_path, callback_of(trainer)(PLAN, cache=cache))
    assert not list(Path(tmp_path).rglob("*.safetensors"))
