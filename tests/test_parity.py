"""What parity finds, each finding by a hand-made pair of models; and what it leaves behind."""

import json
import random

import numpy as np
import paddle
import pytest
import torch
from paddle import nn as pnn
from torch import nn as tnn

import unifreeze as uf
from unifreeze._evidence import PARITY_CLAUSES, Record, check_parity, compare_records, make_record
from unifreeze._protocol import Batch, ProbeConfig, load_backend
from unifreeze.errors import ParityError, RecordError, TargetError

ROWS = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
HEAD = uf.FreezePlan().only("head")


class TorchNet(tnn.Module):
    """Layers by name, in the order given, and what is done with them."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


class PaddleNet(pnn.Layer):
    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


def two_layers(net, x):
    return net.head(net.body(x))


def torch_net(forward=two_layers, **changed):
    return TorchNet(forward, **{"body": tnn.Linear(6, 6), "head": tnn.Linear(6, 3), **changed})


def paddle_net(forward=two_layers, **changed):
    return PaddleNet(forward, **{"body": pnn.Linear(6, 6), "head": pnn.Linear(6, 3), **changed})


def findings(report, clause):
    return [
        (finding.severity, str(finding))
        for each in report.clauses
        if each.name == clause
        for finding in each.findings
    ]


def broken(report):
    return [clause.name for clause in report.clauses if not clause.holds]


def check(plan, model, other, **how):
    return check_parity(plan, model, other, batch=ROWS, **how)


def record(kit, plan=HEAD, **how):
    config = ProbeConfig(kit.plain.batch, **how)
    return make_record(plan, kit.plain.make(), kit.backend, config, device="cpu", name="plain")


# What is found -----------------------------------------------------------------------------


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


# What it leaves behind ---------------------------------------------------------------------


def snapshot(model, backend):
    """Everything about a live model that a check must leave alone."""
    objects = backend.objects(model)
    return {
        "bits": {p: d.bits for p, d in backend.fingerprint(model, objects).items()},
        "identity": {path: id(tensor) for path, tensor in objects.items()},
        "flags": backend.read(model),
        "gradients": {
            path: None if (gradient := backend.get_gradient(tensor)) is None
            else backend.to_array(gradient).tobytes()
            for path, tensor in objects.items()
            if path in backend.read(model)
        },
        "modes": backend.modes(backend.walk(model)),
        "attributes": [sorted(vars(module)) for module in backend.walk(model).modules],
    }  # fmt: skip


def random_states():
    return (
        torch.random.get_rng_state().numpy().tobytes(),
        str([state.current_seed() for state in paddle.get_rng_state()]),
        paddle.rand([4]).numpy().tobytes(),
        random.getstate(),
        np.random.get_state()[1].tobytes(),
    )


def used(kit):
    """A model in the middle of a life: gradients, moved statistics, odd flags and modes."""
    model = kit.plain.make()
    backend = kit.backend
    walk = backend.walk(model)
    backend.train_mode(model)
    output = backend.run(model, kit.plain.batch)
    backend.backward([output], [np.ones((8, 3), np.float32)])
    backend.set_flag(walk.tensors[0], False)
    modes = backend.modes(walk)
    modes[-1], modes[2] = False, False
    backend.set_modes(walk, modes)
    return model


def test_live_models_are_left_as_they_were(kits):
    models = [used(kit) for kit in kits.values()]
    backends = [kit.backend for kit in kits.values()]
    before = [snapshot(m, b) for m, b in zip(models, backends, strict=True)]
    assert any(before[0]["gradients"].values())
    paddle.seed(7)
    states = random_states()
    paddle.seed(7)
    check(HEAD, *models)
    assert random_states() == states
    assert [snapshot(m, b) for m, b in zip(models, backends, strict=True)] == before


def test_live_models_are_left_as_they_were_when_the_check_fails(kits):
    for kit in kits.values():
        model = used(kit)
        before = snapshot(model, kit.backend)
        with pytest.raises(TargetError):
            kit.backend.probe(
                model,
                uf.resolve(HEAD, model),
                ProbeConfig(kit.plain.batch, outputs=("nowhere",)),
            )
        assert snapshot(model, kit.backend) == before


def test_a_plan_in_force_is_left_in_force(kits):
    for kit in kits.values():
        model = kit.plain.make()
        found = snapshot(model, kit.backend)
        handle = uf.apply(uf.FreezePlan().freeze("blocks"), model)
        before = snapshot(model, kit.backend)
        check(HEAD, model, model)
        assert snapshot(model, kit.backend) == before
        handle.verify()
        handle.remove()
        assert snapshot(model, kit.backend) == found


def test_the_mode_asked_for_is_left_alone_under_a_plan(kits):
    for kit in kits.values():
        model = kit.plain.make()
        model.eval()
        handle = uf.apply(uf.FreezePlan().freeze("blocks"), model)
        check(HEAD, model, model)
        handle.remove()
        assert not any(kit.backend.modes(kit.backend.walk(model))), kit.backend.name


def test_a_sparse_gradient_is_refused_and_left_as_it_was():
    table = pnn.Embedding(11, 6, sparse=True)
    model = paddle_net(lambda net, x: net.head(net.body(net.table(x))), table=table)
    ids = np.array([1, 2, 2, 3])
    model(paddle.to_tensor(ids)).sum().backward()
    backend = load_backend("paddle")
    gradient = model.table.weight.grad
    whole = np.zeros((11, 6), np.float32)
    np.add.at(whole, gradient.rows(), gradient.numpy())
    with pytest.raises(TargetError, match="adamw, with which parity is shown, cannot train this"):
        check_parity(uf.FreezePlan().freeze("body"), model, model, batch=ids)
    assert np.array_equal(backend.to_array(model.table.weight.grad), whole)
    assert check_parity(uf.FreezePlan().freeze("table"), model, model, batch=ids).holds


# Records and reports -----------------------------------------------------------------------


def test_a_record_reads_back_as_it_was_written(kits, tmp_path):
    for name, kit in kits.items():
        made = record(kit)
        made.save(tmp_path / name)
        assert Record.load(tmp_path / name) == made
        assert [file.name for file in tmp_path.glob(".*")] == []


def test_a_record_cut_in_half_is_refused(kits, tmp_path):
    path = tmp_path / "record.json"
    record(kits["torch"]).save(path)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(RecordError, match="is not a complete record"):
        Record.load(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is not a unifreeze record"),
        ('{"a": 1}', "is not a unifreeze record"),
        ('{"unifreeze_record": 1}', "is of record format 1; this release reads 2"),
        ('{"unifreeze_record": 2}', "is not a valid record"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, text, said):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=said):
        Record.load(path)


def test_records_of_different_plans_are_not_compared(kits):
    one, other = record(kits["torch"]), record(kits["paddle"], uf.FreezePlan().freeze("head"))
    with pytest.raises(RecordError, match="of different plans"):
        compare_records(one, other)


@pytest.mark.parametrize("how", [{"steps": 3}, {"seed": 1}], ids=str)
def test_records_of_different_probes_are_not_compared(kits, how):
    with pytest.raises(RecordError, match="of different probes"):
        compare_records(record(kits["torch"]), record(kits["paddle"], **how))


def test_what_was_not_looked_at_did_not_hold(kits):
    one = record(kits["torch"])
    (first, *others) = one.runs
    frozen = next(row.path for row in one.parameters if not row.trainable)
    held = next(row.path for row in one.states if row.held)
    after = {path: bits for path, bits in first.after.items() if path not in (frozen, held)}
    before = {path: bits for path, bits in first.before.items() if path not in (frozen, held)}
    blind = first.model_copy(update={"before": before, "after": after})
    report = compare_records(one.model_copy(update={"runs": (blind, *others)}), one)
    assert broken(report) == ["frozen", "state"]
    assert findings(report, "frozen") == [
        ("error", f"{frozen}: is frozen and was not looked at (torch on cpu, adamw)")
    ]
    assert findings(report, "state")[0][1].startswith(f"{held}: should hold and was not looked at")


def test_a_name_that_stands_for_two_parameters_is_found(kits):
    one = record(kits["torch"])
    rows = list(one.parameters)
    rows[1] = rows[1].model_copy(update={"name": rows[0].name})
    report = compare_records(one.model_copy(update={"parameters": tuple(rows)}), one)
    assert "parameters" in broken(report)
    assert any("stands for 2 parameters" in text for _, text in findings(report, "parameters"))


def test_the_report_as_data_has_exactly_this_shape():
    data = check(HEAD, torch_net(), paddle_net(body=pnn.Linear(6, 6, bias_attr=False))).to_json()
    assert json.loads(json.dumps(data)) == data
    assert list(data) == ["holds", "clauses", "sides", "steps", "optimizers"]
    assert data["holds"] is False
    assert [clause["name"] for clause in data["clauses"]] == [
        clause.name for clause in PARITY_CLAUSES
    ]
    assert all(list(clause) == ["name", "holds", "findings"] for clause in data["clauses"])
    assert data["clauses"][0]["findings"] == [
        {
            "subject": "net/linear.0/bias",
            "message": "body.bias [6] of torch on cpu has no partner in paddle on cpu",
            "hint": "",
            "severity": "error",
        }
    ]
    assert data["sides"][1] == {
        "framework": "paddle",
        "device": "cpu",
        "parameters": 3,
        "values": 57,
        "frozen": 1,
        "trainable": 2,
    }
    assert (data["steps"], data["optimizers"]) == (2, ["adamw", "sgd"])


def test_the_report_as_text_names_each_clause_and_what_breaks_it():
    report = check(HEAD, torch_net(), paddle_net(body=pnn.Linear(6, 6, bias_attr=False)))
    text = str(report)
    assert "torch on cpu: 4 parameters, 63 values, 2 frozen, 2 trainable" in text
    assert "BROKEN  parameters: both sides have the same parameters" in text
    assert all(f"  {clause.name}: {clause.title}" in text for clause in PARITY_CLAUSES)
    with pytest.raises(ParityError, match="parity does not hold: parameters"):
        report.raise_if_broken()


def test_more_than_ten_findings_are_counted_not_listed():
    many = {f"extra{n}": tnn.Linear(6, 6) for n in range(7)}
    report = check(uf.FreezePlan().freeze("body"), torch_net(**many), paddle_net())
    assert len(findings(report, "parameters")) == 14 + 2  # without a partner, and another shape
    lines = str(report).splitlines()
    (start,) = (n for n, line in enumerate(lines) if line.startswith("BROKEN  parameters"))
    assert lines[start + 10].strip().startswith("net/linear")
    assert lines[start + 11].strip() == "… and 6 more"


# The pytest plug-in ------------------------------------------------------------------------

pytest_plugins = ["pytester"]

USE = """
import numpy as np
import torch
import unifreeze as uf

def net(**how):
    return torch.nn.Sequential(torch.nn.Linear(4, 4, **how), torch.nn.Linear(4, 2))

PLAN = uf.FreezePlan().only('path:"1"')
BATCH = np.ones((3, 4), np.float32)

def test_it_holds(assert_parity):
    assert assert_parity(PLAN, net(), net(), batch=BATCH).holds

def test_it_does_not(assert_parity):
    assert_parity(PLAN, net(), net(bias=False), batch=BATCH, steps=1)
"""


def test_the_fixture_passes_and_fails(pytester):
    pytester.makepyfile(USE)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*ParityError: parity does not hold: parameters*"])


def test_batches_are_read_from_what_users_pass():
    row = np.zeros(2)
    assert Batch.of(row).args == (row,)
    assert Batch.of([row, row]).args == (row, row)
    named = Batch.of({"x": [1, 2]})
    assert named.args == ()
    assert named.kwargs["x"].tolist() == [1, 2]
    assert Batch.of(named) is named
