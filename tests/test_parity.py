"""What parity finds, each finding by a hand-made pair of models."""

import json

import numpy as np
import pytest
import torch
from paddle import nn as pnn
from torch import nn as tnn

import unifreeze as uf
from tests.support.two_nets import (
    HEAD,
    PaddleNet,
    TorchNet,
    broken,
    check,
    findings,
    paddle_net,
    record,
    torch_net,
    two_layers,
)
from unifreeze._evidence import check_parity, compare_records
from unifreeze.errors import TargetError


def test_two_like_models_are_at_parity():
    report = check(HEAD, torch_net(), paddle_net())
    assert report.holds
    assert not [finding for clause in report.clauses for finding in clause.findings]
    assert [(side.framework, side.frozen, side.trainable) for side in report.sides] == [
        ("torch", 2, 2),
        ("paddle", 2, 2),
    ]


def test_a_parameter_without_a_partner_is_named_on_its_side():
    report = check(HEAD, torch_net(), paddle_net(body=pnn.Linear(6, 6, bias_attr=False)))
    assert broken(report) == ["parameters"]
    ((severity, text),) = findings(report, "parameters")
    assert severity == "error"
    assert (
        text == "net/linear.0/bias: body.bias [6] of torch on cpu has no partner in paddle on cpu"
    )


def test_partners_of_other_shapes_are_named_with_both():
    wide = {"body": pnn.Linear(6, 7), "head": pnn.Linear(7, 3)}
    report = check(HEAD, torch_net(), paddle_net(**wide))
    assert broken(report) == ["parameters"]
    texts = [text for _, text in findings(report, "parameters")]
    assert "net/linear.0/weight: has shape [6, 6] as body.weight and [7, 6] as body.weight" in texts


def test_another_decision_is_named_with_both():
    frozen = torch_net()
    frozen.body.bias.requires_grad = False
    report = check(uf.FreezePlan().freeze("body.weight"), frozen, paddle_net())
    assert broken(report) == ["decisions"]
    ((_, text),) = findings(report, "decisions")
    assert text == (
        "net/linear.0/bias: is frozen in torch on cpu (body.bias), trainable in paddle on cpu"
    )


def test_the_same_decision_by_another_rule_is_found():
    plan = uf.FreezePlan().freeze({"torch": "body", "paddle": "body.weight"})
    plan = plan.freeze({"torch": "body.weight", "paddle": "body.bias"})
    report = check(plan, torch_net(), paddle_net())
    assert broken(report) == ["decisions"]
    assert [text for _, text in findings(report, "decisions")] == [
        f"net/linear.0/{role}: is decided by rule {one} in torch on cpu (body.{role}), "
        f"rule {other} in paddle on cpu"
        for role, one, other in (("weight", 2, 1), ("bias", 1, 2))
    ]


def test_other_optimizer_settings_are_found():
    choice = {"match": {"torch": "head", "paddle": "head.weight"}, "lr_scale": 10.0}
    plan = uf.FreezePlan.from_yaml(
        json.dumps({"unifreeze": 1, "rules": [{"freeze": "body"}], "groups": [choice]})
    )
    report = check(plan, torch_net(), paddle_net())
    assert broken(report) == ["decisions"]
    ((_, text),) = findings(report, "decisions")
    assert "head/linear.0/bias: has learning-rate factor 10.0 in torch" in text


def test_a_norm_held_on_one_side_only_is_found():
    plan = uf.FreezePlan.from_yaml(
        json.dumps(
            {
                "unifreeze": 1,
                "rules": [{"only": "head"}],
                "norm_stats": [{"update": {"torch": "body", "paddle": "head"}}],
            }
        )
    )
    report = check(plan, torch_net(body=tnn.BatchNorm1d(6)), paddle_net(body=pnn.BatchNorm1D(6)))
    assert broken(report) == ["decisions"]
    ((_, text),) = findings(report, "decisions")
    assert text == "net/norm.0: holds its statistics in paddle on cpu only"


def twice(first, second):
    def forward(net, x):
        return net.head(getattr(net, second)(getattr(net, first)(x)))

    return forward


def torch_pair(first, second):
    pair = {"a": tnn.Linear(6, 6), "b": tnn.Linear(6, 6), "head": tnn.Linear(6, 3)}
    return TorchNet(twice(first, second), **pair)


