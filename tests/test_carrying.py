"""Weights carried over by a pairing: live and from file to file, all or nothing."""

import subprocess
import sys

import numpy as np
import paddle
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import unifreeze as uf
from tests.support.pairs import small
from tests.support.pairs.small_answers import IDS, IMAGE, PIXELS, TEXT
from tests.support.rounding import check_same
from tests.support.sides import outputs
from unifreeze._ports.carrying import port_file
from unifreeze._ports.pairing import Pairing
from unifreeze.errors import PortError, WeightFileError


@pytest.fixture(scope="module")
def text():
    return uf.pair(small.torch_text(), small.paddle_text(), batch=IDS)


@pytest.fixture(scope="module")
def image():
    return uf.pair(small.torch_image(), small.paddle_image(), batch=PIXELS)


def trained_image():
    model = small.torch_image()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return model.eval()


def test_live_models_give_equal_outputs_once_their_weights_are_carried_over(image):
    one, other = trained_image(), small.paddle_image()
    other.eval()
    ported = uf.port_weights(one, other, pairing=image)
    assert ported.tensors == len(IMAGE)
    assert set(ported.passed_over) == {n for n in one.state_dict() if "num_batches" in n}
    check_same(outputs(other, PIXELS), outputs(one, PIXELS))


def test_without_a_pairing_a_batch_makes_one():
    one, other = small.torch_text(), small.paddle_text()
    uf.port_weights(one, other, batch=IDS)
    check_same(outputs(other, IDS), outputs(one, IDS))
    with pytest.raises(PortError, match="needs a batch"):
        uf.port_weights(one, other)


def test_back_again_is_bit_for_bit(image):
    one, other, back = trained_image(), small.paddle_image(), small.torch_image()
    uf.port_weights(one, other, pairing=image)
    uf.port_weights(other, back, pairing=image, reverse=True)
    theirs = back.state_dict()
    for name, tensor in one.state_dict().items():
        assert "num_batches" in name or torch.equal(tensor, theirs[name]), name


def test_the_target_keeps_its_parameters_and_their_flags(image):
    one, other = trained_image(), small.paddle_image()
    weight = other.out.weight
    weight.stop_gradient = True
    uf.port_weights(one, other, pairing=image)
    assert other.out.weight is weight
    assert weight.stop_gradient


def test_another_dtype_is_refused_and_nothing_is_written(image):
    one, other = trained_image().half(), small.paddle_image()
    before = [tensor.numpy().copy() for tensor in other.state_dict().values()]
    with pytest.raises(PortError, match=r"first\.weight: float32, and stem\.weight is float16"):
        uf.port_weights(one, other, pairing=image)
    assert all(map(np.array_equal, before, [t.numpy() for t in other.state_dict().values()]))


def test_a_model_of_another_kind_is_refused_with_everything_that_is_missing(image):
    with pytest.raises(PortError) as caught:
        uf.port_weights(small.torch_text(), small.paddle_image(), pairing=image)
    words = str(caught.value)
    assert "24 missing in the source: " in words
    assert "units.1.norm.running_var" in words
    assert "36 in the source, with no place in the target: " in words


def test_what_has_no_partner_needs_to_be_said():
    one, other = small.torch_text(idle=True), small.paddle_text()
    pairing = uf.pair(one, other, batch=IDS)
    with pytest.raises(PortError, match=r"2 in the source, with no place") as caught:
        uf.port_weights(one, other, pairing=pairing)
    assert "partial leaves alone what has no partner" in str(caught.value)
    ported = uf.port_weights(one, other, pairing=pairing, partial=True)
    assert ported.passed_over == ("pooler.weight", "pooler.bias")
    with pytest.raises(PortError, match=r"2 in the target, with nothing to fill it"):
        uf.port_weights(other, one, pairing=pairing, reverse=True)


