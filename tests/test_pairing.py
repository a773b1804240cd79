"""Which tensor is which: decided by gradients, certified by a run, refused where it fails."""

import json
import subprocess
import sys

import numpy as np
import paddle
import pytest
import torch
from torch import nn

import unifreeze as uf
from tests.support.pairs import small
from tests.support.pairs.small_answers import BLOCK, IDS, IMAGE, PIXELS, TEXT
from unifreeze._ports.pairing import ModelSketch, Pairing, make_sketch, pair_sketches, probe_values
from unifreeze._ports.pairing.model_sketch import Pair
from unifreeze._protocol import Batch, load_backend
from unifreeze.errors import PairingError, RecordError


def paired(pairing):
    return {pair.one: pair.other for pair in pairing.pairs}


def sketches(one, other, batch, **settings):
    first = make_sketch(one, load_backend("torch"), Batch.of(batch), name="one")
    second = make_sketch(
        other, load_backend("paddle"), Batch.of(batch), name="other", like=first, **settings
    )
    return first, second


@pytest.fixture(scope="module")
def text():
    return uf.pair(small.torch_text(), small.paddle_text(), batch=IDS)


@pytest.fixture(scope="module")
def image():
    return uf.pair(small.torch_image(), small.paddle_image(), batch=PIXELS)


def test_a_transformer_is_paired_whole_though_no_name_and_no_order_agrees(text):
    assert paired(text) == TEXT
    assert not text.left


def test_its_certificate_is_of_double_precision_and_compares_every_gradient(text):
    certificate = text.certificate
    assert certificate.dtype == "float64"
    assert certificate.compared == len(TEXT) - 2
    assert certificate.unproven == ("layers.0.att.k.bias", "layers.1.att.k.bias")
    assert certificate.outputs < 1e-10
    assert certificate.gradients < 1e-9


def test_square_matrices_of_linear_layers_are_known_to_be_stored_the_other_way_round(text):
    turned = {pair.one for pair in text.pairs if pair.transposed}
    linears = {f"layers.{n}.{one}.weight" for n in (0, 1) for one in BLOCK if "norm" not in one}
    assert turned == {*linears, "answer.weight"}


def test_a_bias_that_changes_nothing_goes_where_its_layer_goes(text):
    by = {pair.one: pair.by for pair in text.pairs}
    assert {one for one, what in by.items() if what == "owner"} == {
        "layers.0.att.k.bias",
        "layers.1.att.k.bias",
    }


def test_a_convolutional_network_is_paired_with_its_statistics(image):
    assert paired(image) == IMAGE
    assert {pair.one for pair in image.pairs if pair.state} == {
        one for one in IMAGE if "running" in one
    }


def test_biases_that_add_up_are_told_apart_by_their_layers(image):
    by = {pair.one: pair.by for pair in image.pairs}
    assert by["units.0.norm.bias"] == by["units.0.short_norm.bias"] == "owner"


def test_the_pairing_the_other_way_round_is_its_mirror_image(text):
    back = uf.pair(small.paddle_text(), small.torch_text(), batch=IDS)
    assert paired(back) == {other: one for one, other in TEXT.items()}


def test_the_models_come_back_bit_for_bit_with_their_flags_modes_gradients_and_buffers():
    one, other = small.torch_image(), small.paddle_image()
    one.fc.weight.requires_grad = False
    one.units[0].norm.eval()
    other.out.bias.stop_gradient = True
    one.stem.bias.grad = torch.ones(4)
    buffers = dict(one.named_buffers())
    kept = [tensor.clone() for tensor in one.state_dict().values()]
    theirs = [tensor.numpy() for tensor in other.state_dict().values()]
    uf.pair(one, other, batch=PIXELS)
    assert all(map(torch.equal, kept, one.state_dict().values()))
    assert all(
        np.array_equal(a, b.numpy())
        for a, b in zip(theirs, other.state_dict().values(), strict=True)
    )
    assert {tensor.dtype for tensor in one.parameters()} == {torch.float32}
    assert {str(tensor.dtype) for tensor in other.parameters()} == {"paddle.float32"}
    assert all(buffer is buffers[name] for name, buffer in one.named_buffers())
    assert [one.fc.weight.requires_grad, one.fc.bias.requires_grad] == [False, True]
    assert [other.out.bias.stop_gradient, other.out.weight.stop_gradient] == [True, False]
    assert [one.training, one.units[0].norm.training, other.training] == [True, False, True]
    assert torch.equal(one.stem.bias.grad, torch.ones(4))
    assert torch.get_default_dtype() is torch.float32
    assert paddle.get_default_dtype() == "float32"