def paddle_pair(first, second):
    pair = {"a": pnn.Linear(6, 6), "b": pnn.Linear(6, 6), "head": pnn.Linear(6, 3)}
    return PaddleNet(twice(first, second), **pair)


def test_positions_that_execution_would_count_otherwise_are_found_with_the_cure():
    plan = uf.FreezePlan().freeze("params[:2]")
    report = check(plan, torch_pair("a", "b"), paddle_pair("b", "a"))
    assert "order" in broken(report)
    texts = [text for _, text in findings(report, "order")]
    assert any(
        text.startswith("a.weight: is frozen in paddle on cpu by order of registration, trainable")
        for text in texts
    )
    assert all("compare with order='execution'" in text for text in texts)


def test_counting_by_execution_cures_it_and_says_what_is_ambiguous():
    plan = uf.FreezePlan().freeze("params[:2]")
    report = check(plan, torch_pair("a", "b"), paddle_pair("b", "a"), order="execution")
    assert "order" not in broken(report)
    ambiguous = findings(report, "parameters")
    assert {severity for severity, _ in ambiguous} == {"error"}
    assert all("is ambiguous in paddle on cpu" in text for _, text in ambiguous)


def test_what_is_ambiguous_and_decided_alike_is_a_note():
    report = check(HEAD, torch_pair("a", "b"), paddle_pair("b", "a"))
    assert report.holds
    ambiguous = findings(report, "parameters")
    assert len(ambiguous) == 4
    assert {severity for severity, _ in ambiguous} == {"note"}


def test_sides_counted_by_different_orders_are_found(kits):
    one = record(kits["torch"])
    report = compare_records(one, one.model_copy(update={"order": "execution"}))
    assert broken(report) == ["order"]


def test_other_outputs_are_found_and_left_out_of_the_loss():
    def both(net, x):
        hidden = net.body(x)
        return net.head(hidden), hidden

    report = check(uf.FreezePlan().freeze("body.bias"), torch_net(), paddle_net(both))
    assert broken(report) == ["outputs"]
    only = "1: [8, 6] is an output of paddle on cpu only"
    assert findings(report, "outputs") == [("error", only)]


def test_what_feeds_no_shared_output_has_no_gradient_on_either_side():
    extra = {"forward": lambda net, x: (two_layers(net, x), net.side(x))}
    plan = uf.FreezePlan().freeze("body")
    report = check(
        plan,
        torch_net(side=tnn.Linear(6, 2)),
        paddle_net(side=pnn.Linear(6, 2), **extra),
    )
    assert "outputs" in broken(report)
    texts = [text for _, text in findings(report, "gradients")]
    assert any("side.weight: is trainable and has no gradient (paddle on cpu" in t for t in texts)


def test_models_that_share_no_output_are_still_compared():
    report = check(HEAD, torch_net(), paddle_net(lambda net, x: two_layers(net, x).reshape([4, 6])))
    assert broken(report) == ["outputs"]
    assert len(findings(report, "outputs")) == 2


def test_a_parameter_whose_module_never_runs_on_either_side_is_a_note():
    plan = uf.FreezePlan().freeze("body")
    report = check(plan, torch_net(idle=tnn.Linear(6, 2)), paddle_net(idle=pnn.Linear(6, 2)))
    assert report.holds
    for clause in ("gradients", "trained"):
        notes = findings(report, clause)
        assert notes
        assert {severity for severity, _ in notes} == {"note"}
        assert all("unreached: its module never ran on this batch" in text for _, text in notes)


def test_a_parameter_whose_module_runs_on_one_side_only_breaks_parity():
    report = check(
        uf.FreezePlan().freeze("body"),
        torch_net(side=tnn.Linear(6, 3)),
        paddle_net(lambda n, x: two_layers(n, x) + n.side(n.body(x)), side=pnn.Linear(6, 3)),
    )
    assert broken(report) == ["gradients"]
    assert "side.weight: is trainable and has no gradient (torch on cpu, adamw)" in {
        text for _, text in findings(report, "gradients")
    }


def test_a_gradient_that_is_practically_zero_is_a_note_not_exercised():
    dead = lambda net, x: net.head(net.body(x)) + 0 * net.idle(x)  # noqa: E731
    torch_idle, paddle_idle = tnn.Linear(6, 3), pnn.Linear(6, 3)
    torch_idle.bias.data.zero_()
    report = check(
        uf.FreezePlan().freeze("body"),
        torch_net(dead, idle=torch_idle),
        paddle_net(dead, idle=paddle_idle),
    )
    assert report.holds
    notes = findings(report, "trained")
    assert [severity for severity, _ in notes] == ["note", "note"]
    assert all("idle.bias: not exercised: its gradient is practically zero" in t for _, t in notes)