def test_tables_of_unequal_length_are_cropped_on_request_only():
    one, other = small.torch_text(vocabulary=14), small.paddle_text()
    pairing = uf.pair(one, other, batch=IDS)
    with pytest.raises(PortError, match=r"1 tables of unequal length: tokens\.weight"):
        uf.port_weights(one, other, pairing=pairing)
    uf.port_weights(one, other, pairing=pairing, crop=True)
    assert np.array_equal(other.word.weight.numpy(), one.tokens.weight.detach().numpy()[:11])


def resized(model, outputs):
    model.fc = torch.nn.Linear(4, outputs)
    return model


@pytest.mark.parametrize("outputs", [3, 7])
def test_a_source_of_another_size_than_was_paired_is_refused(outputs, image):
    with pytest.raises(PortError, match=rf"fc\.weight: \[{outputs}, 4\] in the source, \[5, 4\]"):
        uf.port_weights(resized(trained_image(), outputs), small.paddle_image(), pairing=image)


def test_a_target_of_another_size_than_was_paired_is_refused_and_keeps_its_size(image):
    other = small.paddle_image()
    other.out = paddle.nn.Linear(4, 7)
    with pytest.raises(PortError, match=r"out\.weight: \[4, 7\] in the target, \[4, 5\]"):
        uf.port_weights(trained_image(), other, pairing=image)
    assert other.out.weight.shape == [4, 7]


def test_a_target_with_a_tensor_that_was_never_paired_is_refused(image):
    other = small.paddle_image()
    other.more = paddle.nn.Linear(2, 2)
    with pytest.raises(PortError, match=r"more\.weight: the pairing does not know it"):
        uf.port_weights(trained_image(), other, pairing=image)


def test_a_pairing_without_a_certificate_carries_nothing(image):
    bare = image.model_copy(update={"certificate": None})
    with pytest.raises(PortError, match="has no certificate"):
        uf.port_weights(trained_image(), small.paddle_image(), pairing=bare)


@pytest.fixture
def source(tmp_path):
    model = trained_image()
    save_file(model.state_dict(), tmp_path / "torch.safetensors")
    torch.save(model.state_dict(), tmp_path / "torch.pt")
    return model


@pytest.mark.parametrize("name", ["torch.safetensors", "torch.pt"])
def test_a_file_of_one_port_becomes_a_file_that_the_other_loads(name, source, image, tmp_path):
    target = tmp_path / "paddle.pdparams"
    ported = port_file(tmp_path / name, target, image)
    assert ported.tensors == len(IMAGE)
    other = small.paddle_image()
    assert other.set_state_dict(paddle.load(str(target))) == ([], [])
    other.eval()
    check_same(outputs(other, PIXELS), outputs(source, PIXELS))


def test_and_back_to_the_same_bits(source, image, tmp_path):
    port_file(tmp_path / "torch.pt", tmp_path / "paddle.pdparams", image)
    port_file(tmp_path / "paddle.pdparams", tmp_path / "back.safetensors", image)
    back = load_file(tmp_path / "back.safetensors")
    assert set(back) == set(IMAGE)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in back.items())
    model = small.torch_image()
    assert model.load_state_dict(back, strict=False).unexpected_keys == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_keeps_its_bits(dtype, image, tmp_path):
    state = {name: t.to(dtype) for name, t in trained_image().state_dict().items() if t.dim()}
    save_file(state, tmp_path / "one.safetensors")
    port_file(tmp_path / "one.safetensors", tmp_path / "two.safetensors", image)
    port_file(tmp_path / "two.safetensors", tmp_path / "three.safetensors", image)
    back = load_file(tmp_path / "three.safetensors")
    assert {tensor.dtype for tensor in back.values()} == {dtype}
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.items())


def test_a_missing_and_an_extra_tensor_are_listed_and_nothing_is_written(source, image, tmp_path):
    state = source.state_dict()
    del state["fc.bias"], state["units.0.norm.running_var"]
    state["surplus"] = torch.ones(2)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(PortError) as caught:
        port_file(tmp_path / "broken.safetensors", tmp_path / "out.pdparams", image)
    words = str(caught.value)
    assert "2 missing in the source: fc.bias, units.0.norm.running_var" in words
    assert "1 in the source, with no place in the target: surplus" in words
    assert not (tmp_path / "out.pdparams").exists()


