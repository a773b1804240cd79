"""Parity is able to fail: each wrong backend is caught, and by the clause that should catch it.

Every fault runs on each framework in this process, and once through the command line, each side in
a process of its own.
"""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from unifreeze._cli.find_model import read_batch
from unifreeze._evidence import PARITY_CLAUSES, common_outputs, compare_records, make_record
from unifreeze._plan import FreezePlan
from unifreeze._protocol import ProbeConfig, registry
from unifreeze.errors import WriteError
from unifreeze.testing import CONTRACT

HERE = Path(__file__).parent
PLAN = FreezePlan.load(HERE / "support" / "mutants" / "plan.yaml")
BATCH = "int64[8]<0:11>"

CAUGHT_BY = {
    # What is written.
    "Deaf": "flags gradients frozen",
    "DeafAndLies": "gradients frozen",
    "WrongSign": "flags gradients frozen trained",
    "WrongSignBothWays": "decisions gradients frozen trained",
    "SwapsTwo": "flags gradients frozen trained",
    "FreezesOneTooMany": "flags gradients trained",
    "FreezesOneTooManyAndLies": "gradients trained",
    "ThawsInTraining": "gradients frozen",
    "ZeroesWhatItFreezes": "frozen",
    "CutsActivations": "gradients frozen trained",
    "LetsDecayThrough": "frozen",
    "KeepsStaleGradients": {"torch": "gradients frozen", "paddle": "gradients"},
    "ClearsToZero": {"paddle": "gradients"},
    "LendsNothing": {"paddle": "gradients trained"},
    "StatisticsDrift": "state",
    "IgnoresNormStats": "state",
    "IgnoresDropout": "state",
    # What is described.
    "TakesAllAsTrainable": "decisions",
    "ForgetsTheTiedName": "parameters decisions",
    "ForgetsTheRoot": "parameters",
    "DropsABias": "parameters",
    "ReversesTheBlocks": "order",
    "ForgetsToTranspose": {"paddle": "parameters"},
    "StatisticsAreParameters": {"paddle": "parameters decisions frozen"},
    # What is reported.
    "ReadsAllTrainable": "flags",
    "LooksAway": "frozen",
    "DropsAnOutput": "outputs",
    # How it trains.
    "TrainsNothing": "trained",
    "LeavesOneOut": "trained",
}
"""For each fault, exactly the clauses that break; by framework where the two differ."""

CASES = [
    (fault, framework, set((caught if isinstance(caught, str) else caught[framework]).split()))
    for fault, caught in CAUGHT_BY.items()
    for framework in (("torch", "paddle") if isinstance(caught, str) else caught)
]


CONTRACT_CATCHES = {
    "describes_every_parameter_once": ["DropsABias"],
    "describes_ties_and_loose_parameters": ["ForgetsTheTiedName", "ForgetsTheRoot"],
    "native_paths_lead_to_the_tensors": ["SwapsTwoLayers"],
    "describing_touches_nothing": ["DescribingFreezes"],
    "writes_what_is_decided": ["Deaf", "WrongSign"],
    "applying_again_replaces_the_plan": ["NeverThaws"],
    "ties_are_frozen_by_any_name": ["Deaf"],
    "fingerprints_see_every_bit": ["RoundsFingerprints"],
    "assigns_in_place": ["AssignsToACopy"],
    "freezing_holds_through_training": ["LetsDecayThrough", "TrainsNothing", "ReversesTheBlocks"],
    "statistics_move_unless_they_are_held": ["IgnoresNormStats", "StatisticsDrift"],
    "the_probe_restores_the_model": ["LeavesItsSteps"],
    "the_probe_is_deterministic": ["DrawsAnew"],
    "measuring_restores_the_model": ["LeavesItsMeasuring", "MeasuresInTraining"],
    "measuring_sees_what_is_frozen": ["MeasuresWhatTrains"],
    "a_bypassed_block_passes_its_input_on": ["PassesNothingBy"],
    "copies_keep_what_is_held": ["HoldsByATable"],
    "groups_reach_the_optimizer": ["DropsAGroup"],
    "flags_alone_can_be_frozen_for_a_while": ["Deaf"],
    "several_models_go_under_one_plan": ["MixesModels"],
    "training_is_noticed": ["NoticesNothing", "TakesItsOwnForTraining", "NeverStopsWatching"],
}
"""For each check of the contract, faults that it catches."""