def test_a_model_that_cuts_the_gradient_is_found():
    report = check(
        uf.FreezePlan().freeze("head.bias"),
        torch_net(),
        paddle_net(lambda net, x: net.head(net.body(x).detach())),
    )
    assert broken(report) == ["gradients", "trained"]
    assert all("body." in text and "paddle" in text for _, text in findings(report, "trained"))


def test_a_gradient_that_is_not_a_number_is_found():
    report = check(HEAD, torch_net(), paddle_net(lambda net, x: two_layers(net, x) * float("nan")))
    assert "gradients" in broken(report)
    assert any("has a gradient of nan (paddle" in t for _, t in findings(report, "gradients"))


def test_a_model_that_writes_to_its_frozen_weights_is_found():
    def forward(net, x):
        with torch.no_grad():
            net.body.weight.mul_(0.999)
        return two_layers(net, x)

    report = check(HEAD, torch_net(forward), paddle_net())
    assert broken(report) == ["frozen"]
    assert all(
        text.startswith("body.weight: is frozen and moved by up to")
        for _, text in findings(report, "frozen")
    )


def test_a_model_that_thaws_itself_is_found():
    def forward(net, x):
        net.body.weight.stop_gradient = False
        return two_layers(net, x)

    report = check(HEAD, torch_net(), paddle_net(forward))
    assert broken(report) == ["gradients", "frozen"]


def test_statistics_that_move_on_one_side_only_are_found():
    def still(net, x):
        net.body.eval()
        return two_layers(net, x)

    plan = uf.FreezePlan().freeze("body.bias")
    report = check(
        plan, torch_net(still, body=tnn.BatchNorm1d(6)), paddle_net(body=pnn.BatchNorm1D(6))
    )
    assert broken(report) == ["state"]
    assert findings(report, "state") == [
        ("error", f"net/norm.0/{role}: moves in paddle on cpu and holds still in torch on cpu")
        for role in ("mean", "var")
    ]


def test_dropout_that_stays_live_where_the_plan_turns_it_off_is_found():
    def stubborn(net, x):
        net.body[1].training = True
        return two_layers(net, x)

    plan = HEAD.with_dropout("off")
    layers = {"body": tnn.Sequential(tnn.Linear(6, 6), tnn.Dropout(0.5))}
    others = {"body": pnn.Sequential(pnn.Linear(6, 6), pnn.Dropout(0.5))}
    assert check(plan, torch_net(**layers), paddle_net(**others)).holds
    report = check(plan, torch_net(stubborn, **layers), paddle_net(**others))
    assert broken(report) == ["state"]
    assert "body.1: should be off, and ran in training mode (torch on cpu, sgd)" in {
        text for _, text in findings(report, "state")
    }


def test_norm_stats_alone_decides_about_norms_where_dropout_is_off(kits):
    plan = uf.FreezePlan().only("head").with_norm_stats("update").with_dropout("off")
    for kit in kits.values():
        for run in record(kit, plan).runs:
            moved = {path for path, bits in run.before.items() if run.after[path] != bits}
            assert {path for path in moved if "norm" in path}, kit.backend.name


def test_everything_frozen_is_at_parity():
    report = check(uf.FreezePlan().freeze("all"), torch_net(), paddle_net())
    assert report.holds
    assert {side.trainable for side in report.sides} == {0}


def test_nothing_frozen_is_at_parity():
    report = check(uf.FreezePlan().train("all"), torch_net(), paddle_net())
    assert report.holds
    assert {side.frozen for side in report.sides} == {0}


def test_a_model_that_returns_nothing_to_train_on_is_refused():
    with pytest.raises(TargetError, match="returns no floating tensor"):
        check(HEAD, torch_net(lambda net, x: two_layers(net, x).argmax()), paddle_net())


def test_a_batch_that_does_not_fit_is_refused_with_its_shape():
    with pytest.raises(TargetError, match=r"float32\[2, 5\]"):
        check_parity(HEAD, torch_net(), paddle_net(), batch=np.zeros((2, 5), np.float32))
