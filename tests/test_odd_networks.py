"""On networks of odd shapes a word selects what a person means, or is an error."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.support import odd_networks
from tests.support.odd_networks import KITS
from unifreeze._plan.selectors import evaluate, parse
from unifreeze._protocol import backend_for
from unifreeze.errors import UnifreezeError

ERROR = "error"
FILE = Path(odd_networks.__file__).with_suffix(".toml")
NETWORKS = tomllib.loads(FILE.read_text(encoding="utf-8"))


def selected(selector, spec):
    """The names a selector selects; an empty choice is an error, as in a plan."""
    try:
        mask = evaluate(parse(selector), spec)
    except UnifreezeError:
        return ERROR
    tensors = set(spec.atoms.tensor[mask].tolist())
    return {
        n for n, t in zip(spec.tree.names, spec.tree.tensor_of, strict=True) if t in tensors
    } or ERROR


@pytest.mark.parametrize("framework", KITS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_word_selects_what_a_person_means(name, framework):
    model = getattr(odd_networks, name)(KITS[framework]())
    spec = backend_for(model).describe(model)
    wrong = {}
    for selector, pattern in NETWORKS[name].items():
        found = selected(selector, spec)
        meant = {n for n in spec.tree.names if re.fullmatch(pattern, n)}
        if found != (ERROR if pattern == ERROR else meant):
            wrong[selector] = found if found == ERROR or pattern == ERROR else found ^ meant
    assert not wrong
