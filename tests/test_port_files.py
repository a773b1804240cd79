"""Weight files as the libraries themselves write and read them, carried over bit for bit."""

from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file as load_torch

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support.pairs import small
from tests.support.pairs.small_answers import PIXELS
from unifreeze._ports.carrying import port_file
from unifreeze.errors import PortError, WeightFileError

TINY = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 9,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
IDS = np.random.default_rng(0).integers(1, 20, (2, 7))
STEPS = np.random.default_rng(0).standard_normal((2, 5, 6)).astype("float32")


def bits(tensor):
    """A tensor's bits as integers, bfloat16 too."""
    if isinstance(tensor, torch.Tensor):
        plain = tensor.detach().contiguous()
        return (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy().copy()
    array = np.ascontiguousarray(tensor.numpy())
    return array.view("int16") if array.dtype == "uint16" else array


def assert_same_bits(pairing, one, other):
    """Compare every paired tensor of two state dicts, laid out as the pairing says."""
    assert pairing.pairs
    for row in pairing.pairs:
        here, there = bits(one[row.one]), bits(other[row.other])
        here = here.T if row.transposed else here
        assert here.dtype == there.dtype, row.one
        assert here.tobytes() == there.tobytes(), row.one


def shaken(model):
    """Give every parameter values of its own, so that no two tensors are equal."""
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, dtype=torch.float64))
    else:
        for tensor in {id(t): t for t in model.state_dict().values()}.values():
            tensor.set_value(paddle.rand(tensor.shape).astype(tensor.dtype))
    return model


# bfloat16, in the files of PaddleNLP and of transformers ------------------------------------


@pytest.fixture(scope="module")
def berts():
    """BERT of both libraries, and which tensor is which."""
    import_torchvision()
    import transformers
    from paddlenlp.transformers import BertConfig, BertModel

    one = transformers.BertModel(transformers.BertConfig(**TINY)).eval()
    other = BertModel(BertConfig(**TINY))
    other.eval()
    given = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    return uf.pair(one, other, batch=given)


def torch_bert(dtype):
    import transformers

    return shaken(transformers.BertModel(transformers.BertConfig(**TINY))).to(getattr(torch, dtype))


def paddle_bert(dtype):
    from paddlenlp.transformers import BertConfig, BertModel

    model = shaken(BertModel(BertConfig(**TINY)))
    model.to(dtype=dtype)
    return model


