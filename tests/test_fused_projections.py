"""Projections that one port fuses: their layout is found, never told, and weights follow it."""

import json

import numpy as np
import paddle
import pytest
import torch
from safetensors.numpy import save_file

import unifreeze as uf
from tests.support.pairs import fused
from tests.support.rounding import check_same
from tests.support.sides import outputs
from unifreeze._evidence import check_step
from unifreeze._ports.carrying import port_file
from unifreeze._ports.pairing import Pairing, make_sketch, pair_sketches
from unifreeze._ports.pairing.fused_tensors import _filling
from unifreeze._ports.pairing.layout import Part
from unifreeze._ports.pairing.model_sketch import Pair
from unifreeze._ports.weights import open_weights
from unifreeze._protocol import Batch, load_backend
from unifreeze.errors import PairingError, PortError

IDS = np.random.default_rng(0).integers(0, 11, (3, 6))
LAYOUTS = {
    "one after another": ("q k v", 1, "gate up", 1),
    "up before gate": ("q k v", 1, "up gate", 1),
    "values first": ("v q k", 1, "gate up", 1),
    "by head of keys": ("q k v", 2, "gate up", 1),
    "everything interleaved": ("k v q", 4, "gate up", 5),
    "by unit": ("q k v", 8, "up gate", 10),
}


def expected(layout):
    """Where the fused port holds each of the other's projections, worked out by hand."""
    qkv, heads, ffn, pieces = layout
    places = fused.rows(qkv, heads) | fused.rows(ffn, pieces)
    return {
        f"blocks.{n}.{group}.{name}.{leaf}": (f"stack.{n}.{layer}.{leaf}", places[name].tolist())
        for n in (0, 1)
        for group, layer, names, leaves in (
            ("att", "mixed", "qkv", ("weight", "bias")),
            ("mlp", "wide", ("gate", "up"), ("weight",)),
        )
        for name in names
        for leaf in leaves
    }


def found(pairing):
    return {
        row.one: (row.other_part.of, row.other_part.rows.tolist())
        for row in pairing.pairs
        if row.other_part is not None
    }


@pytest.fixture(scope="module")
def grouped():
    models = fused.torch_apart(), fused.paddle_fused("q k v", 2, "up gate", 1)
    return (*models, uf.pair(*models, batch=IDS))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_layout_is_found_and_certified(layout):
    one, other = fused.torch_apart(), fused.paddle_fused(*layout)
    pairing = uf.pair(one, other, batch=IDS)
    assert found(pairing) == expected(layout)
    assert not pairing.left
    assert pairing.certificate.outputs < 1e-12
    assert pairing.certificate.gradients < 1e-10
    assert set(pairing.certificate.unproven) == {f"blocks.{n}.att.k.bias" for n in (0, 1)}


def test_a_fused_tensor_may_have_the_shape_of_one_that_is_not(monkeypatch):
    monkeypatch.setattr(fused, "INNER", 32)
    for name in ("gate", "up"):
        monkeypatch.setitem(fused.SIZES, name, 32)
    layout = LAYOUTS["by head of keys"]
    pairing = uf.pair(fused.torch_apart(), fused.paddle_fused(*layout), batch=IDS)
    assert found(pairing) == expected(layout)


def test_the_fused_port_may_come_first():
    layout = LAYOUTS["by head of keys"]
    one, other = fused.paddle_fused(*layout), fused.torch_apart()
    pairing = uf.pair(one, other, batch=IDS)
    assert pairing.one.framework == "paddle"
    assert found(pairing.turned()) == expected(layout)
    assert not found(pairing)
    assert pairing.turned().turned() == pairing


def test_the_library_s_own_attention_is_taken_apart():
    width = 16
    one = torch.nn.TransformerEncoderLayer(width, 4, 32, 0.0, batch_first=True)
    other = paddle.nn.TransformerEncoderLayer(width, 4, 32, 0.0)
    batch = np.random.default_rng(0).standard_normal((2, 5, width)).astype("float32")
    pairing = uf.pair(one, other, batch=batch)
    parts = {row.other: row.one for row in pairing.pairs if row.one_part is not None}
    assert parts == {
        f"self_attn.{name}_proj.{leaf}": f"self_attn.in_proj_{leaf}[{number}]"
        for number, name in enumerate("qkv")
        for leaf in ("weight", "bias")
    }


def test_a_layout_that_is_none_is_refused():
    with pytest.raises(PairingError, match="compute different functions"):
        uf.pair(fused.torch_apart(), fused.paddle_fused(odd=True), batch=IDS)


