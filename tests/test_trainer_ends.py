"""The two ends of a trainer's run: a callback that is missing, and those that write at the end."""

import warnings

import paddle
import pytest
import torch
from transformers import TrainerCallback

import tests.support.paddle_trainer_runs as paddle_runs
import tests.support.torch_trainer_runs as torch_runs
import unifreeze as uf
from unifreeze._handle.verify_last import LastLook
from unifreeze.errors import FrozenDriftError, UnifreezeWarning

pl = torch_runs.pl
NEVER = "the schedule was never told of an epoch or step"
STILL = uf.FreezePlan().only("head")
RUNS = {
    "lightning": torch_runs.lightning,
    "transformers": torch_runs.hugging_face,
    "model_fit": paddle_runs.model_fit,
    "paddlenlp": paddle_runs.paddlenlp,
}
PLANS = {"without phases": STILL, "with phases": torch_runs.PLAN}


@pytest.fixture(params=list(RUNS))
def trainer(request):
    return request.param


# A trainer without its callback.


def told(work):
    """What the product warns of."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
    return [str(one.message) for one in seen if isinstance(one.message, UnifreezeWarning)]


def lightning_alone(module, folder):
    made = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    loader = torch.utils.data.DataLoader(torch_runs.samples(), torch_runs.SIZE)
    check = torch.utils.data.DataLoader(torch_runs.samples(99, 1), torch_runs.SIZE)
    made.fit(module, loader, check)


def alone(trainer, folder):
    """Train under a plan with phases that the trainer knows nothing of."""
    if trainer.startswith("lightning"):
        module = torch_runs.lightning_module(lambda m: torch.optim.SGD(m.parameters(), 0.1))
        if trainer != "lightning":  # its step of training calls a part, and never the whole
            module.training_step = lambda batch: module.net(batch["inputs"]).square().mean()
        handle = torch_runs.PLAN.apply(module)
        lightning_alone(module, folder)
        return handle
    if trainer == "transformers":
        model = torch_runs.task()
        handle = torch_runs.PLAN.apply(model)
        torch_runs.hugging_face_trainer(folder, [], model=model, epochs=2).train()
        return handle
    if trainer == "accelerate":
        from accelerate import Accelerator

        model = torch_runs.task()
        handle = torch_runs.PLAN.apply(model)
        accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model, optimizer = accelerator.prepare(model, optimizer)
        for number in range(2):
            accelerator.backward(model(**torch_runs.batch(number))["loss"])
            optimizer.step()
        return handle
    model = paddle_runs.Stack()
    handle = paddle_runs.PLAN.apply(model)
    optimizer = paddle_runs.over_everything
    if trainer == "paddlenlp":
        paddle_runs.trainer_of(folder, [], model=model, optimizer=optimizer, epochs=2).train()
        return handle
    network = paddle.Model(model)
    network.prepare(optimizer(model), paddle_runs.share)
    data = paddle_runs.Samples()
    network.fit(data, batch_size=paddle_runs.SIZE, epochs=2, shuffle=False, verbose=0)
    return handle


@pytest.mark.parametrize(
    "trainer",
    ["lightning", "lightning by parts", "transformers", "accelerate", "model_fit", "paddlenlp"],
)
def test_a_trainer_without_the_callback_is_told_once(trainer, tmp_path):
    made = []
    (message,) = told(lambda: made.append(alone(trainer, tmp_path)))
    assert NEVER in message
    assert "FreezeCallback" in message
    (handle,) = made
    assert not handle.verify().told
    assert handle.state_dict()["told"] is False
    assert handle.phase.name == "head"


def test_with_the_callback_nothing_is_said(trainer, tmp_path):
    assert not told(lambda: RUNS[trainer](tmp_path, epochs=2))


# Callbacks that write to weights when training ends.


def stem(model):
    """The frozen weight of a trainer's model."""
    return model.net.stem.weight if hasattr(model, "net") else model.stem.weight


