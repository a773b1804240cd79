"""Random edits of ports are the same every time, and their judge knows what changes nothing."""

import pytest

import unifreeze as uf
from tests.support.alignment.random_edits import SEEDS, draw
from tests.support.pairs import small
from tests.support.porting_errors import effect_of, models
from unifreeze._protocol import backend_for

HARMLESS, HARMFUL = 0, 4
"""Seeds: the smoothing of labels that nobody gives; an epsilon of one norm."""


@pytest.fixture(scope="module")
def state():
    return models("decoder")[1].state_dict()


def test_a_seed_always_draws_the_same_edit():
    names = [[draw(seed).edit(models(draw(seed).network)[1]) for seed in SEEDS[:5]] for _ in "12"]
    assert names[0] == names[1]
    assert len(set(names[0])) > 1


@pytest.mark.parametrize("seed", [HARMLESS, HARMFUL])
def test_the_judge_says_where_an_edit_shows(seed, state):
    shows = effect_of(draw(seed), state)
    assert shows == ("" if seed == HARMLESS else "outputs in inference")


def test_norms_of_a_library_show_their_epsilon():
    for model in models("decoder")[:2]:
        backend = backend_for(model)
        norms = {row.owner for row in backend.describe(model).parameters if row.kind == "norm"}
        settings = backend.layer_settings(model)
        assert {settings[path]["epsilon"] for path in norms} == {1e-6}


def test_an_epsilon_that_float32_hides_breaks_the_report():
    one, other, batch = models("decoder")
    uf.port_weights(one, other, batch=batch)
    draw(HARMFUL).edit(other)
    report = uf.align(one, other, batch=batch, steps=1)
    assert "settings" in report.broken


def test_models_in_bfloat16_are_held_to_their_own_noise():
    pair = small.torch_text().bfloat16(), small.torch_text().bfloat16()
    report = uf.align(*pair, batch=["int64[3,6]<0:11>"], steps=2)
    assert report.holds, str(report)
    assert any(line.facts.get("dtype") == "bfloat16" for line in report.lines)
    moves = next(line for line in report.lines if line.key == "parity: trained")
    assert moves.verdict == "open"  # a step is smaller than half a unit of some weights
