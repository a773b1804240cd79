"""Tables of names that model libraries ship are hints: used where right, left out where wrong."""

from collections import Counter, namedtuple
from types import SimpleNamespace

import numpy as np
import paddle

import unifreeze as uf
from tests.pairs import PAIRS, fused, small
from tests.test_pairing import IDS, TEXT
from unifreeze.cli.targets import load_model, read_batch

Row = namedtuple("Row", "source_name target_name")


def with_mappings(model, rows):
    """Make a model's class ship a table as PaddleNLP's do."""

    def mappings(config):
        assert config.architectures == [type(model).__name__]
        return [Row(*row) for row in rows]

    type(model)._get_name_mappings = staticmethod(mappings)
    model.config = SimpleNamespace()
    return model


def test_paddlenlp_s_own_table_is_used_and_certified():
    pair = PAIRS["bert"]
    models = [load_model(target)[0] for target in (pair.torch, pair.paddle)]
    batch = read_batch(list(pair.batch))
    alone = uf.pair(*models, batch=batch)
    helped = uf.pair(*models, batch=batch, shipped=True)
    assert Counter(row.by for row in helped.pairs) == {"hint": 39}
    assert {r.one: r.other for r in helped.pairs} == {r.one: r.other for r in alone.pairs}
    assert helped.certificate.gradients < 1e-12


def test_what_a_table_has_wrong_is_left_out():
    wrong = dict(TEXT)
    one, other = "layers.0.att_norm.weight", "layers.1.att_norm.weight"
    wrong[one], wrong[other] = wrong[other], wrong[one]
    wrong |= {"answer.weight": "head.wieght", "tokens": "word.weight"}
    partner = with_mappings(small.paddle_text(), wrong.items())
    pairing = uf.pair(small.torch_text(), partner, batch=IDS, shipped=True)
    assert {row.one: row.other for row in pairing.pairs} == TEXT
    by = {row.one: row.by for row in pairing.pairs}
    assert {path for path, what in by.items() if what == "gradient"} == {
        one,
        other,
        "answer.weight",
    }


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
    pairing = uf.pair(fused.torch_apart(), partner, batch=IDS, shipped=True)
    hinted = {row.one: row.other for row in pairing.pairs if row.by == "hint"}
    assert len(hinted) == 1 + 2 * (6 + 2)
    assert hinted["blocks.1.att.k.bias"] == "stack.1.mixed.bias[1]"
    assert hinted["blocks.0.mlp.up.weight"] == "stack.0.wide.weight[1]"


def test_a_model_of_no_library_has_no_table():
    pairing = uf.pair(small.torch_text(), small.paddle_text(), batch=IDS, shipped=True)
    assert "hint" not in {row.by for row in pairing.pairs}
    one, other = paddle.nn.Linear(3, 2), paddle.nn.Linear(3, 2)
    assert uf.pair(one, other, batch=np.ones((2, 3), "float32"), shipped=True).certificate
