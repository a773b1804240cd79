"""What only the Trainer of Lightning does: modes around validation, several optimizers, fits."""

import pytest
import torch

import unifreeze as uf
from tests.support.torch_trainer_runs import PLAN, RUNS, TIMELINE, lightning_module, pl
from tests.support.torch_trainer_runs import lightning as fit
from unifreeze.errors import OptimizerError, ScheduleError, UnifreezeWarning
from unifreeze_torch.trainers.lightning import FreezeCallback

WITHIN = uf.FreezePlan.from_yaml(
    """
    unifreeze: 1
    phases:
      - {name: head, rules: [{only: head}], lr: 0.02}
      - {name: all, when: {metric: val_loss, stalled_for: 1, min_delta: 100}, rules: [{train: all}]}
      - {name: head again, after: {steps: 2}, like: head}
      - {name: end, when: {metric: val_loss, stalled_for: 1, min_delta: 100}, stop: true}
    """
)
STATISTICS = {"net.blocks.0.norm.running_mean", "net.blocks.1.norm.running_var"}


def saved_by(monkeypatch, **how):
    """Have checkpoints written at other times."""
    real = pl.callbacks.ModelCheckpoint
    made = lambda folder, name, save_top_k: real(folder, name, save_top_k=save_top_k, **how)  # noqa: E731
    monkeypatch.setattr(pl.callbacks, "ModelCheckpoint", made)


def test_norms_are_held_and_let_go_although_validations_are_within_epochs(tmp_path):
    made = fit(tmp_path, WITHIN, val_check_interval=2)
    assert made.phases == ["head"] * 2 + ["all"] * 2 + ["head again"] * 2
    assert not made.moved("head") & STATISTICS
    assert made.moved("all") >= STATISTICS
    assert not made.moved("head again") & STATISTICS


def test_a_stop_within_an_epoch_comes_before_the_next_batch(tmp_path):
    stalled = "{metric: val_loss, stalled_for: 1, min_delta: 100}"
    phases = f"{{name: head, rules: [{{only: head}}]}}, {{name: end, when: {stalled}, stop: true}}"
    plan = uf.FreezePlan.from_yaml(f"{{unifreeze: 1, phases: [{phases}]}}")
    made = fit(tmp_path, plan, val_check_interval=2, accumulate_grad_batches=1)
    assert made.handle.stopped
    assert len(made.after) == 4


def test_no_phase_begins_while_gradients_are_accumulated(tmp_path):
    made = fit(tmp_path, WITHIN, val_check_interval=1)
    assert set(made.moved("head")) == {"net.head.weight", "net.head.bias"}
    assert made.phases[:3] == ["head", "head", "all"]  # one report a step, of its last validation


def test_a_run_resumed_from_the_end_of_an_epoch_ends_on_the_same_bits(tmp_path, monkeypatch):
    saved_by(monkeypatch, save_on_train_epoch_end=True)
    whole = fit(tmp_path / "whole")
    resumed = fit(tmp_path / "resumed", checkpoint=whole.checkpoints[9])
    assert resumed.after == whole.after[9:]


def test_a_checkpoint_between_an_epoch_and_its_validation_is_refused(tmp_path, monkeypatch):
    saved_by(monkeypatch, every_n_train_steps=1)
    whole = fit(tmp_path / "whole")
    with pytest.raises(ScheduleError, match="between an epoch's last batch and its validation"):
        fit(tmp_path / "resumed", checkpoint=whole.checkpoints[6])


def test_a_metric_is_reported_once_also_where_validations_are_rare(tmp_path):
    made = fit(tmp_path, check_val_every_n_epoch=2, epochs=6)
    # after epochs 1 and 3, so that it has stalled before epoch 4
    assert made.phases == ["head"] * 3 + ["top"] * 9 + ["all"] * 4 + ["head again"] * 2


def test_phases_and_several_optimizers_are_refused(tmp_path):
    module = lightning_module(
        lambda m: [
            torch.optim.SGD(m.net.head.parameters(), 0.1),
            torch.optim.SGD(m.parameters(), 1),
        ]
    )
    module.automatic_optimization = False
    with pytest.raises(OptimizerError, match="2 optimizers train, and phases steer one"):
        fit(tmp_path, module=module, accumulate_grad_batches=1)


