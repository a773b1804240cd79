"""Tables of names that model libraries ship are hints: used where right, left out where wrong."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from torch import nn

import unifreeze as uf
from tests.support.pairs import PAIRS, fused, small
from tests.support.pairs.small_answers import IDS, TEXT
from unifreeze._cli.find_model import load_model, read_batch
from unifreeze_paddle import _library_name_tables as shipped

Row = namedtuple("Row", "source_name target_name")


def with_mappings(model, rows):
    """Make a model's class ship a table as PaddleNLP's do."""

    def mappings(config):
        assert config.architectures == [type(model).__name__]
        return [Row(*row) for row in rows]

    type(model)._get_name_mappings = staticmethod(mappings)
    model.config = SimpleNamespace()
    return model


class TorchSpares(nn.Module):
    """Two layers that never run, which nothing but a table can tell apart."""

    def __init__(self):
        super().__init__()
        self.used = nn.Linear(3, 2)
        self.spares = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("left", "right")})

    def forward(self, x):
        return self.used(x)


class PaddleSpares(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.used = paddle.nn.Linear(3, 2)
        self.rechts, self.links = paddle.nn.Linear(3, 3), paddle.nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x)


ROWS = np.random.default_rng(0).random((4, 3)).astype("float32")
SPARES = {
    f"spares.{one}.{leaf}": f"{other}.{leaf}"
    for one, other in (("left", "links"), ("right", "rechts"))
    for leaf in ("weight", "bias")
}


def test_a_table_tells_what_nothing_else_does():
    partner = with_mappings(PaddleSpares(), SPARES.items())
    pairing = uf.pair(TorchSpares(), partner, batch=ROWS, shipped=True)
    found = {row.one: (row.other, row.by) for row in pairing.pairs if "spares" in row.one}
    assert found == {one: (other, "hint") for one, other in SPARES.items()}
    assert set(pairing.certificate.unproven) == SPARES.keys()


@pytest.mark.parametrize("name", ["bert", "ernie"])
def test_with_and_without_a_table_the_same_is_paired(name):
    """PaddleNLP has one for BERT, and for ERNIE only the base class's, which raises."""
    pair = PAIRS[name]
    models = [load_model(target)[0] for target in (pair.torch, pair.paddle)]
    batch = read_batch(list(pair.batch))
    alone, helped = (uf.pair(*models, batch=batch, shipped=given) for given in (False, True))
    assert {r.one: r.other for r in helped.pairs} == {r.one: r.other for r in alone.pairs}


def test_paddlenlp_s_own_table_is_read():
    found = shipped.shipped_map(load_model(PAIRS["bert"].paddle)[0], [])
    key = "encoder.layer.1.attention.self.key.bias"
    assert found[key] == "encoder.layers.1.self_attn.k_proj.bias"


def test_what_a_table_has_wrong_is_left_out():
    wrong = dict(TEXT)
    for leaf in ("att.k.bias", "att_norm.weight"):
        one, other = f"layers.0.{leaf}", f"layers.1.{leaf}"
        wrong[one], wrong[other] = wrong[other], wrong[one]
    wrong |= {"answer.weight": "head.wieght", "tokens": "word.weight"}
    partner = with_mappings(small.paddle_text(), wrong.items())
    pairing = uf.pair(small.torch_text(), partner, batch=IDS, shipped=True)
    assert {row.one: row.other for row in pairing.pairs} == TEXT
    assert "hint" not in {row.by for row in pairing.pairs}


def source(part, leaf):
    return f"blocks.$LAYER_ID.att.{part}.{leaf}^T"


def test_statements_name_the_parts_of_fused_tensors():
    layout = ("q k v", 2, "gate up", 1)
    partner = fused.paddle_fused(*layout)
    statements = [
        "words.weight -> tokens.weight",
        *(
            f"{source('q', leaf)}, {source('k', leaf)}, {source('v', leaf)} -> "
            f"stack.$LAYER_ID.mixed.{leaf}, fused_qkv, num_heads=4, axis=0"
            for leaf in ("weight", "bias")
        ),
        "blocks.$LAYER_ID.mlp.gate.weight^T, blocks.$LAYER_ID.mlp.up.weight^T -> "
        "stack.$LAYER_ID.wide.weight, fused_ffn",
    ]
    type(partner)._gen_aoa_config = staticmethod(lambda config: {"aoa_statements": statements})
    partner.config = SimpleNamespace()
    found = shipped.shipped_map(partner, fused.torch_apart().state_dict())
    assert len(found) == 1 + 2 * (6 + 2)
    assert found["blocks.1.att.k.bias"] == "stack.1.mixed.bias[1]"
    assert found["blocks.0.mlp.up.weight"] == "stack.0.wide.weight[1]"
    pairing = uf.pair(fused.torch_apart(), partner, batch=IDS, shipped=True)
    assert found.items() <= {row.one: row.other for row in pairing.pairs}.items()


def test_a_model_of_no_library_has_no_table():
    pairing = uf.pair(small.torch_text(), small.paddle_text(), batch=IDS, shipped=True)
    assert "hint" not in {row.by for row in pairing.pairs}
    one, other = paddle.nn.Linear(3, 2), paddle.nn.Linear(3, 2)
    assert uf.pair(one, other, batch=np.ones((2, 3), "float32"), shipped=True).certificate