def push(model):
    with torch.no_grad(), paddle.no_grad():
        if isinstance(model, torch.nn.Module):
            stem(model).add_(1.0)
        else:
            stem(model).set_value(stem(model) + 1.0)


def values(model):
    if isinstance(model, torch.nn.Module):
        return {name: p.detach().clone() for name, p in model.named_parameters()}
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Averaging:
    """An exponential average of all weights, which is the model's in the end.

    Computed in the two ways in use: scaling both terms rounds also where nothing moves, and adding
    a share of the difference does not.
    """

    def __init__(self, *, rounds):
        self.rounds, self.kept = rounds, None

    def update(self, model):
        now = values(model)
        self.kept = self.kept or now
        for name, value in now.items():
            old = self.kept[name]
            rounded = old * 0.7 + value * (1 - 0.7)
            self.kept[name] = rounded if self.rounds else old + (value - old) * 0.3

    def finish(self, model):
        with torch.no_grad(), paddle.no_grad():
            for name, tensor in model.named_parameters():
                if isinstance(model, torch.nn.Module):
                    tensor.copy_(self.kept[name])
                else:
                    tensor.set_value(self.kept[name])


class Pushing:
    """Writes to a frozen weight when training ends."""

    def update(self, model):
        pass

    def finish(self, model):
        push(model)


def callback_of(trainer, what):
    """A callback of a trainer that does something after each epoch and in the end."""
    if trainer == "lightning":
        bases, model_of = (pl.Callback,), lambda args, named: args[1]
    elif trainer == "model_fit":
        bases, model_of = (paddle.callbacks.Callback,), None
    else:
        bases = (TrainerCallback,) if trainer == "transformers" else (paddlenlp_callback(),)
        model_of = lambda args, named: named["model"]  # noqa: E731

    def found(self, args, named):
        return model_of(args, named) if model_of else self.model.network

    epoch = "on_train_epoch_end" if trainer == "lightning" else "on_epoch_end"
    methods = {
        epoch: lambda self, *args, **named: what.update(found(self, args, named)),
        "on_train_end": lambda self, *args, **named: what.finish(found(self, args, named)),
    }
    return type("Other", bases, methods)()


def paddlenlp_callback():
    from paddlenlp.trainer import TrainerCallback

    return TrainerCallback


@pytest.mark.parametrize("place", ["others", "later"])
@pytest.mark.parametrize("plan", PLANS)
def test_what_a_callback_writes_in_the_end_is_found(trainer, plan, place, tmp_path):
    other = callback_of(trainer, Pushing())
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved") as caught:
        RUNS[trainer](tmp_path, PLANS[plan], epochs=2, **{place: [other]})
    assert "average of weights" in caught.value.hint
    assert "EMA, SWA" in caught.value.hint
    assert ("unchanged when training ended" in str(caught.value)) is (place == "later")
    assert caught.value.drifts


@pytest.mark.parametrize("rounds", [True, False], ids=["scaled", "by difference"])
def test_an_average_is_refused_only_if_it_changes_what_is_frozen(trainer, rounds, tmp_path):
    other = callback_of(trainer, Averaging(rounds=rounds))
    if rounds:
        with pytest.raises(FrozenDriftError, match="average of weights"):
            RUNS[trainer](tmp_path, STILL, epochs=3, later=[other])
    else:
        made = RUNS[trainer](tmp_path, STILL, epochs=3, later=[other])
        made.handle.verify()


@pytest.mark.parametrize("trainer", ["transformers", "paddlenlp"])
def test_so_is_what_is_written_after_the_best_values_were_loaded(trainer, tmp_path):
    strategy = "eval_strategy" if trainer == "transformers" else "evaluation_strategy"
    settings = {
        strategy: "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
    }
    made = RUNS[trainer](tmp_path / "one", STILL, epochs=2, **settings)
    made.handle.verify()
    other = callback_of(trainer, Pushing())
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved"):
        RUNS[trainer](tmp_path / "other", STILL, epochs=2, later=[other], **settings)