@pytest.mark.parametrize(("one", "other"), [("att.k", "att.v"), ("mlp.gate", "mlp.up")])
def test_parts_that_are_swapped_break_the_certificate(grouped, one, other):
    models, pairing = grouped[:2], grouped[2]
    swap = {one: other, other: one}
    rows = {row.one: row for row in pairing.pairs}
    given = []
    for row in pairing.pairs:
        block, _, layer = row.one.rpartition(".")[0].partition(".0.")
        partner = rows[f"blocks.0.{swap[layer]}.weight"] if layer in swap and block else row
        partner = partner if row.one.endswith("weight") else row
        given.append(Pair(row.one, partner.other, row.transposed, "hint"))
    backends = [load_backend(name) for name in ("torch", "paddle")]
    first = make_sketch(models[0], backends[0], Batch.of(IDS), name="one")
    second = make_sketch(
        models[1], backends[1], Batch.of(IDS), name="other", like=first, given=given
    )
    with pytest.raises(PairingError, match="the pairing does not hold"):
        pair_sketches(first, second)


def test_the_report_says_what_is_fused_and_how(grouped):
    assert (
        "fused in paddle: stack.0.mixed.weight is blocks.0.att.q.weight, blocks.0.att.k.weight, "
        "blocks.0.att.v.weight in 2 groups (and 1 more like it)"
    ) in str(grouped[2])


def test_a_pairing_with_parts_comes_back_from_its_file(grouped, tmp_path):
    grouped[2].save(tmp_path / "pairing.json")
    assert Pairing.load(tmp_path / "pairing.json") == grouped[2]


def test_weights_go_into_a_fused_tensor_and_come_back_bit_for_bit(grouped):
    source, target, pairing = fused.torch_apart(), grouped[1], grouped[2]
    start = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    uf.port_weights(source, target, pairing=pairing)
    check_same(outputs(target, IDS), outputs(source, IDS))
    with torch.no_grad():
        for tensor in source.parameters():
            tensor.zero_()
    uf.port_weights(target, source, pairing=pairing, reverse=True)
    assert all(torch.equal(start[name], tensor) for name, tensor in source.state_dict().items())


def test_files_are_fused_and_taken_apart_as_models_are(grouped, tmp_path):
    source, pairing = fused.torch_apart(), grouped[2]
    there, here = tmp_path / "there.safetensors", tmp_path / "here.pdparams"
    back = tmp_path / "back.safetensors"
    uf_weights = {name: tensor.numpy() for name, tensor in source.state_dict().items()}
    save_file(uf_weights, there)
    ported = port_file(there, here, pairing)
    assert ported.tensors == len(grouped[1].state_dict())
    port_file(here, back, pairing)
    with open_weights(back) as weights:
        assert set(weights.names) == set(uf_weights)
        for name, values in uf_weights.items():
            np.testing.assert_array_equal(weights.read(name), values)


def test_a_file_that_lacks_a_part_is_refused(grouped, tmp_path):
    state = {name: t.numpy() for name, t in fused.torch_apart().state_dict().items()}
    del state["blocks.1.att.k.weight"]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(PortError, match=r"missing in the source: blocks\.1\.att\.k\.weight"):
        port_file(tmp_path / "a.safetensors", tmp_path / "b.pdparams", grouped[2])
    state["blocks.1.att.k.weight"] = np.zeros((8, 12), "float16")
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(PortError, match="of several dtypes"):
        port_file(tmp_path / "a.safetensors", tmp_path / "b.pdparams", grouped[2])
    assert not (tmp_path / "b.pdparams").exists()


def test_a_step_is_the_same_on_a_fused_port(grouped):
    one, other, pairing = grouped
    plan = uf.FreezePlan().train("all").freeze("blocks[0]")
    report = check_step(plan, one, other, batch=IDS, pairing=pairing, steps=2)
    assert report.holds, str(report)
    compared = {clause.name: clause.measured for clause in report.clauses}
    assert compared["decisions"] == f"{len(pairing.pairs)} parameters compared"
    assert check_step(plan, other, one, batch=IDS, pairing=pairing.turned()).holds


def test_a_step_shows_a_part_that_differs(grouped):
    one, other, pairing = grouped
    rows = {row.one: row for row in pairing.pairs}
    k, v = (rows[f"blocks.1.att.{name}.weight"] for name in "kv")
    swapped = {
        k.one: k.model_copy(update={"one": v.one}),
        v.one: v.model_copy(update={"one": k.one}),
    }
    wrong = pairing.model_copy(
        update={"pairs": tuple(swapped.get(row.one, row) for row in pairing.pairs)}
    )
    report = check_step(uf.FreezePlan().train("all"), one, other, batch=IDS, pairing=wrong)
    assert "outputs" in {clause.name for clause in report.clauses if not clause.holds}


@pytest.fixture(scope="module")
def keyless():
    """A fused bias, part of which the other port does not have: its keys have no bias."""
    models = fused.torch_apart(key_bias=False), fused.paddle_fused("q k v", 2)
    return (*models, uf.pair(*models, batch=IDS))