def test_a_training_step_still_works_after_a_pairing():
    one, other = small.torch_text(), small.paddle_text()
    uf.pair(one, other, batch=IDS)
    one(torch.tensor(IDS)).sum().backward()
    other(paddle.to_tensor(IDS)).sum().backward()
    torch.optim.SGD(one.parameters(), 0.1).step()
    optimizer = paddle.optimizer.SGD(0.1, parameters=other.parameters())
    optimizer.step()
    assert one.answer.bias.grad.dtype is torch.float32
    assert str(other.head.bias.grad.dtype) == "paddle.float32"


class Caching(nn.Module):
    """Makes a table on its first forward pass, as many position encodings do."""

    def __init__(self):
        super().__init__()
        self.fc, self.table = nn.Linear(7, 4), None

    def forward(self, x):
        if self.table is None:
            self.table = torch.linspace(0, 1, 7, dtype=x.dtype) * self.fc.weight[0, 0].detach()
            self.register_buffer("late", torch.ones(1, dtype=x.dtype))
        return self.fc(x + self.table)


def test_what_a_forward_pass_keeps_is_forgotten_again():
    model, pixels = Caching(), torch.tensor(PIXELS[:, 0, 0])
    expected = Caching()
    expected.load_state_dict(model.state_dict())
    uf.pair(model, Caching(), batch=PIXELS[:, 0, 0])
    assert model.table is None
    assert "late" not in dict(model.named_buffers())
    assert torch.equal(model(pixels), expected(pixels))


def test_a_recurrent_network_is_paired_and_restored():
    batch = PIXELS[:, 0]
    one, other = nn.LSTM(7, 3, batch_first=True), paddle.nn.LSTM(7, 3)
    pairing = uf.pair(one, other, batch=batch)
    assert paired(pairing) == {name: name for name in paired(pairing)}
    assert len(pairing.pairs) == 4
    assert not pairing.left
    assert other(paddle.to_tensor(batch))[0].shape == [3, 7, 3]


def test_what_no_gradient_tells_apart_is_left_and_never_guessed_from_its_name():
    class Attention(nn.Module):
        def __init__(self, *names):
            super().__init__()
            self.names = names
            for name in (*names, "out"):
                self.add_module(name, nn.Linear(7, 7, bias=False))

        def forward(self, x):
            q, k = (getattr(self, name)(x) for name in self.names)
            return self.out(torch.softmax(q @ k.transpose(1, 2), -1) @ x)

    one, other = Attention("a", "b"), Attention("b", "a")
    pairing = uf.pair(one, other, batch=PIXELS[:, 0, :1])
    assert paired(pairing) == {"out.weight": "out.weight"}
    assert {row.reason for row in pairing.left} == {
        "no gradient on this batch tells it from others"
    }
    crossed = uf.pair(one, other, batch=PIXELS[:, 0])
    assert paired(crossed)["a.weight"] == "b.weight"


@pytest.mark.parametrize(("longer", "shorter"), [(14, 11), (11, 8), (8, 7), (11, 7)])
def test_tables_of_any_two_lengths_are_paired(longer, shorter):
    ids = IDS % shorter
    for one, other in ((longer, shorter), (shorter, longer)):
        pairing = uf.pair(
            small.torch_text(vocabulary=one), small.paddle_text(vocabulary=other), batch=ids
        )
        assert paired(pairing) == TEXT


def test_different_functions_are_refused_with_the_layer_where_they_part():
    with pytest.raises(PairingError) as caught:
        uf.pair(small.torch_text(relu=True), small.paddle_text(), batch=IDS)
    assert "compute different functions" in str(caught.value)
    assert "first divergence: layers.0.down of torch" in str(caught.value)
    assert "last agreement: layers.0.up of torch and stack.0.linear1 of paddle" in str(caught.value)


def test_models_that_return_other_shapes_are_refused():
    other = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(24, 4))
    with pytest.raises(PairingError, match="do not return the same"):
        uf.pair(other, small.paddle_text(), batch=IDS)


def test_vocabularies_of_unequal_length_are_paired_and_reported():
    pairing = uf.pair(small.torch_text(vocabulary=14), small.paddle_text(), batch=IDS)
    assert paired(pairing) == TEXT
    assert [pair.one for pair in pairing.pairs if pair.cropped] == ["tokens.weight"]
    assert "tables of unequal length: tokens.weight and word.weight" in str(pairing)