SAVED = {
    "one safetensors file": {"safe_serialization": True},
    "sharded safetensors": {"safe_serialization": True, "max_shard_size": "1KB"},
    "a pickle": {"safe_serialization": False},
    "sharded pickles": {"safe_serialization": False, "max_shard_size": "1KB"},
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("saved", SAVED)
def test_what_paddlenlp_saves_is_what_transformers_loads(saved, dtype, berts, tmp_path):
    import transformers

    model = paddle_bert(dtype)
    model.save_pretrained(str(tmp_path / "paddle"), **SAVED[saved])
    (tmp_path / "torch").mkdir()
    port_file(tmp_path / "paddle", tmp_path / "torch" / "model.safetensors", berts)
    transformers.BertConfig(**TINY).save_pretrained(tmp_path / "torch")
    loaded, info = transformers.BertModel.from_pretrained(
        tmp_path / "torch", dtype=getattr(torch, dtype), output_loading_info=True
    )
    assert not any(info.values())
    assert_same_bits(berts, loaded.state_dict(), model.state_dict())
    stored = load_torch(tmp_path / "torch" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("name", ["model.safetensors", "model_state.pdparams"])
def test_what_transformers_saves_is_what_paddlenlp_loads(name, saved, dtype, berts, tmp_path):
    from paddlenlp.transformers import BertConfig, BertModel

    model = torch_bert(dtype)
    model.save_pretrained(tmp_path / "torch", **SAVED[saved])
    (tmp_path / "paddle").mkdir()
    port_file(tmp_path / "torch", tmp_path / "paddle" / name, berts)
    BertConfig(**TINY).save_pretrained(str(tmp_path / "paddle"))
    loaded = BertModel.from_pretrained(str(tmp_path / "paddle"), dtype=dtype)
    assert_same_bits(berts, model.state_dict(), loaded.state_dict())


def test_bfloat16_goes_to_paddle_and_back_without_losing_a_bit(tmp_path):
    one, other = torch.nn.Sequential(torch.nn.Linear(4, 2)), paddle.nn.Sequential()
    other.add_sublayer("0", paddle.nn.Linear(4, 2))
    pairing = uf.pair(one, other, batch=np.ones((2, 4), "float32"))
    shaken(other)
    other.to(dtype="bfloat16")
    state = {name: np.ascontiguousarray(t.numpy()) for name, t in other.state_dict().items()}
    save_numpy(state, tmp_path / "p.safetensors")  # as PaddleNLP does, without metadata
    port_file(tmp_path / "p.safetensors", tmp_path / "t.safetensors", pairing)
    assert_same_bits(pairing, load_torch(tmp_path / "t.safetensors"), other.state_dict())
    port_file(tmp_path / "t.safetensors", tmp_path / "again.safetensors", pairing)
    from safetensors.paddle import load_file as load_paddle

    again = load_paddle(str(tmp_path / "again.safetensors"))
    assert all(tensor.dtype == paddle.bfloat16 for tensor in again.values())
    assert_same_bits(pairing, load_torch(tmp_path / "t.safetensors"), again)


def test_a_file_is_not_written_over_itself(tmp_path):
    one, other = torch.nn.Linear(4, 2), paddle.nn.Linear(4, 2)
    pairing = uf.pair(one, other, batch=np.ones((2, 4), "float32"))
    folder, file = tmp_path / "model", tmp_path / "model" / "model.safetensors"
    folder.mkdir()
    save_numpy({n: t.detach().numpy() for n, t in one.state_dict().items()}, file)
    (tmp_path / "link.safetensors").symlink_to(file)
    before = file.read_bytes()
    for source, target in ((file, file), (folder, file), (file, tmp_path / "link.safetensors")):
        with pytest.raises(PortError, match="is the source itself"):
            port_file(source, target, pairing)
    assert file.read_bytes() == before


def test_integers_are_no_weights_that_train(tmp_path):
    one, other = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    pairing = uf.pair(one, other, batch=np.ones((2, 4), "float32"))
    state = {"weight": np.ones((2, 4), "int8"), "bias": np.ones(2, "float32")}
    save_numpy(state, tmp_path / "one.safetensors")
    with pytest.raises(PortError, match="weight: int8 in the file, which nothing trains"):
        port_file(tmp_path / "one.safetensors", tmp_path / "x.pt", pairing, reverse=False)


# Recurrent layers, whose weights Paddle lists twice -----------------------------------------


def torch_recurrent(kind, **settings):
    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = getattr(torch.nn, kind)(6, 8, batch_first=True, **settings)
            self.out = torch.nn.Linear(8 * (1 + settings.get("bidirectional", 0)), 3)

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    return Recurrent()


def paddle_recurrent(kind, **settings):
    class Recurrent(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            both = settings.pop("bidirectional", False)
            kinds = {"RNN": "SimpleRNN"}
            way = {"direction": "bidirect"} if both else {}
            self.rnn = getattr(paddle.nn, kinds.get(kind, kind))(6, 8, **way, **settings)
            self.out = paddle.nn.Linear(8 * (1 + both), 3)

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    return Recurrent()


RECURRENT = [
    ("LSTM", {}),
    ("GRU", {"num_layers": 2}),
    ("RNN", {"bidirectional": True}),
    ("LSTM", {"num_layers": 2, "bidirectional": True}),
]


@pytest.fixture(scope="module", params=RECURRENT, ids=lambda p: f"{p[0]}-{len(p[1])}")
def recurrent(request):
    kind, settings = request.param
    one, other = torch_recurrent(kind, **settings), paddle_recurrent(kind, **settings)
    pairing = uf.pair(one, other, batch=STEPS)
    return lambda: (torch_recurrent(kind, **settings), paddle_recurrent(kind, **settings)), pairing


@pytest.mark.parametrize("name", ["ocr.pdparams", "ocr.safetensors"])
@pytest.mark.parametrize("target", ["ocr.pt", "torch.safetensors"])
def test_a_recurrent_layer_saved_by_paddle_is_carried_over(name, target, recurrent, tmp_path):
    make, pairing = recurrent
    one, other = make()
    shaken(other)
    state = other.state_dict()
    twice = set(state) - {row.other for row in pairing.pairs}
    assert twice, "Paddle no longer lists the weights of its cells once more"
    if name.endswith("pdparams"):
        paddle.save(state, str(tmp_path / name))
    else:
        save_numpy({key: t.numpy() for key, t in state.items()}, tmp_path / name)
    ported = port_file(tmp_path / name, tmp_path / target, pairing)
    assert set(ported.repeated) == twice
    assert not ported.passed_over
    load = load_torch if target.endswith("safetensors") else torch.load
    one.load_state_dict(load(tmp_path / target))
    assert_same_bits(pairing, one.state_dict(), state)


@pytest.mark.parametrize("target", ["ocr.pdparams", "ocr.safetensors"])
def test_a_recurrent_layer_saved_by_torch_is_carried_over(target, recurrent, tmp_path):
    make, pairing = recurrent
    one, other = make()
    torch.save(shaken(one).state_dict(), tmp_path / "ocr.pt")
    port_file(tmp_path / "ocr.pt", tmp_path / target, pairing)
    if target.endswith("pdparams"):
        state = paddle.load(str(tmp_path / target))
    else:
        from safetensors.paddle import load_file as load_paddle

        state = load_paddle(str(tmp_path / target))
    other.set_state_dict(state)
    assert_same_bits(pairing, one.state_dict(), other.state_dict())


@pytest.mark.parametrize("cell", ["LSTMCell", "GRUCell"])
def test_a_layer_of_one_cell_is_a_recurrent_layer_of_depth_one(cell, tmp_path):
    class Celled(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.rnn = paddle.nn.RNN(getattr(paddle.nn, cell)(6, 8))
            self.out = paddle.nn.Linear(8, 3)

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    one, other = torch_recurrent(cell.removesuffix("Cell")), shaken(Celled())
    pairing = uf.pair(one, other, batch=STEPS)
    assert len(pairing.pairs) == 6
    paddle.save(other.state_dict(), str(tmp_path / "cells.pdparams"))
    port_file(tmp_path / "cells.pdparams", tmp_path / "torch.pt", pairing)
    assert_same_bits(pairing, torch.load(tmp_path / "torch.pt"), other.state_dict())


def test_a_tensor_that_only_looks_like_another_is_still_one_too_many(tmp_path):
    one, other = torch_recurrent("LSTM"), paddle_recurrent("LSTM")
    pairing = uf.pair(one, other, batch=STEPS)
    state = {key: t.numpy() for key, t in shaken(other).state_dict().items()}
    state |= {"rnn.bias_ih_l0": np.zeros(32, "float32"), "more.bias": np.zeros(32, "float32")}
    save_numpy(state, tmp_path / "more.safetensors")
    with pytest.raises(PortError, match=r"more\.bias"):
        port_file(tmp_path / "more.safetensors", tmp_path / "x.pt", pairing)
    changed = state["rnn.0.cell.weight_hh"].copy()
    changed[0, 0] += 1
    del state["more.bias"]
    save_numpy(state | {"rnn.0.cell.weight_hh": changed}, tmp_path / "odd.safetensors")
    with pytest.raises(PortError, match=r"with no place in the target: rnn\.0\.cell"):
        port_file(tmp_path / "odd.safetensors", tmp_path / "x.pt", pairing)


# Prefixes, and checkpoints of several models ------------------------------------------------


@pytest.fixture(scope="module")
def image():
    return uf.pair(small.torch_image(), small.paddle_image(), batch=PIXELS)


WRAPPERS = {
    "module.": torch.nn.DataParallel,
    "_orig_mod.": torch.compile,
    "module. and a counter": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("spelled", ["with its dot", "without"])
def test_what_a_wrapper_puts_before_all_names_is_said_and_taken_off(
    wrapper, spelled, image, tmp_path
):
    model, prefix = shaken(small.torch_image()), wrapper.partition(" ")[0]
    state = WRAPPERS[wrapper](model).state_dict()
    torch.save(state, tmp_path / "wrapped.pt")
    target = tmp_path / "out.pdparams"
    with pytest.raises(PortError) as caught:
        port_file(tmp_path / "wrapped.pt", target, image)
    count = "all names begin" if "n_averaged" not in state else "28 of 29 names begin"
    assert f"{count} with {prefix!r}" in str(caught.value)
    assert f"--strip-prefix {prefix}" in str(caught.value)
    given = prefix if spelled == "with its dot" else prefix.removesuffix(".")
    ported = port_file(tmp_path / "wrapped.pt", target, image, strip_prefix=given)
    assert ("n_averaged" in ported.passed_over) == (wrapper.endswith("counter"))
    assert_same_bits(image, model.state_dict(), paddle.load(str(target)))


def test_one_of_two_models_in_a_file_is_taken_by_its_prefix(image, tmp_path):
    class Distillation(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.Student, self.Teacher = small.paddle_image(), small.paddle_image()

    both = shaken(Distillation())
    paddle.save(both.state_dict(), str(tmp_path / "best.pdparams"))
    with pytest.raises(PortError, match=r"24 of 48 names begin with '(Student|Teacher)\.'"):
        port_file(tmp_path / "best.pdparams", tmp_path / "x.pt", image)
    with pytest.raises(WeightFileError, match="begins with 'Pupil'") as caught:
        port_file(tmp_path / "best.pdparams", tmp_path / "x.pt", image, strip_prefix="Pupil")
    assert "they begin with: 'Student.', 'Teacher.'" in str(caught.value)
    for name, model in (("Student.", both.Student), ("Teacher.", both.Teacher)):
        ported = port_file(tmp_path / "best.pdparams", tmp_path / "x.pt", image, strip_prefix=name)
        assert len(ported.passed_over) == 24
        assert not any(passed.startswith(name) for passed in ported.passed_over)
        assert_same_bits(image, torch.load(tmp_path / "x.pt"), model.state_dict())


def test_a_file_of_a_part_says_what_the_paired_model_puts_before_its_names(image, tmp_path):
    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small.torch_image()

        def forward(self, x):
            return self.body(x)

    whole = uf.pair(Whole(), small.paddle_image(), batch=PIXELS)
    torch.save(small.torch_image().state_dict(), tmp_path / "part.pt")
    with pytest.raises(PortError, match=r"names of the paired model begin with 'body\.'"):
        port_file(tmp_path / "part.pt", tmp_path / "x.pdparams", whole)


def test_one_of_several_state_dicts_is_taken_by_its_key(image, tmp_path):
    models = {name: shaken(small.torch_image()) for name in ("net", "ema")}
    file = tmp_path / "both.pt"
    torch.save({name: model.state_dict() for name, model in models.items()}, file)
    with pytest.raises(WeightFileError, match="2 state dicts: net, ema"):
        port_file(file, tmp_path / "x.pdparams", image)
    for name, model in models.items():
        port_file(file, tmp_path / "x.pdparams", image, key=name)
        assert_same_bits(image, model.state_dict(), paddle.load(str(tmp_path / "x.pdparams")))


# What does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [None, False])
def test_missing_extra_and_misshaped_tensors_are_reported_together(reverse, image, tmp_path):
    state = shaken(small.torch_image()).state_dict()
    del state["units.0.norm.running_var"]
    state |= {"surplus": torch.ones(2), "fc.bias": torch.ones(7), "stem.weight": torch.ones(4, 3)}
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(PortError) as caught:
        port_file(tmp_path / "odd.pt", tmp_path / "x.pdparams", image, reverse=reverse)
    words = str(caught.value)
    assert "1 missing in the source: units.0.norm.running_var" in words
    assert "1 in the source, with no place in the target: surplus" in words
    assert "fc.bias: [7] in the file, [5] in the model" in words
    assert "stem.weight: [4, 3] in the file, [4, 3, 3, 3] in the model" in words
    assert not (tmp_path / "x.pdparams").exists()


def test_a_file_of_another_network_is_of_neither_model(image, tmp_path):
    torch.save(small.torch_text().state_dict(), tmp_path / "text.pt")
    with pytest.raises(PortError, match="is of neither model: none of its") as caught:
        port_file(tmp_path / "text.pt", tmp_path / "x.pdparams", image)
    assert "names in the file: tokens.weight" in str(caught.value)


def test_tied_tensors_that_are_not_numbers_are_equal_bit_for_bit(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = torch.nn.Embedding(11, 8), torch.nn.Linear(8, 11, bias=False)
            self.out.weight = self.table.weight

        def forward(self, ids):
            return self.out(self.table(ids))

    pairing = uf.pair(Tied(), Tied(), batch=IDS % 11)
    state = Tied().state_dict()
    state["table.weight"][0] = float("nan")
    state["out.weight"] = state["table.weight"].clone()
    torch.save(state, tmp_path / "nan.pt")
    port_file(tmp_path / "nan.pt", tmp_path / "x.pt", pairing, reverse=False)
    assert torch.load(tmp_path / "x.pt")["table.weight"][0].isnan().all()


def test_the_command_strips_a_prefix_and_takes_a_part(image, tmp_path, monkeypatch, capsys):
    from unifreeze._cli import main

    image.save(tmp_path / "pairing.json")
    model = shaken(small.torch_image())
    torch.save({"net": torch.nn.DataParallel(model).state_dict(), "ema": model.state_dict()},
               tmp_path / "both.pt")  # fmt: skip
    files = [str(tmp_path / "both.pt"), str(tmp_path / "out.pdparams")]
    words = ["unifreeze", "port", "-p", str(tmp_path / "pairing.json"), *files]
    monkeypatch.setattr("sys.argv", [*words, "--key", "net", "--strip-prefix", "module."])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, capsys.readouterr().err
    assert_same_bits(image, model.state_dict(), paddle.load(files[1]))
    assert Path(files[1]).exists()
