"""A share of all families of models is held against the frameworks' own lists of parameters.

All of them: `python -m tests.support.families`, or `make families`, which writes
docs/en/families.md.
"""

from __future__ import annotations

import random
from functools import cache

import paddle
import pytest

from tests.support import families
from tests.support.families import LIBRARIES, faults
from unifreeze._modules import live_models
from unifreeze._protocol import load_backend

SHARE = {"torchvision": 8, "transformers": 16, "paddle.vision": 6, "PaddleNLP": 6}
DRAWN = [
    (library, family)
    for library in LIBRARIES
    for family in sorted(random.Random(10).sample(library.families(), SHARE[library.name]))
]


look_at = cache(families.look_at)


@pytest.mark.parametrize(
    ("library", "family"), DRAWN, ids=[f"{library.name} {family}" for library, family in DRAWN]
)
def test_a_family_is_described_as_its_framework_lists_it(library, family):
    found = look_at(library, family)
    assert found
    assert not [built for built in found if built.faults]
    for built in found:  # what is not built says why, and what is built has something to look at
        assert built.reason or built.parameters


def test_most_of_what_is_drawn_is_built():
    """So that the test above looks at something."""
    for library in LIBRARIES[2:]:
        drawn = [family for one, family in DRAWN if one is library]
        built = [family for family in drawn if any(not b.reason for b in look_at(library, family))]
        assert 2 * len(built) > len(drawn)


def test_what_is_left_out_is_found(monkeypatch):
    """By the test's own count, not by the product's."""
    model = paddle.nn.LayerDict({"rnn": paddle.nn.LSTM(3, 4, proj_size=2)})
    assert faults(model) == ()
    backend = type(load_backend("paddle"))()
    monkeypatch.setattr(families, "backend_for", lambda _model: backend)
    dicts = backend.reader.dicts
    backend.reader.dicts = lambda m: ({}, *dicts(m)[1:]) if m is model["rnn"] else dicts(m)
    assert "refused" in faults(model)[0]
    monkeypatch.setattr(live_models, "check_accounted", lambda *_: None)
    assert faults(model) == ("listed and not described: ['rnn.0.cell.weight_ho']",)
