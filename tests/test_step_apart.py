"""A step whose two sides never meet: each run alone on the certificate's values, then compared."""

import json

import pytest
from typer.testing import CliRunner

from unifreeze._cli import app
from unifreeze.errors import PairingError, RecordError, TargetError

IMAGE = (
    "tests.support.pairs.small:torch_image()",
    "tests.support.pairs.small:paddle_image()",
    "float32[3,3,7,7]",
)
DECODER = (
    "tests.support.pairs.fused:torch_apart()",
    "tests.support.pairs.fused:paddle_fused('v q k', 2)",
    "int64[3,6]<0:11>",
)
PLAN = 'unifreeze: 1\nrules:\n  - freeze: "blocks[0]"\n'


def call(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def made(folder, one, other, batch):
    """Sketch and pair two models, and write both sides of a step by the command line."""
    plan = folder / "plan.yaml"
    plan.write_text(PLAN)
    first, second, known = (folder / f"{name}.json" for name in ("one", "other", "pairing"))
    call("sketch", one, "-o", first, "--batch", batch)
    call("sketch", other, "-o", second, "--like", first, "--batch", batch)
    call("pair", first, second, "-o", known)
    sides = folder / "side_one.json", folder / "side_other.json"
    for model, side in zip((one, other), sides, strict=True):
        call("step", plan, model, "-o", side, "--sketch", first, "-p", known, "--batch", batch)
    return plan, first, second, known, sides


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return made(tmp_path_factory.mktemp("image"), *IMAGE)


@pytest.mark.parametrize("network", [IMAGE, DECODER], ids=["image", "fused decoder"])
def test_the_step_is_the_same_though_no_weights_travelled(network, tmp_path):
    plan, _, _, known, sides = made(tmp_path, *network)
    done = call("step", plan, *sides, "-p", known, "--json", tmp_path / "report.json")
    assert done.exit_code == 0
    assert "the step is the same" in done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert [clause["verdict"] for clause in report["clauses"]] == ["holds"] * 7


def test_a_side_with_another_learning_of_the_statistics_is_seen(image, tmp_path):
    plan, _, _, known, sides = image
    data = json.loads(sides[1].read_text())
    path = "cells.1.main_bn._variance"
    before, after = data["run"]["statistics"][path]
    data["run"]["statistics"][path] = [before, [value * 1.01 for value in after]]
    (tmp_path / "bent.json").write_text(json.dumps(data))
    done = call("step", plan, sides[0], tmp_path / "bent.json", "-p", known)
    assert done.exit_code == 1
    assert "units.1.norm.running_var" in done.output


def test_sides_in_the_wrong_order_or_of_another_plan_are_refused(image, tmp_path):
    plan, _, _, known, sides = image
    with pytest.raises(RecordError, match=r"has no stem\.weight\n.*the pairing's order"):
        call("step", plan, *reversed(sides), "-p", known)
    other = tmp_path / "other.yaml"
    other.write_text(PLAN.replace("blocks[0]", "stem"))
    with pytest.raises(RecordError, match="the two sides are of another plan"):
        call("step", other, *sides, "-p", known)


def test_the_wrong_sketch_or_model_is_refused(image, tmp_path):
    plan, first, second, known, _ = image
    words = ("-o", tmp_path / "side.json", "-p", known, "--batch", IMAGE[2])
    with pytest.raises(PairingError, match="is not the one that the pairing was made from"):
        call("step", plan, IMAGE[0], "--sketch", second, *words)
    with pytest.raises(PairingError, match=r"neither of the two that were paired.*: no "):
        call("step", plan, "tests.support.pairs.small:torch_text()", "--sketch", first, *words)
    with pytest.raises(TargetError, match="needs --sketch"):
        call("step", plan, IMAGE[0], *words)
    with pytest.raises(TargetError, match="two models, two files of sides, or one model"):
        call("step", plan, IMAGE[0], "--batch", IMAGE[2])
    assert not (tmp_path / "side.json").exists()
