"""What only the Trainer of transformers does: checkpointing, best models, models made anew."""

import pytest
import torch

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.torch_trainer_runs import (
    PLAN,
    RUNS,
    TIMELINE,
    bits,
    hugging_face_trainer,
    samples,
    task,
)
from unifreeze.errors import ScheduleError, UnsupportedPlanError
from unifreeze_torch.trainers.transformers import FreezeCallback

import_torchvision()
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback  # noqa: E402

CHECKPOINTED = {"gradient_checkpointing": True}
REENTRANT = {**CHECKPOINTED, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
CURED = {**CHECKPOINTED, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
BY_STEPS = uf.FreezePlan.from_yaml(
    """
    unifreeze: 1
    phases:
      - {name: head, rules: [{only: head}], lr: 0.02}
      - {name: top, at: {step: 2}, add: [{train: "blocks[-1]"}]}
      - {name: end, when: {metric: val_loss, stalled_for: 1, min_delta: 100}, stop: true}
    """
)
AGAIN = uf.FreezePlan.from_yaml(
    """
    unifreeze: 1
    phases:
      - {name: top, rules: [{only: "head | blocks[-1]"}], lr: 0.02}
      - {name: head, at: {epoch: 2}, rules: [{only: head}], lr: 0.3}
    """
)


def text_trainer(folder, plan, adapted=None, **settings):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=20, intermediate_size=16, num_labels=3, **sizes)
    )
    if adapted:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"], **adapted)
        )
    words = torch.arange(24).reshape(4, 6) % 20
    mask = torch.ones(6, dtype=torch.long)
    rows = [{"input_ids": one, "attention_mask": mask, "labels": 1} for one in words]
    trainer = hugging_face_trainer(folder, [FreezeCallback(plan)], model=model, **settings)
    trainer.train_dataset = trainer.eval_dataset = rows
    return trainer


def reentrant_trainer(folder, plan):
    """A trainer without the hook for inputs, which transformers 5 would put on by itself."""
    trainer = text_trainer(folder, plan, **REENTRANT)
    trainer.model.enable_input_require_grads = lambda: None
    return trainer


@pytest.mark.parametrize("rules", ["only: head | blocks[-1]", "freeze: embeddings"])
def test_reentrant_checkpointing_above_what_is_frozen_is_refused_with_the_cure(rules, tmp_path):
    verb, _, selector = rules.partition(": ")
    plan = getattr(uf.FreezePlan(), verb)(selector)
    trainer = reentrant_trainer(tmp_path, plan)
    cure = r'gradient_checkpointing_kwargs=\{"use_reentrant": False\}'
    with pytest.raises(UnsupportedPlanError, match=cure):
        trainer.train()


def test_it_is_refused_before_training_if_only_a_later_phase_would_suffer(tmp_path):
    plan = uf.FreezePlan.from_yaml(
        """
        unifreeze: 1
        phases:
          - {name: all, rules: [{train: all}], lr: 0.1}
          - {name: above, at: {epoch: 1}, rules: [{freeze: embeddings}]}
        """
    )
    trainer = reentrant_trainer(tmp_path, plan)
    before = bits(trainer.model)
    with pytest.raises(UnsupportedPlanError, match="use_reentrant"):
        trainer.train()
    assert bits(trainer.model) == before


def test_with_the_cure_all_that_should_train_does(tmp_path):
    trainer = text_trainer(tmp_path, uf.FreezePlan().freeze("embeddings"), epochs=2, **CURED)
    before = bits(trainer.model)
    trainer.train()
    after = bits(trainer.model)
    still = {name for name in before if after[name] == before[name]}
    assert still == {name for name in before if name.startswith("bert.embeddings.")}


def test_a_phase_begins_between_steps_and_a_stop_is_exact_in_the_middle_of_an_epoch(tmp_path):
    made = RUNS["transformers"](tmp_path, BY_STEPS, eval_strategy="steps", eval_steps=1)
    assert made.phases == ["head"] * 2 + ["top"] * 2


def test_of_several_sets_to_evaluate_on_one_brings_the_metric(tmp_path):
    plan = uf.FreezePlan.from_yaml(PLAN.to_yaml().replace("val_loss", "eval_second_loss"))
    callback = FreezeCallback(plan)
    trainer = hugging_face_trainer(tmp_path, [callback])
    sets = {"first": samples(50, 1), "second": samples(99, 1), "third": samples(60, 1)}
    trainer.eval_dataset = sets
    trainer.train()
    assert trainer.state.global_step == len(TIMELINE)
    assert callback.handle.phase.name == "end"


def test_a_metric_that_no_evaluation_brings_is_an_error(tmp_path):
    plan = uf.FreezePlan.from_yaml(PLAN.to_yaml().replace("val_loss", "accuracy"))
    with pytest.raises(ScheduleError, match="waits for accuracy, and it is not among eval_loss"):
        RUNS["transformers"](tmp_path, plan)


def test_an_evaluation_of_the_users_own_reports_nothing(tmp_path):
    callback = FreezeCallback(PLAN)
    trainer = hugging_face_trainer(tmp_path, [callback])
    before = callback.handle.state_dict()
    trainer.evaluate()
    assert callback.handle.state_dict() == before


