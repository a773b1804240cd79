"""The public names: few, complete in `uf.`, and each usable on live models."""

import subprocess
import sys

import pytest

import unifreeze as uf
from unifreeze.errors import ArgumentError, PlanError


def test_uf_completes_to_public_names_alone():
    shown = [name for name in dir(uf) if not (name.startswith("__") and name.endswith("__"))]
    assert shown == sorted(uf.__all__)


def test_uf_completes_to_the_same_before_anything_is_used():
    script = "import unifreeze as uf; print([n for n in dir(uf) if n[:2] != '__'] == uf.__all__)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"


@pytest.mark.parametrize("name", ["translate", "port_file", "check_step"])
def test_the_evidence_and_the_carrying_are_one_dot_away(name):
    assert name in uf.__all__
    assert callable(getattr(uf, name))


def test_a_plan_is_translated_from_one_live_model_to_the_other(kits):
    one, other = kits["torch"].plain.make(), kits["paddle"].plain.make()
    plan = uf.FreezePlan().only('path:"head"')
    found = uf.translate(plan, one, other)
    assert found.plan == uf.FreezePlan().only("head")
    assert str(found).startswith("# Translated from torch for paddle")
    theirs = uf.translate(plan, one, other, native=True).plan
    frozen = [plan.resolve(one).frozen_paths, theirs.resolve(other).frozen_paths]
    assert sorted(frozen[0]) == sorted(frozen[1])


def test_what_is_translated_is_a_plan_for_two_live_models(kits):
    one = kits["torch"].plain.make()
    with pytest.raises(ArgumentError, match=r"translate\(plan, source, target"):
        uf.translate(one, one, one)
    spec = kits["torch"].backend.describe(one)
    with pytest.raises(uf.UnifreezeError, match="ModelSpec"):
        uf.translate(uf.FreezePlan().only("head"), spec, spec)
    phases = uf.FreezePlan.from_yaml("unifreeze: 1\nphases: [{name: a, rules: [{only: head}]}]")
    with pytest.raises(PlanError, match="has 1 phase"):
        uf.translate(phases, one, one)