def test_a_tensor_of_another_shape_is_named(source, image, tmp_path):
    state = source.state_dict() | {"fc.bias": torch.ones(7), "fc.weight": torch.ones(7, 4)}
    save_file(state, tmp_path / "wide.safetensors")
    with pytest.raises(PortError, match=r"2 tensors of .* are of another shape") as caught:
        port_file(tmp_path / "wide.safetensors", tmp_path / "out.pdparams", image)
    assert "fc.bias: [7] in the file, [5] in the model" in str(caught.value)


def test_names_alone_may_not_tell_the_direction(tmp_path):
    one, other = small.torch_image(), small.torch_image()
    pairing = uf.pair(one, other, batch=PIXELS)
    save_file(one.state_dict(), tmp_path / "one.safetensors")
    with pytest.raises(PortError, match="could be of either model"):
        port_file(tmp_path / "one.safetensors", tmp_path / "out.safetensors", pairing)
    port_file(tmp_path / "one.safetensors", tmp_path / "out.safetensors", pairing, reverse=False)
    assert (tmp_path / "out.safetensors").exists()


def test_a_broken_file_is_refused_before_anything_is_written(image, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(WeightFileError):
        port_file(tmp_path / "cut.safetensors", tmp_path / "out.pdparams", image)
    assert not (tmp_path / "out.pdparams").exists()


def test_the_command_writes_the_other_ports_file(source, image, tmp_path):
    image.save(tmp_path / "pairing.json")
    command = [sys.executable, "-m", "unifreeze", "port", "-p", str(tmp_path / "pairing.json")]
    files = [str(tmp_path / "torch.safetensors"), str(tmp_path / "out.safetensors")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(IMAGE)} tensors" in done.stdout
    with safe_open(files[1], "np") as written:
        assert set(written.keys()) == set(IMAGE.values())
    wrong = [*command, files[1], files[0], "--direction", "forward"]
    refused = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "24 missing in the source" in refused.stderr


def test_ties_stay_ties(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(11, 8)
            self.out = torch.nn.Linear(8, 11)
            self.out.weight = self.table.weight

        def forward(self, ids):
            return self.out(self.table(ids))

    one, other = Tied(), Tied()
    pairing = uf.pair(one, other, batch=IDS)
    assert [(pair.one, pair.one_aliases) for pair in pairing.pairs] == [
        ("table.weight", ("out.weight",)),
        ("out.bias", ()),
    ]
    uf.port_weights(one, other, pairing=pairing)
    assert other.out.weight is other.table.weight
    loose = Tied()
    loose.out.weight = torch.nn.Parameter(torch.ones(11, 8))
    with pytest.raises(PortError, match=r"table\.weight: tied to nothing in the target"):
        uf.port_weights(one, loose, pairing=pairing)
    save_file(loose.state_dict(), tmp_path / "loose.safetensors")
    with pytest.raises(PortError, match="differ, and the model ties them"):
        port_file(tmp_path / "loose.safetensors", tmp_path / "x.pt", pairing, reverse=False)
    torch.save(one.state_dict(), tmp_path / "one.pt")
    port_file(tmp_path / "one.pt", tmp_path / "two.pt", pairing, reverse=False)
    fresh = Tied()
    fresh.load_state_dict(torch.load(tmp_path / "two.pt", weights_only=True))
    assert torch.equal(fresh.table.weight, one.table.weight)


def test_a_pairing_reads_back_with_all_that_porting_needs(text, tmp_path):
    text.save(tmp_path / "pairing.json")
    one, other = small.torch_text(), small.paddle_text()
    uf.port_weights(one, other, pairing=Pairing.load(tmp_path / "pairing.json"))
    assert len(text.pairs) == len(TEXT)
    check_same(outputs(other, IDS), outputs(one, IDS))
