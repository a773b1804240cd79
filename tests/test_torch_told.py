"""PyTorch: processes that do not do the same are told; shards are saved as one file."""

from __future__ import annotations

import pytest

from tests.support import torch_told as told
from tests.support.processes import in_processes

SECONDS = str(told.WAIT)


@pytest.fixture(scope="module")
def seen():
    both = in_processes(told.all_told, 2, timeout=200, UNIFREEZE_TIMEOUT=SECONDS)
    return {name: [rank[name] for rank in both] for name in both[0]}


@pytest.mark.parametrize("what", ["a_plan_that_differs", "a_plan_that_differs_on_parts"])
def test_plans_that_differ_are_told_in_every_process(seen, what):
    first, second = seen[what]
    assert first == second
    assert "2 processes train one model, and the decisions written into it differ" in first
    assert "rank 0: plan" in first
    assert "rank 1: plan" in first


@pytest.mark.parametrize("what", ["a_second_plan_in_one_process", "removal_in_one_process"])
def test_a_process_that_alone_changes_the_plan_is_told(seen, what):
    first, second = seen[what]
    assert first.startswith("rank 1 did not train under a plan just written within 1.5 seconds")
    assert second == ""


def test_a_process_that_alone_enters_a_phase_is_told_and_nothing_has_changed(seen):
    text = seen["a_phase_in_one_process"][0]
    assert text.startswith("rank 1 did not call handle.step and enter a phase within 1.5 seconds")
    assert text.endswith("/ head, 20 frozen")


def test_a_process_that_alone_enters_a_phase_of_a_divided_model_is_told_what_it_did(seen):
    first, second = seen["a_phase_in_one_process_on_parts"]
    assert first.startswith("rank 1 did not call handle.step and enter a phase within 1.5 seconds")
    assert second == ""


def test_a_process_that_alone_reports_a_metric_is_told(seen):
    assert seen["a_step_in_one_process"][1].startswith("rank 0 did not call handle.step within")


def test_epochs_that_differ_are_told_in_every_process(seen):
    first, second = seen["epochs_that_differ"]
    assert first == second
    assert "rank 0: epoch 0, step None, in phase number 0" in first
    assert "rank 1: epoch 1, step None, in phase number 0" in first


def test_processes_that_would_enter_a_phase_of_other_plans_are_told(seen):
    first, second = seen["other_phases_at_one_step"]
    assert first == second
    assert "they would not enter it alike" in first


def test_the_first_process_decides_by_its_metrics_and_others_are_told(seen):
    (names, bits, texts), (other_names, other_bits, other_texts) = seen["metrics_that_differ"]
    assert names == other_names == ["head", "head", "head", "all", "all"]
    assert bits == other_bits
    assert texts == []
    assert len(other_texts) == 1
    assert other_texts[0].startswith("rank 1 has measured loss=1, and rank 0 0.9: rank 0 decides")


def test_a_plan_in_one_process_alone_keeps_nobody_waiting(seen):
    assert seen["apply_in_one_process"] == ["", ""]


def test_wrapping_is_no_drift_with_other_seeds_and_a_change_after_it_is(seen):
    changed = ["", "stem.weight: moved"] * 4
    assert seen["ranks_with_other_seeds"] == [changed, changed]


def test_flattened_parameters_are_refused_with_a_cure_unless_the_plan_came_first(seen):
    first, second = seen["flattened"]
    assert first == second
    after, inside, held, phases = first
    for text in (after, phases):
        assert "FSDP has flattened its parameters" in text
        assert "divide the model by fully_shard" in text
    assert "call it outside the block that gathers them" in inside
    assert held == ""


def test_a_head_exchanges_a_small_part_of_what_all_exchanges(seen):
    first, second = seen["bytes_of_phases"]
    assert first == second
    head, everything, again = first
    assert head == again
    assert 0 < head <= everything / 100


def test_ranks_stay_equal_over_many_plans_on_the_bare_model_and_on_the_wrapper(seen):
    (first, trainable, moved), second = seen["many_changes"][0], seen["many_changes"][1]
    assert (first, trainable, moved) == second
    assert moved


def test_a_wrapper_may_come_after_a_phase_has_begun_and_after_a_state_was_loaded(seen):
    first, second = seen["wrapped_late"]
    assert first == second
    assert [name for name, _ in first] == ["head"] * 2 + ["all"] * 4
    assert len({digest for _, digest in first}) == 6


def test_a_state_of_one_process_goes_on_in_two_after_wrapping(seen):
    first, second = seen["resumed_after_wrapping"]
    assert first == second
    assert first[0] == "all"
    assert first[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What was trained, saved by 1, 2 and 4 processes that all compute the same shares."""
    folder = tmp_path_factory.mktemp("trained")
    results = {
        (how, count): in_processes(
            told.written, count, str(folder), how, timeout=100, UNIFREEZE_TIMEOUT="3"
        )
        for how, count in [("alone", 1), ("ddp", 2), ("fsdp2", 2), ("fsdp2", 4)]
    }
    return folder, results


def test_one_file_of_trained_values_is_the_same_from_any_number_of_processes(files):
    folder, _ = files
    contents = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    assert sorted(contents) == [
        "alone-1.safetensors",
        "ddp-2.safetensors",
        "fsdp2-2.safetensors",
        "fsdp2-4.safetensors",
    ]
    assert len(set(contents.values())) == 1


def test_best_values_are_written_by_one_process_and_all_go_on_from_them(files):
    folder, results = files
    assert len({rank["bits"] for ranks in results.values() for rank in ranks}) == 1
    kept = {f"{p.parent.name}/{p.name}" for p in folder.glob("best-*/*")}
    names = {name.partition("/")[2] for name in kept}
    assert len(kept) == 4 * len(names)


def test_a_process_that_alone_saves_a_part_is_told(files):
    first, _ = files[1]["fsdp2", 2]
    assert first["alone"].startswith("rank 1 did not save what was trained within 3 seconds")