def name_of(case):
    return "-".join(case[:2])


@cache
def right(framework, outputs=None):
    return wrong("Nothing", framework, outputs)


def wrong(fault, framework, outputs=None):
    side = import_module(f"tests.support.mutants.{framework}_side")
    backend = getattr(side, fault)()
    config = ProbeConfig(read_batch([BATCH]), outputs=outputs)
    return make_record(PLAN, side.Network(), backend, config, device="cpu", name="mutant")


def broken(report):
    return {clause.name for clause in report.clauses if not clause.holds}


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_parity_catches(case):
    fault, framework, clauses = case
    other = {"torch": "paddle", "paddle": "torch"}[framework]
    records = [wrong(fault, framework), right(other)]
    shared = common_outputs(*records)
    if shared:
        records = [wrong(fault, framework, shared[0]), right(other, shared[1])]
    assert broken(compare_records(*records)) == clauses
    assert broken(compare_records(*reversed(records))) == clauses


def test_parity_holds_without_a_fault():
    assert broken(compare_records(right("torch"), right("paddle"))) == set()


@pytest.mark.parametrize("clause", [row.name for row in PARITY_CLAUSES])
def test_each_clause_catches_a_fault_that_no_other_sees(clause):
    assert any(clauses == {clause} for _, _, clauses in CASES)


def test_every_check_of_the_contract_has_a_fault_to_catch():
    assert CONTRACT_CATCHES.keys() == {check.__name__ for check in CONTRACT}


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_each_check_of_the_contract_catches_its_faults(check, kit, framework, monkeypatch):
    for fault in CONTRACT_CATCHES[check.__name__]:
        backend = getattr(import_module(f"tests.support.mutants.{framework}_side"), fault)()
        monkeypatch.setitem(registry._overrides, framework, lambda found=backend: found)
        with pytest.raises(AssertionError):
            check(replace(kit, backend=backend))


def command_line(tmp_path, *extra):
    sides = [
        "tests.support.mutants.torch_side:Network",
        "tests.support.mutants.paddle_side:Network",
    ]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "unifreeze",
        "parity",
        "tests/support/mutants/plan.yaml",
    ]
    found = tmp_path / "report.json"
    run = subprocess.run(
        [*command, *sides, "--batch", BATCH, "--json", str(found), *extra],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return run, json.loads(found.read_text()) if found.exists() else None


def each_fault_once():
    """The frameworks in turn; what adds no clause to those before it is left to the slow step."""
    seen = set()
    for number, fault in enumerate(CAUGHT_BY):
        cases = [case for case in CASES if case[0] == fault]
        case = cases[number % len(cases)]
        new = len(case[2]) == 1 and not case[2] <= seen
        seen |= case[2] if new else set()
        yield pytest.param(case, id=name_of(case), marks=() if new else pytest.mark.slow)


@pytest.mark.parametrize("case", list(each_fault_once()))
def test_the_command_line_catches(case, tmp_path):
    fault, framework, clauses = case
    given = f"{framework}=tests.support.mutants.{framework}_side:{fault}"
    run, report = command_line(tmp_path, "--backend", given)
    assert run.returncode == 1, run.stderr
    assert {clause["name"] for clause in report["clauses"] if not clause["holds"]} == clauses
    assert "parity does not hold" in run.stdout


def test_the_command_line_holds_without_a_fault(tmp_path):
    run, report = command_line(
        tmp_path,
        "--backend=torch=tests.support.mutants.torch_side:Nothing",
        "--backend=paddle=tests.support.mutants.paddle_side:Nothing",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert report["holds"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_a_deaf_backend_that_reads_back_is_stopped_before_training(framework):
    with pytest.raises(WriteError, match="9 of 18 flags did not read back"):
        wrong("DeafAndRefused", framework)