# Lightning's own, and its later hooks.


@pytest.mark.parametrize("place", ["others", "later"])
def test_lightning_s_average_is_found(place, tmp_path):
    average = pl.callbacks.EMAWeightAveraging(decay=0.9)
    with pytest.raises(FrozenDriftError, match="average of weights"):
        RUNS["lightning"](tmp_path, STILL, epochs=2, **{place: [average]})


def test_lightning_s_average_by_difference_keeps_what_is_frozen(tmp_path):
    average = pl.callbacks.WeightAveraging(
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=False
    )
    RUNS["lightning"](tmp_path, STILL, epochs=2, later=[average]).handle.verify()


LAST_HOOKS = [
    ("callback", "on_train_end"),
    ("callback", "on_fit_end"),
    ("callback", "teardown"),
    ("module", "on_train_end"),
    ("module", "on_fit_end"),  # its own teardown is the very last thing that Lightning calls
]


@pytest.mark.parametrize(("owner", "hook"), LAST_HOOKS)
def test_what_lightning_s_last_hooks_write_is_found(owner, hook, tmp_path):
    module = torch_runs.lightning_module(lambda m: torch.optim.SGD(m.net.head.parameters(), 0.1))
    later = []
    if owner == "module":
        setattr(module, hook, lambda *_, **__: push(module))
    else:
        made = {hook: lambda self, trainer, module, *_, **__: push(module)}
        later = [type("Other", (pl.Callback,), made)()]
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved"):
        RUNS["lightning"](tmp_path, STILL, epochs=1, module=module, later=later)


# Nothing of this stays in the trainer.


class BrokenError(Exception):
    pass


def test_the_trainer_s_callbacks_are_its_own_again(tmp_path):
    from unifreeze_torch.trainers.transformers import FreezeCallback

    freeze = FreezeCallback(STILL)
    trainer = torch_runs.hugging_face_trainer(tmp_path, [freeze], epochs=1, save_strategy="no")
    handler = trainer.callback_handler
    before = list(handler.callbacks)
    for _ in range(2):
        trainer.train()
        assert handler.callbacks == before

    class Breaks(TrainerCallback):
        def on_step_end(self, *_, **__):
            raise BrokenError

    breaks, pushes = Breaks(), callback_of("transformers", Pushing())
    trainer.add_callback(breaks)
    with pytest.raises(BrokenError):
        trainer.train()
    trainer.remove_callback(breaks)
    trainer.add_callback(pushes)
    with pytest.raises(FrozenDriftError, match=r"stem\.weight: moved"):
        trainer.train()
    trainer.remove_callback(pushes)
    trainer.remove_callback(freeze)
    push(trainer.model)
    trainer.train()  # nobody asked for it to be verified any more


def test_lightning_s_callbacks_are_its_own_again(tmp_path):
    from unifreeze_torch.trainers.lightning import FreezeCallback

    freeze, seen = FreezeCallback(STILL), []

    class Looking(pl.Callback):
        def on_fit_start(self, trainer, _):
            seen.append((trainer, list(trainer.callbacks)))

    for number in range(2):
        RUNS["lightning"](tmp_path / str(number), callback=freeze, epochs=1, others=[Looking()])
        trainer, before = seen[-1]
        assert trainer.callbacks == before


def test_a_plan_that_was_removed_meanwhile_is_not_verified():
    model = torch_runs.task()
    handle, look = STILL.apply(model), LastLook()
    look.expect(handle, verify=True)
    handle.remove()
    push(model)
    look.take()


def test_what_could_not_be_checked_is_told_at_the_end():
    model = torch_runs.task()
    model.unused = torch.nn.Linear(3, 3, device="meta")
    handle = uf.FreezePlan().freeze("unused | net.stem").apply(model)
    (message,) = told(lambda: LastLook().expect(handle, verify=True))
    assert "not checked: 2 that have no values here" in message