def test_what_never_ran_is_named():
    pairing = uf.pair(small.torch_text(idle=True), small.paddle_text(), batch=IDS)
    assert {(row.path, row.reason) for row in pairing.left} == {
        ("pooler.weight", "its module never ran on this batch"),
        ("pooler.bias", "its module never ran on this batch"),
    }


def test_a_tie_on_one_side_only_is_named():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 4)

        def forward(self, ids):
            return self.table(ids) @ self.table.weight.T

    class Untied(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.read, self.write = paddle.nn.Embedding(11, 4), paddle.nn.Embedding(11, 4)

        def forward(self, ids):
            return self.read(ids) @ self.write.weight.T

    with pytest.raises(PairingError, match="held once here, and twice there: read"):
        uf.pair(Tied(), Untied(), batch=IDS)
    first, second = (
        make_sketch(model, load_backend(name), Batch.of(IDS), name=name)
        for model, name in ((Tied(), "torch"), (Untied(), "paddle"))
    )
    reasons = {row.path: row.reason for row in pair_sketches(first, second).left}
    assert reasons == {
        "table.weight": "held once here, and twice there: read.weight and write.weight",
        "read.weight": "tied there, as table.weight",
        "write.weight": "tied there, as table.weight",
    }


def swapped(pairing, one, other):
    """Give a pairing with two tensors' partners exchanged."""
    partners = paired(pairing)
    partners[one], partners[other] = partners[other], partners[one]
    turned = {pair.one: pair.transposed for pair in pairing.pairs}
    return [Pair(a, b, turned[a], "hint") for a, b in partners.items()]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("layers.0.att_norm.weight", "layers.0.out_norm.weight"),
        ("layers.0.att.q.bias", "layers.1.att.q.bias"),
        ("layers.0.att.v.bias", "layers.0.up.bias"),
        ("layers.0.att.q.weight", "layers.0.att.k.weight"),
    ],
    ids=["norms", "biases", "biases of two layers", "q and k"],
)
def test_a_swap_breaks_the_certificate(text, one, other):
    hints = swapped(text, one, other)
    models = small.torch_text(), small.paddle_text()
    with pytest.raises(PairingError, match="the pairing does not hold"):
        pair_sketches(*sketches(*models, IDS, given=hints))


def test_the_right_hints_keep_the_certificate(text):
    hints = [Pair(pair.one, pair.other, pair.transposed, "hint") for pair in text.pairs]
    pairing = pair_sketches(*sketches(small.torch_text(), small.paddle_text(), IDS, given=hints))
    assert {pair.by for pair in pairing.pairs} == {"hint"}
    assert pairing.certificate.gradients < 1e-9


def test_a_map_of_names_is_taken_and_checked(text):
    models = small.torch_text(), small.paddle_text()
    pairing = uf.pair(*models, batch=IDS, hints=TEXT)
    assert {pair.by for pair in pairing.pairs} == {"hint"}
    assert {pair.one: pair.transposed for pair in pairing.pairs} == {
        pair.one: pair.transposed for pair in text.pairs
    }
    wrong = TEXT | {"answer.bias": "head.weight", "answer.weight": "head.bias"}
    with pytest.raises(PairingError, match="cannot be right in 2 places"):
        uf.pair(*models, batch=IDS, hints=wrong)
    twice = {"layers.0.att.k.bias": "stack.0.attention.key.bias"}
    twice["layers.1.att.k.bias"] = "stack.0.attention.key.bias"
    with pytest.raises(PairingError, match="one tensor twice"):
        uf.pair(*models, batch=IDS, hints=twice)
    with pytest.raises(PairingError, match=r"2 tensors that are not there: answer\.bais, head\.b"):
        uf.pair(*models, batch=IDS, hints={"answer.bais": "head.b"})


def test_projections_fused_in_no_known_layout_are_refused_by_that_name():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(5, 15)

        def forward(self, x):
            q, k, v = self.qkv(x).flip(-1).chunk(3, -1)
            return torch.softmax(q @ k.transpose(1, 2), -1) @ v

    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x):
            return torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)

    with pytest.raises(PairingError, match=r"in one tensor \(qkv\.weight, qkv\.bias\)"):
        uf.pair(Fused(), Apart(), batch=PIXELS[:, 0, :, :5])