def test_a_part_that_the_other_port_lacks_keeps_its_values(keyless):
    one, other, pairing = keyless
    assert {row.path for row in pairing.left} == {f"stack.{n}.mixed.bias[1]" for n in (0, 1)}
    assert check_step(uf.FreezePlan().train("all"), one, other, batch=IDS, pairing=pairing).holds
    with pytest.raises(PortError, match=r"only parts to fill it: stack\.0\.mixed\.bias"):
        uf.port_weights(one, other, pairing=pairing)
    own = {name: tensor.numpy().copy() for name, tensor in other.state_dict().items()}
    uf.port_weights(one, other, pairing=pairing, partial=True)
    rows = next(r.other_part for r in pairing.pairs if r.one == "blocks.0.att.q.bias")
    kept = rows._replace(number=1).rows
    bias = other.state_dict()["stack.0.mixed.bias"].numpy()
    np.testing.assert_array_equal(bias[kept], own["stack.0.mixed.bias"][kept])
    check_same(outputs(other, IDS), outputs(one, IDS))


def test_a_part_without_a_place_is_not_dropped_silently(keyless, tmp_path):
    one, other, pairing = keyless
    with pytest.raises(PortError, match=r"no place in the target: stack\.0\.mixed\.bias\[1\]"):
        uf.port_weights(other, one, pairing=pairing, reverse=True)
    ported = uf.port_weights(other, one, pairing=pairing, reverse=True, partial=True)
    assert "stack.1.mixed.bias[1]" in ported.passed_over
    save_file({n: t.numpy() for n, t in one.state_dict().items()}, tmp_path / "a.safetensors")
    with pytest.raises(PortError, match=r"2 in the target, with only parts[^\0]*uf\.port_weights"):
        port_file(tmp_path / "a.safetensors", tmp_path / "b.pdparams", pairing, partial=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"axis": 5},
        {"axis": -1},
        {"axis": 0},
        {"groups": 0},
        {"groups": 3},
        {"groups": 1},
        {"number": 9},
        {"number": -1},
        {"number": 2},
        {"sizes": []},
        {"sizes": [16, 8, 4]},
        {"sizes": [8, 16, 8], "number": 0},
        {"sizes": [16, -8, 24]},
        {"of": "stack.1.mixed.weight"},
    ],
    ids=str,
)
def test_a_file_with_parts_that_cannot_be_is_refused(grouped, changes, tmp_path):
    data = json.loads(grouped[2].model_dump_json())
    row = next(row for row in data["pairs"] if row["one"] == "blocks.0.att.k.weight")
    row["other_part"] = list(Part(*row["other_part"])._replace(**changes))
    (tmp_path / "pairing.json").write_text(json.dumps(data))
    with pytest.raises(PairingError, match="is not a valid pairing"):
        Pairing.load(tmp_path / "pairing.json")


def test_a_fused_port_sketched_first_is_told_to_come_second():
    backends = [load_backend(name) for name in ("paddle", "torch")]
    first = make_sketch(fused.paddle_fused(), backends[0], Batch.of(IDS), name="fused")
    second = make_sketch(fused.torch_apart(), backends[1], Batch.of(IDS), name="apart", like=first)
    with pytest.raises(PairingError, match="sketch the second first"):
        pair_sketches(first, second)
    with pytest.raises(PairingError, match="was itself made on another model's values"):
        make_sketch(fused.paddle_fused(), backends[0], Batch.of(IDS), name="f", like=second)


def test_hints_may_name_parts_though_the_fused_port_comes_first():
    hints = {"stack.0.mixed.weight[0]": "blocks.0.att.q.weight"}
    pairing = uf.pair(fused.paddle_fused(), fused.torch_apart(), batch=IDS, hints=hints)
    by = {row.one: row.by for row in pairing.pairs}
    assert by["stack.0.mixed.weight[0]"] == "hint"


def test_networks_of_other_sizes_are_refused_without_trying_layouts(monkeypatch):
    runs = []
    backend = load_backend("paddle")
    real = type(backend).sketch
    monkeypatch.setattr(
        type(backend), "sketch", lambda self, *args: runs.append(1) or real(self, *args)
    )
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    one = torch.nn.TransformerEncoder(layer, 3)
    other = paddle.nn.TransformerEncoder(paddle.nn.TransformerEncoderLayer(16, 2, 32, 0.0), 2)
    batch = np.random.default_rng(0).standard_normal((2, 5, 16)).astype("float32")
    with pytest.raises(PairingError, match="compute different functions"):
        uf.pair(one, other, batch=batch)
    assert len(runs) == 1


def test_many_neighbours_make_no_explosion():
    sizes = [(row, 1) for row in range(9, 33)] + [(8, 200)]
    assert len(list(_filling(64, sizes, 4))) < 3000
    assert set(_filling(16, [(8, 3), (4, 2)], 4)) == {(8, 8), (8, 4, 4)}
