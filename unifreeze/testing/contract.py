"""List the contract that every backend must pass, as functions that a third framework can run.

A backend's author writes a `Kit`: three small models and a batch for each. Then

    @pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
    def test_contract(check):
        check(kit)
"""

from __future__ import annotations

from collections.abc import Callable

from unifreeze.testing import description_checks as description
from unifreeze.testing import experiment_checks as experiment
from unifreeze.testing import write_checks as write
from unifreeze.testing.kit import Kit

CONTRACT: tuple[Callable[[Kit], None], ...] = (
    description.describes_every_parameter_once,
    description.describes_ties_and_loose_parameters,
    description.native_paths_lead_to_the_tensors,
    description.describing_touches_nothing,
    write.writes_what_is_decided,
    write.applying_again_replaces_the_plan,
    write.ties_are_frozen_by_any_name,
    write.fingerprints_see_every_bit,
    write.assigns_in_place,
    write.copies_keep_what_is_held,
    write.groups_reach_the_optimizer,
    write.flags_alone_can_be_frozen_for_a_while,
    write.several_models_go_under_one_plan,
    write.training_is_noticed,
    experiment.freezing_holds_through_training,
    experiment.statistics_move_unless_they_are_held,
    experiment.the_probe_restores_the_model,
    experiment.the_probe_is_deterministic,
    experiment.measuring_restores_the_model,
    experiment.measuring_sees_what_is_frozen,
    experiment.a_bypassed_block_passes_its_input_on,
)
"""Every check, in the order in which a new backend meets them."""