def test_an_untransposed_square_breaks_the_certificate(text):
    hints = [Pair(p.one, p.other, p.transposed, "hint") for p in text.pairs]
    spoilt = [h._replace(transposed=False) if "1.att.o.weight" in h.one else h for h in hints]
    with pytest.raises(PairingError, match="the pairing does not hold"):
        pair_sketches(*sketches(small.torch_text(), small.paddle_text(), IDS, given=spoilt))


def test_one_value_of_a_variance_breaks_the_certificate(monkeypatch):
    straight = probe_values.reshaped

    def spoil(array, shape, *, transposed):
        array = straight(array, shape, transposed=transposed).copy()
        if array.shape == (4,) and array.min() > 0.5 and not spoilt:
            spoilt.append(array)
            array[2] *= 1.01
        return array

    spoilt = []
    monkeypatch.setattr(probe_values, "reshaped", spoil)
    with pytest.raises(PairingError, match="the pairing does not hold"):
        pair_sketches(*sketches(small.torch_image(), small.paddle_image(), PIXELS))
    assert spoilt


def test_sketches_made_apart_are_paired_without_a_certificate():
    first, _ = sketches(small.torch_text(), small.paddle_text(), IDS)
    backend = load_backend("paddle")
    second = make_sketch(small.paddle_text(), backend, Batch.of(IDS), name="other")
    pairing = pair_sketches(first, second)
    assert paired(pairing) == TEXT
    assert pairing.certificate is None
    assert "certificate: none" in str(pairing)


def test_a_sketch_made_like_another_model_is_refused():
    first, second = sketches(small.torch_text(), small.paddle_text(), IDS)
    another = make_sketch(
        small.torch_text(), load_backend("torch"), Batch.of(IDS), name="one", seed=5
    )
    with pytest.raises(PairingError, match="on the values of another model"):
        pair_sketches(another, second.model_copy(update={"shared": another.shared}))
    assert pair_sketches(first, second).certificate


def test_sketches_travel_as_files_and_are_paired_with_neither_framework_loaded(tmp_path):
    files = [tmp_path / "one.json", tmp_path / "other.json"]
    for sketch, file in zip(
        sketches(small.torch_text(), small.paddle_text(), IDS), files, strict=True
    ):
        sketch.save(file)
    code = (
        "import sys; from unifreeze._ports.pairing import ModelSketch, pair_sketches;"
        "p = pair_sketches(*map(ModelSketch.load, sys.argv[1:]));"
        "assert not {'torch', 'paddle'} & set(sys.modules);"
        "print(len(p.pairs), p.certificate.compared)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(len(TEXT)), str(len(TEXT) - 2)], done.stderr


def test_a_pairing_is_read_back_as_it_was_written(text, tmp_path):
    text.save(tmp_path / "pairing.json")
    assert Pairing.load(tmp_path / "pairing.json") == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"unifreeze_pairing": 2, "one"', "not a complete pairing"),
        ("{}", "is not a pairing"),
        ('{"unifreeze_pairing": 7}', "of pairing format 7"),
        ('{"unifreeze_pairing": 2}', "not a valid pairing"),
    ],
)
def test_a_file_that_is_no_pairing_is_refused(content, words, tmp_path):
    file = tmp_path / "pairing.json"
    file.write_text(content)
    with pytest.raises(PairingError, match=words):
        Pairing.load(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"unifreeze_sketch": 2, "frame', "not a complete sketch"),
        ("[]", "is not a sketch"),
        ('{"unifreeze_sketch": 7}', "of sketch format 7"),
        ('{"unifreeze_sketch": 1}', "of sketch format 1"),
        ('{"unifreeze_sketch": 2}', "not a valid sketch"),
    ],
)
def test_a_file_that_is_no_sketch_is_refused(content, words, tmp_path):
    file = tmp_path / "sketch.json"
    file.write_text(content)
    with pytest.raises(RecordError, match=words):
        ModelSketch.load(file)


def test_the_command_pairs_two_models_each_in_a_process_of_its_own(tmp_path):
    file = tmp_path / "pairing.json"
    command = [sys.executable, "-m", "unifreeze", "pair", "--batch", "int64[3,6]<0:11>"]
    models = ["tests.support.pairs.small:torch_text", "tests.support.pairs.small:paddle_text"]
    done = subprocess.run(
        [*command, *models, "-o", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(TEXT)} parameters and 0 statistics of torch paired with paddle" in done.stdout
    assert paired(Pairing.load(file)) == TEXT
    assert json.loads(file.read_text())["certificate"]["compared"] == len(TEXT) - 2
