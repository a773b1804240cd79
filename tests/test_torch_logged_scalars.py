"""The scalars of a handle reach the loggers of PyTorch's trainers, and only where there are any."""

import pytest
import transformers

from tests.support.torch_trainer_runs import (
    EPOCHS,
    PLAN,
    TIMELINE,
    hugging_face,
    hugging_face_trainer,
    pl,
)
from tests.support.torch_trainer_runs import lightning as fit
from unifreeze_torch.trainers.transformers import FreezeCallback

PHASE, SHARE = "unifreeze/phase", "unifreeze/trained_share"
NUMBERS = [list(dict.fromkeys(TIMELINE)).index(name) for name in TIMELINE]
"""The number of the phase of each step."""


class Logger(pl.loggers.logger.DummyLogger):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics=None, step=None):
        self.rows.append((step, dict(metrics)))


def phases_in(rows):
    """The phases that rows tell of, once each."""
    told = [row[PHASE] for row in rows if PHASE in row]
    return [n for at, n in enumerate(told) if at == 0 or told[at - 1] != n]


def test_lightnings_loggers_are_told_at_each_logging_step_and_as_a_phase_begins(tmp_path):
    logger = Logger()
    fit(tmp_path, logger=[logger], log_every_n_steps=4)
    own = {step: row for step, row in logger.rows if PHASE in row}
    assert phases_in(own.values()) == sorted(set(NUMBERS))
    # The logs of a step are of what the next step does, like a scheduler's rate.
    assert {step for step in range(len(NUMBERS)) if (step + 1) % 4 == 0} <= set(own)
    assert all(0 < row[SHARE] <= 1 for row in own.values())
    assert len(own) < len(NUMBERS)
    assert any(name.startswith("unifreeze/lr/") for name in own[3])


def test_what_lightning_logs_is_not_reported_to_the_plan(tmp_path):
    made = fit(tmp_path, logger=[Logger()], log_every_n_steps=1)
    assert made.phases == TIMELINE
    assert not [name for name in made.handle.report().metrics if "unifreeze" in name]


class Told(transformers.TrainerCallback):
    """Keeps what is logged, as an integration before the plan's callback would."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **objects):
        self.rows.append((state.global_step, dict(logs)))


@pytest.mark.parametrize(
    "settings", [{"logging_steps": 2}, {"logging_strategy": "epoch"}, {"logging_steps": 1}], ids=str
)
def test_transformers_logs_the_scalars_with_its_own_and_as_a_phase_begins(tmp_path, settings):
    told = Told()
    settings = {"logging_strategy": "steps", **settings}
    made = hugging_face(tmp_path, others=[told], **settings)
    assert made.phases == TIMELINE
    training = [row for _, row in told.rows if "loss" in row]
    assert training
    assert all(PHASE in row and SHARE in row for row in training)
    alone = [row for _, row in told.rows if PHASE in row and "loss" not in row]
    assert bool(alone) == (settings.get("logging_steps") != 1)
    assert phases_in(row for _, row in told.rows) == sorted(set(NUMBERS))
    assert not any(PHASE in row for _, row in told.rows if "eval_loss" in row)


def test_the_own_logs_of_transformers_are_the_same_without_a_plan(tmp_path):
    plain, with_plan = Told(), Told()
    hugging_face_trainer(
        tmp_path / "a", [plain], logging_strategy="steps", logging_steps=1, epochs=1
    ).train()
    freeze = FreezeCallback(PLAN)
    trainer = hugging_face_trainer(
        tmp_path / "b", [with_plan, freeze], logging_strategy="steps", logging_steps=1, epochs=1
    )
    trainer.train()
    names = [set(row) for _, row in plain.rows]
    bare = [{name for name in row if "unifreeze" not in name} for _, row in with_plan.rows]
    assert names == bare
    assert "log" not in vars(trainer)


def test_a_trainer_that_logs_nothing_is_told_nothing(tmp_path):
    told = Told()
    hugging_face(tmp_path, others=[told], epochs=EPOCHS)
    assert not any(PHASE in row for _, row in told.rows)


def test_accelerates_trackers_take_the_scalars(tmp_path):
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

    from tests.support.torch_trainer_runs import task

    class Tracker(GeneralTracker):
        name, requires_logging_directory = "kept", False
        tracker = None

        def store_init_configuration(self, values):
            pass

        def log(self, values, step=None, **_):
            rows.append((step, values))

    rows = []
    accelerator = Accelerator(cpu=True, log_with=[Tracker()])
    accelerator.init_trackers("run")
    handle = PLAN.apply(task())
    accelerator.log(handle.scalars(), step=3)
    assert rows == [(3, handle.scalars())]
