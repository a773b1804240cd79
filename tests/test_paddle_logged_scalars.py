"""The scalars of a handle reach the loggers of Paddle's trainers, and only where there are any."""

import paddle
import pytest

from tests.support.paddle_trainer_runs import TIMELINE, model_fit, paddlenlp

PHASE, SHARE = "unifreeze/phase", "unifreeze/trained_share"
NUMBERS = [list(dict.fromkeys(TIMELINE)).index(name) for name in TIMELINE]
"""The number of the phase of each step."""


def phases_in(rows):
    """The phases that rows tell of, once each."""
    told = [row[PHASE] for row in rows if PHASE in row]
    return [n for at, n in enumerate(told) if at == 0 or told[at - 1] != n]


class Writer:
    """Keeps what VisualDL would write."""

    def __init__(self, rows):
        self.rows = rows

    def add_scalar(self, tag, step, value):
        self.rows.append((tag, step, value))

    def close(self):
        pass


class VisualDL(paddle.callbacks.VisualDL):
    """Paddle's own, which writes into a list."""

    def __init__(self):
        super().__init__("")
        self.rows = []

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.writer = Writer(self.rows)


@pytest.mark.parametrize("place", ["others", "later"])
def test_visualdl_is_told_with_each_batch_wherever_it_stands(tmp_path, place):
    visual = VisualDL()
    made = model_fit(tmp_path, **{place: [visual]})
    assert made.phases == TIMELINE
    told = [value for tag, _, value in visual.rows if tag == f"train/{PHASE}"]
    assert told == [number for number in NUMBERS for _ in range(2)]  # two batches a step
    tags = {tag for tag, _, _ in visual.rows}
    assert {f"train/{SHARE}", "train/loss", "eval/loss"} <= tags
    assert any(tag.startswith("train/unifreeze/lr/") for tag in tags)
    assert not any(tag.startswith("eval/unifreeze") for tag in tags)
    assert not [name for name in made.handle.report().metrics if "unifreeze" in name]


class Watch(paddle.callbacks.Callback):
    """Keeps the names in the logs of batches and evaluations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def on_train_batch_end(self, step, logs=None):
        self.names |= set(logs)

    def on_eval_end(self, logs=None):
        self.names |= set(logs)


def test_fit_without_a_logger_is_told_nothing(tmp_path):
    watch = Watch()
    model_fit(tmp_path, later=[watch])
    assert "loss" in watch.names
    assert not [name for name in watch.names if "unifreeze" in name]


def kept(rows):
    from paddlenlp.trainer import TrainerCallback

    class Told(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **objects):
            rows.append(dict(logs))

    return Told()


@pytest.mark.parametrize(
    "settings", [{"logging_steps": 2}, {"logging_strategy": "epoch"}, {"logging_steps": 1}], ids=str
)
def test_paddlenlp_logs_the_scalars_with_its_own_and_once_a_phase_has_begun(tmp_path, settings):
    from examples.torchvision_on_cpu import import_torchvision

    import_torchvision()
    rows = []
    made = paddlenlp(tmp_path, others=[kept(rows)], **{"logging_strategy": "steps", **settings})
    assert made.phases == TIMELINE
    training = [row for row in rows if "loss" in row]
    assert training
    assert all(PHASE in row and SHARE in row for row in training)
    alone = [row for row in rows if PHASE in row and "loss" not in row]
    assert bool(alone) == (settings.get("logging_steps") != 1)
    assert phases_in(rows) == sorted(set(NUMBERS))
    assert not any(PHASE in row for row in rows if "eval_loss" in row)


def test_a_trainer_that_logs_nothing_is_told_nothing(tmp_path):
    from examples.torchvision_on_cpu import import_torchvision

    import_torchvision()
    rows = []
    paddlenlp(tmp_path, others=[kept(rows)])
    assert not any(PHASE in row for row in rows)