def test_the_best_model_is_loaded_at_the_end_and_accepted(tmp_path):
    made = RUNS["transformers"](
        tmp_path,
        AGAIN,
        epochs=3,
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    assert made.phases == ["top"] * 6 + ["head"] * 3
    block = "net.blocks.1.first.weight"
    loaded = bits(made.handle.model)
    assert loaded == made.after[2]
    assert loaded[block] != made.after[-1][block]
    made.handle.verify()


def test_each_call_of_train_is_a_run_of_its_own(tmp_path):
    callback = FreezeCallback(PLAN)
    trainer = hugging_face_trainer(tmp_path, [callback])
    heard = []
    callback.handle.on_phase(lambda phase: heard.append(phase.name))
    for _ in range(2):
        trainer.train()
        assert trainer.state.global_step == len(TIMELINE)
    assert heard == ["top", "all", "head again", "end"] * 2


def test_a_model_made_anew_for_each_run_is_under_the_plan(tmp_path):
    callback = FreezeCallback(PLAN)
    trainer = hugging_face_trainer(tmp_path, [callback])
    trainer.model_init, first = task, trainer.model
    trainer.train()
    assert callback.handle.model is trainer.model
    assert trainer.model is not first
    assert trainer.state.global_step == len(TIMELINE)


def test_a_callback_that_is_added_later_does_the_same(tmp_path):
    callback = FreezeCallback(PLAN)
    trainer = hugging_face_trainer(tmp_path, [])
    trainer.add_callback(callback)
    trainer.train()
    assert trainer.state.global_step == len(TIMELINE)


def test_no_metric_is_lost_by_a_checkpoint_between_an_epoch_and_its_evaluation(tmp_path):
    class KilledError(Exception):
        pass

    class Kill(TrainerCallback):
        def on_evaluate(self, args, state, control, **objects):
            if state.global_step == 6:
                raise KilledError

    with pytest.raises(KilledError):
        hugging_face_trainer(tmp_path, [FreezeCallback(PLAN), Kill()]).train()
    resumed = RUNS["transformers"](tmp_path, checkpoint=tmp_path / "checkpoint-6")
    assert resumed.phases == TIMELINE[6:]


def test_weights_that_a_checkpoint_brings_are_the_ones_to_hold(tmp_path):
    hugging_face_trainer(tmp_path, [], epochs=1).train()
    plan, checkpoint = uf.FreezePlan().only("head"), tmp_path / "checkpoint-2"

    def groups_of_the_trainer(model):
        named = hugging_face_trainer(tmp_path, [], model=model)
        return named.create_optimizer()

    made = RUNS["transformers"](
        tmp_path, plan, checkpoint=checkpoint, epochs=2, optimizer=groups_of_the_trainer
    )
    first, last = made.after[0], made.after[-1]
    assert {name for name in last if last[name] != first[name]} == {
        "net.head.weight",
        "net.head.bias",
    }
    assert last["net.stem.weight"] != made.start["net.stem.weight"]


def test_a_run_that_has_ended_does_not_go_on(tmp_path):
    made = RUNS["transformers"](tmp_path, BY_STEPS, eval_strategy="steps", eval_steps=1)
    with pytest.raises(ScheduleError, match="the schedule has ended"):
        RUNS["transformers"](tmp_path, BY_STEPS, checkpoint=made.checkpoints[4])


def test_an_evaluation_at_the_start_of_a_resumed_run_is_no_further_report(tmp_path):
    whole = RUNS["transformers"](tmp_path / "whole", eval_on_start=True)
    assert whole.phases == TIMELINE
    checkpoint = whole.checkpoints[7]
    resumed = RUNS["transformers"](tmp_path, checkpoint=checkpoint, eval_on_start=True)
    assert resumed.after == whole.after[7:]


ADAPTERS = uf.FreezePlan.from_yaml(
    """
    unifreeze: 1
    phases:
      - {name: head, rules: [{only: head | pooler}], lr: 0.02}
      - {name: adapters, at: {epoch: 1}, add: [{train: adapter}]}
    """
)


def test_what_a_checkpoint_of_adapters_would_not_hold_is_refused(tmp_path):
    trainer = text_trainer(tmp_path, ADAPTERS, {"r": 2}, epochs=2)
    lost = r"trains 2 parameters .* lack[^\0]*pooler\.dense\.weight[^\0]*modules_to_save"
    with pytest.raises(UnsupportedPlanError, match=lost):
        trainer.train()
    text_trainer(tmp_path, ADAPTERS, {"r": 2}, epochs=2, save_strategy="no").train()


def test_adapters_and_what_is_saved_with_them_are_resumed(tmp_path):
    adapted = {"r": 2, "modules_to_save": ["pooler", "classifier"]}
    settings = {"epochs": 2, "eval_strategy": "no"}  # draws numbers that dropout then lacks
    ends = []
    for checkpoint in (None, tmp_path / "checkpoint-1"):
        trainer = text_trainer(tmp_path, ADAPTERS, adapted, **settings)
        start = bits(trainer.model)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        ends.append(bits(trainer.model))
    assert ends[0] == ends[1]
    moved = {name for name in start if ends[0][name] != start[name]}
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