def test_a_callback_begins_anew_on_another_module_and_on_the_same(tmp_path):
    callback, module = FreezeCallback(PLAN), lightning_module()
    for number, one in enumerate([module, lightning_module(), module]):
        made = fit(tmp_path / str(number), callback=callback, module=one)
        assert made.phases == TIMELINE


def test_a_fit_that_goes_on_goes_on_in_its_phase(tmp_path):
    callback, module = FreezeCallback(PLAN), lightning_module()
    loader = torch.utils.data.DataLoader([(torch.randn(6), 1)] * 2)
    module.training_step = lambda batch: module.net(batch[0].repeat(2, 1)).square().mean()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        limit_val_batches=0,
    )
    names = []
    plan = uf.FreezePlan.from_yaml(
        """
        unifreeze: 1
        phases:
          - {name: head, rules: [{only: head}], lr: 0.02}
          - {name: top, at: {epoch: 1}, add: [{train: "blocks[-1]"}]}
          - {name: all, at: {epoch: 3}, add: [{train: all}]}
        """
    )
    callback = trainer.callbacks[0] = FreezeCallback(plan)
    trainer.fit(module, loader)
    names.append(callback.handle.phase.name)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, loader)
    names.append(callback.handle.phase.name)
    assert names == ["top", "all"]


def test_what_is_measured_in_training_counts_where_nothing_is_validated(tmp_path):
    module = lightning_module()

    def training_step(batch):
        loss = module(**batch)
        module.log("val_loss", loss, on_step=False, on_epoch=True)
        return loss

    module.training_step = training_step
    assert fit(tmp_path, module=module, limit_val_batches=0).phases == TIMELINE


def test_a_model_that_is_made_late_is_under_the_plan(tmp_path):
    module = lightning_module()
    net = module.net
    del module.net
    module.configure_model = lambda: setattr(module, "net", net)
    callback = FreezeCallback(PLAN)
    assert RUNS["lightning"](tmp_path, callback=callback, module=module).phases == TIMELINE


def test_phases_go_on_where_the_trainer_must_although_it_was_told_to_stop(tmp_path):
    plan = uf.FreezePlan.from_yaml(
        """
        unifreeze: 1
        phases:
          - {name: head, rules: [{only: head}], lr: 0.02}
          - {name: top, at: {epoch: 2}, add: [{train: "blocks[-1]"}]}
          - {name: all, at: {step: 10}, add: [{train: all}]}
        """
    )
    early = pl.callbacks.EarlyStopping("val_loss", patience=1, min_delta=100)
    made = fit(tmp_path, plan, min_epochs=4, others=[early])
    assert made.phases == ["head"] * 6 + ["top"] * 4 + ["all"] * 2


def test_an_epoch_that_ends_after_its_last_validation_is_resumed(tmp_path, monkeypatch):
    saved_by(monkeypatch, save_on_train_epoch_end=True)
    whole = fit(tmp_path / "whole", val_check_interval=4)
    resumed = fit(tmp_path / "resumed", checkpoint=whole.checkpoints[6], val_check_interval=4)
    assert resumed.after == whole.after[6:]


def test_a_trial_of_one_batch_leaves_no_files(tmp_path):
    made = fit(tmp_path, fast_dev_run=True, accumulate_grad_batches=1)
    assert made.phases == ["head"]
    assert not list(tmp_path.iterdir())


class PartsAlone(pl.LightningModule):
    """Its steps never call it as a whole, and its output layer is registered first."""

    def __init__(self):
        super().__init__()
        self.classifier = torch.nn.Linear(8, 3)
        self.entry, self.pool = torch.nn.Linear(4, 8), torch.nn.Linear(8, 8)

    def training_step(self, batch, index):
        return self.classifier(self.pool(self.entry(batch).tanh()).tanh()).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_step_that_never_runs_the_module_as_a_whole_is_warned_of(tmp_path):
    quiet = dict.fromkeys(["enable_checkpointing", "enable_progress_bar", "logger"], False)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        enable_model_summary=False,
        callbacks=[FreezeCallback(uf.FreezePlan().only("head"))],
        **quiet,
    )
    with pytest.warns(UnifreezeWarning, match="own forward pass has not run"):
        trainer.fit(PartsAlone(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=4))
